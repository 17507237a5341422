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

Shapes: B rows, L items, K levels.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.models.layers.code_trie import PADDING
from recbole_qbert.models.layers.generative import GenerativeRecommender
from recbole_qbert.models.layers.t5 import Memory
from recbole_qbert.models.layers.vocabulary import vocabulary_rows


class TIGER(GenerativeRecommender):
    """T5 over semantic IDs; see the module docstring.

    Raises:
        InputError: the dataset has no semantic IDs, or as in `GenerativeRecommender`.
    """

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
        ranges = [(n, n + size) for n, size in zip(first, sizes, strict=True)]
        self.n_user_tokens = int(config["user_tokens"])
        self.first_user_token = 1 + sum(sizes)
        self.build_generator(config, tokens, ranges, self.first_user_token + self.n_user_tokens)

    def forward(self, interaction: Interaction, rows: Tensor) -> Memory:
        """Encode the histories of some rows of a batch [B]."""
        items = self.histories(interaction, rows)
        tokens = self.trie.item_tokens[items].flatten(1)  # [B, L * K]
        if self.n_user_tokens:
            users = interaction[self.USER_ID][rows].unsqueeze(1) % self.n_user_tokens
            tokens = torch.cat([users + self.first_user_token, tokens], dim=1)
        return self.generator.encode(self.generator.tokens(tokens), tokens != PADDING)
