"""Rows of different lengths: grouping, and packing to padding.

Shapes: B rows, L columns, D features, P real (not padded) entries in all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
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


def by_length(lengths: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to row numbers; on a CPU, to groups of rows of like length.

    On a CPU, padding costs as much time as items; elsewhere, many small steps cost more.

    Args:
        lengths: [B].
        function: returns one entry per row number [R], in their order.

    Returns:
        The results, in the order of the rows. [B, ...]
    """
    if lengths.device.type != "cpu" or torch.jit.is_tracing():  # a trace has no groups
        return function(torch.arange(lengths.size(0), device=lengths.device))
    groups = rows_of_like_length(lengths)
    return torch.cat([function(rows) for rows in groups])[inverse_order(groups)]


def compacted(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Move the zeros of each row [B, L] behind its items; also return the numbers of items [B]."""
    order = (rows == 0).to(torch.uint8).argsort(dim=1, stable=True)
    return rows.gather(1, order), (rows > 0).sum(dim=1)


def pad_rows(packed: Tensor, real: Tensor) -> Tensor:
    """Scatter packed rows [P, D] into zeros [B, L, D], at the P True entries of `real` [B, L]."""
    padded = packed.new_zeros(*real.shape, packed.size(1))
    padded[real] = packed
    return padded


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Concatenate the ranges `start, start + 1, ..., end - 1` of all pairs."""
    lengths = ends - starts
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return np.arange(lengths.sum()) + shift
