"""Losses over a sample of the catalog, the draw of the sample and its scores.

Shapes: B rows, S negatives of each row, N items (0 is padding), D hidden.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DENSE_RATIO = 20  # items of the catalog for each negative up to which all are scored
CACHED_ROWS = 64  # rows whose drawn vectors are gathered at a time, into one buffer


class NegativeSampler(nn.Module):
    """Draws items independently, with probabilities proportional to training counts to a power.

    Items without a training interaction count as if they had one, so that every item can be drawn.

    Buffers, which are not saved:
        cumulative: float64 [N], cumulative probabilities.
        log_chance: float32 [N], log-probabilities; -inf for padding.
    """

    cumulative: Tensor
    log_chance: Tensor

    def __init__(self, items: Tensor, n_items: int, power: float):
        """Build the sampler from training items [T]; `power` 0 is uniform, 1 is popularity."""
        super().__init__()
        weights = torch.bincount(items, minlength=n_items).clamp(min=1).double() ** power
        weights[0] = 0
        chance = weights / weights.sum()
        self.uniform = power == 0
        self.register_buffer("cumulative", chance.cumsum(0), persistent=False)
        self.register_buffer("log_chance", chance.log().float(), persistent=False)

    def forward(self, n_rows: int, n_negatives: int) -> Tensor:
        """Draw items [B, S] with the global generator of the device; never padding."""
        size, device = (n_rows, n_negatives), self.cumulative.device
        draw = torch.rand(size, dtype=torch.float64, device=device)
        if self.uniform:
            return 1 + (draw * (len(self.cumulative) - 1)).long()
        # The sum of all probabilities can be slightly below 1.
        drawn = torch.searchsorted(self.cumulative, draw, right=True)
        return drawn.clamp(max=len(self.cumulative) - 1)


def draw_items(pool: Tensor, n_items: int) -> Tensor:
    """Draw items [S] of a pool [P] without replacement, for all rows of a batch.

    Each is drawn with probability S / P, whose logarithm is the `log_expected` of
    `sampled_softmax`.
    """
    return pool[torch.randperm(len(pool), device=pool.device)[:n_items]]


def loss_over_sample(
    positive: Tensor, negative: Tensor, targets: Tensor, drawn: Tensor, n_pool: int
) -> Tensor:
    """Return the mean `sampled_softmax` of rows that share the items drawn by `draw_items`.

    Args:
        positive: [B], scores of the targets.
        negative: [B, S], scores of the drawn items; a row's target does not count.
        targets: int64 [B].
        drawn: int64 [S].
        n_pool: number P of items that were drawn from.
    """
    negative = negative.masked_fill(drawn == targets.unsqueeze(1), -math.inf)
    return sampled_softmax(positive, negative, math.log(len(drawn) / n_pool))


def scores_of_drawn(hidden: Tensor, table: Tensor, drawn: Tensor) -> Tensor:
    """Score drawn items: the dot products of each row with its own items. [B, S]

    On a CPU it takes the faster of two ways (results/speed.md): if S is a large part of N, all
    scores by one matrix product; otherwise `_DrawnScores`.

    Args:
        hidden: [B, D].
        table: [N, D].
        drawn: int64 [B, S], rows of `table`; repeats are allowed.
    """
    if hidden.device.type != "cpu":
        return (F.embedding(drawn, table) @ hidden.unsqueeze(2)).squeeze(2)
    if len(table) <= DENSE_RATIO * drawn.size(1):
        return (hidden @ table.T).gather(1, drawn)
    scores: Tensor = _DrawnScores.apply(hidden, table, drawn)
    return scores


class _DrawnScores(torch.autograd.Function):
    """Scores of drawn items [B, S] with two passes over their vectors and no copy of all of them.

    The plain product keeps all drawn vectors [B, S, D], and adds their gradients to the table one
    at a time. Here both gradients are weighted sums, computed by `embedding_bag`.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, drawn: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, table, drawn)
        n_drawn = drawn.size(1)
        gathered = table.new_empty(CACHED_ROWS * n_drawn, table.size(1))
        scores = hidden.new_empty(len(hidden), n_drawn, 1)
        for first in range(0, len(hidden), CACHED_ROWS):
            rows = slice(first, first + CACHED_ROWS)
            items = drawn[rows].flatten()
            vectors = gathered[: len(items)]
            torch.index_select(table, 0, items, out=vectors)
            vectors = vectors.view(-1, n_drawn, table.size(1))
            torch.bmm(vectors, hidden[rows].unsqueeze(2), out=scores[rows])
        return scores.squeeze(2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, table, drawn = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        of_hidden = F.embedding_bag(drawn, table, per_sample_weights=gradient, mode="sum")
        # One bag for each item: the rows that drew it.
        order = drawn.flatten().argsort()
        counts = torch.bincount(drawn.flatten(), minlength=len(table))
        of_table = F.embedding_bag(
            order // drawn.size(1),
            hidden,
            counts.cumsum(0) - counts,
            per_sample_weights=gradient.flatten()[order],
            mode="sum",
        )
        return of_hidden, of_table, None


def sampled_softmax(
    positive: Tensor, negative: Tensor, log_expected: Tensor | float | None = None
) -> Tensor:
    """Return the mean over rows of -log(e^p / (e^p + sum_j e^(n_j) / E_j)).

    With E_j the expected number of times that item j is drawn, the sum is an unbiased estimate of
    the sum over all negatives. The target is in every sample with certainty, so its score is not
    corrected (Khrylchenko et al., Correcting the LogQ Correction, RecSys 2025, arXiv 2507.09331).

    Args:
        positive: [B], scores of the targets.
        negative: [B, S], scores of the negatives; -inf for those that do not count.
        log_expected: [B, S], log E_j, or one number for all; None for no correction.
    """
    positive, negative = positive.float(), negative.float()
    if log_expected is not None:
        negative = negative - log_expected
    everything = torch.cat([positive.unsqueeze(1), negative], dim=1)
    return (everything.logsumexp(dim=1) - positive).mean()


def gbce_power(n_negatives: int, n_others: int, t: float) -> float:
    """Return the exponent beta of gBCE (Petrov and Macdonald, gSASRec, RecSys 2023).

    Args:
        n_negatives: negatives of each target.
        n_others: items of the catalog without the target.
        t: calibration in [0, 1]; 0 is plain BCE, 1 gives fully calibrated probabilities.
    """
    share = n_negatives / n_others
    return share * (t * (1 - 1 / share) + 1 / share)


def gbce(positive: Tensor, negative: Tensor, n_negatives: int, beta: float) -> Tensor:
    """Return the mean over rows of generalized binary cross-entropy.

    With the sigmoid s, it is -(beta * log s(p) + sum_j log(1 - s(n_j))) / (S + 1).

    Args:
        positive: [B], scores of the targets.
        negative: [B, S], scores of the negatives; -inf for those that do not count.
        n_negatives: number of negatives in the denominator.
        beta: see `gbce_power`.
    """
    of_target = beta * F.softplus(-positive.float())
    return (of_target + F.softplus(negative.float()).sum(dim=1)).mean() / (n_negatives + 1)
