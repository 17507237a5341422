"""Users a second of TIGER's beam search, against transformers' `generate` with a prefix function.

The network has the default sizes of TIGER, or those of the options, and new weights; catalog and
histories are random. `search` is the package's, over a batch of users. `loop` calls `generate`
for one user after another, `batch` for a batch of users; both look the allowed tokens up in a dict
of prefixes. All sides have the same weights and the same softmax, so they find the same items,
which tests/models/test_generator.py checks.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities, timed

N_LEVELS, CODEBOOK_SIZE = 4, 256


class PrefixSearch:
    """`generate` of a `T5ForConditionalGeneration` that has the weights of a `CodeGenerator`."""

    def __init__(self, generator: Any, item_tokens: Any):
        """Copy the weights, and list the tokens [N, K] that may follow each prefix."""
        from transformers import T5Config, T5ForConditionalGeneration

        blocks, table = generator.t5, generator.tokens.weight
        sizes = blocks.encoder.config
        config = T5Config(
            vocab_size=len(table),
            d_model=sizes.d_model,
            d_ff=sizes.d_ff,
            num_heads=sizes.num_heads,
            d_kv=sizes.d_kv,
            num_layers=len(blocks.encoder.block),
            num_decoder_layers=len(blocks.decoder.block),
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=None,
        )
        self.model: Any = T5ForConditionalGeneration(config).eval()
        weights = {"shared.weight": table, "lm_head.weight": generator.head.weight}
        for name in ("encoder", "decoder"):
            stack = getattr(blocks, name).state_dict()
            weights |= {f"{name}.{key}": value for key, value in stack.items()}
            weights[f"{name}.embed_tokens.weight"] = table
        # transformers 5 ties the output layer to the input table in any case.
        self.model.lm_head.weight = type(table)(generator.head.weight.detach().clone())
        self.model.load_state_dict(weights)
        self.n_tokens = item_tokens.size(1)
        following: dict[tuple[int, ...], set[int]] = {}
        for row in item_tokens[1:].tolist():
            for depth, token in enumerate(row):
                following.setdefault(tuple(row[:depth]), set()).add(token)
        self.allowed = {prefix: sorted(tokens) for prefix, tokens in following.items()}

    def __call__(self, tokens: Any, n_beams: int) -> tuple[Any, Any]:
        """Search for rows of tokens [B, S]; returns tokens [B, W, K] and scores [B, W]."""
        found = self.model.generate(
            input_ids=tokens,
            attention_mask=(tokens != 0).long(),
            num_beams=n_beams,
            num_return_sequences=n_beams,
            max_new_tokens=self.n_tokens,
            length_penalty=0.0,
            do_sample=False,
            prefix_allowed_tokens_fn=lambda _, prefix: self.allowed[tuple(prefix.tolist()[1:])],
            return_dict_in_generate=True,
            output_scores=True,
        )
        items = found.sequences[:, 1:].unflatten(0, (len(tokens), n_beams))
        return items, found.sequences_scores.unflatten(0, (len(tokens), n_beams))


def _parts(options: argparse.Namespace) -> tuple[Any, Any, Any]:
    """Return the network, the tree of items and the tokens of the histories."""
    import torch

    from recbole_qbert.models.layers.code_generator import CodeGenerator
    from recbole_qbert.models.layers.code_trie import CodeTrie
    from recbole_qbert.models.layers.t5 import T5EncoderDecoder

    torch.set_num_threads(options.threads)
    torch.manual_seed(2026)
    n_tokens = 1 + N_LEVELS * CODEBOOK_SIZE
    codes = torch.randint(CODEBOOK_SIZE, (2 * options.items, N_LEVELS)).unique(dim=0)
    codes = codes[torch.randperm(len(codes))[: options.items]]
    tokens = torch.zeros(options.items + 1, N_LEVELS, dtype=torch.long)
    tokens[1:] = codes + 1 + CODEBOOK_SIZE * torch.arange(N_LEVELS)
    trie = CodeTrie(tokens, [(0, n_tokens)] * N_LEVELS)
    blocks = T5EncoderDecoder(
        hidden_size=options.hidden_size,
        inner_size=options.inner_size,
        n_heads=options.n_heads,
        head_size=options.head_size,
        n_layers=options.n_layers,
        n_decoder_layers=options.n_layers,
        dropout=0.0,
    )
    generator = CodeGenerator(n_tokens, blocks, options.hidden_size).eval()
    histories = torch.randint(1, len(tokens), (options.users, options.length))
    return generator, trie, tokens[histories].flatten(1)


def _reading(seconds: tuple[float, float], n_users: int) -> Reading:
    return {"users a second": n_users / seconds[0], "users a CPU second": n_users / seconds[1]}


def _search(options: argparse.Namespace) -> Measure:
    """The package's search."""
    import torch

    generator, trie, tokens = _parts(options)

    def work() -> None:
        with torch.no_grad():
            memory = generator.encode(generator.tokens(tokens), tokens != 0)
        generator.search(memory, trie, options.beams)

    return lambda number: _reading(timed(work), len(tokens))


def _generate(options: argparse.Namespace, at_once: int) -> Measure:
    """transformers' `generate` of the first users, `at_once` in a call."""
    import torch

    generator, trie, tokens = _parts(options)
    search, tokens = PrefixSearch(generator, trie.item_tokens), tokens[: options.slow_users]

    def work() -> None:
        with torch.no_grad():
            for part in tokens.split(at_once):
                search(part, options.beams)

    return lambda number: _reading(timed(work), len(tokens))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=12_000)
    parser.add_argument("--length", type=int, default=20, help="items of a history")
    parser.add_argument("--beams", type=int, default=50)
    parser.add_argument("--n_layers", type=int, default=6, help="blocks of encoder and decoder")
    parser.add_argument("--n_heads", type=int, default=6)
    parser.add_argument("--head_size", type=int, default=64)
    parser.add_argument("--hidden_size", type=int, default=128)
    parser.add_argument("--inner_size", type=int, default=1024)
    parser.add_argument("--users", type=int, default=128, help="users a round of search")
    parser.add_argument("--slow_users", type=int, default=16, help="users a round of generate")


BENCHMARKS = {
    "generate": Benchmark(
        sides={
            "search": _search,
            "loop": lambda options: _generate(options, 1),
            "batch": lambda options: _generate(options, options.slow_users),
        },
        pairs=[("search", "loop"), ("search", "batch")],
        ratios=of_quantities("users a second", "users a CPU second"),
        add_options=_add_options,
    )
}
