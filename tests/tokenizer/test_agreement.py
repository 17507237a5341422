"""Agreement of neighborhoods against plain loops over items."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from recbole_qbert.tokenizer.fusion import agreement
from recbole_qbert.tokenizer.fusion.agreement import agreement_report, depth_report

N_ITEMS = 60


def _vectors(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _parts(n_parts: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Every fifth item has no part; most others lack one."""
    present = np.random.default_rng(6).random((N_ITEMS, n_parts)) < 0.6
    present[:, 0] = True
    present[::5] = False
    return np.where(present[:, :, None], _vectors(5, N_ITEMS, n_parts, 7), np.float32(0)), present


def _nearest(vectors: np.ndarray, item: int) -> set[int]:
    """The 10 others of the largest cosine."""
    units = vectors.astype(float) / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    others = [other for other in range(len(vectors)) if other != item]
    return set(sorted(others, key=lambda other: -float(units[item] @ units[other]))[:10])


def _counts(density: float = 0.15) -> sp.csr_matrix:
    """Symmetric, with many equal counts; some rows have fewer than 10 entries."""
    chance = np.random.default_rng(8)
    upper = np.triu(chance.integers(1, 4, (N_ITEMS, N_ITEMS)), 1)
    upper[chance.random(upper.shape) > density * np.linspace(0.1, 2, N_ITEMS)] = 0
    return sp.csr_matrix((upper + upper.T).astype(float))


def test_vectors_agree_with_themselves() -> None:
    vectors = _vectors(1, N_ITEMS, 7)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    everyone = np.ones((N_ITEMS, 1), np.bool_)
    report = agreement_report(units - units.mean(axis=0), {"text": (vectors[:, None], everyone)})
    assert report == {"text": 1.0, "chance": 10 / 59}


def test_unrelated_vectors_agree_by_chance() -> None:
    everyone = np.ones((400, 1), np.bool_)
    report = agreement_report(_vectors(1, 400, 8), {"text": (_vectors(2, 400, 1, 8), everyone)})
    assert report["chance"] == 10 / 399
    assert report["text"] == pytest.approx(report["chance"], abs=0.01)


def test_a_plain_loop_over_the_items_that_have_the_modality() -> None:
    vectors, present = _parts()
    fused = vectors.sum(axis=1) @ _vectors(3, 7, 9) + _vectors(4, N_ITEMS, 9)
    rows = [row for row in range(N_ITEMS) if present[row].any()]
    assert len(rows) == 48
    pooled = []
    for row in rows:
        total = sum(vectors[row, part].astype(float) for part in np.flatnonzero(present[row]))
        pooled.append(total / np.linalg.norm(total))
    own = np.array(pooled) - np.mean(pooled, axis=0)
    shared = [
        len(_nearest(own, place) & _nearest(fused[rows], place)) / 10 for place in range(len(rows))
    ]
    found = agreement_report(fused, {"text": (vectors, present)})["text"]
    assert found == pytest.approx(np.mean(shared))
    assert 0.2 < found < 0.9


def test_training_is_a_plain_loop_over_a_dense_sort() -> None:
    counts = _counts()
    dense = counts.toarray()
    partners = (dense > 0).sum(axis=1)
    rows = np.flatnonzero(partners >= 10)
    assert 10 < len(rows) < N_ITEMS and (partners == 10).any()
    fused = (dense + np.eye(N_ITEMS)) @ _vectors(1, N_ITEMS, 8)
    shared = []
    for row in rows:
        most_common = sorted(range(N_ITEMS), key=lambda other: (-dense[row, other], other))[:10]
        shared.append(len(set(most_common) & _nearest(fused, row)) / 10)
    report = agreement_report(fused.astype(np.float32), {}, counts)
    assert report["training"] == pytest.approx(np.mean(shared))
    assert report["training"] > report["chance"]


def test_most_common_equals_a_dense_sort() -> None:
    counts = _counts(density=1.0)
    counts = counts[np.flatnonzero(np.diff(counts.indptr) >= 10)]
    expected = np.argsort(-counts.toarray(), axis=1, kind="stable")[:, :10]
    shuffled = sp.csr_matrix(counts[:, ::-1])[:, ::-1]  # the order within a row must not matter
    for each in (counts, shuffled):
        np.testing.assert_array_equal(agreement._most_common(each), expected)


def test_a_sample_is_evenly_spaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_SAMPLE", 20)
    vectors, fused = _vectors(1, N_ITEMS, 1, 7), _vectors(2, N_ITEMS, 7)
    units = vectors[:, 0] / np.linalg.norm(vectors[:, 0], axis=1, keepdims=True)
    own = units - units.mean(axis=0)
    shared = [len(_nearest(own, row) & _nearest(fused, row)) / 10 for row in range(0, N_ITEMS, 3)]
    everyone = np.ones((N_ITEMS, 1), np.bool_)
    found = agreement_report(fused, {"text": (vectors, everyone)})["text"]
    assert found == pytest.approx(np.mean(shared))


def test_an_item_is_no_neighbor_of_itself_among_equals() -> None:
    same = np.ones((30, 4), np.float32)
    found = agreement._of_rows(same, np.arange(30))
    assert found.shape == (30, 10)
    assert all(row not in each for row, each in enumerate(found.tolist()))
    assert all(len(set(each)) == 10 for each in found.tolist())


def test_small_catalogs() -> None:
    everyone = np.ones((4, 1), np.bool_)
    report = agreement_report(_vectors(1, 4, 3), {"text": (_vectors(2, 4, 1, 3), everyone)})
    assert report == {"text": 1.0, "chance": 1.0}  # all three others are among the nearest
    nobody, one = np.zeros((4, 1), np.bool_), np.eye(4, 1, dtype=np.bool_)
    parts = {"text": (_vectors(2, 4, 1, 3), nobody), "image": (_vectors(2, 4, 1, 3), one)}
    assert agreement_report(_vectors(1, 4, 3), parts, sp.csr_matrix((4, 4))) == {"chance": 1.0}


def test_depths_are_compared_by_rank() -> None:
    """By hand: three pairs of four items are in the order of the parts, with one tie."""
    text = np.zeros((4, 3, 2), np.float32), np.tri(4, 3, dtype=bool)  # 1, 2, 3 and 3 parts
    depths = np.array([1, 3, 2, 4])
    found = depth_report(depths, {"text": text}, users=np.array([40, 9, 10, 1]))
    # Ranks 1 3 2 4 of the depths against 1 2 3.5 3.5: 3 over the roots of 5 and 4.5.
    assert found["parts"] == pytest.approx(3 / (5 * 4.5) ** 0.5)
    assert found["users"] == pytest.approx(-1)
    assert depth_report(depths, {"text": (text[0], np.ones((4, 3), bool))}) == {}
    assert depth_report(np.ones(4), {"text": text}, users=depths) == {}
