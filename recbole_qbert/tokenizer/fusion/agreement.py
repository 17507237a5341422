"""Agreement of fused vectors with their sources, and of depths with popularity and content.

Shapes: N items, Q sampled items, J parts of a modality, D_m dimensions of a modality.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from recbole_qbert.common.nearest import nearest_items, overlap, unit_rows

_K = 10
_SAMPLE = 2000  # approximate number of compared items, evenly spaced over the catalog


def agreement_report(
    fused: np.ndarray,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    counts: Any = None,
) -> dict[str, float]:
    """Compute the mean share of an item's 10 nearest fused vectors that are nearest in a source.

    Args:
        fused: [N, D].
        parts: each modality's vectors [N, J, D_m] and mask bool [N, J]; only items that have the
            modality are compared, among themselves.
        counts: sparse [N, N] co-occurrence in training; items that co-occur with fewer than 10
            others are left out.

    Returns:
        One share per modality; with `counts`, also `training`; and `chance`, the expected share for
        unrelated vectors of N items.
    """
    result: dict[str, float] = {}
    for name, (vectors, present) in parts.items():
        rows = np.flatnonzero(present.any(axis=1))
        if len(rows) < 2:
            continue
        pooled = unit_rows(vectors[rows].sum(axis=1))
        own = pooled - pooled.mean(axis=0)
        sample = np.arange(len(rows))[:: max(1, len(rows) // _SAMPLE)]
        result[name] = overlap(*(_of_rows(each, sample) for each in (fused[rows], own)))
    if counts is not None:
        rows = np.flatnonzero(np.diff(counts.indptr) >= _K)[:: max(1, fused.shape[0] // _SAMPLE)]
        if len(rows):
            result["training"] = overlap(_of_rows(fused, rows), _most_common(counts[rows]))
    result["chance"] = min(1.0, _K / max(1, len(fused) - 1))
    return result


def depth_report(
    depths: np.ndarray, parts: Mapping[str, tuple[np.ndarray, np.ndarray]], users: Any = None
) -> dict[str, float]:
    """Compute rank correlations (Spearman) of the items' depths.

    Args:
        depths: int64 [N].
        parts: see `agreement_report`.
        users: [N] number of training users of each item.

    Returns:
        The correlation with `parts`, the number of vectors that an item has, and with `users`; a
        number that is equal for all items is left out.
    """
    sizes = {"parts": sum(present.sum(axis=1) for _, present in parts.values()), "users": users}
    given = {name: each for name, each in sizes.items() if each is not None}
    return {
        name: float(spearmanr(depths, each).statistic)
        for name, each in given.items()
        if np.ptp(depths) and np.ptp(each)
    }


def _of_rows(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Find the 10 nearest vectors of each row, without the row itself, int64 [Q, 10]."""
    found, _ = nearest_items(vectors, _K + 1, vectors[rows])
    other = found != rows[:, None]
    # Among equal vectors, the row itself may be missing; the last neighbor is dropped then.
    other[other.all(axis=1), -1] = False
    return found[other].reshape(len(rows), -1)


def _most_common(counts: Any) -> np.ndarray:
    """Find the columns of the 10 largest entries of each row [Q, N], ties by column. [Q, 10]"""
    cells = counts.tocoo()
    order = np.lexsort((cells.col, -cells.data, cells.row))
    starts = np.searchsorted(cells.row[order], np.arange(counts.shape[0]))
    return cells.col[order][starts[:, None] + np.arange(_K)].astype(np.int64)
