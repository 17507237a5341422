"""Filters on integer-coded interactions: repeats, k-core, order. n interactions, int arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_qbert.common.errors import InputError, did_you_mean, preview

DUPLICATES = ("first", "last", "identical", "all")
TIES = ("file", "shuffled", "token")


class Rules(NamedTuple):
    """Which interactions stay, and in which order.

    Attributes:
        core: fewest interactions of a user and of an item; 0 or 1 for all.
        duplicates: which of a user's rows with one item stay: `first` or `last` by time (of
            several at that time the one rated highest), `all`, or all but `identical` ones, which
            have the same user, item, rating and time.
        ties: the order of a user's rows at one time: of the `file`, `shuffled` (by a hash of user
            and item, the same in every run), or of the items' `token`s, which a model can learn.
        timed: whether the times are times; if not, the order of the rows, and identical rows
            are so without them.
    """

    core: int
    duplicates: str
    ties: str
    timed: bool = True

    def check(self) -> None:
        """Raises InputError for a value that cannot be."""
        if self.core < 0:
            raise InputError(f"core is {self.core}; give 0 or more")
        for name, value, known in (
            ("duplicates", self.duplicates, DUPLICATES), ("ties", self.ties, TIES),
        ):  # fmt: skip
            if value not in known:
                raise InputError(
                    f"{name}: '{value}' is none of {preview(known)}{did_you_mean(value, known)}"
                )


def without_repeats(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, ratings: np.ndarray, rules: Rules
) -> np.ndarray:
    """Rows that stay by the rule for duplicates; ascending row numbers."""
    if rules.duplicates == "all":
        return np.arange(len(users))
    if rules.duplicates == "identical":
        return distinct_rows(users, items, times, ratings, rules.timed)
    times = times if rules.duplicates == "first" else -times
    return _first_rows(np.lexsort((-ratings, times, items, users)), users, items)


def distinct_rows(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, ratings: np.ndarray, timed: bool
) -> np.ndarray:
    """The first row of each user, item, rating and, where these are times, time; ascending."""
    columns = (users, items, ratings, times) if timed else (users, items, ratings)
    return _first_rows(np.lexsort(columns), *columns)


def _first_rows(order: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """The first row in an order of each combination of values; ascending."""
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for column in columns:
        new[1:] |= np.diff(column[order]) != 0
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
    users: np.ndarray, times: np.ndarray, ranks: tuple[np.ndarray, ...] = ()
) -> np.ndarray:
    """Rows by user, then time; at one time by the ranks, then as they come."""
    return np.lexsort((*ranks[::-1], times, users))


def held_out(users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which rows train, validate and test in leave-one-out, as RecBole splits; bool [n] each.

    Rows are targets with the rows before them as histories. A user's first target always trains:
    so users of four rows or more have two rows held back, of three only the test target, of two
    none. A user's only row has no history, and is left out.

    Args:
        users: ascending, rows of a user in order of time.
    """
    counts = np.bincount(users)
    lengths = counts[users]
    from_the_end = np.repeat(counts.cumsum(), counts) - np.arange(len(users))  # 1: the last one
    test = (from_the_end == 1) & (lengths > 2)
    valid = (from_the_end == 2) & (lengths > 3)
    return (lengths > 1) & ~(test | valid), valid, test


def tied_tests(users: np.ndarray, times: np.ndarray) -> tuple[int, int]:
    """Test targets at the time of the row before them, whose order is no fact; and all targets.

    Args:
        users: as of `held_out`.
        times: [n]
    """
    test = held_out(users)[2]
    same = np.zeros(len(users), dtype=bool)
    same[1:] = np.diff(times) == 0  # a test target is never its user's first row
    return int((test & same).sum()), int(test.sum())
