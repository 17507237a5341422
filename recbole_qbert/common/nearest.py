"""Nearest items by cosine, and how far two notions of nearness agree."""

from __future__ import annotations

import numpy as np

_BLOCK = 1024  # rows whose similarities to all items are in memory at once


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """float32 [N, D], each row of length 1; a row of zeros stays one."""
    vectors = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def nearest_items(
    vectors: np.ndarray, k: int, queries: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows by cosine, the nearest first, equals by row.

    Args:
        vectors: [N, D].
        k: at least 1; capped at N - 1 without `queries`, at N with them.
        queries: [Q, D] other vectors; without them each row looks for rows other than itself.

    Returns:
        rows int64 [Q, k] and cosines float32 [Q, k].
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
    """Mean share of the rows in `left` [Q, k] that `right` [Q, k] holds for the same query."""
    if left.size == 0:
        return 0.0
    return float((left[:, :, None] == right[:, None, :]).any(axis=2).mean())
