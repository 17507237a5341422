"""First-order Markov chain, a control that sequential models must beat."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.errors import one_of
from recbole_qbert.data.dataset import ragged_arange
from recbole_qbert.models.layers.prediction import PredictsByRanking
from recbole_qbert.models.popularity import Popularity


class BigramChain(PredictsByRanking, Popularity):
    """Ranks items by how often they followed the last item in training; the others by popularity.

    The config key `tie_break` orders equally frequent followers: `first` puts the one seen first in
    the training sequences first, `popularity` the more popular one (the stronger control).

    Buffers besides `popularity`, with N item IDs (0 is the padding) and P observed pairs:
        pair_key: int64 [P], ascending, `last * N + next`.
        pair_score: float32 [P], >= 1; rank of the pair among those of its last item, the best one
            highest.
        row_start: int64 [N + 1], first pair of each last item.
    """

    pair_key: Tensor
    pair_score: Tensor
    row_start: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        one_of("tie_break", config["tie_break"], ("first", "popularity"))
        items, offsets = dataset.training_sequences()
        keys, counts, first = count_pairs(items, offsets, self.n_items)
        row_keys = torch.arange(self.n_items + 1) * self.n_items
        behind = -first if config["tie_break"] == "first" else self.popularity[keys % self.n_items]
        starts = torch.searchsorted(keys, row_keys)
        # The rank among the pairs of one last item: by count, then by the tie rule.
        place = torch.empty(len(keys))
        last = keys // self.n_items
        order = np.lexsort((behind.numpy(), counts.numpy(), last.numpy()))
        place[torch.from_numpy(order)] = (1 + torch.arange(len(keys)) - starts[last]).float()
        self.register_buffer("pair_key", keys)
        self.register_buffer("pair_score", place)
        self.register_buffer("row_start", starts)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score every item. [B, N]"""
        ends = (interaction[self.ITEM_SEQ_LEN] - 1).clamp(min=0)
        last = interaction[self.ITEM_SEQ].gather(1, ends.unsqueeze(1)).squeeze(1)  # 0 if empty
        starts = self.row_start[last]
        lengths = self.row_start[last + 1] - starts
        rows = torch.repeat_interleave(lengths)  # [sum of lengths]: the batch row of each pair
        pairs = ragged_arange(starts, lengths)
        scores = self.popularity.expand(len(last), -1).clone()
        scores[rows, self.pair_key[pairs] % self.n_items] = self.pair_score[pairs]
        return scores


def count_pairs(items: Tensor, offsets: Tensor, n_items: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count the adjacent item pairs inside each sequence, with N item IDs.

    Args:
        items: int64 [T], the sequences one after another.
        offsets: int64 [U + 1], start of each of the U sequences, and T; sequences may be empty.
        n_items: N.

    Returns:
        keys: int64 [P], ascending, `last * N + next`.
        counts: int64 [P], number of occurrences.
        first: int64 [P], position of the first occurrence.
    """
    inside = torch.ones(max(len(items) - 1, 0), dtype=torch.bool)
    borders = offsets[(offsets > 0) & (offsets < len(items))]
    inside[borders - 1] = False  # the pair that spans two sequences
    keys = items[:-1][inside] * n_items + items[1:][inside]
    unique, inverse, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    first = torch.full_like(unique, len(keys))
    first.scatter_reduce_(0, inverse, torch.arange(len(keys)), "amin")
    return unique, counts, first
