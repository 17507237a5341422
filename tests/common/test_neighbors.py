"""Nearest items against a plain sort of all cosines."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_qbert.common import nearest as neighbors
from recbole_qbert.common.nearest import nearest_items, overlap, unit_rows


def _vectors(n_rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n_rows, 5)).astype(np.float32)


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    lengths = np.linalg.norm(left) * np.linalg.norm(right)
    return float(left @ right / lengths) if lengths else 0.0


def _plain_sort(
    vectors: np.ndarray, k: int, queries: np.ndarray | None = None
) -> tuple[list[list[int]], list[list[float]]]:
    rows, cosines = [], []
    for place, query in enumerate(vectors if queries is None else queries):
        near = [_cosine(query.astype(float), vector) for vector in vectors.astype(float)]
        others = [row for row in range(len(vectors)) if queries is not None or row != place]
        rows.append(sorted(others, key=lambda row: (-near[row], row))[:k])
        cosines.append([near[row] for row in rows[-1]])
    return rows, cosines


@pytest.mark.parametrize("k", [1, 4, 29])
def test_items_against_a_plain_sort(k: int) -> None:
    vectors = _vectors(30) * np.linspace(0.1, 50, 30, dtype=np.float32)[:, None]
    rows, cosines = nearest_items(vectors, k)
    expected_rows, expected_cosines = _plain_sort(vectors, k)
    assert rows.tolist() == expected_rows
    np.testing.assert_allclose(cosines, expected_cosines, atol=1e-6)
    assert (rows.dtype, cosines.dtype) == (np.int64, np.float32)


@pytest.mark.parametrize("k", [1, 7, 30])
def test_queries_against_a_plain_sort(k: int) -> None:
    vectors, queries = _vectors(30), _vectors(9, seed=1)
    rows, cosines = nearest_items(vectors, k, queries)
    expected_rows, expected_cosines = _plain_sort(vectors, k, queries)
    assert rows.tolist() == expected_rows
    np.testing.assert_allclose(cosines, expected_cosines, atol=1e-6)


def test_equals_stand_by_row() -> None:
    east, north = [1.0, 0.0], [0.0, 2.0]
    vectors = np.array([north, east, north, east, east, north])
    # Row 1 is as near to 3 and 4, and then to 0, 2 and 5.
    rows, cosines = nearest_items(vectors, 5)
    assert rows[1].tolist() == [3, 4, 0, 2, 5]
    assert cosines[1].tolist() == [1, 1, 0, 0, 0]
    assert rows.tolist() == _plain_sort(vectors, 5)[0]
    assert nearest_items(vectors, 3, np.array([east]))[0].tolist() == [[1, 3, 4]]
    # Where the k-th place is shared, any of its equals may take it.
    assert nearest_items(vectors, 2, np.array([east]))[0][0, 0] in (1, 3, 4)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = _vectors(30), _vectors(17, seed=1)
    whole, asked = nearest_items(vectors, 6), nearest_items(vectors, 6, queries)
    monkeypatch.setattr(neighbors, "_BLOCK", 7)
    np.testing.assert_array_equal(nearest_items(vectors, 6)[0], whole[0])
    np.testing.assert_array_equal(nearest_items(vectors, 6, queries)[0], asked[0])


def test_k_is_capped() -> None:
    vectors = _vectors(4)
    assert nearest_items(vectors, 10)[0].shape == (4, 3)
    assert nearest_items(vectors, 10, vectors[:2])[0].shape == (2, 4)
    rows, cosines = nearest_items(vectors[:1], 10)
    assert rows.shape == cosines.shape == (1, 0)
    assert nearest_items(vectors, 3, vectors[:0])[0].shape == (0, 3)


def test_zero_vectors_are_near_to_nothing() -> None:
    vectors = np.array([[0.0, 0.0], [3.0, 4.0], [-3.0, -4.0]])
    np.testing.assert_allclose(unit_rows(vectors), [[0, 0], [0.6, 0.8], [-0.6, -0.8]])
    rows, cosines = nearest_items(vectors, 2)
    assert rows[1:].tolist() == [[0, 2], [0, 1]]
    np.testing.assert_allclose(cosines, [[0, 0], [0, -1], [0, -1]], atol=1e-6)


def test_overlap_by_hand() -> None:
    left, right = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[2, 9], [4, 3], [7, 8]])
    assert overlap(left, right) == pytest.approx((1 + 2 + 0) / 6)
    assert overlap(left[:0], right[:0]) == 0.0


@pytest.mark.parametrize("factor", [1e25, 3e37, 1e-14, 1e-30, 1e-38])
def test_vectors_whose_squares_are_out_of_range(factor: float) -> None:
    """Their directions are those of float64; other vectors keep every bit."""
    vectors = _vectors(30)
    plain = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3:6] = (vectors[3:6].astype(float) * factor).astype(np.float32)
    vectors[7] = 0
    found = unit_rows(vectors)
    exact = vectors[3:6].astype(float)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(found[3:6], exact, rtol=1e-6)
    others = [row for row in range(30) if row not in (3, 4, 5, 7)]
    np.testing.assert_array_equal(found[others], plain[others])
    assert not found[7].any()
    assert found.dtype == np.float32
