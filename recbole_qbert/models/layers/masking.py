"""Masking schemes as pure functions on tensors (Q-BERT4Rec section 3.5; BERT4Rec for `random`).

Every function takes the lengths of B right-padded sequences of at most L items and a generator on
the lengths' device. It returns a boolean mask [B, L] that is True only at real items, at least one
of them in each row. This module does not depend on items, models or configs.

The paper gives ratios (.3 span, .15 multi-region, .1 tail) of the real positions of a sequence.
`next_item` is not in the paper: it cuts the sequence to a random prefix and masks its last item,
which is the prediction task at inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

SCHEMES = ("random", "span", "tail", "multi_region", "next_item")


class MaskDraw(NamedTuple):
    """Sequence lengths after cutting, and masked positions."""

    lengths: Tensor  # [B] int64; shorter than given where `next_item` cut the sequence
    mask: Tensor  # [B, L] bool


def positions(lengths: Tensor, max_length: int) -> Tensor:
    """Return the positions 0..L-1 as a row that broadcasts against `lengths[:, None]`. [1, L]"""
    return torch.arange(max_length, device=lengths.device).unsqueeze(0)


def valid_positions(lengths: Tensor, max_length: int) -> Tensor:
    """Return True at real items. [B, L]"""
    return positions(lengths, max_length) < lengths.unsqueeze(1)


def n_masked(lengths: Tensor, ratio: float) -> Tensor:
    """Return the number of items to mask per sequence: `ratio` of them, at least one. [B]

    Halves are rounded up.
    """
    half = 0.5 + 1e-9  # 50 * 0.53 is 26.5 up to floating-point error, and must round up
    return (lengths.double() * ratio + half).floor().long().clamp(min=1).minimum(lengths)


def append_item(items: Tensor, lengths: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """Append one item to each right-padded sequence; a full sequence drops its oldest item.

    Takes and returns items [B, L] and lengths [B], 0 to L; `item` is [B].
    """
    full = lengths == items.size(1)
    items = torch.where(full.unsqueeze(1), items.roll(-1, dims=1), items)
    at = lengths - full.long()
    return items.scatter(1, at.unsqueeze(1), item.unsqueeze(1)), at + 1


def random_mask(
    lengths: Tensor, max_length: int, ratio: float, generator: torch.Generator
) -> Tensor:
    """Mask each item independently with probability `ratio`; mask one at random if none was hit."""
    valid = valid_positions(lengths, max_length)
    draw = _uniform((len(lengths), max_length), generator).masked_fill(~valid, 2.0)
    threshold = draw.amin(dim=1, keepdim=True).clamp(min=ratio)
    return (draw <= threshold) & valid


def span_mask(lengths: Tensor, max_length: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Mask one run of `n_masked` adjacent items; its start is uniform."""
    size = n_masked(lengths, ratio)
    start = _randint(lengths - size + 1, generator)
    return _run(start, size, max_length)


def tail_mask(lengths: Tensor, max_length: int, ratio: float) -> Tensor:
    """Mask the last `n_masked` items."""
    size = n_masked(lengths, ratio)
    return _run(lengths - size, size, max_length)


def multi_region_mask(
    lengths: Tensor,
    max_length: int,
    ratio: float,
    generator: torch.Generator,
    n_regions: int = 2,
) -> Tensor:
    """Mask `n_regions` runs of items with at least one visible item between any two.

    In all, `max(n_regions, n_masked)` items are masked, split as evenly as possible. A sequence
    that is too short (fewer than 2 * n_regions - 1 items) gets as many regions as fit.

    The regions are uniform over all placements: u visible items leave u + 1 gaps for a region, and
    regions in different gaps never touch.
    """
    regions = ((lengths + 1) // 2).clamp(max=n_regions)  # [B]
    size = torch.maximum(n_masked(lengths, ratio), regions)
    size = torch.minimum(size, lengths - regions + 1)
    n_gaps = lengths - size + 1
    keys = _uniform((len(lengths), max_length + 1), generator)
    keys = keys.masked_fill(positions(lengths, max_length + 1) >= n_gaps.unsqueeze(1), 2.0)
    gaps = keys.argsort(dim=1)[:, :n_regions]  # the first `regions` entries of a row are drawn
    rank = torch.arange(gaps.size(1), device=lengths.device).unsqueeze(0)
    chosen = rank < regions.unsqueeze(1)
    gaps = gaps.masked_fill(~chosen, max_length + 1).sort(dim=1).values
    width = size.unsqueeze(1) // regions.unsqueeze(1) + (rank < (size % regions).unsqueeze(1))
    width = width.masked_fill(~chosen, 0)  # [B, R]
    start = gaps + width.cumsum(dim=1) - width  # gap g has g visible items before it
    grid = positions(lengths, max_length).unsqueeze(1)  # [1, 1, L]
    runs = (grid >= start.unsqueeze(2)) & (grid < (start + width).unsqueeze(2))
    return runs.any(dim=1)


def draw_masks(
    lengths: Tensor,
    max_length: int,
    mix: Mapping[str, float],
    ratios: Mapping[str, float],
    generator: torch.Generator,
) -> MaskDraw:
    """Draw one scheme for each sequence, in proportion to the weights in `mix`, and apply it.

    Args:
        lengths: [B] real items of each sequence, all >= 1.
        max_length: L.
        mix: scheme -> weight; see `SCHEMES`. Absent or zero: never drawn.
        ratios: scheme -> share of the real positions that it masks (`next_item` needs none).
        generator: source of all randomness.
    """
    n_rows, device = len(lengths), lengths.device
    weights = torch.tensor([float(mix.get(scheme, 0.0)) for scheme in SCHEMES], device=device)
    scheme_of_row = torch.multinomial(weights, n_rows, replacement=True, generator=generator)  # [B]
    lengths = lengths.clone()
    mask = torch.zeros(n_rows, max_length, dtype=torch.bool, device=device)
    for number, scheme in enumerate(SCHEMES):
        if weights[number] == 0:
            continue
        rows = scheme_of_row == number
        if scheme == "next_item":
            cut = _randint((lengths - 1).clamp(min=1), generator) + lengths.clamp(max=2)
            lengths = torch.where(rows, cut, lengths)
            drawn = _run(cut - 1, torch.ones_like(cut), max_length)
        elif scheme == "random":
            drawn = random_mask(lengths, max_length, ratios[scheme], generator)
        elif scheme == "span":
            drawn = span_mask(lengths, max_length, ratios[scheme], generator)
        elif scheme == "tail":
            drawn = tail_mask(lengths, max_length, ratios[scheme])
        else:
            drawn = multi_region_mask(lengths, max_length, ratios[scheme], generator)
        mask = torch.where(rows.unsqueeze(1), drawn, mask)
    return MaskDraw(lengths, mask)


def _run(start: Tensor, size: Tensor, max_length: int) -> Tensor:
    """Return True from `start` for `size` positions. [B, L]"""
    grid = positions(start, max_length)
    return (grid >= start.unsqueeze(1)) & (grid < (start + size).unsqueeze(1))


def _uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device)


def _randint(high: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one integer in [0, high) for each element of `high`. [B]"""
    draw = torch.rand(high.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return (draw * high).long().minimum(high - 1)


def global_generator(device: torch.device) -> torch.Generator:
    """Return the device's global generator, which RecBole seeds and checkpoints save."""
    if device.type == "cuda":
        current = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[current]
    return torch.default_generator
