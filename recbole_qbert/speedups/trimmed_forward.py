"""Losses and scores of RecBole's models without redundant computation, equal to RecBole's.

* RecBole computes on the padding to MAX_ITEM_LIST_LENGTH, although most rows are short prefixes.
  Here, on a CPU, a batch is split into rows of 1, 2, 3-4, 5-8, ... items, without the columns that
  are padding in all rows of a part. On a GPU, small steps are bound by kernel launches, of which
  five or six parts need five or six times as many (results/speed.md).
* RecBole's BERT4Rec scores `mask_ratio * L` positions of every row, although short rows have few
  masks or none. Here only masked positions are scored, and only rows with masks are encoded.
* RecBole encodes every prefix of a sequence separately, although a causal model's output at a
  position does not depend on later positions. If a user's rows are in one batch
  (`batch_by: user`), the outputs of a prefix are taken from a longer row.
* RecBole's layers compute GELU in four operations, pool an item's features at each position where
  it occurs, and append masks to histories in a Python loop.

Only the random numbers of dropout differ. `trim_padding: False` disables all but the third.

Shapes: B rows, L columns, N items, D hidden, U rows that are not a prefix of another, M masks that
a row may have, T masked positions.
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

from recbole_qbert.common.ragged import (
    by_parts,
    inverse_order,
    merge_prefixes,
    parts_by_length,
)
from recbole_qbert.models.layers.loss import linear_cross_entropy
from recbole_qbert.speedups.s3rec_pretraining import first_stage_loss, view_of

# Models in which no output depends on the padding behind a row. In causal ones an output depends
# only on its own position and earlier ones, in bidirectional ones on all positions of the row. Any
# other model whose `forward` is like SASRec's can declare that it is causal by a class attribute
# `causal = True`; if its loss is SASRec's cross-entropy too, by an attribute `full_softmax = True`.
CAUSAL = frozenset({"FDSA", "GRU4Rec", "S3Rec", "SASRec", "SASRecF"})
BIDIRECTIONAL = frozenset({"BERT4Rec", "BERT4RecFixed"})
MODELS = CAUSAL | BIDIRECTIONAL | {"NARM"}
BERT4REC_MASKS = "MASK_INDEX"  # RecBole's field of masked positions [B, M]; 0 means no mask

OfBatch = Callable[[Interaction], Tensor]
OfModel = Callable[[Any, Interaction], Tensor]  # the first argument is a model or a view of it


def is_s3rec_first_stage(config: Any) -> bool:
    """Return whether a run trains S3Rec's first stage, whose loss is a sum over rows."""
    return bool(config["model"] == "S3Rec" and config["train_stage"] == "pretrain")


def trimmed_loss(model: Any, config: Any) -> OfBatch:
    """Return a function equal to `model.calculate_loss`, faster if model, device and config allow.

    Also replaces layers of the model (see `apply_speedups`).
    """
    apply_speedups(model, config)
    if is_s3rec_first_stage(config) and config["trim_padding"]:
        return functools.partial(first_stage_loss, model, cut=_may_cut(config))
    loss: OfModel | str = "calculate_loss"  # the model's own
    if _known(model, config) and config["loss_type"] == "CE":
        if config["model"] == "BERT4Rec" and config["trim_padding"]:
            loss = masked_loss
        elif config["model"] not in BIDIRECTIONAL and _may_cut(config):
            is_plain = config["model"] in MODELS or getattr(model, "full_softmax", False)
            loss = next_item_loss if is_plain else loss
    share = _known(model, config) and config["batch_by"] == "user" and _causal(model, config)
    return _with_trimmed_forward(model, loss, config, share)


def trimmed_scores(model: Any, config: Any) -> OfBatch:
    """Return a function equal to `model.full_sort_predict` [B, N]; see `trimmed_loss`."""
    apply_speedups(model, config)
    return _with_trimmed_forward(model, "full_sort_predict", config, share=False)


def _causal(model: Any, config: Any) -> bool:
    """Return whether the model is one of CAUSAL, or declares that it is."""
    return config["model"] in CAUSAL or getattr(model, "causal", False)


def _known(model: Any, config: Any) -> bool:
    """Return whether the model is one of MODELS or causal, and is not being pretrained."""
    known = config["model"] in MODELS or _causal(model, config)
    return known and config["train_stage"] != "pretrain"


def _may_cut(config: Any) -> bool:
    """Return whether batches may be split by length; this pays on a CPU only."""
    return bool(config["trim_padding"] and config["device"].type == "cpu")


def _with_trimmed_forward(model: Any, function: OfModel | str, config: Any, share: bool) -> OfBatch:
    """Return a function or method of the model, or of a view of it with a trimmed forward."""

    def bound(view: Any) -> OfBatch:
        if isinstance(function, str):
            method: OfBatch = getattr(view, function)
            return method
        return functools.partial(function, view)

    cut = _known(model, config) and _may_cut(config)
    if not cut and not share:
        return bound(model)
    forward = TrimmedForward(model, cut, share)
    return lambda interaction: bound(view_of(model, forward=forward))(interaction)


def next_item_loss(model: Any, interaction: Interaction) -> Tensor:
    """Return the mean cross-entropy of the rows' next items, as RecBole's CE models do."""
    # `forward` returns one vector per row here, also for S3Rec, whose own returns one per position:
    # that would be gigabytes.
    hidden = model.forward(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN])
    table = model.item_embedding.weight
    return linear_cross_entropy(hidden, table, None, interaction[model.POS_ITEM_ID])


def masked_loss(model: Any, interaction: Interaction) -> Tensor:
    """Return the mean cross-entropy of a batch's masked positions, as RecBole's BERT4Rec."""
    places = interaction[BERT4REC_MASKS]  # [B, M], 0 where there is none
    row, number = places.nonzero(as_tuple=True)
    if not len(row):  # RecBole defines the loss of a batch without masks
        loss: Tensor = model.calculate_loss(interaction)
        return loss
    masked, which = row.unique(return_inverse=True)
    hidden = model.forward(interaction[model.MASK_ITEM_SEQ][masked])
    hidden = hidden[which, places[row, number]]  # [T, D]
    table = model.item_embedding.weight[: model.n_items]
    targets = interaction[model.POS_ITEMS][row, number]
    return linear_cross_entropy(hidden, table, model.output_bias, targets)


class TrimmedForward:
    """Replacement for a model's `forward` that skips padding and prefixes.

    Called with the rows' lengths, it returns the output at the end of every row [B, D]; otherwise
    at every position [B, L, D].
    """

    def __init__(self, model: Any, cut: bool, share: bool):
        """Wrap a model's `forward`.

        Args:
            model: its `forward` takes items [B, L], and also lengths [B] if it returns one vector
                per row.
            cut: split batches into parts of rows of similar length.
            share: in training, take the outputs of prefixes from longer rows; only for causal
                models.
        """
        self.model, self.cut, self.share = model, cut, share
        self.original = model.forward
        self.takes_lengths = "item_seq_len" in inspect.signature(model.forward).parameters

    def __call__(self, items: Tensor, lengths: Tensor | None = None, **named: Any) -> Tensor:
        """Encode right-padded items [B, L]."""
        if self._sharing():
            whole, place = merge_prefixes(items)
        else:
            whole, place = items, torch.arange(len(items), device=items.device)
        if lengths is not None:
            return self._answer_for_rows(whole, place, lengths)
        found, order = [], []
        for rows, part in parts_by_length(whole, self.cut):
            answer = self.original(part, **named)
            found.append(F.pad(answer, (0, 0, 0, items.size(1) - part.size(1))))
            order.append(rows)
        return torch.cat(found)[inverse_order(order)[place]]

    def _answer_for_rows(self, whole: Tensor, place: Tensor, lengths: Tensor) -> Tensor:
        """Return the output at the end of every row [B, D]; see `merge_prefixes` for the rows."""
        return by_parts(
            parts_by_length(whole, self.cut),
            place,
            lambda part, rows, own: self._ends(part, lengths[own], rows),
        )

    def _ends(self, items: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
        """Return the outputs of a part's rows `rows`, each at its length. [B, D]"""
        model = self.model
        if self._sharing():
            model = view_of(model, gather_indexes=lambda output, place: output[rows, place])
        if self.takes_lengths:
            ends: Tensor = model.forward(items, lengths)
        else:  # S3Rec returns one vector per position
            answer = model.forward(items, bidirectional=False)
            ends = model.gather_indexes(answer, lengths - 1)
        return ends

    def _sharing(self) -> bool:
        """Return whether outputs of prefixes are taken from longer rows now."""
        return bool(self.share and self.model.training)


def apply_speedups(model: Any, config: Any) -> None:
    """Replace layers of a RecBole model by equivalent faster ones, if `trim_padding` is on."""
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
    """FDSA's and SASRecF's feature layer, pooling the features of each item of a batch once.

    An item occurs many times in a batch, and a semantic ID of 16 levels has 16 vectors per
    position.
    """

    def forward(self, user_idx: Any, item_idx: Tensor) -> Any:
        """Return what RecBole's layer returns for items [B, L]."""
        items, place = torch.unique(item_idx, return_inverse=True)  # [U], [B, L]

        def expand(pooled: Tensor | None) -> Tensor | None:  # [1, U, F, D] to [B, L, F, D]
            if pooled is None:
                return None
            rows = F.embedding(place, pooled[0].flatten(1))
            return rows.view(*place.shape, *pooled.shape[2:])

        found = super().forward(user_idx, items.unsqueeze(0))
        return tuple({kind: expand(value) for kind, value in each.items()} for each in found)


def mark_all_ends(model: BERT4Rec, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
    """Append the mask to each history, as `BERT4Rec.reconstruct_test_data` does. [B, L]

    The oldest item is dropped, as in RecBole.
    """
    longer = F.pad(item_seq, (0, 1))  # [B, L + 1]
    return longer.scatter_(1, item_seq_len.unsqueeze(1), model.mask_token)[:, 1:]
