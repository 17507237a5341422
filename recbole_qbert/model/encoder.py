"""The bidirectional sequence encoder: positions, LayerNorm, Transformer blocks.

B batch, L positions, D hidden. At D=256, 4 blocks and an inner size of 512 the blocks hold
2,108,416 parameters, the number that Table 6 of the paper implies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_qbert.model.dropout import Dropout
from recbole_qbert.model.masking import valid_positions

# On a CPU, work on padding costs as much as work on items. A batch is cut into groups of like
# length, each as long as its longest member; more groups than this save nothing.
CPU_GROUPS = 6


class SequenceEncoder(nn.Module):
    """BERT-style encoder over already embedded, right-padded positions."""

    def __init__(
        self,
        *,
        n_layers: int,
        n_heads: int,
        hidden_size: int,
        inner_size: int,
        max_positions: int,
        hidden_dropout_prob: float,
        attn_dropout_prob: float,
        hidden_act: str,
        layer_norm_eps: float,
        norm_first: bool,
    ):
        super().__init__()
        self.position_embedding = nn.Embedding(max_positions, hidden_size)
        self.input_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout = Dropout(hidden_dropout_prob)
        block = nn.TransformerEncoderLayer(
            hidden_size,
            n_heads,
            inner_size,
            dropout=hidden_dropout_prob,
            activation=hidden_act,
            layer_norm_eps=layer_norm_eps,
            batch_first=True,
            norm_first=norm_first,
        )
        block.self_attn.dropout = attn_dropout_prob
        block.dropout, block.dropout1, block.dropout2 = (
            Dropout(hidden_dropout_prob) for _ in range(3)
        )
        self.blocks = nn.TransformerEncoder(
            block,
            n_layers,
            norm=nn.LayerNorm(hidden_size, eps=layer_norm_eps) if norm_first else None,
            enable_nested_tensor=False,
        )

    def forward(self, vectors: Tensor, lengths: Tensor, position_ids: Tensor) -> Tensor:
        """Encode each row's first `lengths` positions; what stands behind them is unspecified.

        Args:
            vectors: [B, L, D].
            lengths: [B], each between 1 and L.
            position_ids: [B, L] rows of the position table.

        Returns:
            [B, L, D], equal to encoding every row alone without padding.
        """
        hidden = self.dropout(self.input_norm(vectors + self.position_embedding(position_ids)))
        if hidden.device.type != "cpu" or len(lengths) < 2 * CPU_GROUPS:
            padding = ~valid_positions(lengths, hidden.size(1))
            return self.blocks(hidden, src_key_padding_mask=padding)
        groups = []
        order = lengths.argsort(stable=True)
        for rows in order.chunk(CPU_GROUPS):
            longest = int(lengths[rows[-1]])
            part = hidden[rows, :longest]
            padding = ~valid_positions(lengths[rows], longest)
            part = self.blocks(part, src_key_padding_mask=padding)
            groups.append(nn.functional.pad(part, (0, 0, 0, hidden.size(1) - longest)))
        return torch.cat(groups)[order.argsort()]
