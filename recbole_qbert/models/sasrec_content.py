"""SASRec over dense item vectors, as UniSRec.

Hou et al., Towards Universal Sequence Representation Learning for Recommender Systems, KDD 2022.
An item's vector is made from its content vectors (`item_vectors`, such as text and image) by
whitening and an adapter of several experts. It is input and output of the network: scores are
cosines over a temperature, as in the paper. The network is RecBole's SASRec.

* `use_ids: True` adds a row of the item's own to its vector (the paper's transductive setting).
* `use_ids: False` is the inductive setting: the model has no parameter of a single item.

A model of one data set is a start for another one whose vectors are of the same encoders
(`pre_model_path`): network, adapter and whitening go over, rows of items do not. `prepare merge`
makes one data set of several.

Differences from the paper: what is pretrained learns the next item, as in the second stage, and not
by contrasts; several tables are whitened by themselves and put side by side; the vectors of the
catalog are computed once a step, so that an item has the same vector, with the same dropout and
gate noise, as input and as output.

Shapes: B rows, L positions, N items (row 0 is padding), C dimension of all tables, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.models.layers.content import WHITENING, AdaptedContent
from recbole_qbert.models.layers.first_stage import with_weights
from recbole_qbert.models.layers.loss import linear_cross_entropy
from recbole_qbert.models.layers.sampled_loss import draw_items, loss_over_sample
from recbole_qbert.models.layers.sasrec_over_items import SASRecOverItems
from recbole_qbert.models.layers.trained_items import softmax_items


class SASRecContent(SASRecOverItems):
    """SASRec over adapted content vectors; see the module docstring.

    Raises:
        InputError: `item_vectors` names no table.
    """

    needs_item_vectors = True

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return False: semantic IDs do not change this model (see `inputs.reads_semantic_ids`)."""
        return False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.content = AdaptedContent(config, dataset)
        self.softmax_samples = int(config["softmax_samples"])
        self.softmax_items = softmax_items(config, dataset, self.n_items)
        if not config["use_ids"]:
            self.item_embedding = None

    def load_first_stage(self, weights: Mapping[str, Tensor]) -> None:
        """Load network, adapter and whitening of a model of other data; items keep their own rows.

        Raises:
            InputError: the sizes differ, or one of the two does not whiten.
        """
        remedy = (
            "use the same sizes, MAX_ITEM_LIST_LENGTH, n_experts, whitening_dims and item_vectors"
        )
        if not self.content.whitening and any(name.startswith(WHITENING) for name in weights):
            raise InputError(f"pre_model_path: its item_vectors are whitened; {remedy}")
        kept = {"content.vectors", "item_embedding.weight"}
        self.load_state_dict(with_weights(self, weights, kept, remedy))
        self.content.whiten()

    def item_matrix(self, rows: Tensor | None = None) -> Tensor:
        """Return the vectors of all items [N, D], or of items [R]; in training, with dropout and
        gate noise."""
        vectors = self.content.vectors
        # The vector of padding is not zero, unlike in `AdaptedContent.forward`; nothing reads it.
        matrix: Tensor = self.content.adapter(vectors if rows is None else vectors[rows])
        if self.item_embedding is None:
            return matrix
        own = self.item_embedding.weight
        return matrix + (own if rows is None else F.embedding(rows, own))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean cross-entropy of the rows' targets over the catalog or a sample of it."""
        n_scored = self.n_items if self.softmax_items is None else len(self.softmax_items.rows)
        if 0 < self.softmax_samples < n_scored - 1:
            return self._sampled_loss(interaction)
        hidden, matrix = self._hidden_and_items(interaction)
        targets = interaction[self.POS_ITEM_ID]
        if self.softmax_items is not None:
            targets, matrix = self.softmax_items.places[targets], matrix[self.softmax_items.rows]
        targets = targets - 1
        return linear_cross_entropy(hidden, matrix[1:], None, targets)

    def _sampled_loss(self, interaction: Interaction) -> Tensor:
        """Return the loss over targets and a sample; vectors of other items are not computed."""
        items, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        targets = interaction[self.POS_ITEM_ID]
        pool = torch.arange(1, self.n_items, device=items.device)
        if self.softmax_items is not None:
            pool = self.softmax_items.rows[1:]
        drawn = draw_items(pool, self.softmax_samples)
        read = torch.cat([targets.new_zeros(1), items.flatten(), targets, drawn])
        rows, place = read.unique(return_inverse=True)
        _, history, own, others = place.split([1, items.numel(), len(targets), len(drawn)])
        matrix = self.item_matrix(rows)
        hidden = self._directions(history.view_as(items), lengths, matrix)
        matrix = F.normalize(matrix, dim=1)
        positive = (hidden * matrix[own]).sum(dim=1)
        return loss_over_sample(positive, hidden @ matrix[others].T, targets, drawn, len(pool))
