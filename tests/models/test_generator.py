"""Generation of code tuples: against brute force, and against transformers' T5 and `generate`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.generate import PrefixSearch
from recbole_qbert.models.layers import code_generator
from recbole_qbert.models.layers.code_generator import CodeGenerator
from recbole_qbert.models.layers.code_trie import CodeTrie
from recbole_qbert.models.layers.t5 import Memory, T5EncoderDecoder

N_CODES, N_LEVELS, N_ROWS = 6, 3, 3
N_TOKENS = 1 + N_CODES * N_LEVELS
LEVELS = [(1 + k * N_CODES, 1 + (k + 1) * N_CODES) for k in range(N_LEVELS)]
WHOLE = [(0, N_TOKENS)] * N_LEVELS
# IDs of one to three tokens, none of which begins another.
SHORT = ["1 7 13", "1 7 14", "1 8", "2", "3 9", "3 10 15", "3 10 16", "4 9 13"]


def random_items(n_items: int, seed: int = 0) -> Tensor:
    """Tokens [N, K] of different tuples, padding first."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(N_CODES**N_LEVELS, generator=draw)[:n_items]
    codes = torch.stack([numbers // 36, numbers // 6 % 6, numbers % 6], dim=1)
    tokens = codes + torch.tensor([first for first, _ in LEVELS])
    return torch.cat([torch.zeros(1, N_LEVELS, dtype=torch.long), tokens])


def short_items() -> Tensor:
    """Tokens of `SHORT`, padding first."""
    rows = [[0, 0, 0], *([*map(int, text.split()), 0, 0][:3] for text in SHORT)]
    return torch.tensor(rows)


def network(seed: int = 0, dropout: float = 0.0, n_decoder_layers: int = 3) -> CodeGenerator:
    """A small network with new weights, in evaluation mode."""
    torch.manual_seed(seed)
    blocks = T5EncoderDecoder(
        hidden_size=16,
        inner_size=24,
        n_heads=3,
        head_size=5,
        n_layers=2,
        n_decoder_layers=n_decoder_layers,
        dropout=dropout,
    )
    return CodeGenerator(N_TOKENS, blocks, 16).eval()


def histories() -> Tensor:
    """Tokens [B, S] of different lengths, right-padded."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, N_TOKENS, (N_ROWS, 12), generator=draw)
    lengths = torch.tensor([12, 3, 9])
    return tokens.masked_fill(torch.arange(12) >= lengths.unsqueeze(1), 0)


def encoded(generator: CodeGenerator) -> Memory:
    """The network's view of `histories`."""
    tokens = histories()
    with torch.no_grad():
        return generator.encode(generator.tokens(tokens), tokens != 0)


def brute_force(
    generator: CodeGenerator, items: Tensor, ranges: Sequence[tuple[int, int]]
) -> Tensor:
    """Log-probabilities of all items by one forward pass over each history and item. [B, N - 1]"""
    found = []
    for history, row in itertools.product(histories(), items[1:]):
        kept, target = history[history > 0][None], row[row > 0][None]
        memory = generator.encode(generator.tokens(kept), kept > 0)
        inputs = torch.cat([torch.zeros(1, 1, dtype=torch.long), target[:, :-1]], dim=1)
        logits = generator.head(generator.t5.decode(generator.tokens(inputs), memory))[0]
        score = 0.0
        for place, (first, end) in enumerate(ranges[: target.size(1)]):
            log_probs = logits[place, first:end].log_softmax(dim=0)
            score += float(log_probs[target[0, place] - first])
        found.append(score)
    return torch.tensor(found).view(N_ROWS, -1)


CASES = [(random_items(25), LEVELS), (random_items(25), WHOLE), (short_items(), WHOLE)]
NAMES = ["a softmax for each level", "one softmax", "IDs of different lengths"]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_search_ranks_as_brute_force(case: tuple[Tensor, Any], monkeypatch: Any) -> None:
    """Beams for all items; all items scored exactly; and in parts as in one."""
    generator, (items, ranges) = network(), case
    trie, memory = CodeTrie(items, ranges), encoded(generator)
    with torch.no_grad():
        expected = brute_force(generator, items, ranges)
    exact = generator.exact_scores(memory, trie)
    assert (exact[:, 0] == -torch.inf).all()
    torch.testing.assert_close(exact[:, 1:], expected, rtol=1e-5, atol=1e-5)
    for width in (len(items) - 1, 1000):
        beams = generator.search(memory, trie, width)
        order = expected.argsort(dim=1, descending=True)
        assert torch.equal(beams.items - 1, order)
        torch.testing.assert_close(beams.scores, expected.gather(1, order), rtol=1e-5, atol=1e-5)
        lost = 1 - expected.exp().sum(dim=1)
        torch.testing.assert_close(beams.invalid, lost, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(code_generator, "BEAMS_AT_ONCE", 7)
    torch.testing.assert_close(generator.exact_scores(memory, trie), exact)
    torch.testing.assert_close(generator.search(memory, trie, 6), beams_of(generator, memory, trie))


def beams_of(generator: CodeGenerator, memory: Memory, trie: CodeTrie) -> Any:
    """Six beams of every row, each row searched alone."""
    rows = zip(memory.hidden.split(1), memory.real.split(1), strict=True)
    parts = [generator.search(Memory(*row), trie, 6) for row in rows]
    return type(parts[0])(*(torch.cat(column) for column in zip(*parts, strict=True)))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@pytest.mark.parametrize("width", [1, 2, 5, 17])
def test_few_beams_follow_the_plain_search(case: tuple[Tensor, Any], width: int) -> None:
    """A loop over prefixes, in lists; every beam ends at an item, and no item comes twice."""
    generator, (items, ranges) = network(3), case
    trie, memory = CodeTrie(items, ranges), encoded(generator)
    found = generator.search(memory, trie, width)
    assert found.items.shape == (N_ROWS, min(width, len(items) - 1))
    assert all(len(set(row)) == len(row) and min(row) > 0 for row in found.items.tolist())
    rows = [tuple(row) for row in items[1:].tolist()]
    exact = {}
    for depth in range(1, N_LEVELS + 1):  # log-probabilities of all prefixes
        for prefix in {row[:depth] for row in rows}:
            target = torch.tensor([prefix + (0,) * (N_LEVELS - depth)]).expand(N_ROWS, -1)
            scores = generator.token_scores(memory, target, trie)
            exact[prefix] = scores[:, :depth].sum(dim=1).tolist()
    for row in range(N_ROWS):
        beams: list[tuple[int, ...]] = [()]
        for depth in range(1, N_LEVELS + 1):
            longer = {item[:depth] for item in rows if item[: depth - 1] in beams}
            beams = sorted(longer, key=lambda prefix: -exact[prefix][row])[:width]
        assert [rows[item - 1] for item in found.items[row].tolist()] == beams


@pytest.mark.parametrize("width", [2, 10])
def test_the_search_equals_generate_of_transformers(width: int) -> None:
    """Same beams, same scores; the softmax covers the whole vocabulary there.

    `generate` of transformers 5 fails if the decoder has more blocks than the encoder.
    """
    generator, items = network(4, n_decoder_layers=2), random_items(60)
    tokens, weights = PrefixSearch(generator, items)(histories(), width)
    beams = generator.search(encoded(generator), CodeTrie(items, WHOLE), width)
    assert torch.equal(items[beams.items], tokens)
    torch.testing.assert_close(beams.scores, weights, rtol=1e-5, atol=1e-5)


def test_training_sees_the_logits_of_transformers() -> None:
    """Teacher forcing of the whole network."""
    generator, items = network(5), random_items(60)
    tokens, targets = histories(), items[[5, 60, 7]]
    twin = PrefixSearch(generator, items).model
    with torch.no_grad():
        mask = (tokens != 0).long()
        logits = twin(input_ids=tokens, attention_mask=mask, labels=targets).logits
    expected = logits.log_softmax(dim=2).gather(2, targets.unsqueeze(2)).squeeze(2)
    found = generator.token_scores(encoded(generator), targets, CodeTrie(items, WHOLE))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_every_weight_is_trained() -> None:
    generator, items = network(dropout=0.1).train(), random_items(60)
    tokens = histories()
    memory = generator.encode(generator.tokens(tokens), tokens != 0)
    scores = generator.token_scores(memory, items[[5, 60, 7]], CodeTrie(items, LEVELS))
    (-scores.mean()).backward()
    for name, weight in generator.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_the_numbers_of_items_play_no_role() -> None:
    """Not in the last bit, so ties are decided alike too."""
    generator, items = network(6), random_items(50)
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(50)])
    memory, ranges = encoded(generator), LEVELS
    left = generator.search(memory, CodeTrie(items, ranges), 8)
    right = generator.search(memory, CodeTrie(items[order], ranges), 8)
    assert torch.equal(left.items, order[right.items])
    assert torch.equal(left.scores, right.scores)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1, 7, 13], [1, 7, 13]], "that of another item"),
        ([[1, 7, 13], [0, 0, 0]], "no ID"),
        ([[1, 7, 0], [1, 7, 13]], "begins another"),
        ([[1, 7, 99]], "outside of its range"),
    ],
)
def test_ids_that_make_no_tree_are_refused(rows: list[list[int]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CodeTrie(torch.tensor([[0, 0, 0], *rows]), WHOLE)
    with pytest.raises(ValueError, match="one for each token"):
        CodeTrie(torch.tensor([[0, 0, 0], *rows]), WHOLE[1:])
