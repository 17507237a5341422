"""Compiled search of `pruned`: loops over sorted items that skip what cannot be among the best k.

Items lie in runs of equal leading codes. An upper bound of a run is the score of these codes and
the highest score of every other level. What passes is scored in blocks: four levels at a time, in
descending order of their highest score, until few items can still pass. The remaining ones are
scored exactly, levels in their own order.

With norms, an item passes if its sum of code scores is at least the k-th best score times its norm.
A term that is added to the score of an item counts as the term times its norm in that sum.
With rows, the length of an item's row bounds its product with the query. A tighter bound, for items
that pass this one, multiplies the leading principal components of the row, in 8 bits, and the
length of what is left of the row.

All bounds are lowered or raised by `slack`, so that rounding excludes no item. Functions that are
called for each run or item take arrays: passing a tuple of arrays takes as long as scoring an item.

Shapes: B queries, K levels, C codes, N items, G runs, D hidden, H numbers of 8 bits, S groups of
four levels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

BLOCK = 1024  # items scored together; their partial sums stay in the cache
FEW = 64  # a block is scored exactly as soon as at most one of so many items can pass

_compile = njit(nogil=True, cache=True, error_model="numpy")
# Sums in any order, so that the compiler can use vector instructions.
_compile_product = njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})


class SortedItems(NamedTuple):
    """Items in the order of their leading codes. Fields that a catalog does not have are empty."""

    items: np.ndarray  # [N] item at each place
    codes: np.ndarray  # [K, N] by place
    starts: np.ndarray  # [G + 1] first place of each run
    n_seconds: int  # runs with one first code: codes of the second level, or 1
    norms: np.ndarray  # [N] by place
    least_norms: np.ndarray  # [G]
    most_norms: np.ndarray  # [G]
    terms: np.ndarray  # [N] added to the scores, by place
    offsets: np.ndarray  # [N] terms times norms, by place
    most_offsets: np.ndarray  # [G]
    lengths: np.ndarray  # [N] lengths of the rows, by place
    most_lengths: np.ndarray  # [G]
    heads: np.ndarray  # int8 [N, H] components of the rows, by place, and the length of the others
    rows: np.ndarray  # [N, D] by item


class Queries(NamedTuple):
    """Scores of codes, and what bounds need."""

    scores: np.ndarray  # [B, K + 1, C]; the last level is 0
    n_prefix: int  # levels of a run: 0, 1 or 2
    groups: np.ndarray  # [B, C] first codes by descending score, or [B, 1] if a run has no levels
    order: np.ndarray  # [B, 4 * S] levels after those of a run by descending maximum, then K
    rests: np.ndarray  # [B, S + 1] sum of the maxima from each group of four levels on
    slack: np.ndarray  # [B]
    vectors: np.ndarray  # [B, D]
    lengths: np.ndarray  # [B] lengths of the vectors
    heads: np.ndarray  # [B, H] factors of the `heads` of items
    rounding: np.ndarray  # [B] most that rounding to 8 bits changes their product


class Candidates(NamedTuple):
    """Restrictions of the items, and the best so far."""

    excluded_starts: np.ndarray  # [B + 1]
    excluded: np.ndarray  # items, ascending within each query
    allowed: np.ndarray  # bool [N] by item, or empty
    bounds: np.ndarray  # [B] score that k items reach, shared by the threads of a query
    values: np.ndarray  # [B, k] descending
    best: np.ndarray  # [B, k] their items
    n_reached: np.ndarray  # [B] items that reach `bounds`; empty if the best are searched


@_compile
def search(
    items: SortedItems,
    queries: Queries,
    found: Candidates,
    first: int,
    end: int,
    shard: int,
    n_shards: int,
) -> None:
    """Search one of `n_shards` parts of the runs for each query from `first` to `end`.

    If `n_reached` is not empty, items are counted and not inserted, and restrictions are ignored.
    """
    buffer, margins = np.empty(BLOCK, np.float32), np.empty(items.n_seconds, np.float32)
    for row in range(first, end):
        for group in queries.groups[row, shard::n_shards]:
            _search_group(items, queries, found, row, group, buffer, margins)


@_compile
def _search_group(
    items: SortedItems,
    queries: Queries,
    found: Candidates,
    row: int,
    group: int,
    buffer: np.ndarray,
    margins: np.ndarray,
) -> None:
    """Search the runs that share a first code, adjacent ones in one block."""
    starts, norms, lengths, offsets = items.starts, items.norms, items.lengths, items.offsets
    scores, length, n_runs = queries.scores[row], queries.lengths[row], margins.size
    base = scores[0 if queries.n_prefix else -1, group]
    seconds = scores[1 if queries.n_prefix > 1 else -1]
    bound = max(found.values[row, -1], found.bounds[row])
    first = group * n_runs
    most = base + queries.rests[row, 0] + queries.slack[row]
    run_norms = items.least_norms if bound > 0 else items.most_norms
    _fill(margins, most, bound, run_norms[first : first + n_runs])
    _add(margins, length, items.most_lengths[first : first + n_runs])
    _add(margins, np.float32(1), items.most_offsets[first : first + n_runs])
    start = end = starts[first]  # of the block
    for second in range(n_runs):
        if margins[second] + seconds[second] < 0:
            continue
        place, run_end = starts[first + second], starts[first + second + 1]
        while place < run_end:
            if end - start == BLOCK or end != place:
                bound = _search_block(items, queries, found, row, start, buffer[: end - start])
                start = end = place
            taken = min(run_end - place, BLOCK - (end - start))
            block = buffer[end - start : end - start + taken]
            _fill(block, base + seconds[second], bound, norms[place : place + taken])
            _add(block, length, lengths[place : place + taken])
            _add(block, np.float32(1), offsets[place : place + taken])
            end += taken
            place += taken
    _search_block(items, queries, found, row, start, buffer[: end - start])


@_compile
def _fill(block: np.ndarray, score: np.float32, bound: np.float32, norms: np.ndarray) -> None:
    """Write a score, minus the sum that each item needs to pass."""
    if norms.size:
        for i in range(block.size):
            block[i] = score - bound * norms[i]
    else:
        block[:] = score - bound


@_compile
def _add(block: np.ndarray, factor: np.float32, numbers: np.ndarray) -> None:
    """Add a multiple of each item's number, if there are numbers."""
    for i in range(numbers.size):
        block[i] += factor * numbers[i]


@_compile
def _search_block(
    items: SortedItems,
    queries: Queries,
    found: Candidates,
    row: int,
    start: int,
    block: np.ndarray,
) -> np.float32:
    """Score a block's items as far as they can pass, insert or count them; return the new bound."""
    scores, slack, rests = queries.scores[row], queries.slack[row], queries.rests[row]
    codes, norms, lengths = items.codes, items.norms, items.lengths
    rest = _add_levels(codes, scores, queries.order[row], rests, slack, start, block)
    limit = -rest - slack
    values, best = found.values[row], found.best[row]
    excluded = found.excluded[found.excluded_starts[row] : found.excluded_starts[row + 1]]
    heads, head, rounding = items.heads, queries.heads[row], queries.rounding[row]
    numbers, allowed = items.items, found.allowed
    rows, vector, length = items.rows, queries.vectors[row], queries.lengths[row]
    terms = items.terms
    n_reached, bound = found.n_reached, found.bounds[row]
    picks = _pick(block, limit)
    if lengths.size:
        # Without branches, so that the processor reads several items at once.
        for i in picks:
            most = _product(heads, start + i, head) + rounding
            block[i] += most - length * lengths[start + i]
    for i in picks:
        place = start + i
        item = numbers[place]
        if block[i] < limit or (allowed.size and not allowed[item]):
            continue
        score = _score(codes, scores, norms, terms, rows, vector, item, place)
        if n_reached.size:
            n_reached[row] += score >= bound
        elif _is_better(score, item, values[-1], best[-1]) and not _contains(excluded, item):
            _insert(values, best, score, item)
    bound = max(values[-1], found.bounds[row])
    found.bounds[row] = bound
    return bound


@_compile
def _add_levels(
    codes: np.ndarray,
    scores: np.ndarray,
    order: np.ndarray,
    rests: np.ndarray,
    slack: np.float32,
    start: int,
    block: np.ndarray,
) -> np.float32:
    """Add scores of levels until few items can pass; return the most that the others can add."""
    end, n_levels = start + block.size, len(codes)
    for four in range(rests.size - 1):
        # The last level of `scores`, of zeros, may use any codes.
        a, b, c, d = order[4 * four], order[4 * four + 1], order[4 * four + 2], order[4 * four + 3]
        scores_a, scores_b, scores_c, scores_d = scores[a], scores[b], scores[c], scores[d]
        codes_a, codes_b = codes[a % n_levels, start:end], codes[b % n_levels, start:end]
        codes_c, codes_d = codes[c % n_levels, start:end], codes[d % n_levels, start:end]
        for i in range(block.size):
            left = scores_a[codes_a[i]] + scores_b[codes_b[i]]
            block[i] += left + (scores_c[codes_c[i]] + scores_d[codes_d[i]])
        limit = -rests[four + 1] - slack
        n_left = 0
        for i in range(block.size):
            n_left += block[i] >= limit
        if n_left * FEW <= block.size:
            return rests[four + 1]
    return rests[-1]


@_compile
def _pick(block: np.ndarray, limit: np.float32) -> np.ndarray:
    """Return the numbers of the items that can pass."""
    picks, n = np.empty(block.size, np.int64), 0
    for i in range(block.size):
        if block[i] >= limit:
            picks[n] = i
            n += 1
    return picks[:n]


@_compile_product
def _product(vectors: np.ndarray, number: int, other: np.ndarray) -> np.float32:
    """Multiply one of the vectors by another."""
    total = np.float32(0)
    for i in range(other.size):
        total += np.float32(vectors[number, i]) * other[i]
    return total


@_compile
def _score(
    codes: np.ndarray,
    scores: np.ndarray,
    norms: np.ndarray,
    terms: np.ndarray,
    rows: np.ndarray,
    vector: np.ndarray,
    item: int,
    place: int,
) -> np.float32:
    """Score an item exactly, levels in their order."""
    total = np.float32(0)
    for level in range(len(codes)):
        total += scores[level, codes[level, place]]
    if rows.size:
        total += _product(rows, item, vector)
    if norms.size:
        total /= norms[place]
    if terms.size:
        total += terms[place]
    return total


@_compile
def score_pairs(
    items: SortedItems, queries: Queries, rows: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Score pairs of a query [S] and the place of an item [S] as `search` does. float32 [S]"""
    found = np.empty(len(rows), np.float32)
    for i in range(len(rows)):
        row, place = rows[i], places[i]
        found[i] = _score(
            items.codes,
            queries.scores[row],
            items.norms,
            items.terms,
            items.rows,
            queries.vectors[row],
            items.items[place],
            place,
        )
    return found


@_compile
def _is_better(score: np.float32, item: int, other_score: np.float32, other: int) -> bool:
    """Whether an item ranks before another: by score, then by number."""
    return bool(score > other_score or (score == other_score and item < other))


@_compile
def _contains(ascending: np.ndarray, item: int) -> bool:
    at = np.searchsorted(ascending, item)
    return bool(at < ascending.size and ascending[at] == item)


@_compile
def _insert(values: np.ndarray, best: np.ndarray, score: np.float32, item: int) -> None:
    """Insert an item in the place of the last one."""
    at = values.size - 1
    while at > 0 and _is_better(score, item, values[at - 1], best[at - 1]):
        values[at], best[at] = values[at - 1], best[at - 1]
        at -= 1
    values[at], best[at] = score, item
