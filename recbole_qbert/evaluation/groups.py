"""Metrics by groups of test users (target popularity, history length), and catalog coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recbole_qbert.evaluation.ranking import UNSEEN, Ranks, per_row


class UserGroup(NamedTuple):
    """Range of counts, both ends included."""

    name: str
    low: int
    high: float

    def rows(self, counts: np.ndarray) -> np.ndarray:
        """Return which rows' counts are in the range, bool [rows]."""
        return (counts >= self.low) & (counts <= self.high)


_OVER_20 = UserGroup("over 20", 21, np.inf)
# Groups by the target's number of training occurrences, and by the number of items before it.
BY_TARGET = (UserGroup("never", 0, 0), UserGroup("1-5", 1, 5), UserGroup("6-20", 6, 20), _OVER_20)
BY_HISTORY = (
    UserGroup("1-5", 1, 5),
    UserGroup("6-10", 6, 10),
    UserGroup("11-20", 11, 20),
    _OVER_20,
)
# Groups by whether `cold_items` drew the target, 1 or 0.
BY_COLD = (UserGroup("cold", 1, 1), UserGroup("warm", 0, 0))


def means_by_group(
    metric: str, ranks: Ranks, counts: np.ndarray, kinds: Sequence[UserGroup]
) -> list[float | None]:
    """Average a metric, such as `unseen_ndcg@10`, over each group; None for an empty one.

    `counts` [rows] defines the groups.
    """
    values = per_row(metric, ranks)
    rows_of_groups = [kind.rows(counts) for kind in kinds]
    return [float(values[rows].mean()) if rows.any() else None for rows in rows_of_groups]


def cold_summary(ranks: Ranks) -> list[str]:
    """Describe HR@10 and NDCG@10 of cold and warm targets; nothing without `cold_items`."""
    if ranks.lists is None or ranks.lists.cold is None:
        return []
    lines = []
    for ranking, called in (("", "all items"), (UNSEEN, "seen excluded")):
        found = {
            name: means_by_group(ranking + name, ranks, ranks.lists.cold, BY_COLD)
            for name in ("hit@10", "ndcg@10")
        }
        for place, group in enumerate(BY_COLD):
            values = [means[place] for means in found.values()]
            texts = ["none" if value is None else f"{value:.4f}" for value in values]
            lines.append(f"{group.name} targets, {called}: HR@10 {texts[0]}, NDCG@10 {texts[1]}")
    return lines


def coverage(lists: np.ndarray, n_items: int) -> float:
    """Return the share of `n_items` items that occur in `lists` [rows, k]; 0 is not an item."""
    return np.count_nonzero(np.unique(lists)) / n_items
