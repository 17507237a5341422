"""Which test users a model serves well: by how known the target is and how long the history is.

And how much of the catalog it ever shows. One number for all users hides both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recbole_qbert.evaluation.ranking import Ranks, per_row


class UserGroup(NamedTuple):
    """A range of counts, both ends included."""

    name: str
    low: int
    high: float

    def rows(self, counts: np.ndarray) -> np.ndarray:
        """Which rows' counts are in it, bool [rows]."""
        return (counts >= self.low) & (counts <= self.high)


def groups(edges: Sequence[int], first: str | None = None) -> tuple[UserGroup, ...]:
    """Up to each edge, and more than the last one; `first` names a group of its own for zero."""
    lows = [1, *(edge + 1 for edge in edges)]
    found = [UserGroup(f"{low}-{edge}", low, edge) for low, edge in zip(lows, edges, strict=False)]
    alone = [] if first is None else [UserGroup(first, 0, 0)]
    return (*alone, *found, UserGroup(f"over {edges[-1]}", edges[-1] + 1, np.inf))


# Of a test target's occurrences in training, and of the items before it.
BY_TARGET = groups((5, 20), first="never")
BY_HISTORY = groups((5, 10, 20))


def means_by_group(
    metric: str, ranks: Ranks, counts: np.ndarray, kinds: Sequence[UserGroup]
) -> list[float | None]:
    """A metric's mean over the rows of each group; None where a group is empty.

    Args:
        metric: such as `unseen_ndcg@10`.
        ranks: of the test rows.
        counts: what the groups are made by [rows].
        kinds: the groups.
    """
    values, found = per_row(metric, ranks), []
    for kind in kinds:
        rows = kind.rows(counts)
        found.append(float(values[rows].mean()) if rows.any() else None)
    return found


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Share of the catalog that is in anybody's list; lists [rows, k] hold 0 where they end."""
    shown = np.unique(lists)
    return int((shown > 0).sum()) / n_items
