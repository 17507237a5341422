"""`predict` for models that score the whole catalog at once."""

from __future__ import annotations

from typing import Any

from recbole.data.interaction import Interaction
from torch import Tensor


class PredictsByRanking:
    """Mixin: scores one item per row by `full_sort_predict`; stands before RecBole's class."""

    ITEM_ID: str
    full_sort_predict: Any

    def predict(self, interaction: Interaction) -> Tensor:
        """Score one given item per row. [B]"""
        scores: Tensor = self.full_sort_predict(interaction)
        return scores.gather(1, interaction[self.ITEM_ID].unsqueeze(1))[:, 0]
