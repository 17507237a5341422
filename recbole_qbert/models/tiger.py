"""TIGER: generates the codes of the next item from those of the history.

Rajput et al., Recommender Systems with Generative Retrieval, NeurIPS 2023 (arXiv 2305.05065). The
authors released no code. Published on Beauty: HR@10 .0648, NDCG@10 .0384. Independent reproductions
that rank items and not tuples reach .0634 to .0678 and .0335 to .0353 (cornac, with the recipe of
Paischer et al., arXiv 2412.08604). The defaults follow that recipe where it differs from the paper:

* six blocks in encoder and decoder (paper: four), dropout .2 (.1), AdamW with a peak rate of 3e-4
  and cosine decay (Adafactor, .01 with inverse square root), batches of 64 rows (256);
* no token of the user (`user_tokens: 2000` is the paper's hashed one);
* one table of input tokens, a linear output layer of its own, and a softmax over the codes of the
  level in question;
* the beam search follows the tree of existing items, where the paper drops tuples of no item.

The IDs are those of any `.semid` file. `tokenize --quantizer=rqvae --streams=text --n_levels=3
--unique=extra_level` makes IDs as the paper's: three levels and a number within the tuple.

Shapes: B rows, L items, K levels, S tokens of a history (L * K, one more with a user token), W
beams, N items (row 0 is padding).
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_qbert.common.ragged import by_length
from recbole_qbert.models.layers.beam_ranking import RanksByBeams
from recbole_qbert.models.layers.code_generator import CodeGenerator
from recbole_qbert.models.layers.code_trie import PADDING, CodeTrie
from recbole_qbert.models.layers.t5 import Memory
from recbole_qbert.models.layers.vocabulary import vocabulary_rows


class TIGER(RanksByBeams, SequentialRecommender):
    """T5 over semantic IDs; see the module docstring.

    The score of an item is the log-probability of its codes.

    Raises:
        InputError: the dataset has no semantic IDs, or `beam_size` is below the largest cut-off.
    """

    input_type = InputType.POINTWISE

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        """Return True; see `inputs.reads_semantic_ids`."""
        return True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        rows, sizes = vocabulary_rows(dataset, "TIGER")
        tokens = rows + 1  # token 0 is padding
        tokens[0] = PADDING
        first = [1 + int(offset) for offset in dataset.codec.offsets]
        self.trie = CodeTrie(tokens, [(n, n + size) for n, size in zip(first, sizes, strict=True)])
        self.n_user_tokens = int(config["user_tokens"])
        self.first_user_token = 1 + sum(sizes)
        n_tokens = self.first_user_token + self.n_user_tokens
        self.generator = CodeGenerator.from_config(config, n_tokens)
        self.set_up_ranking(config)

    def forward(self, interaction: Interaction, rows: Tensor) -> Memory:
        """Encode the histories of some rows of a batch [B]."""
        lengths = interaction[self.ITEM_SEQ_LEN][rows]
        items = interaction[self.ITEM_SEQ][rows, : max(1, int(lengths.max()))]
        tokens = self.trie.item_tokens[items].flatten(1)  # [B, L * K]
        if self.n_user_tokens:
            users = interaction[self.USER_ID][rows].unsqueeze(1) % self.n_user_tokens
            tokens = torch.cat([users + self.first_user_token, tokens], dim=1)
        return self.generator.encode(self.generator.tokens(tokens), tokens != PADDING)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Return the mean cross-entropy of the codes of the rows' targets."""
        return -self._target_scores(interaction, self.POS_ITEM_ID).mean()

    def predict(self, interaction: Interaction) -> Tensor:
        """Return the log-probability of one given item per row, also with `ranking: beam`. [B]"""
        return self._target_scores(interaction, self.ITEM_ID).sum(dim=1)

    def score_rows(self, interaction: Interaction, rows: Tensor, exact: bool) -> Tensor:
        """See `RanksByBeams`: log-probabilities of the codes of items. [R, N]"""
        return self.leaf_scores(self.forward(interaction, rows), self.trie, exact)

    def _target_scores(self, interaction: Interaction, field: str) -> Tensor:
        """Return the log-probability of each code of the items in a field. [B, K]"""

        def scores(rows: Tensor) -> Tensor:
            targets = self.trie.item_tokens[interaction[field][rows]]
            return self.generator.token_scores(self.forward(interaction, rows), targets, self.trie)

        return by_length(interaction[self.ITEM_SEQ_LEN], scores)
