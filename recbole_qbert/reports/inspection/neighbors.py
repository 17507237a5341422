"""Nearest items by code and by embedding, and the agreement of both.

Shapes: N items of the catalog, n of them with an embedding of dimension D, K levels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted
from recbole_qbert.data.codec import IntArray
from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.reports.inspection.catalog import (
    Catalog,
    ItemGroup,
    positions,
    printable,
    spread,
)
from recbole_qbert.reports.page import Example, ItemCard, ItemList

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
            f"{path}: {counted(len(rows), 'item')} of {catalog.name} with a vector that is not "
            "zero; nearest items need at least two"
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


def example(catalog: Catalog, spaces: Sequence[Space], row: int) -> Example:
    """Find the nearest items of one item by code and by each embedding.

    By code are items with a common prefix, ordered by its length, then by the number of equal
    codes. The notes of items are the cosine (by embedding) and the number of shared leading codes.
    """
    equal = catalog.codes == catalog.codes[row]
    shared = np.cumprod(equal, axis=1).sum(axis=1)

    def cards(rows: IntArray, cosines: Iterable[str]) -> tuple[ItemCard, ...]:
        return tuple(
            ItemCard(
                catalog.items[one], catalog.title(one), f"{cosine}{shared[one]}/{catalog.n_levels}"
            )
            for one, cosine in zip(rows.tolist(), cosines, strict=True)
        )

    # The sort is stable, so equally near items remain ordered by their codes.
    order = np.lexsort((-equal.sum(axis=1), -shared))
    order = order[(order != row) & (shared[order] > 0)][:N_SHOWN]
    nearest = cards(order, [""] * len(order))
    lists = [ItemList("by code", nearest, "no other item shares its first code")]
    for space in spaces:
        found: tuple[ItemCard, ...] = ()
        place = int(np.searchsorted(space.rows, row))
        if place < len(space.rows) and space.rows[place] == row:
            with threadpool_limits(1):
                cosines = space.vectors @ space.vectors[place]
            order = np.argsort(-cosines, kind="stable")
            order = order[order != place][:N_SHOWN]
            found = cards(space.rows[order], [f"{cosine:.2f}  " for cosine in cosines[order]])
        lists.append(ItemList(f"by {space.name}", found, "no embedding"))
    counts = [int((shared > depth).sum()) - 1 for depth in range(catalog.n_levels)]
    pairs = zip(catalog.depth_names, counts, strict=True)
    sharing = ", ".join(f"{names}: {count:,}" for names, count in pairs if count)
    token = f" [{printable(catalog.items[row])}]" if catalog.titles else ""
    return Example(
        title=f"{catalog.title(row)}{token}",
        text=f"other items that share {sharing}" if sharing else lists[0].missing,
        lists=tuple(lists),
        item=catalog.items[row],
        codes=catalog.codes_text(row),
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
