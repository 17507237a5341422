"""Losses over a sample of the catalog, and the draw of the sample.

Shapes: B rows, S negatives of each row, N items (0 is padding).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        self.register_buffer("cumulative", chance.cumsum(0), persistent=False)
        self.register_buffer("log_chance", chance.log().float(), persistent=False)

    def forward(self, n_rows: int, n_negatives: int) -> Tensor:
        """Draw items [B, S] with the global generator of the device; never padding."""
        size, device = (n_rows, n_negatives), self.cumulative.device
        draw = torch.rand(size, dtype=torch.float64, device=device)
        # The sum of all probabilities can be slightly below 1.
        drawn = torch.searchsorted(self.cumulative, draw, right=True)
        return drawn.clamp(max=len(self.cumulative) - 1)


def sampled_softmax(
    positive: Tensor, negative: Tensor, log_expected: Tensor | None = None
) -> Tensor:
    """Return the mean over rows of -log(e^p / (e^p + sum_j e^(n_j) / E_j)).

    With E_j the expected number of times that item j is drawn, the sum is an unbiased estimate of
    the sum over all negatives. The target is in every sample with certainty, so its score is not
    corrected (Khrylchenko et al., Correcting the LogQ Correction, RecSys 2025, arXiv 2507.09331).

    Args:
        positive: [B], scores of the targets.
        negative: [B, S], scores of the negatives; -inf for those that do not count.
        log_expected: [B, S], log E_j; None for no correction.
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
