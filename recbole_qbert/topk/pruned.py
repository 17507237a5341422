"""Search with upper bounds (`pruned`): items sorted once, queries prepared, one thread per part.

Shapes: B queries, K levels, C codes, N items, D hidden, H numbers of 8 bits.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch

from recbole_qbert.topk.compiled import (
    Candidates,
    Queries,
    SortedItems,
    score_pairs,
    search,
)

HEAD = 32  # numbers of 8 bits for a row: components, and the length of the others
# Items of an average run of two levels and of one; where there are fewer, a run is of fewer levels.
TWO_LEVELS, ONE_LEVEL = 8, 1024
# Codes, of all items and queries, that one thread searches in less time than several need. A row
# counts as so many codes.
ALONE, ROW = 1 << 23, 16
ROUNDING = 4e-6  # of the largest sum: bound of the error of float32 sums

_NONE = np.empty(0, np.float32)
_NO_COUNT = np.empty(0, np.int64)
Pairs = tuple[np.ndarray, np.ndarray]  # query numbers and items


class PrunedItems:
    """Items sorted for the search.

    Args:
        codes: [N, K], an unsigned or int32 type.
        n_codes: C, more than the largest code.
        norms: [N], positive; None if scores are not divided.
        rows: float32 [N, D]; None if items have no rows of their own.
        terms: float32 [N], added to the scores; None for none.
    """

    def __init__(
        self,
        codes: np.ndarray,
        n_codes: int,
        norms: np.ndarray | None,
        rows: np.ndarray | None,
        terms: np.ndarray | None,
    ):
        n_items, n_levels = codes.shape
        two = n_levels > 1 and n_items >= TWO_LEVELS * n_codes**2
        one = n_items >= ONE_LEVEL * n_codes
        self.n_prefix = 2 if two else int(one)
        n_seconds = n_codes if two else 1
        n_runs = n_codes**self.n_prefix
        runs = np.zeros(n_items, np.min_scalar_type(n_runs))
        for own in codes.T[: self.n_prefix]:
            runs = runs * runs.dtype.type(n_codes) + own.astype(runs.dtype)
        places = runs.argsort(kind="stable").astype(np.int32)
        starts = np.zeros(n_runs + 1, np.int64)
        np.bincount(runs, minlength=n_runs).cumsum(out=starts[1:])
        by_place = np.empty((n_levels, n_items), codes.dtype)
        for level, own in enumerate(by_place):
            np.take(codes[:, level], places, out=own)
        norms = _NONE if norms is None else norms[places]
        terms = _NONE if terms is None else terms[places]
        offsets = terms * norms if terms.size and norms.size else terms
        lengths = _NONE
        heads = np.empty((0, 0), np.int8)
        self.basis = np.empty((0, 0), np.float32)
        if rows is not None:
            # Principal axes of the rows, so that few components hold most of a row's length.
            self.basis = np.linalg.eigh((rows.T @ rows).astype(np.float64))[1][:, ::-1]
            self.basis = np.ascontiguousarray(self.basis, dtype=np.float32)
            lengths, heads, self.steps = _components(rows, self.basis, places)
        self.sorted = SortedItems(
            items=places,
            codes=by_place,
            starts=starts,
            n_seconds=n_seconds,
            norms=norms,
            least_norms=_by_run(np.minimum, norms, starts),
            most_norms=_by_run(np.maximum, norms, starts),
            terms=terms,
            offsets=offsets,
            most_offsets=_by_run(np.maximum, offsets, starts),
            lengths=lengths,
            most_lengths=_by_run(np.maximum, lengths, starts),
            heads=heads,
            rows=np.empty((0, 0), np.float32) if rows is None else np.ascontiguousarray(rows),
        )
        self.largest = [float(each.max()) if each.size else 1.0 for each in (norms, lengths)]
        self.largest_offset = float(np.abs(terms).max(initial=0)) * self.largest[0]

    def search(
        self,
        scores: np.ndarray,
        vectors: np.ndarray,
        k: int,
        excluded: Pairs,
        allowed: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and items [B, k], best first; -inf and -1 after the last candidate.

        Args:
            scores: float32 [B, K + 1, C] of the codes; the last level is 0.
            vectors: float32 [B, D].
            k: number of items.
            excluded: query numbers [S], ascending, and items [S], ascending within a query.
            allowed: bool [N], or None.
        """
        queries = self._prepare(scores, vectors)
        starts = np.searchsorted(excluded[0], np.arange(len(scores) + 1))
        mask = np.empty(0, bool) if allowed is None else allowed
        bounds = np.full(len(scores), -np.inf, np.float32)
        n_threads, n_shards = self._threads(len(scores))
        values = np.full((n_shards, len(scores), k), -np.inf, np.float32)
        best = np.full((n_shards, len(scores), k), -1, np.int64)
        found = [
            Candidates(starts, excluded[1], mask, bounds, *each, n_reached=_NO_COUNT)
            for each in zip(values, best, strict=True)
        ]
        self._run(queries, found, n_threads)
        if n_shards == 1:
            return values[0], best[0]
        all_values, all_items = np.concatenate(values, axis=1), np.concatenate(best, axis=1)
        order = np.lexsort((all_items, -all_values))[:, :k]
        return np.take_along_axis(all_values, order, 1), np.take_along_axis(all_items, order, 1)

    def count(
        self, scores: np.ndarray, vectors: np.ndarray, targets: np.ndarray, pairs: Pairs
    ) -> tuple[np.ndarray, np.ndarray]:
        """Count the items whose score is at least that of a target.

        Args:
            scores: see `search`.
            vectors: see `search`.
            targets: [B] items.
            pairs: query numbers [S] and items [S].

        Returns:
            int64 [B], the targets counted; and bool [S], which of the pairs are counted.
        """
        queries = self._prepare(scores, vectors)
        own = score_pairs(self.sorted, queries, np.arange(len(scores)), self._places[targets])
        reaches = score_pairs(self.sorted, queries, pairs[0], self._places[pairs[1]])
        n_threads, n_shards = self._threads(len(scores))
        counts = np.zeros((n_shards, len(scores)), np.int64)
        empty = (np.zeros(len(scores) + 1, np.int64), np.empty(0, np.int64), np.empty(0, bool))
        none = np.full((len(scores), 1), -np.inf, np.float32), np.full((len(scores), 1), -1)
        self._run(queries, [Candidates(*empty, own, *none, each) for each in counts], n_threads)
        return counts.sum(axis=0), reaches >= own[pairs[0]]

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """Place of each item [N]."""
        places = np.empty(len(self.sorted.items), np.int32)
        places[self.sorted.items] = np.arange(len(places), dtype=np.int32)
        return places

    def _threads(self, n_queries: int) -> tuple[int, int]:
        """Return the numbers of threads and of parts of the runs, for queries that are few."""
        n_levels, n_items = self.sorted.codes.shape
        if n_queries * n_items * (n_levels + ROW * bool(self.basis.size)) <= ALONE:
            return 1, 1
        n_threads = torch.get_num_threads()
        return n_threads, -(-n_threads // n_queries)

    def _run(self, queries: Queries, found: list[Candidates], n_threads: int) -> None:
        """Search for all queries; `found` has one entry for each part of the runs."""
        n_queries = len(queries.scores)
        cuts = np.linspace(0, n_queries, min(n_threads, n_queries) + 1).astype(int).tolist()
        tasks = [
            (self.sorted, queries, own, first, end, shard, len(found))
            for shard, own in enumerate(found)
            for first, end in pairwise(cuts)
        ]
        if len(tasks) == 1:
            search(*tasks[0])
        else:
            list(_pool(n_threads, os.getpid()).map(lambda task: search(*task), tasks))

    def _prepare(self, scores: np.ndarray, vectors: np.ndarray) -> Queries:
        most, first = scores.max(axis=2), self.n_prefix
        n_queries, n_levels = len(most), most.shape[1] - 1
        n_fours = -(-(n_levels - first) // 4)
        order = np.full((n_queries, 4 * n_fours), n_levels)
        order[:, : n_levels - first] = first + np.argsort(-most[:, first:n_levels], axis=1)
        sums = np.take_along_axis(most, order, axis=1).reshape(n_queries, n_fours, 4).sum(axis=2)
        rests = np.zeros((n_queries, n_fours + 1), np.float32)
        rests[:, :-1] = sums[:, ::-1].cumsum(axis=1)[:, ::-1]
        lengths = np.linalg.norm(vectors, axis=1)
        largest = np.abs(scores).max(axis=2).sum(axis=1) + lengths * sum(self.largest)
        largest += self.largest_offset
        groups = np.zeros((n_queries, 1), np.int64)
        if first:
            groups = np.argsort(-scores[:, 0], axis=1)
        heads, rounding = vectors[:, :0], lengths
        if self.basis.size:
            # PyTorch's product, since NumPy's leaves waiting threads, which slow the search down.
            rotated = (torch.from_numpy(vectors) @ torch.from_numpy(self.basis)).numpy()
            n_parts = len(self.steps) - 1
            tails = np.linalg.norm(rotated[:, n_parts:], axis=1, keepdims=True)
            heads = np.hstack([rotated[:, :n_parts], tails]) * self.steps
            # A component moves by at most half a step; the length of the others is rounded up.
            rounding = np.linalg.norm(heads[:, :-1], axis=1) * np.float32(0.5 * n_parts**0.5)
        return Queries(
            scores=scores,
            n_prefix=first,
            groups=groups,
            order=order,
            rests=rests,
            slack=(ROUNDING * largest).astype(np.float32),
            vectors=vectors,
            lengths=lengths,
            heads=np.ascontiguousarray(heads),
            rounding=rounding,
        )


@functools.cache
def _pool(n_threads: int, process: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a fork does not copy its parent's."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="topk")


def _by_run(reduce: np.ufunc, values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Reduce the values of each run, 0 for an empty run. [G], or empty without values."""
    if not values.size:
        return values
    reduced, full = np.zeros(len(starts) - 1, np.float32), starts[1:] > starts[:-1]
    reduced[full] = reduce.reduceat(values, starts[:-1][full])
    return reduced


def _components(
    rows: np.ndarray, basis: np.ndarray, places: np.ndarray, chunk: int = 1 << 16
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `lengths` and `heads` of `SortedItems`, and the sizes of a unit in `heads` [H]."""
    n_parts = min(HEAD - 1, rows.shape[1])
    lengths = np.empty(len(rows), np.float32)
    heads = np.empty((len(rows), n_parts + 1), np.int8)
    step = tail_step = np.float32(0)
    chunks = [slice(first, first + chunk) for first in range(0, len(rows), chunk)]
    for part in chunks:
        rotated = rows[part] @ basis
        tails = np.linalg.norm(rotated[:, n_parts:], axis=1)
        step = max(step, np.abs(rotated[:, :n_parts]).max())
        tail_step = max(tail_step, tails.max())
    # Units of one size for all items, so that a bound reads nothing but the item's 8-bit numbers.
    steps = np.full(n_parts + 1, max(step / 127, 1e-30), np.float32)
    steps[-1] = max(tail_step / 126, 1e-30)
    for part in chunks:
        own = rows[places[part]]
        rotated = own @ basis
        lengths[part] = np.linalg.norm(own, axis=1)
        heads[part, :-1] = np.rint(rotated[:, :n_parts] / steps[0])
        heads[part, -1] = np.ceil(np.linalg.norm(rotated[:, n_parts:], axis=1) / steps[-1])
    return lengths, heads, steps
