"""Exact top-k of items by their semantic IDs, without a score for every item in memory.

The score of an item is the sum of the scores of its codes, plus the product of the query and the
item's row (`hybrid`), divided by the norm of the item's vector (`cosine`), plus a term of the item.
Three methods return the same items, with scores that differ by rounding alone:

    dense    product of the queries and the matrix of item vectors
    codes    sum of code scores, for some items at a time
    pruned   sum of code scores in a compiled loop, which skips items that upper bounds exclude;
             needs numba, and runs on CPUs

Items with equal scores rank by number. Shapes: B queries, K levels, C codes in the largest level,
N items, D hidden.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from recbole_qbert.common.errors import InputError, one_of, whole_number
from recbole_qbert.topk.scan import best_in_parts, parts

if TYPE_CHECKING:
    from recbole_qbert.topk.pruned import PrunedItems

METHODS = ("auto", "dense", "codes", "pruned")
MATRIX = 1 << 24  # numbers of the largest matrix of item vectors that `auto` makes: 64 MiB
PRUNED_K = 1000  # longest list of `pruned`, which inserts items one by one
# A product of matrices takes less time for fewer items than this, and for so many queries at once
# if items have rows.
FEWEST, BATCH = 1 << 15, 8
NORM_FLOOR = 1e-12  # of `torch.nn.functional.normalize`


class ItemIndex:
    """Items by their codes.

    Args:
        codes: [N, K] codes of each level, counted from 0.
        tables: K tensors [C_k, D], the vectors of each level's codes.
        rows: [N, D], a vector of each item's own; None if items have none.
        cosine: divide scores by the norms of the item vectors.
        per_level: an item vector is the concatenation of its code vectors, and a query is
            [B, K * D]. Otherwise an item vector is a sum, and a query is [B, D].
        terms: [N], added to the scores of the items; None for none.

    Raises:
        InputError: a code is out of range, a vector is not finite, or the shapes do not fit.
    """

    def __init__(
        self,
        codes: Tensor,
        tables: Sequence[Tensor],
        rows: Tensor | None = None,
        cosine: bool = False,
        per_level: bool = False,
        terms: Tensor | None = None,
    ):
        sizes = [len(table) for table in tables]
        if codes.ndim != 2 or not len(codes) or codes.size(1) != len(sizes):
            raise InputError(f"codes: {tuple(codes.shape)} is not items x {len(sizes)} levels")
        for level, (own, size) in enumerate(zip(codes.unbind(1), sizes, strict=True), start=1):
            if int(own.min()) < 0 or int(own.max()) >= size:
                raise InputError(f"codes: level {level} is not within 0 to {size - 1}")
        if rows is not None and (per_level or rows.shape != (len(codes), tables[0].size(1))):
            raise InputError("rows: not one vector for each item, of the size of code vectors")
        if terms is not None and terms.shape != (len(codes),):
            raise InputError(f"terms: {tuple(terms.shape)} is not one number for each item")
        if not all(each.isfinite().all() for each in (*tables, *([] if rows is None else [rows]))):
            raise InputError("a vector of a code or an item is not finite: the model has diverged")
        kinds = (torch.uint8, torch.int16, torch.int32)
        kind = next(kind for kind in kinds if max(sizes) <= torch.iinfo(kind).max + 1)
        self.codes = codes.to(kind)
        self.tables = pad_sequence([*tables], batch_first=True).detach().float()  # [K, C, D]
        self.rows = None if rows is None else rows.detach().float()
        self.per_level = per_level
        self.terms = None if terms is None else terms.detach().float()
        self.norms: Tensor | None = None
        if cosine:
            norms = [self._vectors(part).norm(dim=1) for part in self._parts()]
            self.norms = torch.cat(norms).clamp(min=NORM_FLOOR)

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def width(self) -> int:
        """Length of a query."""
        n_levels, _, size = self.tables.shape
        return n_levels * size if self.per_level else size

    @torch.no_grad()
    def top_k(
        self,
        queries: Tensor,
        k: int = 10,
        excluded: tuple[Tensor, Tensor] | None = None,
        allowed: Tensor | None = None,
        method: str = "auto",
    ) -> tuple[Tensor, Tensor]:
        """Return the scores and the numbers of the best k items for each query, best first.

        Args:
            queries: [B, D], or [B, K * D] if `per_level`.
            k: number of items.
            excluded: query numbers [S] and items [S]; pairs may repeat.
            allowed: bool [N], the items that may be returned; default: all.
            method: one of `METHODS`; `auto` chooses by size.

        Returns:
            Scores float32 [B, k] and items int64 [B, k]; -inf and -1 after the last candidate.

        Raises:
            InputError: an argument cannot be used.
        """
        one_of("method", method, METHODS)
        n_found = min(whole_number("k", k), len(self))
        self._check(queries, excluded, allowed)
        queries = queries.float()
        if method == "auto":
            method = self.method_for(len(queries), n_found)
        elif method == "pruned" and not self._compiles():
            warnings.warn(
                "pruned needs numba and a CPU; codes gives the same items (pip install numba)",
                stacklevel=2,
            )
            method = "codes"
        if method == "pruned":
            values, items = self._pruned(queries, n_found, excluded, allowed)
        else:
            score = (self._dense_scores if method == "dense" else self._code_sums)(queries)
            sizes = len(self), len(queries), n_found
            values, items = best_in_parts(score, *sizes, excluded, allowed)
        items = items.masked_fill(values == -torch.inf, -1)
        if n_found == k:
            return values, items
        padding = (0, k - n_found)
        return F.pad(values, padding, value=-torch.inf), F.pad(items, padding, value=-1)

    @torch.no_grad()
    def count_reaching(
        self, queries: Tensor, targets: Tensor, pairs: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Count the items whose score is at least that of each query's target, by `pruned`.

        Args:
            queries: as for `top_k`.
            targets: [B] items.
            pairs: query numbers [S] and items [S].

        Returns:
            int64 [B], the target counted; and bool [S], which of the pairs' items are counted.

        Raises:
            InputError: a query is not finite.
        """
        self._check(queries, pairs, None)
        numbers = (pairs[0].numpy(), pairs[1].numpy())
        queries = queries.float()
        counts, counted = self._sorted.count(
            self._padded_scores(queries), queries.numpy(), targets.numpy(), numbers
        )
        return torch.from_numpy(counts), torch.from_numpy(counted)

    def method_for(self, n_queries: int, k: int) -> str:
        """Return what `auto` chooses; measured with `python -m benchmarks topk`."""
        dense = len(self) * self.width <= MATRIX
        if self._compiles() and k <= PRUNED_K:
            small = len(self) < FEWEST or (self.rows is not None and n_queries >= BATCH)
            return "dense" if dense and small else "pruned"
        return "dense" if dense else "codes"

    def code_scores(self, queries: Tensor) -> Tensor:
        """Return the scores of all codes, [B, K, C]; 0 where a level has fewer than C codes."""
        if self.per_level:
            parts = queries.view(len(queries), *self.tables.shape[::2]).transpose(0, 1)
            return (parts @ self.tables.mT).transpose(0, 1)  # from [K, B, C]
        # One product: PyTorch spreads a batch of small ones over threads, which costs more.
        return (queries @ self.tables.flatten(0, 1).T).view(-1, *self.tables.shape[:2])

    def _check(
        self, queries: Tensor, excluded: tuple[Tensor, Tensor] | None, allowed: Tensor | None
    ) -> None:
        if queries.ndim != 2 or not len(queries) or queries.size(1) != self.width:
            raise InputError(f"queries: {tuple(queries.shape)} is not queries x {self.width}")
        if not queries.isfinite().all():
            raise InputError("queries: not finite: the model has diverged; lower learning_rate")
        if excluded is not None:
            limits = (len(queries), len(self))
            for each, limit in zip(excluded, limits, strict=True):
                if len(each) and (int(each.min()) < 0 or int(each.max()) >= limit):
                    raise InputError(f"excluded: a number is not within 0 to {limit - 1}")
        if allowed is not None and (allowed.dtype != torch.bool or allowed.shape != (len(self),)):
            raise InputError(f"allowed: not one boolean an item, {len(self)} in all")

    def _parts(self) -> list[slice]:
        return [*parts(len(self), self.width)]

    def _vectors(self, part: slice) -> Tensor:
        """Return the vectors of some items, not divided by their norms."""
        by_level = zip(self.tables, self.codes[part].int().unbind(1), strict=True)
        if self.per_level:
            return torch.cat([table[codes] for table, codes in by_level], dim=1)
        total = self.tables.new_zeros(part.stop - part.start, self.width)
        for table, codes in by_level:
            total += table[codes]
        return total if self.rows is None else total.add_(self.rows[part])

    @functools.cached_property
    def _matrix(self) -> Tensor:
        matrix = torch.cat([self._vectors(part) for part in self._parts()])
        return matrix if self.norms is None else matrix.div_(self.norms.unsqueeze(1))

    def _dense_scores(self, queries: Tensor) -> Callable[[slice], Tensor]:
        def score(part: slice) -> Tensor:
            scores = queries @ self._matrix[part].T
            return scores if self.terms is None else scores.add_(self.terms[part])

        return score

    def _code_sums(self, queries: Tensor) -> Callable[[slice], Tensor]:
        # [C, B]: an item's code picks the scores of all queries.
        levels = self.code_scores(queries).permute(1, 2, 0).contiguous().unbind(0)

        def score(part: slice) -> Tensor:
            total = queries.new_zeros(part.stop - part.start, len(queries))
            for level, own in zip(levels, self.codes[part].int().unbind(1), strict=True):
                total += level[own]
            if self.rows is not None:
                total += self.rows[part] @ queries.T
            if self.norms is not None:
                total /= self.norms[part].unsqueeze(1)
            if self.terms is not None:
                total += self.terms[part].unsqueeze(1)
            return total.T.contiguous()

        return score

    def _compiles(self) -> bool:
        return self.codes.device.type == "cpu" and _has_numba()

    @functools.cached_property
    def _sorted(self) -> PrunedItems:
        from recbole_qbert.topk.pruned import PrunedItems

        codes = self.codes.numpy()
        given = (self.norms, self.rows, self.terms)
        return PrunedItems(
            codes.view(np.uint16) if codes.dtype == np.int16 else codes,
            self.tables.size(1),
            *(None if each is None else each.numpy() for each in given),
        )

    def _pruned(
        self,
        queries: Tensor,
        k: int,
        excluded: tuple[Tensor, Tensor] | None,
        allowed: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        pairs = torch.empty(0, dtype=torch.long)
        if excluded is not None:
            pairs = torch.unique(excluded[0] * len(self) + excluded[1])
        values, items = self._sorted.search(
            self._padded_scores(queries),
            queries.numpy(),
            k,
            ((pairs // len(self)).numpy(), (pairs % len(self)).numpy()),
            None if allowed is None else allowed.numpy(),
        )
        return torch.from_numpy(values), torch.from_numpy(items)

    def _padded_scores(self, queries: Tensor) -> np.ndarray:
        """Return the scores of all codes and a level of zeros, [B, K + 1, C]."""
        scores: np.ndarray = F.pad(self.code_scores(queries), (0, 0, 0, 1)).numpy()
        return scores


@functools.cache
def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None
