"""RecBole's BERT4Rec without the flaws of its masks; B rows, L positions, M masked ones, N items.

Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
Transformer, CIKM 2019. Sizes, keys and the network are RecBole's (and with its weights, scores of
full histories are RecBole's); what differs from its version 1.2.1:

* a training row is a history *and* the item behind it, which RecBole leaves out, so that the last
  training item of a user is never predicted there;
* each row draws its own masks, not each batch, as many of them as fall on it, and the first
  position counts (RecBole uses 0 for "no mask", and keeps `mask_ratio * L` masks a row);
* the loss of a row is the mean over its masks, as in the paper (eq. 8), that of a batch the mean
  over rows;
* at inference the mask stands behind the history and the oldest item goes where that is full;
  RecBole drops it always.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender.bert4rec import BERT4Rec
from torch import Tensor

from recbole_qbert.models.layers.loss import linear_cross_entropy
from recbole_qbert.models.layers.masking import append_item, draw_masks, global_generator


class BERT4RecFixed(BERT4Rec):
    """See above. `ft_ratio` of the rows have their last item masked alone, `mask_ratio` of the
    items of all others."""

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Never; see `inputs.reads_semantic_ids`."""
        return False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.ft_ratio = float(config["ft_ratio"])

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Mean over rows of the mean cross-entropy over a row's masked positions."""
        items, lengths = self._append(interaction, interaction[self.POS_ITEM_ID])
        n_rows, width = items.shape
        mix = {"random": 1 - self.ft_ratio, "tail": self.ft_ratio}
        ratios = {"random": self.mask_ratio, "tail": 1 / width}  # one item
        mask = draw_masks(lengths, width, mix, ratios, global_generator(items.device)).mask
        hidden = self.forward(items.masked_fill(mask, self.mask_token))[mask]  # [M, D]
        table, targets = self.item_embedding.weight[: self.n_items], items[mask]
        shares = (1 / (n_rows * mask.sum(dim=1)))[mask.nonzero()[:, 0]]
        return linear_cross_entropy(hidden, table, self.output_bias, targets, shares)

    def predict(self, interaction: Interaction) -> Tensor:
        """Scores of one given item for each row. Shape [B]."""
        return self._scores_of_next(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1))[
            :, 0
        ]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of the whole catalog. Shape [B, N]."""
        return self._scores_of_next(interaction)

    def _scores_of_next(self, interaction: Interaction) -> Tensor:
        masks = torch.full_like(interaction[self.ITEM_SEQ_LEN], self.mask_token)
        items, lengths = self._append(interaction, masks)
        return self._scores(self.gather_indexes(self.forward(items), lengths - 1))

    def _append(self, interaction: Interaction, item: Tensor) -> tuple[Tensor, Tensor]:
        """Histories with one more item, and their lengths."""
        return append_item(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], item)

    def _scores(self, hidden: Tensor) -> Tensor:
        return hidden @ self.item_embedding.weight[: self.n_items].T + self.output_bias
