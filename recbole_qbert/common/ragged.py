"""Rows of different lengths: grouping, and packing to padding.

Shapes: B rows, L columns, D features, P real (not padded) entries in all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of_like_length(lengths: Tensor) -> list[Tensor]:
    """Group rows by their lengths [B]: 0 or 1, 2, 3-4, 5-8, ... items.

    Padded to its longest row, a group is less than twice as long as any of its rows. Returns row
    numbers of each non-empty group, shortest rows first.
    """
    group = torch.bucketize(lengths, 2 ** torch.arange(32, device=lengths.device))
    order = group.argsort(stable=True)
    counts: list[int] = group.bincount().tolist()
    return [rows for rows in order.split(counts) if len(rows)]


def inverse_order(groups: list[Tensor]) -> Tensor:
    """Return the inverse of the permutation that concatenates the groups. [B]"""
    return torch.cat(groups).argsort()


def pad_rows(packed: Tensor, real: Tensor) -> Tensor:
    """Scatter packed rows [P, D] into zeros [B, L, D], at the P True entries of `real` [B, L]."""
    padded = packed.new_zeros(*real.shape, packed.size(1))
    padded[real] = packed
    return padded
