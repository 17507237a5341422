"""BERT4Rec with RecBole's network and corrected masking.

Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer, CIKM 2019. Sizes, keys and network are RecBole's; with the same weights, the scores of
full histories are RecBole's too. The differences from RecBole 1.2.1 are:

* A training row is a history and its target item. RecBole leaves the target out, so that a user's
  last training item is never predicted.
* Masks are drawn per row, not per batch, without an upper bound on their number, and the first
  position may be masked. RecBole uses position 0 for "no mask", and keeps `mask_ratio * L` masks
  per row.
* The loss of a row is the mean over its masked positions, as in the paper (eq. 8), and the loss of
  a batch is the mean over its rows.
* At inference the mask is appended to the history, and the oldest item is dropped only if the
  history is full. RecBole always drops it.

Shapes: B rows, L positions, M masked positions of the batch, N items, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.bert4rec import BERT4Rec
from torch import Tensor

from recbole_qbert.models.layers.loss import linear_cross_entropy
from recbole_qbert.models.layers.masking import append_item, draw_masks, global_generator
from recbole_qbert.models.layers.prediction import PredictsByRanking


class BERT4RecFixed(PredictsByRanking, BERT4Rec):
    """BERT4Rec as in the paper; see the module docstring.

    A share `ft_ratio` of the rows has only the last item masked, as in fine-tuning. In all other
    rows each item is masked with probability `mask_ratio`.
    """

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return False: semantic IDs do not change this model (see `inputs.reads_semantic_ids`)."""
        return False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.ft_ratio = float(config["ft_ratio"])

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean over rows of the mean cross-entropy over a row's masked positions."""
        items, lengths = self._append(interaction, interaction[self.POS_ITEM_ID])
        n_rows, width = items.shape
        mix = {"random": 1 - self.ft_ratio, "tail": self.ft_ratio}
        ratios = {"random": self.mask_ratio, "tail": 1 / width}  # one item
        mask = draw_masks(lengths, width, mix, ratios, global_generator(items.device)).mask
        hidden = self.forward(items.masked_fill(mask, self.mask_token))[mask]  # [M, D]
        table, targets = self.item_embedding.weight[: self.n_items], items[mask]
        shares = (1 / (n_rows * mask.sum(dim=1)))[mask.nonzero()[:, 0]]
        return linear_cross_entropy(hidden, table, self.output_bias, targets, shares)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score the whole catalog. [B, N]"""
        masks = torch.full_like(interaction[self.ITEM_SEQ_LEN], self.mask_token)
        items, lengths = self._append(interaction, masks)
        hidden = self.gather_indexes(self.forward(items), lengths - 1)
        return hidden @ self.item_embedding.weight[: self.n_items].T + self.output_bias

    def _append(self, interaction: Interaction, item: Tensor) -> tuple[Tensor, Tensor]:
        """Append one item to each history; return items [B, L] and lengths [B]."""
        return append_item(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], item)
