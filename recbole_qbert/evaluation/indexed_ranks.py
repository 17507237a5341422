"""Ranks of targets in a large catalog, by the codes of its items and without all scores.

Shapes: B rows, N items (padding included), S pairs of a row and an item.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.evaluation.ranking import LIST_LENGTH, Pairs, saw_all
from recbole_qbert.topk.index import BATCH, FEWEST, ItemIndex


def ranks_by_codes(model: Any) -> Callable[..., tuple[Tensor, ...]] | None:
    """Return a function that ranks a batch faster than from all scores; None if there is none.

    It is `ranks_of_batch` with the model's weights as they are now.
    """
    make = getattr(model, "item_index", None)
    if make is None or model.n_items <= FEWEST:
        return None
    with torch.no_grad():
        index = make()
    if index is None or index.method_for(BATCH, LIST_LENGTH) != "pruned":
        return None
    return functools.partial(ranks_of_batch, model, index)


def ranks_of_batch(
    model: Any, index: ItemIndex, interaction: Interaction, targets: Tensor, seen: Pairs, top_k: int
) -> tuple[Tensor, ...]:
    """Return what `target_ranks` and, if `top_k` is not 0, `best_items` return, up to rounding.

    Args:
        model: QBERT4Rec.
        index: result of its `item_index`.
        interaction: histories.
        targets: [B] item IDs.
        seen: row numbers [S] and item IDs [S]; pairs may repeat.
        top_k: length of the lists of best items.
    """
    n_items, n_rows = len(index), len(targets)
    queries, visible = model.queries(interaction)
    shown, places = visible.nonzero(as_tuple=True)
    # A pair is one number, so that pairs are compared and made unique.
    hidden = torch.unique(shown * (n_items + 1) + visible[shown, places])  # scores of -inf
    known = torch.unique(seen[0] * (n_items + 1) + seen[1])
    own = torch.arange(n_rows) * (n_items + 1) + targets
    out = torch.unique(torch.cat([hidden, known]))
    rows, items = out // (n_items + 1), out % (n_items + 1) - 1

    counts, counted = index.count_reaching(queries, targets - 1, (rows, items))
    is_hidden, not_own = torch.isin(out, hidden), ~torch.isin(out, own)
    raw = counts - _count(rows, counted & is_hidden, n_rows)
    unseen = counts - _count(rows, counted & not_own, n_rows)
    # A target of score -inf ties with all others of -inf and ranks behind the rest.
    lost = torch.isin(own, hidden)
    raw = raw.masked_fill(lost, n_items)
    rest = n_items - _count(rows, not_own & torch.isin(out, known), n_rows)
    unseen = rest.where(lost, unseen).masked_fill(saw_all(seen, n_rows, n_items), n_items)
    if not top_k:
        return raw, unseen
    lists = [
        index.top_k(queries, top_k, (rows[left], items[left]), method="pruned")[1] + 1
        for left in (is_hidden, is_hidden | not_own)
    ]
    return raw, unseen, *lists


def _count(rows: Tensor, chosen: Tensor, n_rows: int) -> Tensor:
    """Count the chosen pairs of each row. [B]"""
    return torch.bincount(rows[chosen], minlength=n_rows)
