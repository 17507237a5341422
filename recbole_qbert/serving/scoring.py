"""The best items for histories, and the scores that they follow from.

Shapes: B histories, N items (padding included), L = MAX_ITEM_LIST_LENGTH.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.models.layers.beam_ranking import RanksByBeams
from recbole_qbert.serving.histories import Histories
from recbole_qbert.speedups.trimmed_forward import trimmed_scores
from recbole_qbert.topk.index import ItemIndex
from recbole_qbert.topk.scan import SCORES_AT_ONCE, best

ROWS_AT_ONCE = 1024


class TopK(NamedTuple):
    """Best items of B histories, best first; equal scores by internal ID."""

    items: np.ndarray  # int64 [B, k], internal IDs; 0 after the last candidate
    scores: np.ndarray  # float32 [B, k]; -inf after the last candidate


def rows_at_once(n_items: int, k: int, index: ItemIndex | None) -> int:
    """Return how many histories to score at once: at most 1,024, and 64 MiB of scores.

    `index` is that of `top_k`, which holds the `k` best scores of a history alone unless its method
    is `dense`.
    """
    by_codes = index is not None and index.method_for(ROWS_AT_ONCE, k) != "dense"
    return min(ROWS_AT_ONCE, max(1, SCORES_AT_ONCE // (k if by_codes else n_items)))


@torch.no_grad()
def scores_of(
    model: Any, config: Config, items: Tensor, lengths: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Score all items [B, N] for each history; the result may be modified.

    Args:
        model: in evaluation mode.
        config: config of the model.
        items: [B, L], right-padded with zeros.
        lengths: [B].
        targets: [B], values of the target field, which must not affect the scores; default: item 1.
    """
    batch = batch_of(model, config, items, lengths, targets)
    scores: Tensor = trimmed_scores(model, config)(batch)
    return scores.view(len(items), -1).float().clone()


def top_k(
    model: Any,
    config: Config,
    histories: Histories,
    k: int,
    exclude_seen: bool = True,
    allowed: Tensor | None = None,
    index: ItemIndex | None = None,
) -> TopK:
    """Rank the best `k` items for each history.

    Every recommendation of this package comes from this function.

    Args:
        model: in evaluation mode.
        config: config of the model.
        histories: histories with at least one item each.
        k: at most N - 1.
        exclude_seen: exclude all items of a history, also those before its last L.
        allowed: bool [N], the candidates, on the model's device; None: all items.
        index: result of the model's `item_index`, which large catalogs are searched with.
    """
    batch = histories.last_items(config["MAX_ITEM_LIST_LENGTH"])
    seen = histories.flat() if exclude_seen else None
    if index is not None and index.method_for(len(histories), k) != "dense":
        return _top_k_by_codes(model, config, batch, k, seen, allowed, index)
    scores = scores_of(model, config, *batch)
    if seen is not None:
        seen = seen[0].to(scores.device), seen[1].to(scores.device)
    if hasattr(model, "fill_candidates"):
        hidden = _hide(torch.zeros_like(scores, dtype=torch.bool), True, seen, allowed)
        rows, items = hidden.nonzero(as_tuple=True)
        # Lists are filled as in an evaluation; a beam search can also fill longer ones.
        more = {"k": k} if isinstance(model, RanksByBeams) else {}
        again = batch_of(model, config, *batch)
        scores = model.fill_candidates(again, scores, (rows, items), **more)
    _hide(scores, -torch.inf, seen, allowed)
    values, found = best(scores, k)
    found = found.masked_fill(values == -torch.inf, 0)
    return TopK(found.cpu().numpy(), values.cpu().numpy())


def _hide(
    table: Tensor, mark: float, seen: tuple[Tensor, Tensor] | None, allowed: Tensor | None
) -> Tensor:
    """Mark what is not ranked in a table [B, N], and return the table."""
    table[:, 0] = mark
    if allowed is not None:
        table.masked_fill_(~allowed, mark)
    if seen is not None:
        table[seen] = mark
    return table


def batch_of(
    model: Any, config: Config, items: Tensor, lengths: Tensor, targets: Tensor | None = None
) -> Interaction:
    """Return the batch that a model scores; see `scores_of`."""
    targets = torch.ones_like(lengths) if targets is None else targets
    fields = {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths, model.POS_ITEM_ID: targets}
    return Interaction(fields).to(config["device"])


def _top_k_by_codes(
    model: Any,
    config: Config,
    batch: tuple[Tensor, Tensor],
    k: int,
    seen: tuple[Tensor, Tensor] | None,
    allowed: Tensor | None,
    index: ItemIndex,
) -> TopK:
    """Rank as `top_k`, without a score for every item; `seen` are row numbers and items."""
    queries, hidden = model.queries(batch_of(model, config, *batch))
    rows, places = hidden.nonzero(as_tuple=True)
    items = hidden[rows, places]
    if seen is not None:
        rows, items = (
            torch.cat([own, more.to(own.device)])
            for own, more in zip((rows, items), seen, strict=True)
        )
    mask = None if allowed is None else allowed[1:]
    values, found = index.top_k(queries, k, (rows, items - 1), mask)
    return TopK((found + 1).cpu().numpy(), values.cpu().numpy())
