"""Filters and order of integer-coded interactions: duplicates, k-core, ties, leave-one-out.

Shapes: n interactions; `users` and `items` are int [n], `times` and `ratings` float64 [n].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_qbert.common.errors import InputError, one_of

DUPLICATES = ("first", "last", "identical", "all")
TIES = ("file", "shuffled", "token")


class Rules(NamedTuple):
    """Rules that select and order interactions.

    Attributes:
        core: minimum number of interactions of a user and of an item; 0 or 1 for no filter.
        duplicates: rule for a user's rows with the same item: keep the `first` or the `last` by
            time (of several at that time, the one with the highest rating), keep `all`, or keep one
            of `identical` rows, which have the same user, item, rating and time.
        ties: order of a user's rows with equal times: `file` order, `shuffled` (by a hash of user
            and item, the same in every run), or order of the item's `token`, which a model can
            learn.
        timed: whether the times are timestamps; else they are row numbers, and identical rows are
            compared without them.
    """

    core: int = 0
    duplicates: str = "all"
    ties: str = "file"
    timed: bool = True

    def check(self) -> None:
        """Check all rules.

        Raises:
            InputError: a value is invalid.
        """
        if self.core < 0:
            raise InputError(f"core is {self.core}; give 0 or more")
        one_of("duplicates", self.duplicates, DUPLICATES)
        one_of("ties", self.ties, TIES)


def without_repeats(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, ratings: np.ndarray, rules: Rules
) -> np.ndarray:
    """Apply the rule for duplicates; return the kept row numbers, ascending."""
    if rules.duplicates == "all":
        return np.arange(len(users))
    if rules.duplicates == "identical":
        return distinct_rows(users, items, times, ratings, rules.timed)
    times = times if rules.duplicates == "first" else -times
    return _first_rows(np.lexsort((-ratings, times, items, users)), users, items)


def distinct_rows(
    users: np.ndarray, items: np.ndarray, times: np.ndarray, ratings: np.ndarray, timed: bool
) -> np.ndarray:
    """Return the first row of each user, item, rating and, with `timed`, time; ascending."""
    columns = (users, items, ratings, times) if timed else (users, items, ratings)
    return _first_rows(np.lexsort(columns), *columns)


def _first_rows(order: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Return the first row, in the given order, of each combination of values; ascending."""
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for column in columns:
        new[1:] |= np.diff(column[order]) != 0
    return np.sort(order[new])


def core_rows(users: np.ndarray, items: np.ndarray, core: int) -> np.ndarray:
    """Return the rows of the k-core, in which each user and item has `core` rows; ascending."""
    rows = np.arange(len(users))
    while len(rows):
        few_users = np.bincount(users[rows]) < core
        few_items = np.bincount(items[rows]) < core
        keep = ~(few_users[users[rows]] | few_items[items[rows]])
        if keep.all():
            break
        rows = rows[keep]
    return rows


def held_out(users: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split rows leave-one-out as RecBole does, into training, validation and test targets.

    A row is a target with the user's earlier rows as its history. A user's first target is always
    for training. Therefore users of four or more rows have a validation and a test target, users of
    three rows only a test target, and users of two rows neither. The first row of a user has no
    history; it is a training row unless it is the only one. The rows are sorted by user and time.

    Returns:
        Three masks, bool [n].
    """
    counts = np.bincount(users)
    lengths = counts[users]
    from_the_end = np.repeat(counts.cumsum(), counts) - np.arange(len(users))  # 1: the last one
    test = (from_the_end == 1) & (lengths > 2)
    valid = (from_the_end == 2) & (lengths > 3)
    return (lengths > 1) & ~(test | valid), valid, test


def tied_tests(users: np.ndarray, times: np.ndarray) -> tuple[int, int]:
    """Count the test targets with the time of the row before them, and all test targets; see
    `held_out`."""
    test = held_out(users)[2]
    same = np.zeros(len(users), dtype=bool)
    same[1:] = np.diff(times) == 0  # a test target is never its user's first row
    return int((test & same).sum()), int(test.sum())
