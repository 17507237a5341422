"""Reweighting of self-attention by how similar the codes of two items are.

BBQRec (arXiv 2504.06636) adjusts attention scores by discretized similarities of quantized items.
Its text is not public beyond the abstract; the form here is a reconstruction. The similarity of two
items is the number of levels at which their codes agree, and each number has a learned bias:

    A = softmax(Q K^T / sqrt(d) + w[layer, head, bin(i, j)])

A bias b before the softmax multiplies an attention weight by exp(b) before normalization.

Shapes: B rows, L positions, K levels, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNKNOWN = -1  # in place of all codes of a position without an item


class CodeAttentionBias(nn.Module):
    """Learned bias for each block, head and number of equal codes; all start at zero.

    The last entry of `table` [blocks, H, K + 2] is for pairs in which a position has no item.
    """

    def __init__(self, n_layers: int, n_heads: int, n_levels: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(n_layers, n_heads, n_levels + 2))

    def forward(self, layer: int, bins: Tensor, padding: Tensor) -> Tensor:
        """Return the additive mask [B * H, L, L] of a block; -inf at padded keys.

        Args:
            layer: number of the block.
            bins: result of `similarity_bins`, [B, L, L].
            padding: [B, L] bool.
        """
        bias = F.embedding(bins, self.table[layer].T).permute(0, 3, 1, 2)  # [B, H, L, L]
        return bias.masked_fill(padding[:, None, None], -torch.inf).flatten(0, 1)


def similarity_bins(codes: Tensor) -> Tensor:
    """Count the equal codes of each pair of positions.

    Args:
        codes: [B, L, K]; a position without an item has `UNKNOWN` at each level.

    Returns:
        [B, L, L], from 0 to K; K + 1 if either position has no item.
    """
    equal = (codes.unsqueeze(2) == codes.unsqueeze(1)).sum(dim=3)
    unknown = codes[:, :, 0] == UNKNOWN
    return equal.masked_fill(unknown.unsqueeze(2) | unknown.unsqueeze(1), codes.size(2) + 1)
