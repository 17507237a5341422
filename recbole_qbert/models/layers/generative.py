"""`GenerativeRecommender`: base of models that generate the tokens of the next item.

The score of an item is the log-probability of its tokens.

Shapes: B rows, R rows of a part of a batch, K tokens of an item, N items (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_qbert.common.ragged import by_length
from recbole_qbert.models.layers.beam_ranking import RanksByBeams
from recbole_qbert.models.layers.code_generator import CodeGenerator
from recbole_qbert.models.layers.code_trie import PADDING, CodeTrie
from recbole_qbert.models.layers.t5 import Memory


class GenerativeRecommender(RanksByBeams, SequentialRecommender):
    """Encoder-decoder that generates item tokens; see the module docstring.

    A subclass calls `build_generator` once and defines `forward(interaction, rows)`, which encodes
    the histories of some rows of a batch to a `Memory`.

    Raises:
        InputError: `beam_size` is below the largest cut-off.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.set_up_ranking(config)

    def build_generator(
        self,
        config: Any,
        item_tokens: Tensor,
        ranges: Sequence[tuple[int, int]],
        n_tokens: int,
    ) -> None:
        """Build `trie` and `generator`.

        Args:
            config: config of the model.
            item_tokens: int64 [N, K], and
            ranges: K ranges of tokens; see `CodeTrie`.
            n_tokens: number of tokens that the encoder and the decoder read, padding included.
        """
        self.trie = CodeTrie(item_tokens, ranges)
        self.generator = CodeGenerator.from_config(config, n_tokens)

    def forward(self, interaction: Interaction, rows: Tensor) -> Memory:
        """Encode the histories of some rows of a batch [B]."""
        raise NotImplementedError

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the cross-entropy of the tokens, a mean over each target and then over rows."""
        scores = self._target_scores(interaction, self.POS_ITEM_ID)
        real = self.trie.item_tokens[interaction[self.POS_ITEM_ID]] != PADDING
        return -(scores * (real.size(1) / real.sum(dim=1, keepdim=True))).mean()

    def predict(self, interaction: Interaction) -> Tensor:
        """Return the log-probability of one given item per row, also with `ranking: beam`. [B]"""
        return self._target_scores(interaction, self.ITEM_ID).sum(dim=1)

    def score_rows(self, interaction: Interaction, rows: Tensor, exact: bool) -> Tensor:
        """See `RanksByBeams`: log-probabilities of the tokens of items. [R, N]"""
        return self.leaf_scores(self.forward(interaction, rows), self.trie, exact)

    def _target_scores(self, interaction: Interaction, field: str) -> Tensor:
        """Return the log-probability of each token of the items in a field; 0 at padding. [B, K]"""

        def scores(rows: Tensor) -> Tensor:
            targets = self.trie.item_tokens[interaction[field][rows]]
            return self.generator.token_scores(self.forward(interaction, rows), targets, self.trie)

        return by_length(interaction[self.ITEM_SEQ_LEN], scores)
