"""`CodeGenerator`: a network that generates items as sequences of code tokens.

The encoder reads the tokens of a history, and whatever else a model embeds. The decoder gives a
distribution of the next token after each prefix. Token 0 is padding, and the decoder's first input.
Items are those of a `CodeTrie`; a model may have several of them over one vocabulary.

Shapes: B rows, W beams, S encoder tokens, K tokens of an item, V tokens of the vocabulary, N items
(row 0 is padding), D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.models.layers.code_trie import PADDING, CodeTrie
from recbole_qbert.models.layers.t5 import Memory, T5EncoderDecoder

BEAMS_AT_ONCE = 1 << 13  # bounds the memory of decoding


class Beams(NamedTuple):
    """Result of a beam search, best first."""

    items: Tensor  # [B, W]
    scores: Tensor  # [B, W] log-probabilities of their tokens
    invalid: Tensor  # [B] probability of leaving the beams for a tuple of no item


class CodeGenerator(nn.Module):
    """Encoder-decoder with a table of V input tokens and a linear output layer; see the module.

    Args:
        n_tokens: V, padding included.
        t5: the blocks.
        hidden_size: D.
    """

    def __init__(self, n_tokens: int, t5: T5EncoderDecoder, hidden_size: int):
        super().__init__()
        self.tokens = nn.Embedding(n_tokens, hidden_size)
        self.t5 = t5
        self.head = nn.Linear(hidden_size, n_tokens, bias=False)

    @classmethod
    def from_config(cls, config: Any, n_tokens: int) -> CodeGenerator:
        """Build the network with new weights and the sizes of a model's config."""
        blocks = T5EncoderDecoder(
            hidden_size=config["hidden_size"],
            inner_size=config["inner_size"],
            n_heads=config["n_heads"],
            head_size=config["head_size"],
            n_layers=config["n_layers"],
            n_decoder_layers=config["n_decoder_layers"],
            dropout=config["dropout_prob"],
        )
        return cls(n_tokens, blocks, config["hidden_size"])

    def encode(self, embedded: Tensor, real: Tensor) -> Memory:
        """Encode embedded tokens [B, S, D]; `real` [B, S] is False at padding."""
        return self.t5.encode(embedded, real)

    def token_scores(self, memory: Memory, targets: Tensor, trie: CodeTrie) -> Tensor:
        """Return the log-probability of each target token after those before it; 0 at padding.

        Args:
            memory: of B rows.
            targets: [B, K] tokens of an item for each row.
            trie: gives the range of the softmax at each of the K tokens.

        Returns:
            float32 [B, K].
        """
        hidden = self.t5.decode(self.tokens(F.pad(targets[:, :-1], (1, 0))), memory)  # [B, K, D]
        return torch.stack(
            [
                _gather(self._log_probs(hidden[:, depth], limits), targets[:, depth, None], limits)
                for depth, limits in enumerate(trie.ranges)
            ],
            dim=1,
        ).squeeze(2)

    @torch.no_grad()
    def search(self, memory: Memory, trie: CodeTrie, width: int) -> Beams:
        """Search the most probable items of each row with at most `width` beams.

        Every beam is a prefix of an item, so min(width, N - 1) beams end at different items. With a
        width of N - 1 or more, this ranks all items exactly.
        """
        parts = [self._search(part, trie, width) for part in _parts(memory, width)]
        return Beams(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _search(self, memory: Memory, trie: CodeTrie, width: int) -> Beams:
        state = self.t5.start(memory)
        node = memory.real.new_zeros(len(memory.real), 1, dtype=torch.long)
        token, total = node, node.float()
        invalid = total[:, 0]
        for depth, limits in enumerate(trie.ranges):
            log_probs = self._log_probs(self.t5.step(self.tokens(token), state), limits)
            child, real = trie.expand(depth, node)  # [B, W, F]
            gained = _gather(log_probs, trie.tokens(depth + 1, child), limits)
            gained = gained.masked_fill(~real, -torch.inf)
            lost = 1 - gained.exp().sum(dim=2)
            invalid = invalid + (total.exp() * lost).sum(dim=1)
            # Every beam has a child, so that at least so many candidates are real.
            n_beams = min(width, trie.n_nodes[depth + 1])
            total, place = (total.unsqueeze(2) + gained).flatten(1).topk(n_beams, dim=1)
            if depth + 1 < len(trie.ranges):
                state.select(place // child.size(2))
            node = child.flatten(1).gather(1, place)
            token = trie.tokens(depth + 1, node)
        return Beams(trie.leaf_items[node], total, invalid)

    @torch.no_grad()
    def exact_scores(self, memory: Memory, trie: CodeTrie) -> Tensor:
        """Return the log-probability of every item, -inf for padding. float32 [B, N]

        The cost is that of decoding B x N items; meant for small catalogs.
        """
        blocks = trie.item_tokens[1:].split(BEAMS_AT_ONCE)
        found = [
            torch.cat([self._scores(part, items, trie) for items in blocks], dim=1)
            for part in _parts(memory, len(blocks[0]))
        ]
        return F.pad(torch.cat(found), (1, 0), value=-torch.inf)

    def _scores(self, memory: Memory, items: Tensor, trie: CodeTrie) -> Tensor:
        """Score items of tokens [W, K] for each row. [B, W]"""
        state = self.t5.start(memory)
        shape = (len(memory.real), *items.shape)
        targets = items.expand(shape)  # [B, W, K]
        token = torch.zeros_like(targets[:, :, 0])
        total = token.float()
        for depth, limits in enumerate(trie.ranges):
            log_probs = self._log_probs(self.t5.step(self.tokens(token), state), limits)
            token = targets[:, :, depth]
            total = total + _gather(log_probs, token.unsqueeze(2), limits).squeeze(2)
        return total

    def _log_probs(self, hidden: Tensor, limits: tuple[int, int]) -> Tensor:
        """Return log-probabilities of the tokens of a range; float32 [..., end - first]."""
        logits = F.linear(hidden, self.head.weight[slice(*limits)])
        return logits.float().log_softmax(dim=-1)


def _gather(log_probs: Tensor, tokens: Tensor, limits: tuple[int, int]) -> Tensor:
    """Pick the log-probabilities of tokens along the last dimension; that of padding is 0."""
    found = log_probs.gather(-1, (tokens - limits[0]).clamp(min=0))
    return found.masked_fill(tokens == PADDING, 0.0)


def _parts(memory: Memory, width: int) -> Iterator[Memory]:
    """Split the rows into parts of at most `BEAMS_AT_ONCE` beams."""
    size = max(1, BEAMS_AT_ONCE // width)
    for hidden, real in zip(memory.hidden.split(size), memory.real.split(size), strict=True):
        yield Memory(hidden, real)
