"""Rows of different lengths: which go together, and from packed to padded. B rows, L columns."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_of_like_length(lengths: Tensor) -> list[Tensor]:
    """The numbers of the rows of 0 or 1, 2, 3-4, 5-8, ... items, of the groups that have any.

    Padded to its longest row, a group is less than twice as long as any of its rows.

    Args:
        lengths: [B] of the rows.
    """
    group = torch.bucketize(lengths, 2 ** torch.arange(32, device=lengths.device))
    order = group.argsort(stable=True)
    counts: list[int] = group.bincount().tolist()
    return [rows for rows in order.split(counts) if len(rows)]


def inverse_order(groups: list[Tensor]) -> Tensor:
    """Where each row went that the groups, one behind the other, put in a new order. [B]"""
    return torch.cat(groups).argsort()


def pad_rows(packed: Tensor, real: Tensor) -> Tensor:
    """Rows that stood one behind the other, below each other, zero where nothing is real.

    Args:
        packed: [P, D].
        real: [B, L] bool, P of them.

    Returns:
        [B, L, D].
    """
    padded = packed.new_zeros(*real.shape, packed.size(1))
    padded[real] = packed
    return padded
