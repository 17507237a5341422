"""SASRec over QBERT4Rec's item vectors: a control of what its encoder and masks are worth.

The network is RecBole's SASRec, causal, with one row per prefix. Item vectors, score and loss are
QBERT4Rec's: sums of code vectors with or without a row of the item's own, cosines over a
temperature, label smoothing and a loss of the codes. With `item_representation: id` it is SASRec
with that score, and no semantic IDs.

Shapes: B rows, N items (row 0 is padding), D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.common.errors import one_of
from recbole_qbert.models.layers.item_representation import build_representation
from recbole_qbert.models.layers.loss import smoothed_cross_entropy
from recbole_qbert.models.layers.sasrec_over_items import SASRecOverItems
from recbole_qbert.models.layers.vocabulary import vocabulary_rows


class SASRecCodes(SASRecOverItems):
    """SASRec over vectors composed of semantic-ID codes; see the module docstring.

    Raises:
        InputError: the representation needs semantic IDs and the dataset has none.
    """

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return whether item vectors are made of codes; see `inputs.reads_semantic_ids`."""
        return bool(config["item_representation"] != "id")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.item_embedding = None
        name = config["item_representation"]
        one_of("item_representation", name, ("compose", "hybrid", "id"))
        codes: Tensor | None = None
        sizes: tuple[int, ...] = ()
        if name != "id":
            remedy = ", or item_representation: id"
            codes, sizes = vocabulary_rows(dataset, f"item_representation {name}", others=remedy)
        self.items = build_representation(
            name,
            n_items=self.n_items,
            hidden_size=config["hidden_size"],
            item_codes=codes,
            codebook_sizes=sizes,
            word_init="random",
            init=config["initializer_range"],
            code_dropout=config["code_dropout_prob"],
            row_dropout=config["row_dropout_prob"],
        )
        self.label_smoothing = float(config["label_smoothing"])
        self.code_loss_weight = float(config["code_loss_weight"])

    def item_matrix(self) -> Tensor:
        """Return the vectors of all items [N, D]; in training, with dropout of codes and rows."""
        matrix: Tensor = self.items()
        return matrix

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean cross-entropy of the rows' targets, plus that of their codes."""
        hidden, matrix = self._hidden_and_items(interaction)
        targets = interaction[self.POS_ITEM_ID]
        nothing = torch.zeros_like(targets).unsqueeze(1)
        loss = smoothed_cross_entropy(hidden @ matrix.T, targets, nothing, self.label_smoothing)
        if self.code_loss_weight:
            of_codes = self.items.code_loss(hidden, targets, _cosine)
            loss = loss + self.code_loss_weight * of_codes
        return loss


def _cosine(hidden: Tensor, rows: Tensor) -> Tensor:
    """Compute logits [M, R] of rows [R, D] for directions over the temperature [M, D]."""
    return hidden @ F.normalize(rows, dim=-1).mT
