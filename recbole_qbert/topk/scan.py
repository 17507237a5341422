"""Top-k of scores that are computed for some items at a time.

Shapes: B queries, N items, n items of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

SCORES_AT_ONCE = 1 << 24  # 64 MiB


def parts(n_items: int, width: int) -> Iterator[slice]:
    """Cut items into slices, each of at most `SCORES_AT_ONCE` numbers, `width` an item."""
    step = max(1, SCORES_AT_ONCE // width)
    return (slice(start, min(start + step, n_items)) for start in range(0, n_items, step))


def best_in_parts(
    score: Callable[[slice], Tensor],
    n_items: int,
    n_queries: int,
    k: int,
    excluded: tuple[Tensor, Tensor] | None,
    allowed: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return the best scores and items [B, k], by descending score, then by number.

    Args:
        score: computes new scores [B, n] of a slice of the items.
        n_items: N.
        n_queries: B.
        k: number of items, at most N.
        excluded: query numbers [S] and items [S], or None.
        allowed: bool [N], or None.
    """
    found: tuple[Tensor, Tensor] | None = None
    for part in parts(n_items, n_queries):
        scores = score(part)
        if allowed is not None:
            scores[:, ~allowed[part]] = -torch.inf
        if excluded is not None:
            rows, items = excluded
            inside = (items >= part.start) & (items < part.stop)
            scores[rows[inside], items[inside] - part.start] = -torch.inf
        values, items = best(scores, min(k, scores.size(1)))
        items += part.start
        if found is not None:
            values, items = torch.cat([found[0], values], 1), torch.cat([found[1], items], 1)
            # Items of earlier parts stand first, and a stable sort keeps them there.
            values, order = values.sort(dim=1, descending=True, stable=True)
            values, items = values[:, :k], items.gather(1, order[:, :k])
        found = values, items
    assert found is not None  # there is an item
    return found


def best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest scores and their columns [B, k]; equal scores by column.

    Args:
        scores: [B, n].
        k: at most n.
    """
    values, columns = scores.topk(min(k + 1, scores.size(1)), dim=1)
    if values.size(1) > k:
        # If the next score equals the last one, `topk` has taken any of the columns with it.
        tied = (values[:, k] == values[:, k - 1]) & (values[:, k] > -torch.inf)
        values, columns = values[:, :k], columns[:, :k]
        if tied.any():
            columns[tied] = _first_columns(scores[tied], values[tied, -1:], k)
    columns, place = columns.sort(dim=1)
    values, order = values.gather(1, place).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def _first_columns(scores: Tensor, least: Tensor, k: int) -> Tensor:
    """Return the k columns of the highest scores, of equal scores the first columns.

    Args:
        scores: [B, n].
        least: the k-th highest score of each row [B, 1].
        k: number of columns.
    """
    # Only the few columns that can be among the k are sorted, not all n.
    rows, columns = (scores >= least).nonzero(as_tuple=True)
    order = scores[rows, columns].argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    counts = rows.bincount()
    starts = (counts.cumsum(0) - counts).unsqueeze(1)
    return columns[order[starts + torch.arange(k, device=rows.device)]]
