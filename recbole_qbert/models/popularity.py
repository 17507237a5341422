"""Popularity ranking, a control that every personalized model must beat."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_qbert.models.layers.popularity_terms import training_counts


class Popularity(SequentialRecommender):
    """Ranks items by their number of training interactions; base class of count-based models.

    Nothing is trained. The buffer `popularity`, float32 [N] with N item IDs (0 is the padding), has
    the training counts scaled to [0, 1).
    """

    input_type = InputType.POINTWISE
    popularity: Tensor

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return False: semantic IDs do not change this model (see `inputs.reads_semantic_ids`)."""
        return False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        seen = training_counts(dataset, self.n_items)
        seen[0] = 0
        self.register_buffer("popularity", seen.float() / (seen.max() + 1))
        # RecBole's trainer needs a parameter: it always builds an optimizer and calls backward().
        self.unused = nn.Parameter(torch.zeros(1))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return a zero scalar with a zero gradient."""
        return 0.0 * self.unused.sum()

    def predict(self, interaction: Interaction) -> Tensor:
        """Score one candidate per row. [B]"""
        return self.popularity[interaction[self.ITEM_ID]]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score every item: [B, N], a view of one row."""
        return self.popularity.expand(len(interaction[self.ITEM_SEQ]), -1)
