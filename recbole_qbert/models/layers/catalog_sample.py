"""Restriction of the softmax to a sample of the catalog, for batches of training sequences.

Shapes: B batch, L positions, N items (row 0 is padding), R scored items, T items of all rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_qbert.data.dataset import TrainingRows


def log_absence(rows: TrainingRows, n_items: int, cut_share: float) -> Tensor:
    """Compute the log-probability that no row of a training batch contains an item.

    `next_item` cuts a row of n items to its first 2, ..., n items with equal probability, so the
    item at position p (from 0) stays with probability (n - p) / (n - 1). Rows are treated as drawn
    independently, which is exact if a batch holds one row or all rows.

    Args:
        rows: training rows, with the probability of each to be in a batch.
        n_items: N, padding included.
        cut_share: expected share of a batch's rows that `next_item` cuts.

    Returns:
        [N]; 0 for items in no row, -inf for items in every batch.
    """
    n = rows.lengths.repeat_interleave(rows.lengths)  # [T]
    starts = rows.lengths.cumsum(0) - rows.lengths
    place = torch.arange(len(rows.items)) - starts.repeat_interleave(rows.lengths)
    left_by_cut = ((n - place) / (n - 1).clamp(min=1)).clamp(max=1)
    kept = 1 - cut_share * (1 - left_by_cut.double())
    # If a row repeats an item, its first position decides: a cut removes it last.
    row = torch.arange(len(rows.lengths)).repeat_interleave(rows.lengths)
    pairs, pair = torch.unique(row * n_items + rows.items, return_inverse=True)
    kept = torch.zeros(len(pairs), dtype=kept.dtype).scatter_reduce(0, pair, kept, "amax")
    absent = torch.log1p(-rows.chance[pairs // n_items] * kept)
    return torch.zeros(n_items, dtype=kept.dtype).index_add(0, pairs % n_items, absent).float()


def sample_catalog(
    items: Tensor, n_samples: int, log_absence: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Restrict the catalog to the items of a batch and a random sample of others.

    Args:
        items: [B, L] item IDs, 0 at padding.
        n_samples: number of items to draw without replacement, uniformly.
        log_absence: [N] log-probability that no row of a batch contains the item.
        generator: source of randomness.

    Returns:
        items: [B, L], `items` renumbered within the small catalog.
        scored: [R], IDs of the small catalog's items, ascending from the padding.
        log_chance: [R], log-probability of each of them to be in it.
    """
    n_items = len(log_absence)
    order = torch.randperm(n_items - 1, generator=generator, device=items.device)
    within = torch.zeros(n_items, dtype=torch.bool, device=items.device)
    within[order[:n_samples] + 1] = True
    within[items.flatten()] = True
    within[0] = True
    scored = within.nonzero().squeeze(1)
    numbers = within.cumsum(0) - 1
    not_drawn = 1 - n_samples / (n_items - 1)
    return numbers[items], scored, torch.log1p(-not_drawn * log_absence[scored].exp())
