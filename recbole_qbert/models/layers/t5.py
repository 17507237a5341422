"""T5's encoder and decoder over embedded tokens, with decoding of many beams token by token.

The blocks are those of transformers, with new weights. Their forward pass encodes and trains.
Decoding calls the layers of the blocks itself, for two reasons. The cache of transformers changed
from tuples (4.45) to objects (5), and it holds the encoder's keys and values once for each beam. In
cross-attention here, the beams of a row are the queries of one attention to its encoder output.

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
    """Keys and values of every block; the lists have one pair for each block.

    Attributes:
        memory: those of the encoder output, [B, H, S, E].
        real: bool [B, 1, 1, S], False at padding.
        past: those of the tokens so far, [B, W, T, H, E].
    """

    memory: list[tuple[Tensor, Tensor]]
    real: Tensor
    past: list[tuple[Tensor, Tensor]]

    def select(self, beams: Tensor) -> None:
        """Replace the W beams by `beams` [B, W'], numbers of the present ones."""
        rows = torch.arange(len(beams), device=beams.device).unsqueeze(1)
        self.past = [(keys[rows, beams], values[rows, beams]) for keys, values in self.past]


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
        self.encoder: Any = T5Stack(copy.deepcopy(config))
        config.is_decoder, config.num_layers = True, n_decoder_layers
        self.decoder: Any = T5Stack(config)
        self.encoder.embed_tokens = self.decoder.embed_tokens = None

    def encode(self, embedded: Tensor, real: Tensor) -> Memory:
        """Encode tokens [B, S, D]; `real` [B, S] is False at padding."""
        found = self.encoder(inputs_embeds=embedded, attention_mask=real.long())
        return Memory(found.last_hidden_state, real)

    def decode(self, embedded: Tensor, memory: Memory) -> Tensor:
        """Return the decoder's output at all tokens [B, T, D], each of which sees those before."""
        found: Tensor = self.decoder(
            inputs_embeds=embedded,
            encoder_hidden_states=memory.hidden,
            encoder_attention_mask=memory.real.long(),
        ).last_hidden_state
        return found

    def start(self, memory: Memory, n_beams: int = 1) -> DecoderState:
        """Return the state before the first token of each row's beams."""
        pairs, past = [], []
        for block in self.decoder.block:
            attention = block.layer[1].EncDecAttention
            both = (attention.k(memory.hidden), attention.v(memory.hidden))
            keys, values = (self._heads(each).transpose(1, 2) for each in both)
            pairs.append((keys, values))
            none = keys.new_empty(len(keys), n_beams, 0, keys.size(1), self.head_size)
            past.append((none, none))
        return DecoderState(pairs, memory.real[:, None, None], past)

    def step(self, embedded: Tensor, state: DecoderState) -> Tensor:
        """Decode one more token of every beam, [B, W, D] to [B, W, D], and extend the state.

        There is no dropout: this is for evaluation mode.
        """
        hidden = embedded
        n_tokens = state.past[0][0].size(2) + 1
        table = self.decoder.block[0].layer[0].SelfAttention
        bias = table.compute_bias(n_tokens, n_tokens)[0, :, -1]  # [H, T]
        past = []
        for block, memory, before in zip(self.decoder.block, state.memory, state.past, strict=True):
            own, cross, feed_forward = block.layer
            attention, normed = own.SelfAttention, own.layer_norm(hidden)
            query = self._heads(attention.q(normed))  # [B, W, H, E]
            new = (self._heads(f(normed)).unsqueeze(2) for f in (attention.k, attention.v))
            keys, values = (torch.cat(pair, dim=2) for pair in zip(before, new, strict=True))
            past.append((keys, values))
            weights = (torch.einsum("bwhe,bwthe->bwht", query, keys) + bias).softmax(dim=3)
            mixed = torch.einsum("bwht,bwthe->bwhe", weights, values)
            hidden = hidden + attention.o(mixed.flatten(2))
            attention = cross.EncDecAttention
            query = self._heads(attention.q(cross.layer_norm(hidden))).transpose(1, 2)
            # T5 does not divide by the root of the head size.
            mixed = F.scaled_dot_product_attention(query, *memory, attn_mask=state.real, scale=1.0)
            hidden = hidden + attention.o(mixed.transpose(1, 2).flatten(2))
            hidden = feed_forward(hidden)
        state.past = past
        found: Tensor = self.decoder.final_layer_norm(hidden)
        return found

    def _heads(self, projected: Tensor) -> Tensor:
        """Split the last dimension into heads: [..., H * E] to [..., H, E]."""
        return projected.unflatten(-1, (-1, self.head_size))
