"""Collision reallocation of Q-BERT4Rec and MQL4GRec: give each item a unique semantic ID.

Shapes: N items, M taken tuples, K levels, C codes of the largest level, S_k codes of level k;
levels count from 0. D is the distance tensor of Q-BERT4Rec, equation 10: `D[i, k, c]` is the
squared distance between codeword c of level k and the residual of item i that enters level k. An
item's *order* at level k lists the S_k codes by increasing D, the lower code first among equals.
Codes without a codeword are infinitely far and come last.

The rule (paper section 3.4, "Handling collisions"):

1. Items that share a tuple are ranked by the distance to their own last-level codeword, ties by
   item token. The first keeps the tuple, unless the tuple is in `taken`; the others are *moved
   items*. An item whose tuple is neither shared nor taken keeps it.
2. All moved items form one queue in that same rank, whatever their tuple. The queue goes through K
   phases, of levels k = K-1, K-2, ..., 0. In each phase the items are placed one after another. An
   item keeps its codes of levels 0 to k-1. At level k it takes the first code of its order whose
   subtree has a free tuple; within that subtree, at level k+1, again the first code whose subtree
   has one; and so on to level K-1. If nothing is free below its first k codes, the item waits for
   the next phase. A tuple is free if no item that stays, no item moved before, and no row of
   `taken` has it.

Therefore a moved item changes only its last code if its prefix has a free one, and the highest
level that changes is as deep as possible. An item whose prefix is full takes a place under another
prefix only after the moved items of that prefix. As in MQL4GRec, the distances of the levels after
a changed one are not recomputed: each order is that of the item's greedy path.

The result depends on the set of (token, codes, distances), not on the order of the rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted
from recbole_qbert.data.codec import level_letters

Distances = Callable[[np.ndarray], np.ndarray]

# Number of distances in memory: 64 MiB as float32, or 16,384 rows of 4 levels with 256 codes.
_CHUNK_VALUES = 1 << 24


@dataclass(frozen=True)
class Reallocation:
    """Unique codes, and statistics of the moved items.

    Attributes:
        codes: int64 [N, K], unique rows, none of them in `taken`.
        collisions: N minus the number of distinct tuples, before reallocation.
        moved: number of items whose tuple changed; without `taken`, this equals `collisions`, the
            minimum.
        moved_per_level: K counts of items whose code of that level changed.
    """

    codes: np.ndarray = field(repr=False)
    collisions: int
    moved: int
    moved_per_level: list[int]

    def report(self) -> dict[str, Any]:
        """Return all attributes except the codes, for a sidecar."""
        return {key: value for key, value in asdict(self).items() if key != "codes"}


def reallocate(
    codes: np.ndarray,
    distances: Distances,
    codebook_sizes: Sequence[int],
    items: Sequence[str],
    taken: np.ndarray | None = None,
) -> Reallocation:
    """Move the fewest items so that no two share a tuple; see the module docstring for the rule.

    Args:
        codes: int64 [N, K].
        distances: maps row numbers int64 [m] to D of these rows, float [m, K, C]. Codes beyond its
            last axis are infinitely far; columns beyond S_k are ignored. It is called in chunks,
            only for rows that collide, and for some rows more than once.
        codebook_sizes: S_k, K of them; each code is below its level's size.
        items: N distinct tokens, which break ties.
        taken: int64 [M, K], tuples that no item may have, such as those of earlier items.

    Raises:
        InputError: the codebooks have fewer tuples than N plus the distinct tuples in `taken`.
    """
    sizes = tuple(codebook_sizes)
    n_items = len(codes)
    every = codes if taken is None else np.concatenate([codes, taken])
    group = _group(every)
    _, first = np.unique(group, return_index=True)
    members = np.bincount(group[:n_items], minlength=len(first))
    is_taken = np.isin(np.arange(len(first)), group[n_items:])
    _check_room(n_items, int(is_taken.sum()), sizes)

    contested = np.flatnonzero(((members > 1) | is_taken)[group[:n_items]])
    ranked = _ranked(contested, codes, distances, sizes, items)
    of_tuple = group[ranked]
    queue = ranked[pd.Series(of_tuple).duplicated().to_numpy() | is_taken[of_tuple]]
    moved = len(queue)

    result, in_use = codes.copy(), every[first]
    for level in reversed(range(len(sizes))):
        if not len(queue):
            break
        used = _prefix_counts(in_use, codes[queue], level)
        queue, placed = _with_room(queue, codes, level, used, sizes)
        for rows in _chunks(placed, sizes):
            by_level = _by_level(distances, rows, sizes)
            result[rows] = _place(codes[rows], by_level, level, used, sizes)
        in_use = np.concatenate([in_use, result[placed]])
    return Reallocation(
        codes=result,
        collisions=n_items - int((members > 0).sum()),
        moved=moved,
        moved_per_level=(result != codes).sum(axis=0).tolist(),
    )


def _check_room(n_items: int, n_taken: int, sizes: tuple[int, ...]) -> None:
    places = math.prod(sizes)
    if n_items + n_taken > places:
        others = f" and {n_taken} tuples in use" if n_taken else ""
        raise InputError(
            f"{counted(n_items, 'item')}{others} exceed the {counted(places, 'tuple')} of codebook "
            f"sizes {' x '.join(map(str, sizes))}; increase codebook_size or n_levels"
        )


def _group(codes: np.ndarray) -> np.ndarray:
    """Number the distinct rows of codes [n, k] from 0; return the number of each row, int64 [n]."""
    if not codes.shape[1]:
        return np.zeros(len(codes), dtype=np.int64)
    grouped = pd.DataFrame(codes).groupby(list(range(codes.shape[1])), sort=False)
    return grouped.ngroup().to_numpy(dtype=np.int64)


def _ranked(
    rows: np.ndarray,
    codes: np.ndarray,
    distances: Distances,
    sizes: tuple[int, ...],
    items: Sequence[str],
) -> np.ndarray:
    """Sort the rows by the distance to their own last-level codeword, ties by token."""
    keys = []
    for part in _chunks(rows, sizes):
        last = _by_level(distances, part, sizes)[-1]
        own = last[np.arange(len(part)), codes[part, -1]].tolist()
        keys += [(each, items[row], row) for each, row in zip(own, part.tolist(), strict=True)]
    return np.array([row for *_, row in sorted(keys)], dtype=np.int64)


def _prefix_counts(in_use: np.ndarray, queued: np.ndarray, level: int) -> Counter[tuple[int, ...]]:
    """Count the tuples in use below each prefix of at least `level` codes.

    Only tuples that share their first `level` codes with a queued item are counted.
    """
    group = _group(np.concatenate([in_use, queued])[:, :level])
    near = in_use[np.isin(group[: len(in_use)], group[len(in_use) :])]
    counts: Counter[tuple[int, ...]] = Counter()
    for depth in range(level, in_use.shape[1] + 1):
        counts.update(map(tuple, near[:, :depth].tolist()))
    return counts


def _with_room(
    queue: np.ndarray,
    codes: np.ndarray,
    level: int,
    used: Counter[tuple[int, ...]],
    sizes: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Split the queue into items whose first `level` codes have no free tuple, and the others."""
    room = math.prod(sizes[level:])
    fits = np.zeros(len(queue), dtype=np.bool_)
    for place, prefix in enumerate(map(tuple, codes[queue, :level].tolist())):
        if used[prefix] < room:
            used[prefix] += 1
            fits[place] = True
    return queue[~fits], queue[fits]


def _place(
    codes: np.ndarray,
    by_level: list[np.ndarray],
    start: int,
    used: Counter[tuple[int, ...]],
    sizes: tuple[int, ...],
) -> np.ndarray:
    """Place items one after another, below their first `start` codes; return the codes [m, K]."""
    new = codes.copy()
    orders = [np.argsort(distance, axis=1, kind="stable") for distance in by_level[start:]]
    for row in range(len(codes)):
        prefix = tuple(codes[row, :start].tolist())
        for level, order in enumerate(orders, start):
            room = math.prod(sizes[level + 1 :])
            fitting = (c for c in order[row].tolist() if used.get((*prefix, c), 0) < room)
            prefix = (*prefix, next(fitting))
            used[prefix] += 1
        new[row] = prefix
    return new


def _chunks(rows: np.ndarray, sizes: tuple[int, ...]) -> Iterator[np.ndarray]:
    step = max(1, _CHUNK_VALUES // (len(sizes) * max(sizes)))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _by_level(distances: Distances, rows: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Return the distances of rows [m] at each level, K arrays [m, S_k]."""
    every = distances(rows)
    lacking = max(0, max(sizes) - every.shape[2])
    every = np.pad(every, ((0, 0), (0, 0), (0, lacking)), constant_values=np.inf)
    return [every[:, level, :size] for level, size in enumerate(sizes)]


def extra_level(
    codes: np.ndarray, codebook_sizes: Sequence[int], items: Sequence[str]
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Append a level that counts the items of each tuple: 0, 1, 2, ... by sorted token.

    Args:
        codes: int64 [N, K].
        codebook_sizes: K sizes.
        items: N sortable, distinct names.

    Returns:
        Codes [N, K + 1] and K + 1 sizes, the last one the number of items of the largest group;
        both unchanged if no tuple repeats.
    """
    by_name = pd.Series(_group(codes), index=list(items)).sort_index()
    place = by_name.groupby(by_name).cumcount().loc[list(items)].to_numpy(dtype=np.int64)
    if not place.any():
        return codes, tuple(codebook_sizes)
    return np.column_stack([codes, place]), (*codebook_sizes, int(place.max()) + 1)


def extra_level_report(before: Sequence[int], after: Sequence[int]) -> dict[str, Any] | None:
    """Describe the level that `extra_level` appended to codebook sizes; None if it did not."""
    if len(after) == len(before):
        return None
    return {"level": level_letters(len(before)), "codebook_size": after[-1]}


def usage_distances(
    codes: np.ndarray, codebook_sizes: Sequence[int], rows: np.ndarray
) -> np.ndarray:
    """Substitute the distances of eq. 10 by code frequencies, if only codes are known.

    An item's own code has distance 0. Any other code has a distance of 1 plus its frequency: the
    rarest code is nearest, because it relates the item to the fewest others.

    Args:
        codes: int64 [N, K].
        codebook_sizes: K sizes.
        rows: int64 [m], the items to compute.

    Returns:
        float32 [m, K, C], infinite where a level has fewer than C codes.
    """
    n_levels, widest = len(codebook_sizes), max(codebook_sizes)
    usage = np.full((n_levels, widest), np.inf, dtype=np.float32)
    for level, size in enumerate(codebook_sizes):
        usage[level, :size] = 1 + np.bincount(codes[:, level], minlength=size)
    distances = np.repeat(usage[None], len(rows), axis=0)
    distances[np.arange(len(rows))[:, None], np.arange(n_levels), codes[rows]] = 0
    return distances
