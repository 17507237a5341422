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

Only what dropout draws differs. `trim_padding: False` leaves the first two to RecBole. B rows, L
columns, N items, D hidden, U rows that are not the beginning of another, M masks that a row may
have, T masked places.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.distributed import BERT4REC_MASKS
from recbole_qbert.model.loss import linear_cross_entropy
from recbole_qbert.model.ragged import inverse_order, rows_of_like_length
from recbole_qbert.s3rec_first_stage import first_stage_loss

# RecBole's models, and a mended one, for which no row depends on the padding behind it: in some a
# place depends on itself and those before it alone,
CAUSAL = frozenset({"FDSA", "GRU4Rec", "S3Rec", "SASRec", "SASRecF"})
# in others on all places.
BIDIRECTIONAL = frozenset({"BERT4Rec", "BERT4RecFixed"})
MODELS = CAUSAL | BIDIRECTIONAL | {"NARM"}

OfBatch = Callable[[Interaction], Tensor]


def lean_loss(model: Any, config: Any) -> OfBatch:
    """In place of `model.calculate_loss`, where model, device and settings allow it."""
    loss: OfBatch = model.calculate_loss
    if (
        config["model"] == "S3Rec"
        and config["train_stage"] == "pretrain"
        and config["trim_padding"]
    ):
        return functools.partial(first_stage_loss, model, cut=_may_cut(config))
    if not _known(config):
        return loss
    if config["loss_type"] == "CE":
        if config["model"] == "BERT4Rec" and config["trim_padding"]:
            loss = functools.partial(masked_loss, model)
        elif config["model"] not in BIDIRECTIONAL and _may_cut(config):
            loss = functools.partial(next_item_loss, model)
    share = config["batch_by"] == "user" and config["model"] in CAUSAL
    return _with_lean_forward(model, loss, cut=_may_cut(config), share=share)


def lean_scores(model: Any, config: Any) -> OfBatch:
    """In place of `model.full_sort_predict`, scores of all items [B, N]."""
    scores: OfBatch = model.full_sort_predict
    return _with_lean_forward(model, scores, cut=_known(config) and _may_cut(config), share=False)


def _known(config: Any) -> bool:
    return config["model"] in MODELS and config["train_stage"] != "pretrain"


def _may_cut(config: Any) -> bool:
    return bool(config["trim_padding"] and config["device"].type == "cpu")


def _with_lean_forward(model: Any, function: OfBatch, cut: bool, share: bool) -> OfBatch:
    if not cut and not share:
        return function
    forward = LeanForward(model, cut, share)

    def lean(interaction: Interaction) -> Tensor:
        with forward.active():
            return function(interaction)

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


class LeanForward:
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
        takes_lengths = "item_seq_len" in inspect.signature(model.forward).parameters
        self.of_rows = model.forward if takes_lengths else self._ends

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """The model uses this in the block."""
        self.model.forward = self  # beside the method of its class
        try:
            yield
        finally:
            del self.model.forward

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
            with self._gather_from(at[place[own]]):
                found.append(self.of_rows(part, lengths[own]))
            order.append(own)
        return torch.cat(found)[inverse_order(order)]

    def _ends(self, items: Tensor, lengths: Tensor) -> Tensor:
        """What S3Rec, which answers for places, says at the ends of rows."""
        return self.model.gather_indexes(self.original(items, bidirectional=False), lengths - 1)

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

    @contextlib.contextmanager
    def _gather_from(self, rows: Tensor) -> Iterator[None]:
        """The model's `gather_indexes` takes the b-th vector from row `rows[b]`."""
        if self._sharing():
            self.model.gather_indexes = lambda output, place: output[rows, place]
        try:
            yield
        finally:
            self.model.__dict__.pop("gather_indexes", None)


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
