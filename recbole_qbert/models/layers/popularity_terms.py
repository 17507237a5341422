"""Terms of item scores that depend on the number of training interactions.

Shapes: N items (row 0 is padding).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PopularityTerms(nn.Module):
    """Terms added to scores at ranking, and to logits in training.

    `counts` int64 [N] are the training interactions of the items; they are part of the weights.
    """

    counts: Tensor

    def __init__(self, counts: Tensor, bonus: float, discount: float, adjustment: float):
        """Set the terms.

        Args:
            counts: int64 [N].
            bonus: added at ranking to items that do not occur in training.
            discount: times the logarithm of the count plus one; subtracted at ranking.
            adjustment: times the same logarithm; added in training (logit adjustment, Menon et
                al., ICLR 2021), so that the scores without it favor rare items.
        """
        super().__init__()
        self.bonus, self.discount, self.adjustment = bonus, discount, adjustment
        self.register_buffer("counts", counts)

    @property
    def ranks(self) -> bool:
        """Whether a term at ranking is not 0."""
        return bool(self.bonus or self.discount)

    @property
    def at_ranking(self) -> Tensor:
        """Terms at ranking. [N]"""
        return self.bonus * (self.counts == 0) - self.discount * self._log_counts

    @property
    def in_training(self) -> Tensor:
        """Terms in training. [N]"""
        return self.adjustment * self._log_counts

    @property
    def _log_counts(self) -> Tensor:
        return self.counts.float().log1p()  # ONNX has no logarithm of integers

    def with_items(self, n_new: int) -> Tensor:
        """Return the counts with those of new items."""
        return F.pad(self.counts, (0, n_new))


def training_counts(dataset: Any, n_items: int) -> Tensor:
    """Count the training interactions of each item of a train split. int64 [N]"""
    return torch.bincount(dataset.training_sequences()[0], minlength=n_items)


def popularity_terms(config: Any, dataset: Any, n_items: int) -> PopularityTerms | None:
    """Return the terms of a config; None if it sets none."""
    keys = ("new_item_bonus", "popularity_discount", "logit_adjustment")
    weights = [float(config[key] or 0.0) for key in keys]  # bundles may lack a key
    if not any(weights):
        return None
    return PopularityTerms(training_counts(dataset, n_items), *weights)
