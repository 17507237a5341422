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

from recbole_qbert.serving.histories import Histories
from recbole_qbert.speedups.trimmed_forward import trimmed_scores

SCORES_AT_ONCE = 1 << 24  # 64 MiB
ROWS_AT_ONCE = 1024


class TopK(NamedTuple):
    """Best items of B histories, best first; equal scores by internal ID."""

    items: np.ndarray  # int64 [B, k], internal IDs; 0 after the last candidate
    scores: np.ndarray  # float32 [B, k]; -inf after the last candidate


def rows_at_once(n_items: int) -> int:
    """Return how many histories to score at once: at most 1,024, and 64 MiB of scores."""
    return min(ROWS_AT_ONCE, max(1, SCORES_AT_ONCE // n_items))


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
    targets = torch.ones_like(lengths) if targets is None else targets
    batch = Interaction(
        {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths, model.POS_ITEM_ID: targets}
    )
    scores: Tensor = trimmed_scores(model, config)(batch.to(config["device"]))
    return scores.view(len(items), -1).float().clone()


def top_k(
    model: Any,
    config: Config,
    histories: Histories,
    k: int,
    exclude_seen: bool = True,
    allowed: Tensor | None = None,
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
    """
    scores = scores_of(model, config, *histories.last_items(config["MAX_ITEM_LIST_LENGTH"]))
    scores[:, 0] = -torch.inf
    if allowed is not None:
        scores.masked_fill_(~allowed, -torch.inf)
    if exclude_seen:
        rows, items = (each.to(scores.device) for each in histories.flat())
        scores[rows, items] = -torch.inf
    values, best = _best(scores, k)
    best = best.masked_fill(values == -torch.inf, 0)
    return TopK(best.cpu().numpy(), values.cpu().numpy())


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` highest scores [B, k] and their columns; equal scores by column.

    Column 0 must be -inf.
    """
    values, items = scores.topk(k + 1, dim=1)
    # If the next score equals the last one, `topk` has taken any of the items with this score.
    tied = (values[:, k] == values[:, k - 1]) & (values[:, k] > -torch.inf)
    values, items = values[:, :k], items[:, :k]
    if tied.any():
        ordered = scores[tied].sort(dim=1, descending=True, stable=True)
        values[tied], items[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    items, place = items.sort(dim=1)
    values, order = values.gather(1, place).sort(dim=1, descending=True, stable=True)
    return values, items.gather(1, order)
