"""The most popular items for everybody: the control that any personal model has to beat."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn


class Popularity(SequentialRecommender):
    """Rank all items by how often they occur in training; base of models that only count.

    Nothing is trained; the counts are kept in buffers, so a checkpoint holds them.

    Buffer, with N item ids (0 is the padding):
        popularity: float32 [N], training count scaled into [0, 1).
    """

    input_type = InputType.POINTWISE
    popularity: Tensor

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Never; see `inputs.reads_semantic_ids`."""
        return False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        items, _ = dataset.training_sequences()
        seen = torch.bincount(items, minlength=self.n_items)
        seen[0] = 0
        self.register_buffer("popularity", seen.float() / (seen.max() + 1))
        # RecBole's trainer builds an optimizer and calls backward() whatever the model.
        self.unused = nn.Parameter(torch.zeros(1))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Zero, with a gradient of zero; []."""
        return 0.0 * self.unused.sum()

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores of one candidate per row, [B]."""
        return self.popularity[interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of every item, [B, N]; one row in memory, seen B times."""
        return self.popularity.expand(len(interaction[self.ITEM_SEQ]), -1)
