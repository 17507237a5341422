"""`SASRecOverItems`: RecBole's SASRec over vectors of items that are computed in every step.

Shapes: B rows, L positions, N items (row 0 is padding), D hidden.
"""

from __future__ import annotations

from typing import Any

from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.common.ragged import by_length, ends_of_prefixes
from recbole_qbert.models.layers.kept_items import KeepsItems
from recbole_qbert.models.layers.prediction import PredictsByRanking


class SASRecOverItems(KeepsItems, PredictsByRanking, SASRec):
    """SASRec whose item vectors are those of `item_matrix`, as input and as output.

    Scores are cosines over `temperature`. A subclass defines `item_matrix` and the loss.
    """

    loss_types = ("CE",)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.temperature = float(config["temperature"])
        self.shares_prefixes = config["batch_by"] == "user"

    def item_matrix(self) -> Tensor:
        """Return the vectors of all items [N, D]."""
        raise NotImplementedError

    def forward(self, item_seq: Tensor, item_seq_len: Tensor, matrix: Tensor) -> Tensor:
        """Encode right-padded items [B, L] of lengths [B] to the vector of each row's end. [B, D]

        `matrix` is that of `item_matrix`. On a CPU, rows of similar length are encoded together.
        Columns that are padding in all rows are left out. In training with `batch_by: user`, a row
        that is a prefix of another one is not encoded by itself.
        """
        if self.training and self.shares_prefixes:
            return ends_of_prefixes(
                item_seq, item_seq_len, lambda items: self._outputs(items, matrix)
            )

        def ends(rows: Tensor) -> Tensor:
            lengths = item_seq_len[rows]
            return self._encode(item_seq[rows, : max(1, int(lengths.max()))], lengths, matrix)

        return by_length(item_seq_len, ends)

    def _encode(self, items: Tensor, lengths: Tensor, matrix: Tensor) -> Tensor:
        ends: Tensor = self.gather_indexes(self._outputs(items, matrix), lengths - 1)
        return ends

    def _outputs(self, items: Tensor, matrix: Tensor) -> Tensor:
        """Encode items [B, L] to the outputs at all positions. [B, L, D]"""
        positions = self.position_embedding.weight[: items.size(1)]
        hidden = self.dropout(self.LayerNorm(F.embedding(items, matrix) + positions))
        outputs: Tensor = self.trm_encoder(
            hidden, self.get_attention_mask(items), output_all_encoded_layers=False
        )[-1]
        return outputs

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Score the whole catalog. [B, N]"""
        matrix = self.kept_items(self.item_matrix)
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self._directions(items, lengths, matrix) @ F.normalize(matrix, dim=1).T

    def _hidden_and_items(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """Return directions of the rows over the temperature [B, D], and of the items [N, D]."""
        matrix = self.item_matrix()
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self._directions(items, lengths, matrix), F.normalize(matrix, dim=1)

    def _directions(self, items: Tensor, lengths: Tensor, matrix: Tensor) -> Tensor:
        """Return directions of histories [B, L] over the temperature; see `forward`. [B, D]"""
        return F.normalize(self.forward(items, lengths, matrix), dim=1) / self.temperature
