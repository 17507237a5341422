"""T5's encoder and decoder over embedded tokens, with decoding of many beams token by token.

The blocks are those of transformers, with new weights; their layers are called here. Training so
takes less time on a CPU, because dropout has cheaper masks. In decoding, the beams of a row are the
queries of one attention to its encoder output, where the cache of transformers holds the encoder's
keys and values once for each beam.

Shapes: B rows, W beams, S encoder tokens, T decoder tokens, H heads, E head size, D hidden.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.compat.torchvision import import_torchvision
from recbole_qbert.models.layers.dropout import Dropout


@dataclass
class Memory:
    """Output of the encoder.

    Attributes:
        hidden: [B, S, D].
        real: bool [B, S], False at padding.
    """

    hidden: Tensor
    real: Tensor


@dataclass
class DecoderState:
    """Keys and values of every block; the lists have one entry for each block.

    Attributes:
        memory: those of the encoder output, [B, H, S, E] each.
        real: bool [B, 1, 1, S], False at padding.
        past: those of the tokens so far, T pairs of [B, W, H, E]; W is 1 where all beams share one.
    """

    memory: list[tuple[Tensor, Tensor]]
    real: Tensor
    past: list[list[tuple[Tensor, Tensor]]]

    def select(self, beams: Tensor) -> None:
        """Replace the W beams by `beams` [B, W'], numbers of the present ones."""
        rows = torch.arange(len(beams), device=beams.device).unsqueeze(1)

        def selected(each: Tensor) -> Tensor:
            n_beams = each.size(1)
            if n_beams == 1:
                return each
            chosen = each.flatten(0, 1).index_select(0, (beams + rows * n_beams).flatten())
            return chosen.unflatten(0, beams.shape)

        self.past = [
            [(selected(keys), selected(values)) for keys, values in pairs] for pairs in self.past
        ]


class T5EncoderDecoder(nn.Module):
    """T5's stacks of blocks without token tables, with new weights.

    Args:
        hidden_size: D.
        inner_size: width of the feed-forward layers (ReLU).
        n_heads: H.
        head_size: E.
        n_layers: number of encoder blocks.
        n_decoder_layers: number of decoder blocks.
        dropout: dropout of embeddings, blocks and attention weights.
    """

    def __init__(
        self,
        hidden_size: int,
        inner_size: int,
        n_heads: int,
        head_size: int,
        n_layers: int,
        n_decoder_layers: int,
        dropout: float,
    ):
        super().__init__()
        # Only these models need transformers, whose import takes seconds.
        import_torchvision()
        from transformers import T5Config
        from transformers.models.t5.modeling_t5 import T5Stack

        self.head_size = head_size
        config = T5Config(
            vocab_size=1,  # the stacks' own token tables are removed below
            d_model=hidden_size,
            d_ff=inner_size,
            num_heads=n_heads,
            d_kv=head_size,
            num_layers=n_layers,
            dropout_rate=dropout,
            eos_token_id=None,
            use_cache=False,
        )
        stack: Any = T5Stack
        self.encoder = stack(copy.deepcopy(config))
        config.is_decoder, config.num_layers = True, n_decoder_layers
        self.decoder = stack(config)
        self.encoder.embed_tokens = self.decoder.embed_tokens = None
        self.attention_dropout = Dropout(dropout)
        for module in [*self.modules()]:
            for name, child in module.named_children():
                if type(child) is nn.Dropout:
                    setattr(module, name, Dropout(child.p))

    def encode(self, embedded: Tensor, real: Tensor) -> Memory:
        """Encode tokens [B, S, D]; `real` [B, S] is False at padding."""
        stack, n_tokens = self.encoder, embedded.size(1)
        bias = stack.block[0].layer[0].SelfAttention.compute_bias(n_tokens, n_tokens)
        bias = bias + _barred(~real[:, None, None], bias)
        hidden = stack.dropout(embedded)
        for block in stack.block:
            own, feed_forward = block.layer
            hidden = feed_forward(self._attend(own, own.SelfAttention, hidden, None, bias))
        return Memory(stack.dropout(stack.final_layer_norm(hidden)), real)

    def decode(self, embedded: Tensor, memory: Memory) -> Tensor:
        """Return the decoder's output at all tokens [B, T, D], each of which sees those before."""
        stack, n_tokens = self.decoder, embedded.size(1)
        bias = stack.block[0].layer[0].SelfAttention.compute_bias(n_tokens, n_tokens)
        later = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=bias.device).triu(1)
        bias = bias + _barred(later, bias)
        padding = _barred(~memory.real[:, None, None], bias)
        hidden = stack.dropout(embedded)
        for block in stack.block:
            own, cross, feed_forward = block.layer
            hidden = self._attend(own, own.SelfAttention, hidden, None, bias)
            hidden = self._attend(cross, cross.EncDecAttention, hidden, memory.hidden, padding)
            hidden = feed_forward(hidden)
        found: Tensor = stack.dropout(stack.final_layer_norm(hidden))
        return found

    def _attend(
        self, layer: Any, attention: Any, hidden: Tensor, keys: Tensor | None, bias: Tensor
    ) -> Tensor:
        """Apply a layer with attention from tokens [B, T, D] to `keys`, or to themselves.

        `bias` is added to the products of queries and keys; T5 does not divide these by the root of
        the head size.
        """
        normed = layer.layer_norm(hidden)
        keys = normed if keys is None else keys
        projected = (attention.q(normed), attention.k(keys), attention.v(keys))
        query, key, value = (self._heads(each).transpose(1, 2) for each in projected)
        weights = (query @ key.transpose(2, 3) + bias).softmax(dim=3)  # [B, H, T, S]
        mixed = (self.attention_dropout(weights) @ value).transpose(1, 2).flatten(2)
        found: Tensor = hidden + layer.dropout(attention.o(mixed))
        return found

    def start(self, memory: Memory) -> DecoderState:
        """Return the state before the first token."""
        pairs = []
        for block in self.decoder.block:
            attention = block.layer[1].EncDecAttention
            both = (attention.k(memory.hidden), attention.v(memory.hidden))
            keys, values = (self._heads(each).transpose(1, 2) for each in both)
            pairs.append((keys, values))
        return DecoderState(pairs, memory.real[:, None, None], [[] for _ in pairs])

    def step(self, embedded: Tensor, state: DecoderState) -> Tensor:
        """Decode one more token of every beam, [B, W, D] to [B, W, D], and extend the state.

        There is no dropout: this is for evaluation mode.
        """
        hidden = embedded
        n_tokens = len(state.past[0]) + 1
        table = self.decoder.block[0].layer[0].SelfAttention
        bias = table.compute_bias(n_tokens, n_tokens)[0, :, -1].T  # [T, H]
        for block, memory, past in zip(self.decoder.block, state.memory, state.past, strict=True):
            own, cross, feed_forward = block.layer
            attention, normed = own.SelfAttention, own.layer_norm(hidden)
            query = self._heads(attention.q(normed))  # [B, W, H, E]
            past.append((self._heads(attention.k(normed)), self._heads(attention.v(normed))))
            # An ID has a few tokens, so that sums over each of them cost less than products of
            # many small matrices.
            weights = (
                torch.stack([(query * keys).sum(dim=3) for keys, _ in past]) + bias[:, None, None]
            )
            weights = weights.softmax(dim=0).unsqueeze(4)  # [T, B, W, H, 1]
            mixed = sum(weight * values for weight, (_, values) in zip(weights, past, strict=True))
            hidden = hidden + attention.o(mixed.flatten(2))
            attention = cross.EncDecAttention
            query = self._heads(attention.q(cross.layer_norm(hidden))).transpose(1, 2)
            # T5 does not divide by the root of the head size.
            mixed = F.scaled_dot_product_attention(query, *memory, attn_mask=state.real, scale=1.0)
            hidden = hidden + attention.o(mixed.transpose(1, 2).flatten(2))
            hidden = feed_forward(hidden)
        found: Tensor = self.decoder.final_layer_norm(hidden)
        return found

    def _heads(self, projected: Tensor) -> Tensor:
        """Split the last dimension into heads: [..., H * E] to [..., H, E]."""
        return projected.unflatten(-1, (-1, self.head_size))


def _barred(barred: Tensor, like: Tensor) -> Tensor:
    """Return the bias that bars places of attention: the least number where True, else 0."""
    return torch.zeros_like(barred, dtype=like.dtype).masked_fill(
        barred, torch.finfo(like.dtype).min
    )
