"""Bidirectional sequence encoder: positions, LayerNorm, Transformer blocks.

Shapes: B batch, L positions, P real positions of the batch, M wanted positions, D hidden, H heads,
K levels of codes. At D=256, 4 blocks and an inner size of 512, the blocks have 2,108,416
parameters, the number that Table 6 of the paper implies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from recbole_qbert.common.ragged import pad_rows, rows_of_like_length
from recbole_qbert.models.layers.attention_bias import CodeAttentionBias, similarity_bins
from recbole_qbert.models.layers.dropout import Dropout
from recbole_qbert.models.layers.masking import positions, valid_positions

# On a CPU, padding costs as much time as items, so that a batch is split into groups of rows of
# similar length. Smaller batches than this are not split.
CPU_GROUPED = 12


class SequenceEncoder(nn.Module):
    """BERT-style encoder of embedded positions; its input is packed, one row after another."""

    def __init__(self, config: Any, max_positions: int, n_levels: int = 0):
        """Build the encoder from the config's keys.

        Args:
            config: the config.
            max_positions: maximum number of positions of a row.
            n_levels: K, to reweight attention by codes; 0 for plain attention.
        """
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
        self.attention_bias: CodeAttentionBias | None = None
        if n_levels:
            self.attention_bias = CodeAttentionBias(config["n_layers"], config["n_heads"], n_levels)

    def forward(
        self,
        vectors: Tensor,
        lengths: Tensor,
        position_ids: Tensor,
        wanted: Tensor,
        codes: Tensor | None = None,
    ) -> Tensor:
        """Encode rows, and return the hidden vectors of the wanted positions.

        The last block computes only the wanted positions, because no later layer reads the others.

        Args:
            vectors: [P, D], positions of row 1, of row 2, ...; P is the sum of the lengths.
            lengths: [B], each between 1 and L.
            position_ids: [P], rows of the position table.
            wanted: [B, L] bool, M True entries, all within the lengths.
            codes: [P, K] codes of the positions, `UNKNOWN` where there is no item; required if the
                encoder reweights attention.

        Returns:
            [M, D] in the order of `wanted.nonzero()`, equal to encoding every row alone.
        """
        hidden = self.dropout(self.input_norm(vectors + self.position_embedding(position_ids)))
        if hidden.device.type != "cpu" or len(lengths) < CPU_GROUPED:
            return self._encode(hidden, lengths, wanted, codes)
        groups = rows_of_like_length(lengths)
        order = torch.cat(groups)
        sizes = [int(lengths[rows].sum()) for rows in groups]
        sources = order.argsort().repeat_interleave(lengths).argsort(stable=True).split(sizes)
        found = []
        for rows, source in zip(groups, sources, strict=True):
            own = wanted[rows, : int(lengths[rows].max())]
            known = None if codes is None else codes[source]
            found.append(self._encode(hidden[source], lengths[rows], own, known))
        rows, columns = wanted[order].nonzero(as_tuple=True)
        places = order[rows] * wanted.size(1) + columns
        return torch.cat(found)[places.argsort()]

    def _encode(
        self, packed: Tensor, lengths: Tensor, wanted: Tensor, codes: Tensor | None
    ) -> Tensor:
        """Apply all blocks to embedded positions."""
        real = valid_positions(lengths, wanted.size(1))
        hidden, padding = pad_rows(packed, real), ~real
        masks = self._masks(codes, real)
        *blocks, last = self.blocks.layers
        for block in blocks:
            mask = next(masks)
            if mask is None:
                hidden = block(hidden, src_key_padding_mask=padding)
            else:
                hidden = _block(block, hidden, mask)
        hidden = _block_at(last, hidden, padding, wanted, next(masks))
        return hidden if self.blocks.norm is None else self.blocks.norm(hidden)

    def _masks(self, codes: Tensor | None, real: Tensor) -> Iterator[Tensor | None]:
        """Yield the attention mask [B * H, L, L] of each block; None for plain attention."""
        bias = self.attention_bias
        # PyTorch's inference kernels do not add a mask of floats. While all biases are zero, they
        # can be used, and the scores are those of the plain model, bit for bit.
        if bias is None or codes is None or not (self.training or bias.table.any()):
            yield from itertools.repeat(None)
            return
        bins = similarity_bins(pad_rows(codes, real))
        for layer in range(len(self.blocks.layers)):
            yield bias(layer, bins, ~real)


def _block(block: Any, hidden: Tensor, mask: Tensor) -> Tensor:
    """Compute an `nn.TransformerEncoderLayer` with an additive mask [B * H, L, L]. [B, L, D]

    The layer itself would read the mask as boolean in PyTorch's inference kernels.
    """
    keys = block.norm1(hidden) if block.norm_first else hidden
    seen, _ = block.self_attn(keys, keys, keys, attn_mask=mask, need_weights=False)
    return _after_attention(block, hidden, seen)


def _block_at(
    block: Any, hidden: Tensor, padding: Tensor, wanted: Tensor, mask: Tensor | None
) -> Tensor:
    """Compute an `nn.TransformerEncoderLayer` at the wanted positions only. [M, D]"""
    counts = wanted.sum(dim=1)
    # Wanted positions first, both in their order. ONNX has no stable sort.
    order = positions(counts, wanted.size(1)) + wanted.size(1) * ~wanted
    columns = order.topk(int(counts.max()), largest=False).indices
    there = valid_positions(counts, columns.size(1))  # [B, Q], Q: most wanted positions of a row
    places = columns.unsqueeze(2).expand(-1, -1, hidden.size(2))
    keys = block.norm1(hidden) if block.norm_first else hidden
    barred: dict[str, Tensor] = {"key_padding_mask": padding}
    if mask is not None:
        rows = mask.view(hidden.size(0), -1, *mask.shape[1:])  # [B, H, L, L]
        queries = columns[:, None, :, None].expand(-1, rows.size(1), -1, rows.size(3))
        barred = {"attn_mask": rows.gather(2, queries).flatten(0, 1)}
    seen, _ = block.self_attn(keys.gather(1, places), keys, keys, need_weights=False, **barred)
    return _after_attention(block, hidden[wanted], seen[there])


def _after_attention(block: Any, hidden: Tensor, seen: Tensor) -> Tensor:
    """Compute the rest of a block from its input and the output of its attention, both [..., D]."""
    found = hidden + block.dropout1(seen)
    found = found if block.norm_first else block.norm1(found)
    inner = block.norm2(found) if block.norm_first else found
    inner = block.linear2(block.dropout(block.activation(block.linear1(inner))))
    found = found + block.dropout2(inner)
    return found if block.norm_first else block.norm2(found)
