"""Give every item a semantic ID of its own: the collision reallocation of Q-BERT4Rec and MQL4GRec.

Shapes: N items, M tuples that are taken already, K levels, C codes of the largest level, S_k codes
of level k; levels count from 0. D is the distance tensor of Q-BERT4Rec, equation 10: `D[i, k, c]`
is the squared distance between codeword c of level k and the residual of item i that enters level
k. An item's *order* at level k lists that level's S_k codes by D, the lower code first among
equals; codes that are infinitely far (they have no codeword) come last.

The rule (paper section 3.4, "Handling collisions"):

1. Items that share a tuple are ranked by the distance to their own last-level codeword, ties by
   item token. The first keeps the tuple, unless the tuple is in `taken`; the others are *movers*.
   An item whose tuple is neither shared nor taken stays as it is.
2. All movers, whatever their tuple, form one queue in that same rank. It goes through K phases, of
   levels k = K-1, K-2, ..., 0, and in each the movers have their turn one after another. A mover
   keeps its own codes of levels 0 to k-1. At level k it takes the first code of its order whose
   subtree has a free tuple, in that subtree at level k+1 again the first code whose subtree has
   one, and so on to level K-1. If nothing is free below its own first k codes, it waits for the
   next phase. A tuple is free if no item that stays, no earlier mover and nothing in `taken` has
   it.

So a mover changes its last code only, where its prefix has a free one; the highest level that
changes is as deep as possible; and a mover whose prefix is full takes a place under another prefix
only after the movers of that prefix have had theirs. As in MQL4GRec, the distances of the levels
after a changed one are not recomputed: every order is that of the item's greedy path.

The result depends on the set of (token, codes, distances), not on the order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer.tuple_tree import TupleTree

Distances = Callable[[np.ndarray], np.ndarray]

# Distances held at a time: 64 MiB as float32, 16,384 rows of 4 levels with 256 codes.
_CHUNK_VALUES = 1 << 24


@dataclass(frozen=True)
class Reallocation:
    """Unique codes, and what they cost.

    Attributes:
        codes: int64 [N, K], unique rows, none of them in `taken`.
        collisions: N less the distinct tuples, before.
        moved: items whose tuple changed; without `taken` this equals `collisions`, the fewest
            possible.
        moved_per_level: K counts of items whose code of that level changed.
        mean_rank: K means, over the items of `moved_per_level`, of the number of codes that precede
            the new one in the item's order: 1 is the next nearest; 0.0 where no item changed.
        added_distance: mean increase of the squared distance summed over the levels, over the moved
            items that `without_codeword` does not count; 0.0 where there are none.
        without_codeword: moved items that have or had a code without a codeword, whose increase is
            therefore not finite.
    """

    codes: np.ndarray = field(repr=False)
    collisions: int
    moved: int
    moved_per_level: list[int]
    mean_rank: list[float]
    added_distance: float
    without_codeword: int

    def report(self) -> dict[str, Any]:
        """Everything but the codes, for a sidecar."""
        return {key: value for key, value in asdict(self).items() if key != "codes"}


def reallocate(
    codes: np.ndarray,
    distances: Distances,
    codebook_sizes: Sequence[int],
    items: Sequence[str],
    taken: np.ndarray | None = None,
) -> Reallocation:
    """Move the fewest items so that no two share a tuple; the module's docstring gives the rule.

    Args:
        codes: int64 [N, K].
        distances: from row numbers int64 [m] to D of just these rows, float [m, K, C]. Codes beyond
            its last axis are infinitely far, columns beyond S_k are ignored. It is asked for rows
            that collide only, in chunks, for some rows more than once.
        codebook_sizes: S_k, K of them; every code is below its level's.
        items: N distinct tokens, which break ties.
        taken: int64 [M, K], tuples that no item may have, such as those of an older file.

    Raises:
        InputError: N items and the distinct tuples in `taken` are more than there are tuples.
        ValueError: the arguments do not belong together.
    """
    sizes = tuple(int(size) for size in codebook_sizes)
    codes = _checked(codes, sizes, "codes")
    taken = _checked(
        np.empty((0, len(sizes)), dtype=np.int64) if taken is None else taken, sizes, "taken"
    )
    if len(items) != len(codes) or len(set(items)) != len(items):
        raise ValueError(f"{len(codes)} rows need as many distinct items, not {len(items)}")

    n_items = len(codes)
    every = np.concatenate([codes, taken])
    group, first = _group(every, sizes)
    members = np.bincount(group[:n_items], minlength=len(first))
    is_taken = np.zeros(len(first), dtype=bool)
    is_taken[group[n_items:]] = True
    _check_room(n_items, int(is_taken.sum()), sizes)

    contested = np.flatnonzero(((members > 1) | is_taken)[group[:n_items]])
    source = _Source(distances, sizes)
    ranked = _ranked(contested, codes, source, items)
    of_tuple = group[ranked]
    movers = ranked[(_running_count(of_tuple) > 0) | is_taken[of_tuple]]

    tree = TupleTree(sizes)
    tree.add(every[first])
    result = codes.copy()
    tally = _Tally(len(sizes))
    queue = movers
    for level in reversed(range(len(sizes))):
        queue = _phase(level, queue, result, tree, source, tally)
    assert not len(queue), "the room was counted before"
    return Reallocation(
        codes=result,
        collisions=n_items - int((members > 0).sum()),
        moved=len(movers),
        moved_per_level=tally.changed.tolist(),
        mean_rank=(tally.ranks / np.maximum(tally.changed, 1)).tolist(),
        added_distance=tally.added / max(tally.measured, 1),
        without_codeword=len(movers) - tally.measured,
    )


def _checked(codes: np.ndarray, sizes: tuple[int, ...], name: str) -> np.ndarray:
    """The codes as int64 [n, K], each within its level."""
    if min(sizes, default=0) < 1 or codes.ndim != 2 or codes.shape[1] != len(sizes):
        raise ValueError(f"{name} {codes.shape} do not belong to codebook sizes {sizes}")
    checked = codes.astype(np.int64, casting="same_kind")
    if ((checked < 0) | (checked >= np.array(sizes))).any():
        raise ValueError(f"{name} hold a code outside the codebook sizes {sizes}")
    return checked


def _check_room(n_items: int, n_taken: int, sizes: tuple[int, ...]) -> None:
    places = math.prod(sizes)
    if n_items + n_taken > places:
        others = f" beside {n_taken} tuples that are taken" if n_taken else ""
        raise InputError(
            f"{n_items} items{others} cannot all differ: codebook sizes "
            f"{' x '.join(map(str, sizes))} make {places} tuples; raise codebook_size or n_levels"
        )


def _group(codes: np.ndarray, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct rows: each row's number [n], and a row of each number."""
    group, first = np.zeros(len(codes), dtype=np.int64), np.empty(0, dtype=np.int64)
    # Level by level, since the number of tuples may exceed 64 bits.
    for level, size in enumerate(sizes):
        keys = group * size + codes[:, level]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return group, first


def _ranked(
    rows: np.ndarray, codes: np.ndarray, source: _Source, items: Sequence[str]
) -> np.ndarray:
    """The rows by the distance to their own last-level codeword, ties by token."""
    own = [
        source.level(source.ask(part), -1)[np.arange(len(part)), codes[part, -1]]
        for part in source.chunks(rows)
    ]
    # Objects, because NumPy's text type drops trailing zero characters.
    tokens = np.array([items[row] for row in rows.tolist()], dtype=object)
    by_token = np.argsort(tokens, kind="stable")
    distance = np.concatenate([np.empty(0), *own])
    return rows[by_token[np.argsort(distance[by_token], kind="stable")]]


def _phase(
    start: int,
    queue: np.ndarray,
    result: np.ndarray,
    tree: TupleTree,
    source: _Source,
    tally: _Tally,
) -> np.ndarray:
    """Place what finds room below its first `start` codes; return the rest of the queue.

    Chunk after chunk, and in a chunk level after level. That equals one mover after another,
    because a mover uses up one place of the subtree it enters whatever it takes further down: at
    each level the turns depend only on how many places the subtrees still have.
    """
    rest = []
    for chunk in source.chunks(queue):
        node, group = np.unique(tree.find(result[chunk, :start]), return_inverse=True)
        fits = _running_count(group) < tree.places[start] - tree.used[start][node][group]
        rest.append(chunk[~fits])
        rows, group = chunk[fits], group[fits]
        if not len(rows):
            continue
        asked = source.ask(rows)
        old, new = result[rows], result[rows]
        for level in range(start, len(tree.sizes)):
            distance = source.level(asked, level)
            new[:, level] = _choose(distance, group, tree.free(level, node))
            child, group = np.unique(group * tree.sizes[level] + new[:, level], return_inverse=True)
            node = tree.child(level, node[child // tree.sizes[level]], child % tree.sizes[level])
        result[rows] = new
        tree.add(new)
        tally.add([source.level(asked, level) for level in range(len(tree.sizes))], old, new)
    return np.concatenate([queue[:0], *rest])


def _choose(distance: np.ndarray, group: np.ndarray, free: np.ndarray) -> np.ndarray:
    """The codes of one level that movers take, one after another, below G subtrees.

    Every mover points to its nearest code with room. Up to the first one, in each subtree, that
    finds its code filled by those before it, all choices are final; then the rest point anew. Each
    such round fills a code of every subtree in which anyone is left, so there are at most S.

    Args:
        distance: [m, S], a mover's distance to each code; movers in their turn.
        group: int64 [m], the subtree of each, below G; it has room for all of its movers.
        free: int64 [G, S], the places of each code; used up on return.

    Returns:
        int64 [m].
    """
    order = np.argsort(distance, axis=1, kind="stable")
    rank = np.zeros(len(order), dtype=np.int64)
    places = free.reshape(-1)
    chosen = np.empty(len(order), dtype=np.int64)
    waiting = np.arange(len(order))
    while len(waiting):
        blocked = waiting
        while len(blocked):
            blocked = blocked[free[group[blocked], order[blocked, rank[blocked]]] == 0]
            rank[blocked] += 1
        wish = order[waiting, rank[waiting]]
        subtree = group[waiting]
        place = subtree * free.shape[1] + wish
        refused = np.flatnonzero(_running_count(place) >= places[place])[::-1]
        stop = np.full(len(free), len(waiting))
        stop[subtree[refused]] = refused  # backwards, so that the first refused one is left
        final = np.arange(len(waiting)) < stop[subtree]
        chosen[waiting[final]] = wish[final]
        np.subtract.at(places, place[final], 1)
        waiting = waiting[~final]
    return chosen


def _running_count(values: np.ndarray) -> np.ndarray:
    """How many equal values stand before each, int64 [n]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))  # the values are not negative
    count = np.empty(len(values), dtype=np.int64)
    count[order] = np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
    return count


class _Source:
    """The distances, asked for in chunks and checked."""

    def __init__(self, distances: Distances, sizes: tuple[int, ...]) -> None:
        self._distances, self._sizes = distances, sizes
        self._rows = max(1, _CHUNK_VALUES // (len(sizes) * max(sizes)))

    def chunks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), self._rows):
            yield rows[start : start + self._rows]

    def ask(self, rows: np.ndarray) -> np.ndarray:
        asked = np.asarray(self._distances(rows))
        if asked.ndim != 3 or asked.shape[:2] != (len(rows), len(self._sizes)):
            raise ValueError(
                f"distances of {len(rows)} rows at {len(self._sizes)} levels are {asked.shape}"
            )
        if np.isnan(asked).any():
            raise ValueError("a distance is not a number")
        return asked

    def level(self, asked: np.ndarray, level: int) -> np.ndarray:
        """[m, S_level] of [m, K, C], infinite where C is smaller."""
        size = self._sizes[level]
        given = asked[:, level, :size]
        if given.shape[1] == size:
            return given
        return np.pad(given, ((0, 0), (0, size - given.shape[1])), constant_values=np.inf)


class _Tally:
    """Sums over the moved items, in the order in which they move."""

    def __init__(self, n_levels: int) -> None:
        self.changed = np.zeros(n_levels, dtype=np.int64)
        self.ranks = np.zeros(n_levels, dtype=np.int64)
        self.added = 0.0
        self.measured = 0

    def add(self, distances: list[np.ndarray], old: np.ndarray, new: np.ndarray) -> None:
        """Count moved items: K arrays [m, S_k], and their codes [m, K] before and after."""
        row = np.arange(len(old))
        increase = np.zeros(len(old))
        for level, distance in enumerate(distances):
            before, after = (distance[row, codes[:, level]] for codes in (old, new))
            with np.errstate(invalid="ignore"):  # infinite on both sides
                increase += after.astype(np.float64) - before
            moved = np.flatnonzero(old[:, level] != new[:, level])
            there, code = distance[moved], new[moved, level][:, None]
            limit = after[moved][:, None]
            precedes = (there < limit) | ((there == limit) & (np.arange(there.shape[1]) < code))
            self.changed[level] += len(moved)
            self.ranks[level] += int(precedes.sum())
        finite = np.isfinite(increase)
        self.added += float(increase[finite].sum())
        self.measured += int(finite.sum())
