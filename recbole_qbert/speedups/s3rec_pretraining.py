"""The first stage of RecBole's S3Rec without what is needless in it, to the same loss.

RecBole scores all attributes at all places of a sequence, twice, though a place with an item counts
in one of the two losses and padding in none; it writes the targets as a Python list of B x L x F
numbers; and it encodes padding. With the 1,000 and more attributes of semantic IDs these take most
of the time and memory. Zhou et al., S3-Rec, CIKM 2020.

B sequences, L places, the last ones of which hold a sequence here, T places with an item, A
attributes of an item at most, F in all, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import S3Rec
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.common.ragged import inverse_order, rows_of_like_length
from recbole_qbert.models.layers.view import view_of


def draw_masks_and_segments(model: S3Rec, items: Tensor, lengths: Tensor) -> list[Tensor]:
    """What RecBole's `reconstruct_pretrain_data` draws; no targets are made.

    Returns:
        masked items, items, items with others in place of the masked ones; the sequence without a
        segment, the segment, another one. All [B, L], zeros before the items.
    """
    no_attributes = torch.zeros(len(model.item_feat), 1, dtype=torch.long)
    view = view_of(model, n_features=1, item_feat={model.FEATURE_FIELD: no_attributes})
    _, *drawn = S3Rec.reconstruct_pretrain_data(view, items, lengths)
    return drawn


def attributes_of(model: S3Rec, items: Tensor) -> Tensor:
    """The attributes of items of any shape, by number from 1; 0 is none. [..., A]"""
    table = model.item_feat[model.FEATURE_FIELD]
    return table.reshape(len(table), -1).to(items.device)[items]


def one_hot(attributes: Tensor, n_features: int, dtype: torch.dtype) -> Tensor:
    """Of attributes [..., A] those that occur are 1. [..., F]"""
    shape = (*attributes.shape[:-1], n_features + 1)
    hot = torch.zeros(shape, dtype=dtype, device=attributes.device)
    return hot.scatter_(-1, attributes, 1)[..., 1:]


def first_stage_loss(model: S3Rec, interaction: Interaction, cut: bool) -> Tensor:
    """The weighted sum of the four losses: attributes, items and attributes behind masks, segments.

    Args:
        model: in its first stage.
        interaction: sequences [B, L], zeros behind them.
        cut: encode in parts of sequences of like length.
    """
    masked_items, *others = draw_masks_and_segments(
        model, interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN]
    )
    positive, negative, *segments = others
    hidden = _encode(model, torch.cat([masked_items, *segments]), cut)
    sequences, *ends = hidden.split(len(masked_items))
    context, segment, other_segment = (each[:, -1] for each in ends)  # [B, D]

    real = masked_items != 0
    sequences, positive, negative = sequences[real], positive[real], negative[real]  # [T, ...]
    behind = masked_items[real] == model.mask_token
    attributes, table = attributes_of(model, positive), model.feature_embedding.weight
    masks = sequences[behind]

    def attribute_loss(norm: Any, which: Tensor) -> Tensor:
        scores = F.linear(norm(sequences[which]), table)
        hot = one_hot(attributes[which], model.n_features, scores.dtype)
        return F.binary_cross_entropy_with_logits(scores, hot, reduction="sum")

    item_loss = _prefer(
        model._masked_item_prediction(masks, model.item_embedding(positive[behind])),
        model._masked_item_prediction(masks, model.item_embedding(negative[behind])),
    )
    segment_loss = _prefer(
        model._segment_prediction(context, segment),
        model._segment_prediction(context, other_segment),
    )
    loss: Tensor = (
        model.aap_weight * attribute_loss(model.aap_norm, ~behind)
        + model.mip_weight * item_loss
        + model.map_weight * attribute_loss(model.map_norm, behind)
        + model.sp_weight * segment_loss
    )
    return loss


def _prefer(score: Tensor, other: Tensor) -> Tensor:
    return -F.logsigmoid(score - other).sum()


def _encode(model: S3Rec, items: Tensor, cut: bool) -> Tensor:
    """The encoder's answer for sequences [R, L] with zeros before them. [R, L, D]"""
    if not cut:
        encoded: Tensor = model.forward(items)
        return encoded
    length = items.size(1)
    widths = length - (items != 0).int().argmax(dim=1)
    found, order = [], []
    for rows in rows_of_like_length(widths):
        first = length - int(widths[rows].max())
        found.append(
            F.pad(_from_place(model, first).forward(items[rows, first:]), (0, 0, first, 0))
        )
        order.append(rows)
    return torch.cat(found)[inverse_order(order)]


def _from_place(model: S3Rec, first: int) -> S3Rec:
    """The model, to which the first column of what it encodes is at this place."""
    table = model.position_embedding
    return view_of(model, position_embedding=lambda places: table(places + first))
