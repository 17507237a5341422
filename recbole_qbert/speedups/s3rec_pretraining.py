"""S3Rec's pretraining loss without redundant computation, equal to RecBole's.

Zhou et al., S3-Rec, CIKM 2020. RecBole scores all attributes at all positions, twice, although each
position with an item counts in only one of the two losses, and padding in none. It builds the
targets as a Python list of B x L x F numbers, and it encodes padding. With the 1,000 or more
attributes of semantic IDs this takes most of the time and memory.

Shapes: B sequences, L positions, left-padded; T positions with an item; at most A attributes per
item, F attributes in all; D hidden.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import S3Rec
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.common.ragged import inverse_order, rows_of_like_length


def view_of(model: Any, **changed: Any) -> Any:
    """Return a shallow copy of an `nn.Module` with other attributes and shared parameters.

    Attributes set on the copy do not reach the model. So other threads, hooks,
    DistributedDataParallel and compiled code are not affected.
    """
    view = copy.copy(model)
    view.__dict__.update(changed)  # `setattr` would put modules into the shared `_modules` dict
    return view


def draw_masks_and_segments(model: S3Rec, items: Tensor, lengths: Tensor) -> list[Tensor]:
    """Draw masks and segments as RecBole's `reconstruct_pretrain_data`, without building targets.

    Takes items [B, L], right-padded, and lengths [B]. Returns six tensors [B, L], left-padded:
    items with masks, the items, items with negatives at the masks, items with a masked segment, the
    segment, a random segment of the batch.
    """
    no_attributes = torch.zeros(len(model.item_feat), 1, dtype=torch.long)
    view = view_of(model, n_features=1, item_feat={model.FEATURE_FIELD: no_attributes})
    _, *drawn = S3Rec.reconstruct_pretrain_data(view, items, lengths)
    return drawn


def attributes_of(model: S3Rec, items: Tensor) -> Tensor:
    """Return the attributes of items of any shape, counted from 1; 0 is padding. [..., A]"""
    table = model.item_feat[model.FEATURE_FIELD]
    return table.reshape(len(table), -1).to(items.device)[items]


def one_hot(attributes: Tensor, n_features: int, dtype: torch.dtype) -> Tensor:
    """Encode attributes [..., A] as multi-hot vectors [..., F]; attribute 0 is dropped."""
    shape = (*attributes.shape[:-1], n_features + 1)
    hot = torch.zeros(shape, dtype=dtype, device=attributes.device)
    return hot.scatter_(-1, attributes, 1)[..., 1:]


def first_stage_loss(model: S3Rec, interaction: Interaction, cut: bool) -> Tensor:
    """Return S3Rec's weighted sum of four losses.

    They are associated attribute, masked item, masked attribute and segment prediction. With `cut`,
    groups of sequences of similar length are encoded separately, without their padding.
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
    at_mask = masked_items[real] == model.mask_token
    attributes, table = attributes_of(model, positive), model.feature_embedding.weight
    masks = sequences[at_mask]

    def attribute_loss(norm: Any, which: Tensor) -> Tensor:
        scores = F.linear(norm(sequences[which]), table)
        hot = one_hot(attributes[which], model.n_features, scores.dtype)
        return F.binary_cross_entropy_with_logits(scores, hot, reduction="sum")

    item_loss = _prefer(
        model._masked_item_prediction(masks, model.item_embedding(positive[at_mask])),
        model._masked_item_prediction(masks, model.item_embedding(negative[at_mask])),
    )
    segment_loss = _prefer(
        model._segment_prediction(context, segment),
        model._segment_prediction(context, other_segment),
    )
    loss: Tensor = (
        model.aap_weight * attribute_loss(model.aap_norm, ~at_mask)
        + model.mip_weight * item_loss
        + model.map_weight * attribute_loss(model.map_norm, at_mask)
        + model.sp_weight * segment_loss
    )
    return loss


def _prefer(score: Tensor, other: Tensor) -> Tensor:
    """Return the sum of pairwise losses -log sigmoid(score - other)."""
    return -F.logsigmoid(score - other).sum()


def _encode(model: S3Rec, items: Tensor, cut: bool) -> Tensor:
    """Encode left-padded sequences [R, L] to [R, L, D]."""
    if not cut:
        encoded: Tensor = model.forward(items)
        return encoded
    length = items.size(1)
    widths = length - (items != 0).int().argmax(dim=1)
    found, groups = [], rows_of_like_length(widths)
    for rows in groups:
        first = length - int(widths[rows].max())
        hidden = _from_position(model, first).forward(items[rows, first:])
        found.append(F.pad(hidden, (0, 0, first, 0)))
    return torch.cat(found)[inverse_order(groups)]


def _from_position(model: S3Rec, first: int) -> S3Rec:
    """Return a view of the model whose first input column has position `first`."""
    table = model.position_embedding
    return view_of(model, position_embedding=lambda places: table(places + first))
