"""The work of RecBole's models without what is needless in it, to the same losses and scores.

* RecBole pads every sequence to the longest one allowed and computes on all of it, though most
  rows are short prefixes. Here a batch is cut into rows of 1, 2, 3-4, 5-8, ... items and each part
  loses the columns that are padding in all its rows. On a CPU only: on a GPU a small step takes the
  time to launch its kernels, and five or six parts take five or six times as many
  (results/speed.md).
* RecBole's BERT4Rec scores `mask_ratio * L` places of every row, though a short row has few masks
  or none. Here the masked places alone are scored, of the rows that have any.
* RecBole computes every prefix of a sequence anew, though what a causal model says at a place does
  not depend on what follows. Where a user's rows stand in one batch (`batch_by: user`), one that
  is the beginning of another is read off there.
* RecBole's layers spell GELU out in four operations, pool an item's features anew at each place
  where it stands, and put a mask behind each history in a Python loop.

Only what dropout draws differs. `trim_padding: False` leaves all but the third to RecBole. B rows,
L columns, N items, D hidden, U rows that are not the beginning of another, M masks that a row may
have, T masked places.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.layers import FeatureSeqEmbLayer, FeedForward
from recbole.model.sequential_recommender import BERT4Rec
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.common.ragged import inverse_order, rows_of_like_length
from recbole_qbert.models.layers.loss import linear_cross_entropy
from recbole_qbert.models.layers.view import view_of
from recbole_qbert.speedups.s3rec_pretraining import first_stage_loss

# RecBole's models, and a mended one, for which no row depends on the padding behind it: in some a
# place depends on itself and those before it alone,
CAUSAL = frozenset({"FDSA", "GRU4Rec", "S3Rec", "SASRec", "SASRecF"})
# in others on all places.
BIDIRECTIONAL = frozenset({"BERT4Rec", "BERT4RecFixed"})
MODELS = CAUSAL | BIDIRECTIONAL | {"NARM"}

OfBatch = Callable[[Interaction], Tensor]
OfModel = Callable[[Any, Interaction], Tensor]  # the same, of a model or a view of it


def trimmed_loss(model: Any, config: Any) -> OfBatch:
    """In place of `model.calculate_loss`, where model, device and settings allow it."""
    quicken(model, config)
    if (
        config["model"] == "S3Rec"
        and config["train_stage"] == "pretrain"
        and config["trim_padding"]
    ):
        return functools.partial(first_stage_loss, model, cut=_may_cut(config))
    loss: OfModel | None = None  # RecBole's
    if _known(config) and config["loss_type"] == "CE":
        if config["model"] == "BERT4Rec" and config["trim_padding"]:
            loss = masked_loss
        elif config["model"] not in BIDIRECTIONAL and _may_cut(config):
            loss = next_item_loss
    share = _known(config) and config["batch_by"] == "user" and config["model"] in CAUSAL
    return _with_lean_forward(model, "calculate_loss", loss, config, share)


def trimmed_scores(model: Any, config: Any) -> OfBatch:
    """In place of `model.full_sort_predict`, scores of all items [B, N]."""
    quicken(model, config)
    return _with_lean_forward(model, "full_sort_predict", None, config, share=False)


def _known(config: Any) -> bool:
    return config["model"] in MODELS and config["train_stage"] != "pretrain"


def _may_cut(config: Any) -> bool:
    return bool(config["trim_padding"] and config["device"].type == "cpu")


def _with_lean_forward(
    model: Any, name: str, function: OfModel | None, config: Any, share: bool
) -> OfBatch:
    """`function`, or the model's method of this name, upon a view that answers leanly."""
    cut = _known(config) and _may_cut(config)
    if not cut and not share:
        own: OfBatch = functools.partial(function, model) if function else getattr(model, name)
        return own
    forward = TrimmedForward(model, cut, share)

    def lean(interaction: Interaction) -> Tensor:
        view = view_of(model, forward=forward)
        method: OfBatch = functools.partial(function, view) if function else getattr(view, name)
        return method(interaction)

    return lean


def next_item_loss(model: Any, interaction: Interaction) -> Tensor:
    """The mean cross-entropy of the items behind the rows, as in RecBole's models but BERT4Rec."""
    # Even S3Rec's answers for rows here: a vector for each place of each row is gigabytes.
    hidden = model.forward(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])
    table = model.item_embedding.weight
    return linear_cross_entropy(hidden, table, None, interaction[model.POS_ITEM_ID])


def masked_loss(model: Any, interaction: Interaction) -> Tensor:
    """The mean cross-entropy of the masked places of a batch, of RecBole's BERT4Rec."""
    places = interaction[BERT4REC_MASKS]  # [B, M], 0 where there is none
    row, number = places.nonzero(as_tuple=True)
    if not len(row):  # let RecBole say what that means
        loss: Tensor = model.calculate_loss(interaction)
        return loss
    masked, which = row.unique(return_inverse=True)
    hidden = model.forward(interaction[model.MASK_ITEM_SEQ][masked])
    hidden = hidden[which, places[row, number]]  # [T, D]
    table = model.item_embedding.weight[: model.n_items]
    targets = interaction[model.POS_ITEMS][row, number]
    return linear_cross_entropy(hidden, table, model.output_bias, targets)


class TrimmedForward:
    """In place of a model's `forward`: what it says at the end of every row [B, D], where it is
    asked with the rows' lengths, or at every place [B, L, D]."""

    def __init__(self, model: Any, cut: bool, share: bool):
        """
        Args:
            model: its `forward` takes items [B, L], and lengths [B] if it answers for rows.
            cut: into parts of rows of like length.
            share: read off, in training, the rows that are the beginning of others; the model is
                a causal one.
        """
        self.model, self.cut, self.share = model, cut, share
        self.original = model.forward
        self.takes_lengths = "item_seq_len" in inspect.signature(model.forward).parameters

    def __call__(self, items: Tensor, lengths: Tensor | None = None, **named: Any) -> Tensor:
        """Items are [B, L], zeros behind them."""
        if self._sharing():
            whole, place = fold_beginnings(items)
        else:
            whole, place = items, torch.arange(len(items), device=items.device)
        if lengths is not None:
            return self._answer_for_rows(whole, place, lengths)
        found, order = [], []
        for rows, part in self._parts(whole):
            answer = self.original(part, **named)
            found.append(F.pad(answer, (0, 0, 0, items.size(1) - part.size(1))))
            order.append(rows)
        return torch.cat(found)[inverse_order(order)[place]]

    def _answer_for_rows(self, whole: Tensor, place: Tensor, lengths: Tensor) -> Tensor:
        """From rows [U, L]: row b ends at place `lengths[b]` of that with number `place[b]`."""
        found, order = [], []
        for rows, part in self._parts(whole):
            at = torch.full((len(whole),), -1, device=whole.device)
            at[rows] = torch.arange(len(rows), device=whole.device)
            own = (at[place] >= 0).nonzero().squeeze(1)
            found.append(self._ends(part, lengths[own], at[place[own]]))
            order.append(own)
        return torch.cat(found)[inverse_order(order)]

    def _ends(self, items: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
        """What the model says for the rows with these numbers at their ends. [B, D]"""
        model = self.model
        if self._sharing():
            model = view_of(model, gather_indexes=lambda output, place: output[rows, place])
        if self.takes_lengths:
            ends: Tensor = model.forward(items, lengths)
        else:  # S3Rec answers for places
            answer = model.forward(items, bidirectional=False)
            ends = model.gather_indexes(answer, lengths - 1)
        return ends

    def _sharing(self) -> bool:
        return bool(self.share and self.model.training)

    def _parts(self, items: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The numbers of each part's rows, and its items without the columns that are all 0."""
        if not self.cut:
            return [(torch.arange(len(items), device=items.device), items)]
        columns = torch.arange(1, items.size(1) + 1, device=items.device)
        widths = ((items != 0) * columns).amax(dim=1)
        return [
            (rows, items[rows, : max(1, int(widths[rows].max()))])
            for rows in rows_of_like_length(widths)
        ]


def fold_beginnings(items: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that are not the beginning of another one.

    Args:
        items: [B, L], zeros behind the items of a row and nowhere else.

    Returns:
        these rows [U, L], and for each of B rows the number of one that begins with it [B].
    """
    # A user's rows stand in order of their lengths, so that few are left to be sorted.
    kept, number = _ahead_of_longer(items)
    whole, place = kept.unique(dim=0, return_inverse=True)
    # Zeros sort first, so that a row stands right before those that begin with it.
    whole, last = _ahead_of_longer(whole)
    return whole, last[place[number]]


def _ahead_of_longer(items: Tensor) -> tuple[Tensor, Tensor]:
    """Without the rows that are the beginning of the next one; which one each row went to."""
    ahead, behind = items[:-1], items[1:]
    last = torch.ones(len(items), dtype=torch.bool, device=items.device)
    last[:-1] = ((ahead != behind) & (ahead != 0)).any(dim=1)
    return items[last], last.cumsum(0) - last.long()


# RecBole's layers -----------------------------------------------------------------------------


def quicken(model: Any, config: Any) -> None:
    """Let the layers of a RecBole model compute the same in fewer operations, where `trim_padding`
    is on; doing it again changes nothing."""
    if not config["trim_padding"]:
        return
    for module in model.modules():
        if type(module) is FeatureSeqEmbLayer:
            module.__class__ = PooledOnce
        elif isinstance(module, FeedForward) and module.intermediate_act_fn == module.gelu:
            module.intermediate_act_fn = F.gelu
    if getattr(type(model), "reconstruct_test_data", None) is BERT4Rec.reconstruct_test_data:
        model.reconstruct_test_data = MethodType(mark_all_ends, model)


class PooledOnce(FeatureSeqEmbLayer):
    """Pools the features of each item of a batch once, in FDSA and SASRecF.

    A batch holds an item many times, and a semantic ID of 16 levels makes 16 vectors a place.
    """

    def forward(self, user_idx: Any, item_idx: Tensor) -> Any:
        """Of items [B, L], as RecBole's layer."""
        items, place = torch.unique(item_idx, return_inverse=True)  # [U], [B, L]

        def spread(pooled: Tensor | None) -> Tensor | None:  # [1, U, F, D] to [B, L, F, D]
            if pooled is None:
                return None
            rows = F.embedding(place, pooled[0].flatten(1))
            return rows.view(*place.shape, *pooled.shape[2:])

        found = super().forward(user_idx, items.unsqueeze(0))
        return tuple({kind: spread(value) for kind, value in each.items()} for each in found)


def mark_all_ends(model: BERT4Rec, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """In place of `BERT4Rec.reconstruct_test_data`: the mask behind each history. [B, L]"""
    longer = F.pad(item_seq, (0, 1))  # [B, L + 1]
    return longer.scatter_(1, item_seq_len.unsqueeze(1), model.mask_token)[:, 1:]


BERT4REC_MASKS = "MASK_INDEX"  # the field of masked positions, 0 where there is none
