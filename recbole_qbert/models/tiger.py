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

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted
from recbole_qbert.common.ragged import by_length
from recbole_qbert.models.layers.code_generator import CodeGenerator
from recbole_qbert.models.layers.code_trie import PADDING, CodeTrie
from recbole_qbert.models.layers.t5 import Memory, T5EncoderDecoder
from recbole_qbert.models.layers.vocabulary import vocabulary_rows


class TIGER(SequentialRecommender):
    """T5 over semantic IDs; see the module docstring.

    With `ranking: beam`, only the items at the end of the `beam_size` best beams have a score, the
    log-probability of their codes; all others have -inf. With `ranking: exact`, all have.

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
        width = config["hidden_size"]
        blocks = T5EncoderDecoder(
            hidden_size=width,
            inner_size=config["inner_size"],
            n_heads=config["n_heads"],
            head_size=config["head_size"],
            n_layers=config["n_layers"],
            n_decoder_layers=config["n_decoder_layers"],
            dropout=config["dropout_prob"],
        )
        self.generator = CodeGenerator(self.first_user_token + self.n_user_tokens, blocks, width)
        self.ranks_exactly = config["ranking"] == "exact"
        self.beam_size, self.largest_k = int(config["beam_size"]), max(config["topk"])
        if not self.ranks_exactly and self.beam_size < self.largest_k:
            raise InputError(
                f"beam_size: {self.beam_size} beams cannot fill the list of topk "
                f"{self.largest_k}; increase beam_size, or set ranking: exact"
            )
        self.n_searched, self.n_found, self.invalid = 0, 0, 0.0

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

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Return the log-probabilities of the items that the search found, else -inf. [B, N]"""

        def scores(rows: Tensor) -> Tensor:
            memory = self.forward(interaction, rows)
            if self.ranks_exactly:
                return self.generator.exact_scores(memory, self.trie)
            beams = self.generator.search(memory, self.trie, self.beam_size)
            self._count(beams.scores, beams.invalid)
            found = beams.scores.new_full((len(rows), self.n_items), -torch.inf)
            return found.scatter_(1, beams.items, beams.scores)

        found = by_length(interaction[self.ITEM_SEQ_LEN], scores)
        # Without a history there is nothing to generate from.
        empty = interaction[self.ITEM_SEQ_LEN] == 0
        return found.masked_fill(empty.unsqueeze(1), -torch.inf)

    def check_candidates(self, scores: Tensor, seen: tuple[Tensor, Tensor]) -> None:
        """Check that the unseen items with a score fill the lists of the largest cut-off.

        Args:
            scores: [B, N] of `full_sort_predict`.
            seen: row numbers and item IDs of the items that each row's user has seen.

        Raises:
            InputError: there are too few of them in a row.
        """
        unseen = torch.ones_like(scores, dtype=torch.bool)
        unseen[:, 0] = False
        unseen[seen] = False
        n_found = (unseen & (scores > -torch.inf)).sum(dim=1)
        wanted = unseen.sum(dim=1).clamp(max=self.largest_k)
        short = (n_found < wanted) & ~scores.isnan().any(dim=1)
        if short.any():
            n_seen = (self.n_items - 1 - unseen.sum(dim=1))[short].max()
            raise InputError(
                f"beam_size: {self.beam_size} beams leave "
                f"{counted(int(n_found[short].min()), 'item')} for topk {self.largest_k} where the "
                "items that a user has seen are excluded; "
                f"{int(n_seen) + self.largest_k} beams are enough for these users, or set "
                "ranking: exact"
            )

    def ranking_note(self) -> str:
        """Return a line on the beam searches since the last call; empty if there were none."""
        if not self.n_searched:
            return ""
        found, invalid = self.n_found / self.n_searched, self.invalid / self.n_searched
        self.n_searched, self.n_found, self.invalid = 0, 0, 0.0
        return (
            f"beam search: {found:g} of {min(self.beam_size, self.n_items - 1)} beams end at an "
            f"item; {invalid:.1%} of the probability next to the beams is that of no item"
        )

    def _count(self, scores: Tensor, invalid: Tensor) -> None:
        """Add the searches of B rows to the statistics of `ranking_note`."""
        self.n_searched += len(scores)
        self.n_found += int(scores.isfinite().sum())
        self.invalid += float(invalid.sum())

    def _target_scores(self, interaction: Interaction, field: str) -> Tensor:
        """Return the log-probability of each code of the items in a field. [B, K]"""

        def scores(rows: Tensor) -> Tensor:
            targets = self.trie.item_tokens[interaction[field][rows]]
            return self.generator.token_scores(self.forward(interaction, rows), targets, self.trie)

        return by_length(interaction[self.ITEM_SEQ_LEN], scores)
