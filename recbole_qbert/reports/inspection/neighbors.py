"""Nearest items by code and by embedding, and the agreement of both.

Shapes: N items of the catalog, n of them with an embedding of dimension D, K levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.codec import IntArray
from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.reports.inspection.catalog import Catalog, ItemGroup, positions, spread

N_NEAREST = 10
N_SHOWN = 5
# All pairs of a large catalog take minutes. The mean over this many items is exact to about 1 %.
MAX_ASKED = 4096
_BLOCK_CELLS = 1 << 23  # similarities per block, 32 MiB


class Space(NamedTuple):
    """Embeddings of items; vectors have length 1."""

    name: str
    rows: IntArray  # rows of the items in the catalog, int64 [n], ascending
    vectors: np.ndarray  # means over an item's parts, float32 [n, D]


class Agreement(NamedTuple):
    """Agreement of the nearest items by embedding with the codes."""

    name: str  # of the embeddings
    n_items: int  # items with an embedding, n
    n_asked: int  # items whose nearest items are computed, at most MAX_ASKED
    n_nearest: int  # nearest items per item, k: 10, or n - 1 if that is less
    shared: tuple[float, ...]  # share of nearest items that share the first 1 to K codes
    shared_chance: tuple[float, ...]  # the same for items drawn at random
    # Share of the k nearest by embedding that are also among the k nearest by code (longest shared
    # prefix), as expected value over random tie-breaking.
    overlap: float
    overlap_chance: float


class Neighbor(NamedTuple):
    """A nearest item: its row, number of shared leading codes, and cosine (None if by code)."""

    row: int
    shared: int
    cosine: float | None = None


class NeighborExample(NamedTuple):
    """An item and its nearest items."""

    row: int
    n_sharing: tuple[int, ...]  # other items that share its first 1 to K codes
    by_code: tuple[Neighbor, ...]  # by length of the shared prefix, then by number of equal codes
    # Name of the embeddings -> nearest items by cosine; None if the item has no embedding.
    by_embedding: dict[str, tuple[Neighbor, ...] | None]


def open_space(name: str, path: str | Path, catalog: Catalog) -> Space:
    """Read an embedding table and join it with the catalog, without vectors of length 0.

    Raises:
        InputError: the file cannot be used, or has fewer than two items of the catalog with a
            vector that is not zero.
    """
    table = read_embeddings(path)
    found = positions(table.items, catalog.items, str(path), catalog.name)
    rows = np.flatnonzero(found >= 0)
    vectors = table.pooled()[found[rows]].astype(np.float32)
    largest = np.abs(vectors).max(axis=1)
    rows, vectors, largest = rows[largest > 0], vectors[largest > 0], largest[largest > 0]
    if len(rows) < 2:
        raise InputError(
            f"{path}: {len(rows)} items of {catalog.name} have a vector that is not zero; "
            "nearest items need at least two"
        )
    vectors /= largest[:, None]  # avoids overflow of squares
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Space(name, rows.astype(np.int64), vectors)


def shared_prefix(left: IntArray, right: IntArray) -> IntArray:
    """Length of the common prefix of codes `[..., K]`, int64 `[...]`."""
    return np.cumprod(left == right, axis=-1).sum(axis=-1)


def agreement(
    space: Space,
    catalog: Catalog,
    seed: int,
    n_nearest: int = N_NEAREST,
    max_asked: int = MAX_ASKED,
) -> Agreement:
    """Compute the agreement of embeddings and codes over the items with an embedding."""
    codes, n = catalog.codes[space.rows], len(space.rows)
    asked = np.arange(n)
    if n > max_asked:
        asked = np.sort(np.random.default_rng(seed).choice(n, max_asked, replace=False))
    k = min(n_nearest, n - 1)
    lengths = np.concatenate(
        [
            shared_prefix(codes[nearest], codes[block][:, None])
            for block, nearest in _nearest_blocks(space.vectors, asked, k)
        ]
    )
    depths = np.arange(catalog.n_levels + 1)
    found = (lengths[:, :, None] >= depths).sum(axis=1)  # [asked, K + 1], among the k nearest
    others = _n_sharing(codes)[asked]  # [asked, K + 1], among all n - 1 others
    return Agreement(
        name=space.name,
        n_items=n,
        n_asked=len(asked),
        n_nearest=k,
        shared=tuple((found[:, 1:] / k).mean(axis=0).tolist()),
        shared_chance=tuple((others[:, 1:] / (n - 1)).mean(axis=0).tolist()),
        overlap=float(_expected_overlap(found, others, k).mean() / k),
        overlap_chance=k / (n - 1),
    )


def choose_examples(
    catalog: Catalog, spaces: Sequence[Space], group: ItemGroup | None, n: int
) -> list[int]:
    """Select n rows, evenly spaced over a group (None: all), if possible with all embeddings."""
    group = group or catalog.root
    rows = np.arange(group.start, group.end)
    for space in spaces:
        covered = np.intersect1d(rows, space.rows)
        rows = covered if len(covered) else rows
    return spread(rows.tolist(), n)


def example(catalog: Catalog, spaces: Sequence[Space], row: int) -> NeighborExample:
    """Find the nearest items of one item by code and by each embedding."""
    equal = catalog.codes == catalog.codes[row]
    shared = np.cumprod(equal, axis=1).sum(axis=1)
    # The sort is stable, so equally near items remain ordered by their codes.
    order = np.lexsort((-equal.sum(axis=1), -shared))
    order = order[(order != row) & (shared[order] > 0)][:N_SHOWN]
    by_embedding: dict[str, tuple[Neighbor, ...] | None] = {}
    for space in spaces:
        place = int(np.searchsorted(space.rows, row))
        if place == len(space.rows) or space.rows[place] != row:
            by_embedding[space.name] = None
            continue
        with threadpool_limits(1):
            cosines = space.vectors @ space.vectors[place]
        nearest = np.argsort(-cosines, kind="stable")
        nearest = nearest[nearest != place][:N_SHOWN]
        by_embedding[space.name] = tuple(
            Neighbor(int(space.rows[one]), int(shared[space.rows[one]]), float(cosines[one]))
            for one in nearest
        )
    return NeighborExample(
        row=row,
        n_sharing=tuple(int((shared > d).sum()) - 1 for d in range(catalog.n_levels)),
        by_code=tuple(Neighbor(int(one), int(shared[one])) for one in order),
        by_embedding=by_embedding,
    )


def _nearest_blocks(
    vectors: np.ndarray, asked: IntArray, k: int
) -> Iterator[tuple[IntArray, IntArray]]:
    """Split `asked` into blocks `[b]`, with the k nearest others `[b, k]` in no order."""
    step = max(1, _BLOCK_CELLS // len(vectors))
    for start in range(0, len(asked), step):
        block = asked[start : start + step]
        # A product over several threads is not reproducible to the last bit.
        with threadpool_limits(1):
            cosines = vectors[block] @ vectors.T
        cosines[np.arange(len(block)), block] = -np.inf
        # NumPy's argpartition is five times slower.
        nearest = torch.topk(torch.from_numpy(cosines), k, dim=1, sorted=False).indices
        yield block, nearest.numpy()


def _n_sharing(codes: IntArray) -> IntArray:
    """Count other items that share the first 0 to K codes, int64 `[n, K + 1]`; codes are sorted."""
    columns = [np.full(len(codes), len(codes) - 1)]
    new = np.zeros(len(codes) - 1, dtype=bool)
    for level in codes.T:
        new = new | (level[1:] != level[:-1])
        group = np.concatenate([[0], np.cumsum(new)])
        columns.append(np.bincount(group)[group] - 1)
    return np.stack(columns, axis=1)


def _expected_overlap(found: IntArray, others: IntArray, k: int) -> np.ndarray:
    """Expected number of nearest items by embedding among the k nearest by code, `[asked]`.

    `deep` is the smallest depth at which at most k others share the prefix. All of these are among
    the k nearest by code. The rest is drawn at random from the items that share one code less.
    """
    rows = np.arange(len(found))
    deep = (others <= k).argmax(axis=1)  # exists: tuples are unique, so others is 0 at depth K
    sure, n_sure = found[rows, deep], others[rows, deep]
    ring = np.maximum(deep - 1, 0)
    n_tied = others[rows, ring] - n_sure
    tied = found[rows, ring] - sure
    drawn = (k - n_sure) / np.maximum(n_tied, 1)  # at depth 0, all items are near and n_tied is 0
    return sure + tied * drawn
