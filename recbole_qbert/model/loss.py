"""Excluding items from scores, and the cross-entropy that bears it.

M masked positions, N items, L items a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def exclude_items(scores: Tensor, items: Tensor) -> Tensor:
    """Set the padding item and, in each row, the listed items to minus infinity.

    Args:
        scores: [M, N].
        items: [M, L] item ids; 0 may fill a row up.

    Returns:
        [M, N], a new tensor.
    """
    excluded = torch.zeros_like(scores, dtype=torch.bool)
    excluded[:, 0] = True
    return scores.masked_fill(excluded.scatter_(1, items, True), -torch.inf)


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy with label smoothing over the items that are not excluded.

    PyTorch's own `label_smoothing` spreads the mass over all columns, excluded ones included, and
    is infinite as soon as one logit is minus infinity.
    """
    if smoothing == 0:
        return F.cross_entropy(logits, targets)
    log_probability = F.log_softmax(logits, dim=1)
    allowed = logits.isfinite()
    uniform = log_probability.masked_fill(~allowed, 0.0).sum(dim=1) / allowed.sum(dim=1)
    chosen = log_probability.gather(1, targets.unsqueeze(1)).squeeze(1)
    return -((1 - smoothing) * chosen + smoothing * uniform).mean()
