"""Levels and codes that follow the catalog: shared codes at any size, nothing for nothing."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.tokenizer import pipeline
from recbole_qbert.tokenizer.artifact import Tokenizer
from recbole_qbert.tokenizer.new_items import encode_new_items
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.quantizers import rqvae_fit
from recbole_qbert.tokenizer.quantizers.base import count_distinct, usage
from recbole_qbert.tokenizer.report import report_lines
from recbole_qbert.tokenizer.settings import tokenize_settings
from recbole_qbert.tokenizer.sizes import automatic_size
from recbole_qbert.training.resume import FitState

QUICK: dict[str, Any] = {"show_progress": False, "streams": "content", "rqvae.epochs": 20}


def _clusters(n_items: int, n_kinds: int = 7, noise: float = 0.3) -> np.ndarray:
    """Vectors [N, 12] of a few kinds."""
    rng = np.random.default_rng(n_items)
    centers = rng.normal(size=(n_kinds, 12))
    spread = noise * rng.normal(size=(n_items, 12))
    return (centers[np.arange(n_items) % n_kinds] + spread).astype(np.float32)


def _domain(folder: Path, vectors: np.ndarray) -> DatasetPaths:
    domain = DatasetPaths("toy", folder / "toy")
    domain.folder.mkdir(parents=True, exist_ok=True)
    items = tuple(f"i{row}" for row in range(len(vectors)))
    mask = np.ones((len(vectors), 1), np.bool_)
    write_embeddings(domain.file("text.npz"), EmbeddingTable(items, vectors[:, None], mask, {}))
    return domain


def _tokenize(folder: Path, vectors: np.ndarray, **given: Any) -> tuple[DatasetPaths, Tokenizer]:
    domain = _domain(folder, vectors)
    tokenizer = tokenize([domain], folder / "tokenizer", tokenize_settings((), QUICK | given))
    assert tokenizer is not None
    return domain, tokenizer


@pytest.mark.parametrize(
    ("n_items", "size"),
    [(1, 2), (5, 2), (8, 4), (24, 4), (151, 16), (1535, 128), (1585, 256), (12101, 256)],
)
def test_the_size_of_a_level_by_hand(n_items: int, size: int) -> None:
    assert automatic_size(n_items) == size


def test_usage_by_hand() -> None:
    found = usage(np.array([0, 0, 0, 2, 2, 3]), 5)
    assert (found["used"], found["shared"], found["mean_group"]) == (3, 5 / 6, 2.0)


@pytest.mark.parametrize("quantizer", ["rqkmeans", "rqvae", "opq"])
@pytest.mark.parametrize("n_items", [2, 3, 5, 9, 20, 151, 400])
def test_items_of_any_catalog_share_codes(tmp_path: Path, n_items: int, quantizer: str) -> None:
    domain, tokenizer = _tokenize(tmp_path, _clusters(n_items), quantizer=quantizer)
    codes = read_semantic_ids(domain.file("semid")).codes
    assert len(np.unique(codes, axis=0)) == n_items
    content = codes[:, : codes.shape[1] - tokenizer.n_spare]
    for level in content.T:
        assert len(np.unique(level)) > 1 or tokenizer.n_spare
        if n_items >= 20:
            counts = np.bincount(level)
            assert counts[counts > 1].sum() >= 0.7 * n_items


def test_large_catalogs_keep_four_levels_of_256(tmp_path: Path) -> None:
    _, tokenizer = _tokenize(tmp_path, _clusters(1600), **{"rqkmeans.restarts": 1})
    assert tokenizer.codebook_sizes == (256,) * 4
    assert tokenizer.n_spare == 0


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_few_kinds_of_equal_items_take_one_level(tmp_path: Path, noise: float) -> None:
    """Five kinds, 60 items: a code a kind, and levels that only count the items of a kind."""
    _, tokenizer = _tokenize(tmp_path, _clusters(60, 5, noise))
    assert tokenizer.quantizers["text"].codebook_sizes == (5,)
    assert tokenizer.n_spare == 2  # 12 items of a kind, 8 codes a level
    assert len(np.unique(tokenizer.codes, axis=0)) == 60
    for kind in range(5):
        # Rows are sorted by token.
        rows = [row for row, (_, item) in enumerate(tokenizer.keys) if int(item[1:]) % 5 == kind]
        assert len(np.unique(tokenizer.codes[rows, 0])) == 1


def test_new_items_find_room_beside_equal_ones(tmp_path: Path) -> None:
    vectors = _clusters(60, 5, 0.0)
    domain, tokenizer = _tokenize(tmp_path, vectors)
    before = {key: tuple(row) for key, row in zip(tokenizer.keys, tokenizer.codes, strict=True)}
    _domain(tmp_path, np.concatenate([vectors, vectors[:3]]))
    again = Tokenizer.load(tmp_path / "tokenizer")
    assert len(encode_new_items(again, [domain]).keys) == 3
    after = {key: tuple(row) for key, row in zip(again.keys, again.codes, strict=True)}
    assert len(set(after.values())) == 63
    assert all(after[key] == codes for key, codes in before.items())
    for new, old in (("i60", "i0"), ("i61", "i1"), ("i62", "i2")):
        assert after["toy", new][0] == after["toy", old][0]


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_a_modality_without_differences_is_left_out(
    tmp_path: Path, noise: float, caplog: pytest.LogCaptureFixture
) -> None:
    domain = _domain(tmp_path, _clusters(40))
    alike = _clusters(40, 1, noise)[:, None]
    items = tuple(f"i{row}" for row in range(40))
    table = EmbeddingTable(items, alike, np.ones((40, 1), np.bool_), {})
    write_embeddings(domain.file("image.npz"), table)
    tokenizer = tokenize([domain], tmp_path / "tokenizer", tokenize_settings((), QUICK))
    assert tokenizer is not None
    assert list(tokenizer.quantizers) == ["text"]
    assert "streams: image: all its vectors are equal; the stream is left out" in caplog.text


def test_items_that_are_all_alike_are_still_told_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, tokenizer = _tokenize(tmp_path, _clusters(30, 1, 0.0))
    assert len(np.unique(tokenizer.codes, axis=0)) == 30
    assert "level a: nearly all items have the same code; decrease n_levels" in caplog.text
    assert "auto" not in caplog.text  # the sizes are already


def test_codes_that_nobody_shares_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, tokenizer = _tokenize(tmp_path, _clusters(151), codebook_size=256, n_levels=2)
    assert tokenizer.codebook_sizes == (256, 256)
    assert "level a, b: only " in caplog.text
    assert "decrease codebook_size, or set codebook_size: auto" in caplog.text
    caplog.clear()
    _, tokenizer = _tokenize(tmp_path / "auto", _clusters(151))
    assert not caplog.records
    assert "% of items share their code" in "\n".join(report_lines(tokenizer))


def test_distinct_vectors_by_hand() -> None:
    rows = np.array([[1, 0], [1, 1e-7], [0, 1], [0, 1], [-1, 0]], dtype=np.float32)
    assert count_distinct(rows) == 3
    assert count_distinct(np.ones((4, 3), np.float32)) == 1


def test_a_rare_modality_has_codes_for_its_own_items(tmp_path: Path) -> None:
    """200 items, 30 of them with an image: sizes and usage are those of the 30."""
    domain = _domain(tmp_path, _clusters(200))
    image = _clusters(30)
    items = tuple(f"i{row}" for row in range(30))
    table = EmbeddingTable(items, image[:, None], np.ones((30, 1), np.bool_), {})
    write_embeddings(domain.file("image.npz"), table)
    tokenizer = tokenize([domain], tmp_path / "tokenizer", tokenize_settings((), QUICK))
    assert tokenizer is not None
    quantizer = tokenizer.quantizers["image"]
    assert set(quantizer.codebook_sizes) == {4}  # the largest power of two up to 30 / 6
    assert set(tokenizer.quantizers["text"].codebook_sizes) == {32}
    codes = quantizer.encode(image / np.linalg.norm(image, axis=1, keepdims=True))
    report = tokenizer.report["stage 2, image"]
    assert report["without_vector"] == 170
    for column, row in zip(codes.T, report["levels"], strict=True):
        counts = np.unique(column, return_counts=True)[1]
        assert (row["used"], row["mean_group"]) == (len(counts), 30 / len(counts))
        assert row["shared"] == counts[counts > 1].sum() / 30
    said = "\n".join(report_lines(tokenizer))
    assert "170 items have no vector in this stream and got the codes of the mean vector" in said


def test_a_list_of_sizes_is_the_list_of_levels(tmp_path: Path) -> None:
    _, tokenizer = _tokenize(tmp_path, _clusters(40), codebook_size=[8, 8])
    assert tokenizer.codebook_sizes == (8, 8)
    assert len(np.unique(tokenizer.codes, axis=0)) == 40


def test_a_second_fit_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where RQ-VAE has two levels that carry information: it is fitted with four, then two."""
    monkeypatch.setattr(pipeline, "informative_levels", lambda levels: 2)
    monkeypatch.setattr(rqvae_fit, "FitState", functools.partial(FitState, interval_s=0.0))
    train, calls = rqvae_fit.RQVAETraining.train_epoch, []

    def counted(self: Any) -> float:
        calls.append((self.settings.n_levels, self.epoch))
        if calls.count(calls[-1]) == 1 and calls[-1][0] < 4 and self.epoch == 7:
            raise KeyboardInterrupt
        return float(train(self))

    vectors = _clusters(60)
    _, whole = _tokenize(tmp_path / "whole", vectors, quantizer="rqvae")
    monkeypatch.setattr(rqvae_fit.RQVAETraining, "train_epoch", counted)
    with pytest.raises(KeyboardInterrupt):
        _tokenize(tmp_path / "killed", vectors, quantizer="rqvae")
    _, again = _tokenize(tmp_path / "killed", vectors, quantizer="rqvae")
    four, fewer = ([epoch for n, epoch in calls if n == each] for each in (4, 2))
    assert four == list(range(20))
    assert fewer == [*range(8), *range(7, 20)]
    np.testing.assert_array_equal(again.codes, whole.codes)
    assert not list((tmp_path / "killed" / "tokenizer").glob("*.training*"))
