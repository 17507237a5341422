"""Unique tuples without vectors: an extra level, and distances from code frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def extra_level(
    codes: np.ndarray, codebook_sizes: Sequence[int], items: Sequence[str]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Append a level that counts the items of each tuple: 0, 1, 2, ... by sorted token.

    Args:
        codes: int64 [N, K].
        codebook_sizes: K sizes.
        items: N sortable, distinct names.

    Returns:
        Codes [N, K + 1] and K + 1 sizes, the last one the number of items of the largest group;
        both unchanged if no tuple repeats.
    """
    groups = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    by_name = pd.Series(groups, index=list(items)).sort_index()
    place = by_name.groupby(by_name).cumcount().loc[list(items)].to_numpy(dtype=np.int64)
    if not place.any():
        return codes, tuple(codebook_sizes)
    return np.column_stack([codes, place]), (*codebook_sizes, int(place.max()) + 1)


def usage_distances(
    codes: np.ndarray, codebook_sizes: Sequence[int], rows: np.ndarray
) -> np.ndarray:
    """Substitute the distances of eq. 10 by code frequencies, if only codes are known.

    An item's own code has distance 0. Any other code has a distance of 1 plus its frequency: the
    rarest code is nearest, because it relates the item to the fewest others.

    Args:
        codes: int64 [N, K].
        codebook_sizes: K sizes.
        rows: int64 [m], the items to compute.

    Returns:
        float32 [m, K, C], infinite where a level has fewer than C codes.
    """
    n_levels, widest = len(codebook_sizes), max(codebook_sizes)
    usage = np.full((n_levels, widest), np.inf, dtype=np.float32)
    for level, size in enumerate(codebook_sizes):
        usage[level, :size] = 1 + np.bincount(codes[:, level], minlength=size)
    distances = np.repeat(usage[None], len(rows), axis=0)
    place = np.arange(len(rows))[:, None], np.arange(n_levels), codes[rows]
    distances[place] = 0
    return distances
