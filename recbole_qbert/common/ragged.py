"""Rows of different lengths: grouping, prefixes, and packing to padding.

Shapes: B rows, L columns, D features, P real (not padded) entries in all, U rows that are not a
prefix of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

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


def parts_by_length(items: Tensor, cut: bool) -> list[tuple[Tensor, Tensor]]:
    """Split right-padded rows [B, L] by length, if `cut`; else all are one part.

    Returns:
        For each part its row numbers, and its items without the columns that are padding in all.
    """
    if not cut:
        return [(torch.arange(len(items), device=items.device), items)]
    columns = torch.arange(1, items.size(1) + 1, device=items.device)
    widths = ((items != 0) * columns).amax(dim=1)
    return [
        (rows, items[rows, : max(1, int(widths[rows].max()))])
        for rows in rows_of_like_length(widths)
    ]


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


def merge_prefixes(items: Tensor) -> tuple[Tensor, Tensor]:
    """Remove rows of `items` [B, L], right-padded with zeros, that are a prefix of another row.

    Returns:
        whole: [U, L], the remaining rows.
        place: [B], for each row the number of a remaining row that begins with it.
    """
    # A user's rows are in order of their lengths, so this leaves few rows to sort.
    kept, number = _drop_prefixes(items)
    whole, place = kept.unique(dim=0, return_inverse=True)
    # Zeros sort first, so a row comes right before the rows that begin with it.
    whole, last = _drop_prefixes(whole)
    return whole, last[place[number]]


def _drop_prefixes(items: Tensor) -> tuple[Tensor, Tensor]:
    """Remove rows that are a prefix of the next row; also return the row that replaces each."""
    ahead, behind = items[:-1], items[1:]
    last = torch.ones(len(items), dtype=torch.bool, device=items.device)
    last[:-1] = ((ahead != behind) & (ahead != 0)).any(dim=1)
    return items[last], last.cumsum(0) - last.long()


def by_parts(
    parts: Iterable[tuple[Tensor, Tensor]],
    place: Tensor,
    ends: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Compute the outputs of rows that are prefixes of others, see `merge_prefixes`, part by part.

    Args:
        parts: row numbers of each part of the remaining rows [U], and its items.
        place: [B], for each row the number of a remaining row that begins with it.
        ends: returns the outputs [R, D] of rows, from the items of a part, their places in the part
            [R] and their numbers [R].

    Returns:
        [B, D].
    """
    found, order = [], []
    for rows, part in parts:
        at = torch.full((int(place.max()) + 1,), -1, device=place.device)
        at[rows] = torch.arange(len(rows), device=place.device)
        own = (at[place] >= 0).nonzero().squeeze(1)
        found.append(ends(part, at[place[own]], own))
        order.append(own)
    return torch.cat(found)[inverse_order(order)]


def ends_of_prefixes(items: Tensor, lengths: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the output of a causal encoder at the end of each row, and encode no prefix alone.

    Args:
        items: [B, L], right-padded with zeros.
        lengths: [B], each at least 1.
        encode: maps items [U, L'] to outputs [U, L', D].

    Returns:
        [B, D].
    """
    whole, place = merge_prefixes(items)
    parts = parts_by_length(whole, cut=items.device.type == "cpu")
    return by_parts(parts, place, lambda part, rows, own: encode(part)[rows, lengths[own] - 1])


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
