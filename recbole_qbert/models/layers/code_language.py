"""`CodeLanguage`: the codes of all items in one of several vocabularies.

Items may share a tuple, and then share a leaf of the trie. Shapes: N items (row 0 is padding), K
levels, T different tuples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.models.layers.code_trie import CodeTrie


class CodeLanguage(nn.Module):
    """Token tuples of a catalog; see the module docstring.

    Attributes:
        trie: the T different tuples in lexicographic order, as items 1 to T.
        n_levels: K.

    Buffers, which are not saved:
        leaf_of: int64 [N], tuple of each item as an item of the trie; 0 for padding.
    """

    leaf_of: Tensor

    def __init__(self, codes: Tensor, codebook_sizes: Sequence[int], first: int):
        """Build the trie.

        Args:
            codes: int64 [N, K], from 0 in each level; row 0 is ignored.
            codebook_sizes: number of codes of each level.
            first: token of code 0 of the first level; those of the other levels follow.
        """
        super().__init__()
        ends = torch.tensor(codebook_sizes).cumsum(0) + first
        starts = ends - torch.tensor(codebook_sizes)
        tuples, place = torch.unique(codes[1:] + starts, dim=0, return_inverse=True)
        ranges = list(zip(starts.tolist(), ends.tolist(), strict=True))
        self.trie = CodeTrie(F.pad(tuples, (0, 0, 1, 0)), ranges)
        self.n_levels = len(ranges)
        self.register_buffer("leaf_of", F.pad(place + 1, (1, 0)), persistent=False)

    @property
    def n_tuples(self) -> int:
        """T."""
        return len(self.trie.leaf_items)

    def tokens(self, items: Tensor) -> Tensor:
        """Return the tokens of items [...], 0 for padding. [..., K]"""
        return self.trie.item_tokens[self.leaf_of[items]]
