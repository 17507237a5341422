"""Nearest neighbors by cosine similarity, and the overlap of two neighbor lists."""

from __future__ import annotations

import numpy as np

_BLOCK = 1024  # rows whose similarities to all items are in memory at once
_SHORTEST = 1e-10  # the squares of shorter float32 vectors may be rounded to 0


def measurable(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [..., D] whose length float32 cannot hold, so that 1 is their largest value.

    Returns:
        float32 [..., D]; all other vectors, and zeros, are unchanged.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=-1)
    odd = ~np.isfinite(lengths) | (lengths < _SHORTEST)
    if not odd.any():
        return vectors
    largest = np.abs(vectors[odd]).max(axis=-1, keepdims=True, initial=0)
    scaled = vectors.copy()
    scaled[odd] /= np.where(largest > 0, largest, 1)
    return scaled


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of `vectors` [N, D] to length 1, as float32. Zero rows stay zero."""
    vectors = measurable(vectors)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def nearest_items(
    vectors: np.ndarray, k: int, queries: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows by cosine similarity.

    Args:
        vectors: [N, D].
        k: number of neighbors, at least 1; capped at N - 1 without `queries`, at N with them.
        queries: [Q, D] query vectors. Without them every row of `vectors` is a query (Q = N), and
            is excluded from its own neighbors.

    Returns:
        rows: int64 [Q, k], nearest first, equal ones by row. Of several rows that are equal at the
            last place, any can be returned.
        cosines: float32 [Q, k], their similarities.
    """
    catalog = unit_rows(vectors)
    wanted = catalog if queries is None else unit_rows(queries)
    k = min(k, len(catalog) - (queries is None))
    if k < 1:
        return np.empty((len(wanted), 0), np.int64), np.empty((len(wanted), 0), np.float32)
    rows = np.empty((len(wanted), k), dtype=np.int64)
    cosines = np.empty((len(wanted), k), dtype=np.float32)
    for start in range(0, len(wanted), _BLOCK):
        part = slice(start, start + _BLOCK)
        similarity = wanted[part] @ catalog.T
        if queries is None:
            place = np.arange(len(similarity))
            similarity[place, start + place] = -np.inf
        best = np.sort(np.argpartition(-similarity, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(-np.take_along_axis(similarity, best, axis=1), axis=1, kind="stable")
        rows[part] = np.take_along_axis(best, order, axis=1)
        cosines[part] = np.take_along_axis(similarity, rows[part], axis=1)
    return rows, cosines


def overlap(left: np.ndarray, right: np.ndarray) -> float:
    """Return the mean share of each row's neighbors in `left` [Q, k] that `right` [Q, k] has too.

    0 if `left` is empty.
    """
    if left.size == 0:
        return 0.0
    return float((left[:, :, None] == right[:, None, :]).any(axis=2).mean())
