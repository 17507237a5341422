"""What all quantizers promise, each checked on all of them; the helpers against plain loops."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer.quantizers import base as module
from recbole_qbert.tokenizer.quantizers.base import (
    Quantizer,
    count_collisions,
    decoded_sum,
    greedy,
    row_keys,
    usage,
)
from recbole_qbert.tokenizer.quantizers.registry import METHODS, fit_quantizer, load_quantizer
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint

N, D, K, C = 300, 12, 3, 16
SMALL: dict[str, dict[str, Any]] = {
    "rqvae": {"hidden_sizes": [16], "code_size": 6, "epochs": 4, "batch_size": 64},
    "rqkmeans": {"restarts": 1},
    "opq": {"iterations": 3},
}


def vectors_of(n: int = N) -> np.ndarray:
    """Loose clusters; the last 20 rows repeat the first 20."""
    rng = np.random.default_rng(5)
    drawn = rng.normal(size=(10, D))[rng.integers(10, size=n)] * 2 + rng.normal(size=(n, D))
    drawn[-20:] = drawn[:20]
    return drawn.astype(np.float32)


def fit(method: str, vectors: np.ndarray | None = None, seed: int = 7, **more: Any) -> Quantizer:
    settings = {"n_levels": K, "codebook_size": C, **SMALL[method], **more}
    return fit_quantizer(vectors_of() if vectors is None else vectors, method, settings, seed=seed)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Quantizer]:
    return {method: fit(method) for method in METHODS}


def flat(value: Any) -> list[bytes]:
    """Every array of a state, as bytes."""
    if isinstance(value, dict):
        return [part for key in sorted(value) for part in flat(value[key])]
    if isinstance(value, (list, tuple)):
        return [part for each in value for part in flat(each)]
    return [
        value.numpy().tobytes() if isinstance(value, torch.Tensor) else np.array(value).tobytes()
    ]


@pytest.mark.parametrize("method", METHODS)
def test_codes_do_not_depend_on_the_batch(
    fitted: dict[str, Quantizer], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizer, vectors = fitted[method], vectors_of()
    codes = quantizer.encode(vectors)
    assert codes.shape == (N, K)
    assert codes.dtype == np.int64
    for rows in (slice(17, 18), slice(40, 107), slice(0, 0)):
        np.testing.assert_array_equal(quantizer.encode(vectors[rows]), codes[rows])
        same = quantizer.distances(vectors)[rows]
        assert quantizer.distances(vectors[rows]).tobytes() == same.tobytes()
        assert quantizer.reconstruct(codes[rows]).tobytes() == (
            quantizer.reconstruct(codes)[rows].tobytes()
        )
    # Equal vectors get equal codes, also in different places of different blocks.
    many = np.concatenate([vectors] * 5)
    assert len(many) > module.BLOCK
    np.testing.assert_array_equal(quantizer.encode(many), np.concatenate([codes] * 5))


@pytest.mark.parametrize("method", METHODS)
def test_the_least_distance_is_at_the_code(fitted: dict[str, Quantizer], method: str) -> None:
    quantizer, vectors = fitted[method], vectors_of()
    distances = quantizer.distances(vectors)
    assert distances.shape == (N, K, C)
    assert distances.dtype == np.float32
    assert (distances >= 0).all()
    np.testing.assert_array_equal(distances.argmin(axis=2), quantizer.encode(vectors))


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_bytes_in_any_row_order(fitted: dict[str, Quantizer], method: str) -> None:
    vectors = vectors_of()
    shuffled = np.random.default_rng(1).permutation(N)
    moved = fit(method, vectors[shuffled])
    assert flat(moved.state()) == flat(fitted[method].state())
    assert flat(fit(method, seed=8).state()) != flat(fitted[method].state())


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_leaves_the_global_generators_and_threads_alone(method: str) -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1], random.getstate())
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        quantizer = fit(method)
        load_quantizer(quantizer.state())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


@pytest.mark.parametrize("method", METHODS)
def test_state_survives_a_file(fitted: dict[str, Quantizer], method: str, tmp_path: Path) -> None:
    quantizer, vectors = fitted[method], vectors_of()
    save_checkpoint(tmp_path / "x", {"quantizer": quantizer.state()})
    again = load_quantizer(load_checkpoint(tmp_path / "x")["quantizer"])
    assert again.method == method
    assert again.codebook_sizes == (C,) * K
    assert again.dimension == D
    assert flat(again.state()) == flat(quantizer.state())
    assert again.distances(vectors).tobytes() == quantizer.distances(vectors).tobytes()
    codes = quantizer.encode(vectors)
    assert again.reconstruct(codes).tobytes() == quantizer.reconstruct(codes).tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_report_by_its_definitions(fitted: dict[str, Quantizer], method: str) -> None:
    quantizer, vectors = fitted[method], vectors_of()
    report = quantizer.report(vectors)
    codes = quantizer.encode(vectors)
    assert report["collisions"] == N - len(set(map(tuple, codes.tolist())))
    assert report["identical"] == 20
    for level, row in enumerate(report["levels"]):
        used = set(codes[:, level].tolist())
        assert (row["codebook_size"], row["used"]) == (C, len(used))
        assert row["usage"] == len(used) / C
        shares = [codes[:, level].tolist().count(code) / N for code in used]
        entropy = -sum(share * math.log(share) for share in shares)
        assert row["perplexity"] == pytest.approx(math.exp(entropy))
    spread = ((vectors - vectors.mean(axis=0, dtype=float)) ** 2).sum()
    left = ((vectors - quantizer.reconstruct(codes)) ** 2).sum()
    assert report["levels"][-1]["relative_error"] == pytest.approx(left / spread, rel=1e-5)
    if method != "rqvae":  # four epochs do not make a decoder
        errors = [1.0, *(row["relative_error"] for row in report["levels"])]
        assert all(after < before for before, after in zip(errors, errors[1:], strict=False))


def test_report_of_equal_vectors() -> None:
    vectors = np.ones((5, 3), dtype=np.float32)
    settings = {"n_levels": 2, "codebook_size": 4}
    report = fit_quantizer(vectors, "rqkmeans", settings, seed=0).report(vectors)
    assert report["collisions"] == report["identical"] == 4
    assert [row["relative_error"] for row in report["levels"]] == [0.0, 0.0]


def test_identical_ignores_an_encoders_rounding() -> None:
    vectors = vectors_of()
    vectors[-10:] *= 1 + 1e-6
    assert len(np.unique(vectors, axis=0)) == N - 10
    assert fit("rqkmeans", vectors).report(vectors)["identical"] in (19, 20)


def test_greedy_against_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    residuals = rng.normal(size=(40, 5)).astype(np.float32)
    codebooks = [rng.normal(size=(size, 5)).astype(np.float32) for size in (6, 4)]
    codes, distances = greedy(residuals, codebooks, width=6)
    for row, vector in enumerate(residuals.astype(float)):
        left = vector
        for level, codebook in enumerate(codebooks):
            wanted = [math.dist(left, word) ** 2 for word in codebook.astype(float)]
            np.testing.assert_allclose(distances[row, level, : len(wanted)], wanted, rtol=1e-5)
            assert codes[row, level] == wanted.index(min(wanted))
            left = left - codebook[codes[row, level]]
    assert np.isinf(distances[:, 1, 4:]).all()
    total = [codebooks[0][a] + codebooks[1][b] for a, b in codes.tolist()]
    np.testing.assert_allclose(decoded_sum(codes, codebooks), total, rtol=1e-6)


def test_distances_near_a_codeword_far_from_the_origin_keep_their_digits() -> None:
    codebook = np.array([[1000.0, 1000.0], [1000.0, 1000.125]], dtype=np.float32)
    _, distances = greedy(np.array([[1000.0, 1000.03125]], np.float32), [codebook], 2)
    np.testing.assert_allclose(distances[0, 0], [0.03125**2, 0.09375**2], rtol=1e-6)


def test_a_code_without_a_codeword_adds_nothing() -> None:
    codebooks = [np.array([[1.0], [2.0]]), np.array([[10.0]])]
    assert decoded_sum(np.array([[1, 0], [1, 3]]), codebooks).tolist() == [[12.0], [2.0]]


def test_usage_by_hand() -> None:
    # Shares 3/4 and 1/4: exp(-(.75 ln .75 + .25 ln .25)) = 1.7548.
    row = usage(np.array([2, 2, 0, 2]), 4)
    assert (row["codebook_size"], row["used"], row["usage"]) == (4, 2, 0.5)
    assert row["perplexity"] == pytest.approx(1.7548, abs=1e-4)


def test_count_collisions() -> None:
    assert count_collisions(np.array([[1, 2], [1, 2], [1, 2], [2, 1], [3, 3], [3, 3]])) == 3


def test_row_keys_tell_rows_apart_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(0, 2, (3000, 12)).astype(np.float32)  # at most 4,096 different rows
    keys = row_keys(vectors, seed=3)
    assert len(np.unique(keys)) == len(np.unique(vectors, axis=0))
    np.testing.assert_array_equal(row_keys(vectors[100:101], seed=3), keys[100:101])
    assert (row_keys(vectors, seed=4) != keys).mean() > 0.99  # only a zero row has one key for all
    assert row_keys(np.array([[0.0, -0.0]]))[0] == row_keys(np.array([[-0.0, 0.0]]))[0]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.array([[1.0], [np.nan]]), "row 1 contains a value that is not finite"),
        (np.array([[1.0], [1e300]]), "row 1 contains a value that is not finite"),
        (np.zeros((0, 3)), "no vectors"),
        (np.zeros(3), r"shape \(3,\)"),
    ],
)
def test_unusable_vectors(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_quantizer(vectors, "rqkmeans", {}, seed=0)


def test_another_dimension_is_refused(fitted: dict[str, Quantizer]) -> None:
    with pytest.raises(InputError, match="dimension 5, but the quantizer was fitted on 12"):
        fitted["rqkmeans"].encode(np.zeros((2, 5)))


def test_unknown_methods_and_seeds() -> None:
    with pytest.raises(InputError, match="did you mean 'rqkmeans'"):
        fit_quantizer(vectors_of(), "rq_kmeans", {}, seed=0)
    with pytest.raises(InputError, match="seed: -1"):
        fit_quantizer(vectors_of(), "rqkmeans", {}, seed=-1)
    with pytest.raises(InputError, match="method 'pq' is unknown to this version"):
        load_quantizer({"method": "pq"})


def test_half_precision_vectors_are_read() -> None:
    vectors = vectors_of().astype(np.float16)
    as_single = fit("rqkmeans", vectors.astype(np.float32))
    assert flat(fit("rqkmeans", vectors).state()) == flat(as_single.state())
