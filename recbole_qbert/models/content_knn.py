"""Nearest neighbors by content, a control that models over semantic IDs must beat on new items."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.models.layers.content import rows_with_vectors, vector_names
from recbole_qbert.models.layers.masking import valid_positions
from recbole_qbert.models.layers.prediction import PredictsByRanking
from recbole_qbert.models.popularity import Popularity


class ContentKNN(PredictsByRanking, Popularity):
    """Ranks items by the cosine of their content with the weighted mean of the history's content.

    The content of an item is its vectors of all `item_vectors`, each of length 1, side by side.
    The config key `recency` is the weight of an item relative to the next one in the history. With
    `center_vectors`, the mean over the items of the training sequences is subtracted first. Nothing
    is trained. An item without a vector has the score 0 and is ignored in histories.

    Buffers besides `popularity`, with N items (0 is the padding) and C content dimensions:
        content: float32 [N, C], of length 1, or 0 without a vector.

    Raises:
        InputError: `item_vectors` names no table.
    """

    needs_item_vectors = True
    content: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        names = vector_names(config)
        super().__init__(config, dataset)
        self.recency = float(config["recency"])
        items, _ = dataset.training_sequences()
        content = torch.empty(0)  # a bundle has no training items; its weights bring the vectors
        if len(items):
            trained = items.unique()
            tables = []
            for name in names:
                vectors = dataset.item_feat[name].float()
                present = vectors.any(dim=1, keepdim=True)
                rows = rows_with_vectors(name, vectors, trained)
                vectors = F.normalize(vectors, dim=1)
                if config["center_vectors"]:
                    vectors = vectors - vectors[rows].mean(dim=0)
                tables.append(F.normalize(vectors, dim=1) * present)
            content = F.normalize(torch.cat(tables, dim=1), dim=1)
            content[0] = 0
        self.register_buffer("content", content)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score every item. [B, N]"""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        age = lengths.unsqueeze(1) - 1 - torch.arange(items.size(1), device=items.device)
        weights = self.recency ** age.clamp(min=0).float() * valid_positions(lengths, items.size(1))
        query = F.embedding_bag(items, self.content, mode="sum", per_sample_weights=weights)
        return F.normalize(query, dim=1) @ self.content.T
