"""Losses and scores of RecBole's models without the work on padding.

RecBole pads every sequence to the longest one allowed and lets its models compute on all of it,
though most training rows are short prefixes. Here a batch is cut into rows of 1, 2, 3-4, 5-8, ...
items, and each part loses the columns that are padding in all its rows. The parts' mean losses,
weighted by their shares, are the loss of the batch, with the same gradient; only what dropout draws
differs. Rows that are ranked are cut in the same way. On a GPU all this is left alone: there a step
takes the time to launch its kernels, and five or six parts take five or six times as many
(results/speed.md). B rows, L columns, N items.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.distributed import n_terms
from recbole_qbert.model.ragged import rows_of_like_length

# RecBole's models, and a mended one, whose loss is a mean over rows (or masked positions) and whose
# answer for a row does not depend on the padding behind it; a test compares their gradients.
MODELS = frozenset(
    {"BERT4Rec", "BERT4RecFixed", "FDSA", "GRU4Rec", "NARM", "S3Rec", "SASRec", "SASRecF"}
)

OfBatch = Callable[[Interaction], Tensor]


def row_loss(model: Any, config: Any) -> OfBatch:
    """The model's loss of a batch: unpadded where `trim_padding`, device and model allow it."""
    if _allowed(config):
        return UnpaddedLoss(model, config["LIST_SUFFIX"])
    loss: OfBatch = model.calculate_loss
    return loss


def row_scores(model: Any, config: Any) -> OfBatch:
    """The model's scores of all items [B, N]: unpadded where `row_loss` is."""
    if _allowed(config):
        return functools.partial(unpadded_scores, model, config["LIST_SUFFIX"])
    scores: OfBatch = model.full_sort_predict
    return scores


def _allowed(config: Any) -> bool:
    known = config["model"] in MODELS and config["train_stage"] != "pretrain"
    return bool(known and config["trim_padding"] and config["device"].type == "cpu")


class UnpaddedLoss:
    """In place of `calculate_loss`: same value and gradient, from parts of like length."""

    def __init__(self, model: Any, list_suffix: str):
        self.model, self.list_suffix = model, list_suffix

    def __call__(self, interaction: Interaction) -> Tensor:
        """A scalar."""
        whole = n_terms(interaction)
        if whole == 0:  # no masked position: let RecBole say what that means
            loss: Tensor = self.model.calculate_loss(interaction)
            return loss
        parts = [part for _, part in unpadded(interaction, self.list_suffix)]
        shares = [n_terms(part) / whole for part in parts]
        losses = [
            self.model.calculate_loss(part) * share
            for part, share in zip(parts, shares, strict=True)
            if share  # a mean over no masked position is no number
        ]
        return torch.stack(losses).sum()


def unpadded_scores(model: Any, list_suffix: str, interaction: Interaction) -> Tensor:
    """In place of `full_sort_predict`: the scores of all items [B, N]."""
    scores = torch.empty(0)
    for rows, part in unpadded(interaction, list_suffix):
        found = model.full_sort_predict(part).view(len(rows), -1)
        if not scores.numel():
            scores = found.new_empty(len(interaction), found.size(1))
        scores[rows] = found
    return scores


def unpadded(interaction: Interaction, list_suffix: str) -> list[tuple[Tensor, Interaction]]:
    """Rows of like length together, without the columns that are 0 in all of them.

    Args:
        interaction: its sequences, fields whose names end in `list_suffix`, are [B, L, ...].
        list_suffix: RecBole's LIST_SUFFIX.

    Returns:
        the parts, each behind the numbers of its rows.
    """
    fields = interaction.interaction
    lists = {name: value for name, value in fields.items() if name.endswith(list_suffix)}
    widths = []
    for value in lists.values():
        filled = (value != 0).flatten(2).any(dim=2) if value.dim() > 2 else value != 0
        place = torch.arange(1, filled.size(1) + 1, device=filled.device)
        widths.append((filled * place).amax(dim=1))
    width = torch.stack(widths).amax(dim=0)
    parts = []
    for rows in rows_of_like_length(width):
        columns = max(1, int(width[rows].max()))
        part = {name: value[rows] for name, value in fields.items() if name not in lists}
        part |= {name: value[rows, :columns] for name, value in lists.items()}
        parts.append((rows, Interaction(part)))
    return parts
