"""LiGR blocks: pre-norm Transformer blocks with gated residuals.

Borisyuk et al., From Features to Transformers: Redefining Ranking for Scalable Impact, 2025
(arXiv 2502.03417), in the form that eSASRec uses (Tikhonovich et al., RecSys 2025, by its public
implementation in RecTools). With F either attention or a SwiGLU layer, a sublayer is

    x + sigmoid(G x) * dropout(F(LayerNorm(x)))

Shapes: B batch, L positions, D hidden, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LiGRBlock(nn.Module):
    """One attention and one SwiGLU sublayer, each behind a learned gate of its own."""

    def __init__(self, config: Any):
        super().__init__()
        width, inner, eps = config["hidden_size"], config["inner_size"], config["layer_norm_eps"]
        self.n_heads, self.attention_dropout = config["n_heads"], config["attn_dropout_prob"]
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.attention_gate = nn.Linear(width, width)
        self.inner_norm = nn.LayerNorm(width, eps=eps)
        self.inner_up = nn.Linear(width, 2 * inner, bias=False)
        self.inner_down = nn.Linear(inner, width, bias=False)
        self.inner_gate = nn.Linear(width, width)
        self.dropout = nn.Dropout(config["hidden_dropout_prob"])
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Transform positions [B, L, D]; `mask` [B, 1, L, L] is added to attention logits."""
        seen = self.output(self._attend(self.attention_norm(hidden), mask))
        hidden = hidden + torch.sigmoid(self.attention_gate(hidden)) * self.dropout(seen)
        switch, value = self.inner_up(self.inner_norm(hidden)).chunk(2, dim=-1)
        inner = self.inner_down(self.dropout(F.silu(switch) * value))
        return hidden + torch.sigmoid(self.inner_gate(hidden)) * self.dropout(inner)

    def _attend(self, hidden: Tensor, mask: Tensor) -> Tensor:
        parts = self.query_key_value(hidden).unflatten(2, (3, self.n_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each [B, H, L, D / H]
        dropout = self.attention_dropout if self.training else 0.0
        mask = mask.to(query.dtype)
        seen = F.scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout)
        return seen.transpose(1, 2).flatten(2)


class LiGREncoder(nn.Module):
    """Stack of LiGR blocks with the interface of RecBole's `TransformerEncoder`."""

    def __init__(self, config: Any):
        super().__init__()
        self.blocks = nn.ModuleList(LiGRBlock(config) for _ in range(config["n_layers"]))

    def forward(
        self, hidden: Tensor, mask: Tensor, output_all_encoded_layers: bool = True
    ) -> list[Tensor]:
        """Return the output [B, L, D] of every block, or of the last one; see `LiGRBlock`."""
        found = []
        for block in self.blocks:
            hidden = block(hidden, mask)
            found.append(hidden)
        return found if output_all_encoded_layers else found[-1:]
