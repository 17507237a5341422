"""Make semantic IDs unique by moving the fewest items, at the last level only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_qbert.errors import InputError


def make_unique(
    codes: np.ndarray,
    distances_last: np.ndarray,
    codebook_sizes: Sequence[int],
    order: Sequence[Any],
) -> tuple[np.ndarray, int]:
    """Give every item its own tuple.

    Of the items that share a tuple, the one closest to its last-level codeword keeps it. The
    others, the closest first, take the nearest code of the last level that nobody under the same
    prefix holds. Ties go by `order`, then by the lower code, so the order of the rows is
    immaterial.

    Args:
        codes: int64 [N, K].
        distances_last: [N, C], each item's distance to each codeword of the last level; infinite
            where the codeword does not exist, which makes the code a last resort.
        codebook_sizes: K numbers of codes; the last one is C.
        order: N sortable, distinct keys, such as the items' tokens.

    Returns:
        int64 [N, K] without equal rows, and how many items changed: N less the distinct tuples,
        the fewest possible.

    Raises:
        InputError: more than C items share a prefix.
    """
    size = codebook_sizes[-1]
    if distances_last.shape != (len(codes), size) or len(order) != len(codes):
        raise ValueError(
            f"{len(codes)} codes, distances {distances_last.shape}, {len(order)} keys, "
            f"{size} last codes do not belong together"
        )
    result = np.array(codes, dtype=np.int64)
    own_distance = distances_last[np.arange(len(codes)), result[:, -1]]
    prefix_rows = _rows_by_prefix(result, size)
    for rows in prefix_rows:
        # Sorted so that the first item met with a code is the one that keeps it.
        ranked = sorted(rows.tolist(), key=lambda row: (own_distance[row], order[row]))
        free = np.ones(size, dtype=bool)
        losers = []
        for row in ranked:
            code = result[row, -1]
            if free[code]:
                free[code] = False
            else:
                losers.append(row)
        for row in losers:
            available = np.flatnonzero(free)
            code = available[distances_last[row, available].argmin()]
            result[row, -1] = code
            free[code] = False
    return result, int((result != codes).any(axis=1).sum())


def _rows_by_prefix(codes: np.ndarray, size: int) -> list[np.ndarray]:
    """Row numbers [n] of each prefix under which at least two items share a tuple.

    Raises:
        InputError: a prefix has more items than `size`, the codes of the last level.
    """
    prefix = _group(codes[:, :-1])
    members = np.bincount(prefix)
    fullest = int(members.argmax()) if len(members) else 0
    if len(members) and members[fullest] > size:
        shared = codes[prefix == fullest][0, :-1].tolist()
        raise InputError(
            f"{members[fullest]} items share the first {len(shared)} codes {shared}, but the last "
            f"level has {size} codes; raise codebook_size or n_levels"
        )
    by_prefix = np.argsort(prefix, kind="stable")
    ends = np.cumsum(members)
    tuples = _group(codes)
    crowded = np.unique(prefix[np.bincount(tuples)[tuples] > 1])
    return [by_prefix[ends[group] - members[group] : ends[group]] for group in crowded]


def _group(codes: np.ndarray) -> np.ndarray:
    """Number the distinct rows of codes [N, k] (one group where k is 0), int64 [N]."""
    if codes.shape[1] == 0:
        return np.zeros(len(codes), dtype=np.int64)
    _, inverse = np.unique(codes, axis=0, return_inverse=True)
    return inverse.reshape(-1)  # NumPy 2.0 gives it a second axis
