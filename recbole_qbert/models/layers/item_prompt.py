"""`ItemPrompt`: the input of P5's encoder, a prompt with a history of items.

Shapes: B rows, L items, T tokens of an item, R rows of the table, S tokens of the prompt, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.common.ragged import compacted


class ItemPrompt(nn.Module):
    """Learned prompt tokens, then the tokens of the history's items, one item after another.

    All tokens of the k-th item share a learned vector (P5's whole-word embedding), and those of the
    prompt another one.

    Args:
        n_prompt_tokens: number of learned tokens before the history.
        max_items: largest L.
        hidden_size: D.
    """

    def __init__(self, n_prompt_tokens: int, max_items: int, hidden_size: int):
        super().__init__()
        self.start = nn.Parameter(torch.randn(n_prompt_tokens, hidden_size))
        self.words = nn.Embedding(1 + max_items, hidden_size)

    def forward(self, tokens: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Embed tokens int64 [B, L, T], rows of a table [R, D]; 0 is no token.

        Returns:
            The embedded prompt [B, S, D], and where it is not padding [B, S].
        """
        word = torch.arange(1, tokens.size(1) + 1, device=tokens.device).view(-1, 1)
        pairs = (tokens + len(table) * word).masked_fill(tokens == 0, 0).flatten(1)
        pairs, lengths = compacted(pairs)
        pairs = pairs[:, : max(1, int(lengths.max()))]
        words = pairs.div(len(table), rounding_mode="floor")
        history = F.embedding(pairs - words * len(table), table) + self.words(words)
        start = (self.start + self.words.weight[0]).expand(len(tokens), -1, -1)
        embedded = torch.cat([start, history], dim=1)
        return embedded, F.pad(pairs > 0, (start.size(1), 0), value=True)
