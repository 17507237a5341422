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
        values, items = _best(scores, min(k, scores.size(1)))
        items += part.start
        if found is not None:
            values, items = torch.cat([found[0], values], 1), torch.cat([found[1], items], 1)
            # Items of earlier parts stand first, and a stable sort keeps them there.
            values, order = values.sort(dim=1, descending=True, stable=True)
            values, items = values[:, :k], items.gather(1, order[:, :k])
        found = values, items
    assert found is not None  # there is an item
    return found


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the best k columns; of equal scores those of the lowest columns, in their order."""
    n_read = min(k + 1, scores.size(1))  # one more, since any of tied columns may be in `topk`
    values, columns = scores.topk(n_read, dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
    if tied.any():
        columns[tied] = _by_column(scores[tied], values[tied, -1:])[:, :n_read]
    return values[:, :k], columns[:, :k]


def _by_column(scores: Tensor, least: Tensor) -> Tensor:
    """Sort the columns of at least a score [B, 1], which as many columns as are read have.

    Rows with more such columns than others are cut to the fewest.
    """
    rows, columns = (scores >= least).nonzero(as_tuple=True)
    order = scores[rows, columns].argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    counts = rows.bincount()
    place = torch.arange(int(counts.min()), device=rows.device)
    return columns[order[(counts.cumsum(0) - counts).unsqueeze(1) + place]]
