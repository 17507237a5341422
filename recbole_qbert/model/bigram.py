"""First-order Markov chain: the control that a sequential model has to beat."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import pad


class BigramChain(SequentialRecommender):
    """Score the next item by how often it followed the last one in training.

    `score(next | last) = count(last -> next) + popularity(next)`, where popularity is the training
    count scaled to less than 1: it orders the items with equal counts and never outweighs one
    observed transition. Nothing is trained; the counts are buffers, so a checkpoint keeps them.

    Buffers, with N item ids (0 is the padding) and P observed pairs:
        pair_key: int64 [P], ascending, `last * N + next`.
        pair_count: float32 [P].
        row_start: int64 [N + 1], where each last item's pairs begin.
        popularity: float32 [N], in [0, 1).
    """

    input_type = InputType.POINTWISE
    pair_key: Tensor
    pair_count: Tensor
    row_start: Tensor
    popularity: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        items, offsets = dataset.training_sequences()
        keys, counts = count_pairs(items, offsets, self.n_items)
        row_keys = torch.arange(self.n_items + 1) * self.n_items
        seen = torch.bincount(items, minlength=self.n_items)
        seen[0] = 0
        self.register_buffer("pair_key", keys)
        self.register_buffer("pair_count", counts.float())
        self.register_buffer("row_start", torch.searchsorted(keys, row_keys))
        self.register_buffer("popularity", seen.float() / (seen.max() + 1))
        # RecBole's trainer builds an optimiser and calls backward() whatever the model.
        self.unused = nn.Parameter(torch.zeros(1))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Zero, with a gradient of zero; []."""
        return 0.0 * self.unused.sum()

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores of one candidate per row, [B]."""
        items = interaction[self.ITEM_ID]
        keys = self._last_items(interaction) * self.n_items + items
        position = torch.searchsorted(self.pair_key, keys)
        found = torch.searchsorted(self.pair_key, keys, right=True) > position
        # The appended zero answers for keys above the last pair, and for a chain without pairs.
        counts = pad(self.pair_count, (0, 1))[position]
        return torch.where(found, counts, 0.0) + self.popularity[items]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of every item, [B, N]."""
        last = self._last_items(interaction)
        starts = self.row_start[last]
        lengths = self.row_start[last + 1] - starts
        rows = torch.repeat_interleave(lengths)  # [sum of lengths]: the batch row of each pair
        first = torch.cumsum(lengths, dim=0) - lengths
        pairs = starts[rows] + torch.arange(len(rows), device=rows.device) - first[rows]
        scores = self.popularity.expand(len(last), -1).clone()
        scores[rows, self.pair_key[pairs] % self.n_items] += self.pair_count[pairs]
        return scores

    def _last_items(self, interaction: Interaction) -> Tensor:
        """The item at the end of each right-padded sequence, int64 [B]; 0 for an empty one."""
        sequences = interaction[self.ITEM_SEQ]
        ends = (interaction[self.ITEM_SEQ_LEN] - 1).clamp(min=0)
        return sequences.gather(1, ends.unsqueeze(1)).squeeze(1)


def count_pairs(items: Tensor, offsets: Tensor, n_items: int) -> tuple[Tensor, Tensor]:
    """Count the adjacent pairs inside each sequence.

    Args:
        items: int64 [T], the sequences end to end.
        offsets: int64 [U + 1], where each of the U sequences begins, and T; some may be empty.
        n_items: number of item ids, N.

    Returns:
        Ascending keys `last * N + next`, int64 [P], and their counts, int64 [P].
    """
    inside = torch.ones(max(len(items) - 1, 0), dtype=torch.bool)
    borders = offsets[(offsets > 0) & (offsets < len(items))]
    inside[borders - 1] = False  # the pair that spans two sequences
    keys = items[:-1][inside] * n_items + items[1:][inside]
    unique, counts = torch.unique(keys, return_counts=True)
    return unique, counts
