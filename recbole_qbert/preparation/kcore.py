"""Filters on integer-coded interactions: repeats, k-core, order. n interactions, int arrays."""

from __future__ import annotations

import numpy as np

from recbole_qbert.errors import InputError, did_you_mean, preview

DUPLICATES = ("first", "last", "all")


def check_filter(core: int, duplicates: str) -> None:
    """Raises InputError for a `core` below 0 or an unknown rule for `duplicates`."""
    if core < 0:
        raise InputError(f"core is {core}; give 0 or more")
    if duplicates not in DUPLICATES:
        raise InputError(
            f"duplicates: '{duplicates}' is none of {preview(DUPLICATES)}"
            f"{did_you_mean(duplicates, DUPLICATES)}"
        )


def without_repeats(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, ratings: np.ndarray, keep: str
) -> np.ndarray:
    """Rows to keep so that no user has an item twice; ascending row numbers.

    Args:
        keep: `first` or `last` by time; of several at that time the one rated highest. `all`
            keeps everything.
    """
    if keep == "all":
        return np.arange(len(users))
    times = times if keep == "first" else -times
    order = np.lexsort((-ratings, times, items, users))
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(users[order]) != 0) | (np.diff(items[order]) != 0)
    return np.sort(order[new])


def core_rows(users: np.ndarray, items: np.ndarray, core: int) -> np.ndarray:
    """Rows of the largest subset in which each user and item has `core` rows; ascending."""
    rows = np.arange(len(users))
    while len(rows):
        few_users = np.bincount(users[rows]) < core
        few_items = np.bincount(items[rows]) < core
        keep = ~(few_users[users[rows]] | few_items[items[rows]])
        if keep.all():
            break
        rows = rows[keep]
    return rows


def time_order(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, ratings: np.ndarray
) -> np.ndarray:
    """Rows by user, then time; at one time by item, then by rating."""
    return np.lexsort((ratings, items, times, users))
