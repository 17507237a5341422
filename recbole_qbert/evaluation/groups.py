"""Metrics by groups of test users (target popularity, history length), and catalog coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recbole_qbert.evaluation.ranking import Ranks, per_row


class UserGroup(NamedTuple):
    """Range of counts, both ends included."""

    name: str
    low: int
    high: float

    def rows(self, counts: np.ndarray) -> np.ndarray:
        """Return which rows' counts are in the range, bool [rows]."""
        return (counts >= self.low) & (counts <= self.high)


def groups(edges: Sequence[int], first: str | None = None) -> tuple[UserGroup, ...]:
    """Build groups of counts: 1 to the first edge, between edges, and above the last one.

    Args:
        edges: upper ends of the groups, ascending.
        first: name of an additional group for count 0; None for no such group.
    """
    lows = [1, *(edge + 1 for edge in edges)]
    found = [UserGroup(f"{low}-{edge}", low, edge) for low, edge in zip(lows, edges, strict=False)]
    alone = [] if first is None else [UserGroup(first, 0, 0)]
    return (*alone, *found, UserGroup(f"over {edges[-1]}", edges[-1] + 1, np.inf))


# Groups by the target's number of training occurrences, and by the number of items before it.
BY_TARGET = groups((5, 20), first="never")
BY_HISTORY = groups((5, 10, 20))


def means_by_group(
    metric: str, ranks: Ranks, counts: np.ndarray, kinds: Sequence[UserGroup]
) -> list[float | None]:
    """Average a metric over the rows of each group; None for an empty group.

    Args:
        metric: name such as `unseen_ndcg@10`.
        ranks: ranks of the test rows.
        counts: [rows], the count that defines the groups.
        kinds: the groups.
    """
    values, found = per_row(metric, ranks), []
    for kind in kinds:
        rows = kind.rows(counts)
        found.append(float(values[rows].mean()) if rows.any() else None)
    return found


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Return the share of the catalog that occurs in at least one list.

    Args:
        lists: [rows, k] item IDs; 0 fills up short lists.
        n_items: catalog size, without padding.
    """
    shown = np.unique(lists)
    return int((shown > 0).sum()) / n_items
