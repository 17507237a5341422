"""Restriction of a training softmax to the items that occur in training.

Without it, an item that never occurs is a negative in every step, which lowers its score at
ranking. Shapes: N items (row 0 is padding), R items of the softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SoftmaxItems(nn.Module):
    """The items that a training softmax is over; the buffers are not part of the weights.

    `rows` int64 [R] are item IDs, ascending from the padding; `places` int64 [N] is the place of
    each item in `rows`, 0 for an item that is not in it.
    """

    rows: Tensor
    places: Tensor

    def __init__(self, items: Tensor, n_items: int):
        super().__init__()
        within = torch.zeros(n_items, dtype=torch.bool)
        within[items] = True
        within[0] = True
        places = (within.cumsum(0) - 1).masked_fill(~within, 0)
        self.register_buffer("rows", within.nonzero().squeeze(1), persistent=False)
        self.register_buffer("places", places, persistent=False)


def softmax_items(config: Any, dataset: Any, n_items: int) -> SoftmaxItems | None:
    """Return the items of `softmax_items: trained`; None for `all`, as in older bundles."""
    if config["softmax_items"] != "trained":
        return None
    return SoftmaxItems(dataset.training_sequences()[0], n_items)
