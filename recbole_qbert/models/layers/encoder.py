"""Bidirectional sequence encoder: positions, LayerNorm, Transformer blocks.

Shapes: B batch, L positions, P real positions of the batch, M wanted positions, D hidden. At D=256,
4 blocks and an inner size of 512, the blocks have 2,108,416 parameters, the number that Table 6 of
the paper implies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_qbert.common.ragged import pad_rows, rows_of_like_length
from recbole_qbert.models.layers.dropout import Dropout
from recbole_qbert.models.layers.masking import valid_positions

# On a CPU, padding costs as much time as items, so that a batch is split into groups of rows of
# similar length. Smaller batches than this are not split.
CPU_GROUPED = 12


class SequenceEncoder(nn.Module):
    """BERT-style encoder of embedded positions; its input is packed, one row after another."""

    def __init__(self, config: Any, max_positions: int):
        """Build the encoder from the config's keys, for at most `max_positions` positions a row."""
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        dropout, norm_first = config["hidden_dropout_prob"], config["layer_norm"] == "pre"
        self.position_embedding = nn.Embedding(max_positions, width)
        self.input_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(dropout)
        block = nn.TransformerEncoderLayer(
            width,
            config["n_heads"],
            config["inner_size"],
            dropout=dropout,
            activation=config["hidden_act"],
            layer_norm_eps=eps,
            batch_first=True,
            norm_first=norm_first,
        )
        block.self_attn.dropout = config["attn_dropout_prob"]
        block.dropout, block.dropout1, block.dropout2 = (Dropout(dropout) for _ in range(3))
        self.blocks = nn.TransformerEncoder(
            block,
            config["n_layers"],
            norm=nn.LayerNorm(width, eps=eps) if norm_first else None,
            enable_nested_tensor=False,
        )

    def forward(
        self, vectors: Tensor, lengths: Tensor, position_ids: Tensor, wanted: Tensor
    ) -> Tensor:
        """Encode rows, and return the hidden vectors of the wanted positions.

        The last block computes only the wanted positions, because no later layer reads the others.

        Args:
            vectors: [P, D], positions of row 1, of row 2, ...; P is the sum of the lengths.
            lengths: [B], each between 1 and L.
            position_ids: [P], rows of the position table.
            wanted: [B, L] bool, M True entries, all within the lengths.

        Returns:
            [M, D] in the order of `wanted.nonzero()`, equal to encoding every row alone.
        """
        hidden = self.dropout(self.input_norm(vectors + self.position_embedding(position_ids)))
        if hidden.device.type != "cpu" or len(lengths) < CPU_GROUPED:
            return self._encode(hidden, lengths, wanted)
        groups = rows_of_like_length(lengths)
        order = torch.cat(groups)
        sizes = [int(lengths[rows].sum()) for rows in groups]
        parts = hidden[order.argsort().repeat_interleave(lengths).argsort(stable=True)].split(sizes)
        found = []
        for rows, part in zip(groups, parts, strict=True):
            longest = int(lengths[rows].max())
            found.append(self._encode(part, lengths[rows], wanted[rows, :longest]))
        rows, columns = wanted[order].nonzero(as_tuple=True)
        places = order[rows] * wanted.size(1) + columns
        return torch.cat(found)[places.argsort()]

    def _encode(self, packed: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
        """Apply all blocks to embedded positions."""
        real = valid_positions(lengths, wanted.size(1))
        hidden, padding = pad_rows(packed, real), ~real
        *blocks, last = self.blocks.layers
        for block in blocks:
            hidden = block(hidden, src_key_padding_mask=padding)
        hidden = _block_at(last, hidden, padding, wanted)
        return hidden if self.blocks.norm is None else self.blocks.norm(hidden)


def _block_at(block: Any, hidden: Tensor, padding: Tensor, wanted: Tensor) -> Tensor:
    """Compute an `nn.TransformerEncoderLayer` at the wanted positions only. [M, D]"""
    counts = wanted.sum(dim=1)
    columns = wanted.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
    there = valid_positions(counts, columns.size(1))  # [B, Q], Q: most wanted positions of a row
    places = columns.unsqueeze(2).expand(-1, -1, hidden.size(2))
    keys = block.norm1(hidden) if block.norm_first else hidden
    seen, _ = block.self_attn(
        keys.gather(1, places), keys, keys, key_padding_mask=padding, need_weights=False
    )
    found = hidden[wanted] + block.dropout1(seen[there])
    found = found if block.norm_first else block.norm1(found)
    inner = block.norm2(found) if block.norm_first else found
    inner = block.linear2(block.dropout(block.activation(block.linear1(inner))))
    found = found + block.dropout2(inner)
    return found if block.norm_first else block.norm2(found)
