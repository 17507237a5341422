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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer.semantic_id_trie import SemanticIDTrie

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
        mean_rank: K means, over the items of `moved_per_level`, of the number of codes that precede
            the new one in the item's order (1 for the second nearest); 0.0 if no item changed.
        added_distance: mean increase of the squared distance summed over the levels, over the moved
            items that `without_codeword` does not count; 0.0 if there are none.
        without_codeword: number of moved items whose old or new tuple has a code without a
            codeword, so that the increase is not finite.
    """

    codes: np.ndarray = field(repr=False)
    collisions: int
    moved: int
    moved_per_level: list[int]
    mean_rank: list[float]
    added_distance: float
    without_codeword: int

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
        ValueError: the shapes or values of the arguments do not fit together.
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
    source = _DistanceReader(distances, sizes)
    ranked = _ranked(contested, codes, source, items)
    of_tuple = group[ranked]
    moving = ranked[(_running_count(of_tuple) > 0) | is_taken[of_tuple]]

    tree = SemanticIDTrie(sizes)
    tree.add(every[first])
    result = codes.copy()
    tally = _MoveStatistics(len(sizes))
    queue = moving
    for level in reversed(range(len(sizes))):
        queue = _phase(level, queue, result, tree, source, tally)
    assert not len(queue), "the room was counted before"
    return Reallocation(
        codes=result,
        collisions=n_items - int((members > 0).sum()),
        moved=len(moving),
        moved_per_level=tally.changed.tolist(),
        mean_rank=(tally.ranks / np.maximum(tally.changed, 1)).tolist(),
        added_distance=tally.added / max(tally.measured, 1),
        without_codeword=len(moving) - tally.measured,
    )


def _checked(codes: np.ndarray, sizes: tuple[int, ...], name: str) -> np.ndarray:
    """Return the codes as int64 [n, K], checked against the codebook sizes."""
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
    """Number the distinct rows. Return each row's group number [n] and a row of each group."""
    group, first = np.zeros(len(codes), dtype=np.int64), np.empty(0, dtype=np.int64)
    # Level by level, because the number of tuples may exceed 64 bits.
    for level, size in enumerate(sizes):
        keys = group * size + codes[:, level]
        _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return group, first


def _ranked(
    rows: np.ndarray, codes: np.ndarray, source: _DistanceReader, items: Sequence[str]
) -> np.ndarray:
    """Sort the rows by the distance to their own last-level codeword, ties by token."""
    own = [
        source.level(source.ask(part), -1)[np.arange(len(part)), codes[part, -1]]
        for part in source.chunks(rows)
    ]
    # Object dtype, because NumPy's string dtype drops trailing null characters.
    tokens = np.array([items[row] for row in rows.tolist()], dtype=object)
    by_token = np.argsort(tokens, kind="stable")
    distance = np.concatenate([np.empty(0), *own])
    return rows[by_token[np.argsort(distance[by_token], kind="stable")]]


def _phase(
    start: int,
    queue: np.ndarray,
    result: np.ndarray,
    tree: SemanticIDTrie,
    source: _DistanceReader,
    tally: _MoveStatistics,
) -> np.ndarray:
    """Place the items that find room below their first `start` codes; return the others.

    Items are placed chunk by chunk, and within a chunk level by level. This equals placing them one
    by one: an item uses one place of each subtree that it enters, whichever codes it takes below.
    At each level, the choices depend only on the numbers of places left.
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
    """Choose the codes of one level for moved items, as if one after another, below G subtrees.

    In each round, every waiting item wishes for its nearest code with room. In each subtree, the
    wishes are final up to the first item whose code is filled by the items before it; the others
    wait. Each round fills a code in every subtree with waiting items, so there are at most S.

    Args:
        distance: [m, S], distance of each item to each code, in the order of the queue.
        group: int64 [m], subtree of each item, below G; each subtree has room for all its items.
        free: int64 [G, S], number of places of each code; decreased in place.

    Returns:
        Chosen codes, int64 [m].
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
        stop[subtree[refused]] = refused  # in reverse, so that the first refused item is kept
        final = np.arange(len(waiting)) < stop[subtree]
        chosen[waiting[final]] = wish[final]
        np.subtract.at(places, place[final], 1)
        waiting = waiting[~final]
    return chosen


def _running_count(values: np.ndarray) -> np.ndarray:
    """Count the equal values before each value, int64 [n]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))  # the values are not negative
    count = np.empty(len(values), dtype=np.int64)
    count[order] = np.arange(len(values)) - np.repeat(starts, np.diff(starts, append=len(values)))
    return count


class _DistanceReader:
    """Calls `distances` in chunks and checks its results."""

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
        """Return one level [m, S_level] of [m, K, C], padded with infinity if C < S_level."""
        size = self._sizes[level]
        given = asked[:, level, :size]
        if given.shape[1] == size:
            return given
        return np.pad(given, ((0, 0), (0, size - given.shape[1])), constant_values=np.inf)


class _MoveStatistics:
    """Running statistics of the moved items, for `Reallocation`."""

    def __init__(self, n_levels: int) -> None:
        self.changed = np.zeros(n_levels, dtype=np.int64)
        self.ranks = np.zeros(n_levels, dtype=np.int64)
        self.added = 0.0
        self.measured = 0

    def add(self, distances: list[np.ndarray], old: np.ndarray, new: np.ndarray) -> None:
        """Add moved items.

        Args:
            distances: K arrays [m, S_k].
            old: codes [m, K] before.
            new: codes [m, K] after.
        """
        row = np.arange(len(old))
        increase = np.zeros(len(old))
        for level, distance in enumerate(distances):
            before, after = (distance[row, codes[:, level]] for codes in (old, new))
            with np.errstate(invalid="ignore"):  # infinity minus infinity
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
