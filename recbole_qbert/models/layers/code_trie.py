"""`CodeTrie`: the semantic IDs of a catalog as a prefix tree in flat tensors.

A node of depth d is a prefix of d tokens. The nodes of each depth are numbered in lexicographic
order, so the children of a node are consecutive nodes of the next depth, and the leaves are the
items in the order of their tokens. Numbers of items play no role in that order.

Shapes: N items (row 0 is padding), K depths, M_d nodes of depth d (M_0 = 1, M_K = N - 1), F_d most
children of a node of depth d, B rows, W nodes of each row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

PADDING = 0  # token after the end of an ID that is shorter than others


class CodeTrie(nn.Module):
    """Prefix tree of token tuples; see the module docstring.

    Attributes:
        ranges: for each depth, the range [first, end) of the vocabulary that the model's softmax
            covers there.
        n_nodes: M_0, ..., M_K.
        fan_out: F_0, ..., F_(K - 1).

    Buffers, which are not saved:
        item_tokens: int64 [N, K], tokens of all items.
        leaf_items: int64 [M_K], item of each leaf.
    """

    item_tokens: Tensor
    leaf_items: Tensor

    def __init__(self, item_tokens: Tensor, ranges: Sequence[tuple[int, int]]):
        """Build the tree.

        Args:
            item_tokens: int64 [N, K]; `PADDING` follows the last token of a shorter ID.
            ranges: see the class.

        Raises:
            ValueError: an ID is missing in row 1 or later, equals another one or begins another
                one, or a token is outside of its range.
        """
        super().__init__()
        if item_tokens.size(1) != len(ranges):
            raise ValueError("ranges: give one for each token of an ID")
        self.ranges = tuple(ranges)
        rows = item_tokens[1:].cpu().numpy()  # [M_K, K]
        order = np.lexsort(rows.T[::-1])
        rows = rows[order]
        ends = rows == PADDING
        lows, highs = np.array(self.ranges).T
        if (~ends & ((rows < lows) | (rows >= highs))).any():
            raise ValueError("item_tokens: a token is outside of its range")
        # Whether a row is the first one of its prefix of d + 1 tokens.
        begins = np.ones(rows.shape, dtype=bool)
        begins[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
        node = begins.cumsum(axis=0) - 1  # [M_K, K], node of depth d + 1 of each row
        if not begins[:, -1].all() or ends[:, 0].any():
            raise ValueError("item_tokens: an item has no ID, or that of another item")
        self.n_nodes = (1, *(int(count) for count in node[-1] + 1))
        fan_out = []
        starts = np.zeros(1, dtype=np.int64)  # first row of each node
        for depth in range(rows.shape[1]):
            first = np.append(node[starts, depth], self.n_nodes[depth + 1])  # [M_d + 1]
            counts = np.diff(first)
            starts = np.flatnonzero(begins[:, depth])
            tokens = rows[starts, depth]
            if (counts[np.repeat(np.arange(len(counts)), counts)][tokens == PADDING] > 1).any():
                raise ValueError("item_tokens: an ID begins another ID")
            fan_out.append(int(counts.max()))
            self._keep(f"first_child_{depth}", torch.from_numpy(first))
            self._keep(f"token_{depth + 1}", torch.from_numpy(tokens))
        self.fan_out = tuple(fan_out)
        self._keep("leaf_items", torch.from_numpy(order + 1))
        self._keep("item_tokens", item_tokens)

    def _keep(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def expand(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the children of nodes [B, W] of a depth.

        Returns:
            Nodes of depth + 1 [B, W, F_d], and which of them are children; the others are fill.
        """
        first = self.get_buffer(f"first_child_{depth}")
        fill = torch.arange(self.fan_out[depth], device=nodes.device)
        child = first[nodes].unsqueeze(2) + fill
        real = child < first[nodes + 1].unsqueeze(2)
        return child.clamp(max=self.n_nodes[depth + 1] - 1), real

    def tokens(self, depth: int, nodes: Tensor) -> Tensor:
        """Return the last token of nodes of a depth above 0; same shape."""
        return self.get_buffer(f"token_{depth}")[nodes]
