"""Encoder of a set of interests, and decoder of the items of a history (MISSRec, MM 2023).

Shapes: B rows, L positions, T interests of a row, N items (0 is padding), C interests in all (0 is
none), D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.common.ragged import inverse_order, rows_of_like_length
from recbole_qbert.models.layers.dropout import Dropout
from recbole_qbert.models.layers.masking import valid_positions


class InterestTransformer(nn.Module):
    """`n_layers` post-norm blocks of an encoder and as many of a decoder, each with a last norm."""

    def __init__(self, config: Any, max_length: int):
        """Build it from the config's keys, for at most `max_length` items a row."""
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        sizes = (width, config["n_heads"], config["inner_size"], config["hidden_dropout_prob"])
        form = {"activation": config["hidden_act"], "layer_norm_eps": eps, "batch_first": True}
        self.position_embedding = nn.Embedding(max_length, width)
        # Read by a row without interests. Zeros would have no variance, and thus huge gradients.
        self.no_interest = nn.Parameter(torch.empty(width).normal_(std=config["initializer_range"]))
        self.input_norm = nn.LayerNorm(width, eps=eps)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(*sizes, **form),
            config["n_layers"],
            norm=nn.LayerNorm(width, eps=eps),
            enable_nested_tensor=False,
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(*sizes, **form), config["n_layers"]
        )
        self.output_norm = nn.LayerNorm(width, eps=eps)
        self.dropout = Dropout(config["hidden_dropout_prob"])
        for module in list(self.modules()):
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = config["attn_dropout_prob"]
            for name, each in list(module.named_children()):
                if type(each) is nn.Dropout:
                    setattr(module, name, Dropout(each.p))

    def forward(
        self, items: Tensor, lengths: Tensor, table: Tensor, interests: Tensor, centers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decode the last position of each row.

        Args:
            items: [B, L], right-padded with zeros.
            lengths: [B], 0 to L; an empty row is decoded as if it had one item, the padding.
            table: [N, D] item vectors.
            interests: [B, T] rows of `centers`, at the end 0 for none; T is at least 1.
            centers: [C + 1, D] vectors of the interests; the first row is not read.

        Returns:
            last: [B, D].
            overlap: [B], squared length of the mean encoded interest, divided by D.
        """
        if items.device.type != "cpu":
            return self._decode(items, lengths, table, interests, centers)
        groups = rows_of_like_length(lengths)  # on a CPU, padding costs as much time as items
        parts = [
            self._decode(items[rows], lengths[rows], table, interests[rows], centers)
            for rows in groups
        ]
        order = inverse_order(groups)
        last, overlap = (torch.cat(each)[order] for each in zip(*parts, strict=True))
        return last, overlap

    def _decode(
        self, items: Tensor, lengths: Tensor, table: Tensor, interests: Tensor, centers: Tensor
    ) -> tuple[Tensor, Tensor]:
        real = interests[:, : max(1, int((interests > 0).sum(dim=1).max()))] > 0
        memory_padding = _never_all(~real)
        read = torch.where(
            real.unsqueeze(2), centers[interests[:, : real.size(1)]], self.no_interest
        )
        memory = self.encoder(read, src_key_padding_mask=memory_padding)
        total = (memory * real.unsqueeze(2)).sum(dim=1)
        mean = total / real.sum(dim=1, keepdim=True).clamp(min=1)
        overlap = mean.float().square().mean(dim=1)

        longest = max(1, int(lengths.max()))
        padding = _never_all(~valid_positions(lengths, longest))
        hidden = F.embedding(items[:, :longest], table) + self.position_embedding.weight[:longest]
        hidden = self.dropout(self.input_norm(hidden))
        *blocks, last = self.decoder.layers
        for block in blocks:
            hidden = block(
                hidden,
                memory,
                tgt_key_padding_mask=padding,
                memory_key_padding_mask=memory_padding,
            )
        ends = (lengths - 1).clamp(min=0)
        found = _block_at(last, hidden, ends, padding, memory, memory_padding)
        return self.output_norm(found), overlap


def _never_all(padding: Tensor) -> Tensor:
    """Clear the first column, so that attention in a row without content is no NaN. [B, T]

    In all other rows that column is content.
    """
    padding[:, 0] = False
    return padding


def _block_at(
    block: Any, hidden: Tensor, ends: Tensor, padding: Tensor, memory: Tensor, unread: Tensor
) -> Tensor:
    """Compute an `nn.TransformerDecoderLayer` at one position a row, since none other is read.

    Args:
        block: the layer, post-norm.
        hidden: [B, L, D].
        ends: [B] positions.
        padding: [B, L].
        memory: [B, T, D].
        unread: [B, T], its padding.

    Returns:
        [B, D].
    """
    own = hidden[torch.arange(len(ends), device=ends.device), ends].unsqueeze(1)
    seen, _ = block.self_attn(own, hidden, hidden, key_padding_mask=padding, need_weights=False)
    own = block.norm1(own + block.dropout1(seen))
    seen, _ = block.multihead_attn(own, memory, memory, key_padding_mask=unread, need_weights=False)
    own = block.norm2(own + block.dropout2(seen))
    inner = block.linear2(block.dropout(block.activation(block.linear1(own))))
    found: Tensor = block.norm3(own + block.dropout3(inner)).squeeze(1)
    return found
