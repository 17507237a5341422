"""Exact top-10 of a large catalog for one query at a time: dense, codes and pruned.

The items are made from the codes of others: each is a copy of a random one in which a share of the
codes (`--changed`) is replaced by that of any other at the same level. The originals, the vectors
of codes and rows, and the queries come from a trained bundle of QBERT4Rec (`--bundle`, histories of
one item), or are made up: codes of a level as frequent as 1, 1/2, 1/3, ..., queries near an item,
half as long at each further level of a stream of four. `--random` draws all codes and queries
independently, the worst case of upper bounds.

`mean score` is that of the best ten items, and must be the same for all sides. Memory of a large
catalog: `--items=10000000 --sides=pruned`.

`--ranks` ranks a target of each query instead, all queries together, as full-ranking evaluation
does: `dense` from all scores, `pruned` by counting. A target is the item at a rank drawn
log-uniformly from 1 to the number of items; `mean score` is the mean rank.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities, peak_bytes, timed

STREAM = 4  # levels
N_ORIGINALS = 20_000
SECONDS = 1.0  # of a round
_CHUNK = 1 << 18


def _originals(options: argparse.Namespace, rng: np.random.Generator) -> tuple[Any, ...]:
    """Return codes [n, K], tables [K, C, D], rows [n, D] or None, queries [Q, D] and `cosine`."""
    import torch

    if options.bundle:
        return _of_bundle(options, rng)
    shape = (options.levels, options.codebook_size)
    chances = 1 / np.arange(1, options.codebook_size + 1)
    chances = None if options.random else chances / chances.sum()
    codes = rng.choice(options.codebook_size, (N_ORIGINALS, options.levels), p=chances)
    tables = rng.standard_normal((*shape, options.dimension), np.float32)
    rows = rng.standard_normal((N_ORIGINALS, options.dimension), np.float32)
    near = rng.standard_normal((options.queries, options.dimension), np.float32)
    if not options.random:
        tables /= 2.0 ** (np.arange(options.levels) % STREAM / 2)[:, None, None]
        vectors = tables[np.arange(options.levels), codes[: options.queries]].sum(axis=1)
        near = vectors + near * vectors.std()
    # As in trained models: .4 of the length of the sum of code vectors, longer in some directions.
    rows *= np.linspace(2, 0, options.dimension, dtype=np.float32) * options.levels**0.5 / 4
    made = (tables.astype(np.float32), rows if options.hybrid else None, near.astype(np.float32))
    return (codes, *(each if each is None else torch.from_numpy(each) for each in made), True)


def _of_bundle(options: argparse.Namespace, rng: np.random.Generator) -> tuple[Any, ...]:
    """Read the originals from a bundle."""
    import torch
    from recbole.data.interaction import Interaction

    from recbole_qbert.serving.recommender import Recommender

    model = Recommender.load(options.bundle).model
    index = model.item_index()
    items = torch.from_numpy(rng.integers(1, len(index) + 1, options.queries))
    history = torch.zeros(options.queries, model.max_seq_length, dtype=torch.long)
    history[:, 0] = items
    batch = {model.ITEM_SEQ: history, model.ITEM_SEQ_LEN: torch.ones_like(items)}
    levels = slice(options.levels)
    return (
        index.codes[:, levels].numpy(),
        index.tables[levels],
        index.rows if options.hybrid else None,
        model.queries(Interaction(batch))[0],
        index.norms is not None,
    )


def _catalog(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return an index of the made items, and queries."""
    import torch

    from recbole_qbert.topk.index import ItemIndex

    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(2026)
    originals, tables, rows, queries, cosine = _originals(options, rng)
    changed = 1.0 if options.random else options.changed
    kind = np.min_scalar_type(len(tables[0]) - 1)
    codes = np.empty((options.items, originals.shape[1]), kind)
    own_rows = None if rows is None else torch.empty(options.items, rows.size(1))
    for first in range(0, options.items, _CHUNK):
        part = slice(first, min(first + _CHUNK, options.items))
        n = part.stop - first
        copied = rng.integers(0, len(originals), n)
        for level, column in enumerate(originals.T):
            others = column[rng.integers(0, len(originals), n)]
            codes[part, level] = np.where(rng.random(n) < changed, others, column[copied])
        if own_rows is not None:
            other = rng.integers(0, len(originals), n)
            mixed = rows[copied] * (1 - changed) + rows[other] * (1 - (1 - changed) ** 2) ** 0.5
            own_rows[part] = mixed
    given = torch.from_numpy(codes.astype(np.int16) if kind == np.uint16 else codes)
    terms = None
    if options.discount:  # training counts as of the codes of `_originals`: 1, 1/2, 1/3, ...
        counts = options.items / (1 + rng.permutation(options.items))
        terms = torch.from_numpy(-options.discount * np.log1p(counts))
    return ItemIndex(given, [*tables], own_rows, cosine, terms=terms), queries


def _targets(index: Any, queries: Any) -> Any:
    """Return an item [Q] for each query, at a random rank."""
    import torch

    places = np.exp(np.random.default_rng(2026).random(len(queries)) * np.log(len(index)))
    found = []
    for query, place in zip(queries, places.astype(int).tolist(), strict=True):
        _, items = index.top_k(query.unsqueeze(0), place, method="codes")
        found.append(int(items[0, -1]))
    return torch.tensor(found)


def _ranks(index: Any, queries: Any, targets: Any, method: str) -> Any:
    """Rank the targets [Q] from all scores (`dense`) or by counting (`pruned`)."""
    import torch
    from torch.nn import functional as F

    from recbole_qbert.evaluation.ranking import target_ranks

    none = (torch.empty(0, dtype=torch.long),) * 2
    if method == "pruned":
        return index.count_reaching(queries, targets, none)[0]
    if method != "dense":
        raise SystemExit("--ranks measures --sides=dense,pruned only")
    scores = F.pad(index._dense_scores(queries)(slice(None)), (1, 0))
    return target_ranks(scores, targets + 1, none)[0]


def _side(method: str) -> Callable[[argparse.Namespace], Measure]:
    def side(options: argparse.Namespace) -> Measure:
        index, queries = _catalog(options)
        found: list[float] = []
        targets = _targets(index, queries) if options.ranks else None

        def work() -> None:
            if targets is not None:
                found[:] = _ranks(index, queries, targets, method).tolist()
                return
            found[:] = [
                float(index.top_k(query.unsqueeze(0), 10, method=method)[0].mean())
                for query in queries
            ]

        def measure(number: int) -> Reading:
            seconds = cpu_seconds = n_done = 0.0
            while seconds < SECONDS:
                spent = timed(work)
                seconds, cpu_seconds = seconds + spent[0], cpu_seconds + spent[1]
                n_done += len(queries)
            return {
                "queries a second": n_done / seconds,
                "queries a CPU second": n_done / cpu_seconds,
                "ms a query": 1000 * seconds / n_done,
                "mean score": sum(found) / len(found),
                "peak GiB": peak_bytes() / 2**30,
            }

        return measure

    return side


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--codebook_size", type=int, default=256)
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--hybrid", action="store_true", help="items have rows")
    parser.add_argument("--changed", type=float, default=0.3, help="share of copied codes")
    parser.add_argument("--random", action="store_true", help="independent codes and queries")
    parser.add_argument("--bundle", help="folder of a trained QBERT4Rec")
    parser.add_argument("--discount", type=float, default=0.0, help="popularity_discount")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--ranks", action="store_true", help="rank targets; sides dense, pruned")


BENCHMARKS = {
    "topk": Benchmark(
        sides={method: _side(method) for method in ("dense", "codes", "pruned", "auto")},
        pairs=[("codes", "dense"), ("pruned", "dense"), ("auto", "dense")],
        ratios=of_quantities("queries a second", "queries a CPU second", "mean score"),
        add_options=_add_options,
    )
}
