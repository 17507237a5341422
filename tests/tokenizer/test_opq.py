"""OPQ against a search through every sub-space, on all shapes of rotation."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer.quantizers.opq import OPQ, OPQSettings, fit_opq


def _vectors(n: int = 400, dimension: int = 10) -> np.ndarray:
    rng = np.random.default_rng(4)
    mixed = rng.normal(size=(n, dimension)) @ rng.normal(size=(dimension, dimension))
    return (mixed + 3).astype(np.float32)


def _sized(n_levels: int, size: Any, **given: Any) -> OPQSettings:
    return OPQSettings(n_levels=n_levels, codebook_size=size, **given)


def _fit(dimension: int = 10, n_levels: int = 2, size: int = 8) -> tuple[OPQ, np.ndarray]:
    vectors = _vectors(dimension=dimension)
    return fit_opq(vectors, _sized(n_levels, size, iterations=4), seed=1), vectors


@pytest.mark.parametrize(
    ("dimension", "n_levels", "kept"), [(10, 2, 10), (10, 4, 8), (3, 4, 4)]
)  # as many dimensions, fewer, more
def test_codes_are_the_nearest_of_each_sub_space(dimension: int, n_levels: int, kept: int) -> None:
    fitted, vectors = _fit(dimension, n_levels)
    assert fitted.rotation.shape == (kept, dimension)
    width = kept // n_levels
    codes, distances = fitted.encode(vectors), fitted.distances(vectors)
    for row, vector in enumerate(vectors[:50].astype(float)):
        rotated = fitted.rotation.astype(float) @ (vector - fitted.mean)
        for level in range(n_levels):
            part = rotated[level * width : (level + 1) * width]
            wanted = [math.dist(part, word) ** 2 for word in fitted.codebooks[level].astype(float)]
            np.testing.assert_allclose(distances[row, level], wanted, rtol=1e-5, atol=1e-9)
            assert codes[row, level] == int(np.argmin(wanted))


def test_the_rotation_turns_only() -> None:
    fitted, _ = _fit()
    np.testing.assert_allclose(fitted.rotation @ fitted.rotation.T, np.eye(10), atol=1e-5)
    # So squared distances of the sub-spaces add up to the error of the reconstruction.
    vectors = _vectors()
    summed = fitted.distances(vectors).min(axis=2).sum(axis=1)
    left = ((vectors - fitted.reconstruct(fitted.encode(vectors))) ** 2).sum(axis=1)
    np.testing.assert_allclose(left, summed, rtol=1e-4)


def test_the_rotation_is_worth_it() -> None:
    # One dimension carries nearly everything; a rotation spreads it over both sub-spaces.
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(2000, 4)) * [8, 8, 0.1, 0.1]).astype(np.float32)
    fitted = fit_opq(vectors, _sized(2, 16), seed=0)
    plain = OPQ(fitted.mean, np.eye(4, dtype=np.float32), _plain_codebooks(vectors - fitted.mean))
    rotated, unrotated = (
        each.report(vectors)["levels"][-1]["relative_error"] for each in (fitted, plain)
    )
    assert rotated < 0.5 * unrotated


def _plain_codebooks(vectors: np.ndarray) -> np.ndarray:
    from sklearn.cluster import KMeans

    parts = np.split(vectors, 2, axis=1)
    return np.stack(
        [KMeans(16, n_init=1, random_state=0).fit(part).cluster_centers_ for part in parts]
    )


def test_fewer_vectors_than_dimensions() -> None:
    """In a process of its own: faiss wrote beyond its memory, which a strict allocator finds."""
    program = (
        "import numpy as np\n"
        "from recbole_qbert.tokenizer.quantizers.opq import OPQSettings, fit_opq\n"
        "rows = np.eye(3, 12, dtype=np.float32)\n"
        "settings = [OPQSettings(n_levels=k, codebook_size=2) for k in (1, 4, 12)]\n"
        "print([len(np.unique(fit_opq(rows, each, 1).encode(rows), axis=0)) > 1 "
        "for each in settings])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "85"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[True, True, True]\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (_sized(2, 12), "opq.codebook_size: 12 is not one power of two from 2 to 65536"),
        (_sized(2, [8, 4]), r"\[8, 4\] is not one power of two"),
        (_sized(2, 512), "400 vectors are fewer than the 512 codes of a level; decrease codebook"),
    ],
)
def test_refusals(settings: OPQSettings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_opq(_vectors(), settings, seed=0)


def test_faiss_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    fit_opq(_vectors(40), _sized(2, 32, iterations=2), seed=0)
    assert capfd.readouterr() == ("", "")
