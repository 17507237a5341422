"""`RanksByBeams`: full ranking for models that generate the codes of items.

Shapes: B rows of a batch, R rows of a part of it, L items of a history, N items (row 0 is padding),
T leaves of a trie.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.ragged import by_length
from recbole_qbert.models.layers.code_generator import CodeGenerator
from recbole_qbert.models.layers.code_trie import CodeTrie
from recbole_qbert.models.layers.t5 import Memory


class RanksByBeams:
    """Mixin: scores items by generated codes; stands before RecBole's class.

    A model calls `set_up_ranking` when it is built, and defines `generator` and `score_rows`. With
    `ranking: beam`, only the items at the end of the `beam_size` best beams have a score, all
    others have -inf; `fill_candidates` searches further for users with many seen items. With
    `ranking: exact`, all items have one.
    """

    generator: CodeGenerator
    n_items: int
    ITEM_SEQ: str
    ITEM_SEQ_LEN: str

    def set_up_ranking(self, config: Any) -> None:
        """Read `ranking`, `beam_size` and `exact_rows`.

        Raises:
            InputError: `beam_size` is below the largest cut-off.
        """
        self.ranks_exactly = config["ranking"] == "exact"
        self.beam_size, self.largest_k = int(config["beam_size"]), max(config["topk"])
        self.exact_rows = 0 if self.ranks_exactly else int(config["exact_rows"] or 0)
        if not self.ranks_exactly and self.beam_size < self.largest_k:
            raise InputError(
                f"beam_size: {self.beam_size} beams cannot fill the list of topk "
                f"{self.largest_k}; increase beam_size, or set ranking: exact"
            )
        self._n_searches, self._n_beams, self._n_valid, self._invalid = 0, 0, 0, 0.0

    def score_rows(self, interaction: Interaction, rows: Tensor, exact: bool) -> Tensor:
        """Score all items for some rows of a batch, -inf where there is no score. [R, N]"""
        raise NotImplementedError

    def histories(self, interaction: Interaction, rows: Tensor) -> Tensor:
        """Return the items of some rows, without columns that are padding in all of them. [R, L]"""
        lengths = interaction[self.ITEM_SEQ_LEN][rows]
        items: Tensor = interaction[self.ITEM_SEQ][rows, : max(1, int(lengths.max()))]
        return items

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Return the scores of the items that the search found, else -inf. [B, N]"""
        return self._ranked(interaction, self.ranks_exactly)

    def exact_scores(self, interaction: Interaction) -> Tensor:
        """Return the scores of all items, as with `ranking: exact`. [B, N]"""
        return self._ranked(interaction, exact=True)

    def _ranked(self, interaction: Interaction, exact: bool) -> Tensor:
        lengths = interaction[self.ITEM_SEQ_LEN]
        found = by_length(lengths, lambda rows: self.score_rows(interaction, rows, exact))
        # Without a history there is nothing to generate from.
        return found.masked_fill((lengths == 0).unsqueeze(1), -torch.inf)

    def leaf_scores(self, memory: Memory, trie: CodeTrie, exact: bool) -> Tensor:
        """Return the log-probabilities of a trie's leaves, -inf where no beam ends. [R, T + 1]

        Column i is that of item i of the trie; column 0 is padding.
        """
        if exact:
            return self.generator.exact_scores(memory, trie)
        beams = self.generator.search(memory, trie, self.beam_size)
        self._n_searches += len(beams.scores)
        self._n_beams += beams.scores.numel()
        self._n_valid += int(beams.scores.isfinite().sum())
        self._invalid += float(beams.invalid.sum())
        found = beams.scores.new_full((len(beams.scores), len(trie.item_tokens)), -torch.inf)
        return found.scatter_(1, beams.items, beams.scores)

    def fill_candidates(
        self, interaction: Interaction, scores: Tensor, seen: tuple[Tensor, Tensor], k: int = 0
    ) -> Tensor:
        """Search again for the users whose unseen items do not fill lists.

        Lists have `k` items, but at least as many as the largest cut-off.

        Such a user gets `beam_size` times a power of two, enough for the seen items and the list.
        The number depends on this user alone, not on the others of the batch.

        Args:
            interaction: B rows.
            scores: [B, N] of `full_sort_predict`.
            seen: row numbers and item IDs of the items that each row's user has seen.

        Returns:
            The scores, with those of such users replaced. [B, N]
        """
        k = max(k, self.largest_k)
        unseen = torch.ones_like(scores, dtype=torch.bool)
        unseen[:, 0] = False
        unseen[seen] = False
        n_found = (unseen & (scores > -torch.inf)).sum(dim=1)
        n_unseen = unseen.sum(dim=1)
        short = (n_found < n_unseen.clamp(max=k)) & ~scores.isnan().any(dim=1)
        if self.ranks_exactly or not short.any():
            return scores
        enough = self.n_items - 1 - n_unseen + k  # beams end at different items
        doublings = (enough / self.beam_size).log2().ceil().long().clamp(min=0)
        scores, size = scores.clone(), self.beam_size
        try:
            for number in doublings[short].unique().tolist():
                rows = (short & (doublings == number)).nonzero().squeeze(1)
                self.beam_size = size << number
                scores[rows] = self._ranked(interaction[rows], exact=False)
        finally:
            self.beam_size = size
        return scores

    def beam_statistics(self) -> dict[str, float]:
        """Return statistics of this process's searches since the last call; empty without any.

        `valid_beams` is the share of beams that end at an item; `outside` the mean probability of
        leaving the beams for a tuple of no item.
        """
        if not self._n_searches:
            return {}
        valid, outside = self._n_valid / self._n_beams, self._invalid / self._n_searches
        self._n_searches, self._n_beams, self._n_valid, self._invalid = 0, 0, 0, 0.0
        return {"valid_beams": valid, "outside": outside}
