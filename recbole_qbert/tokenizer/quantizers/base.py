"""What every quantizer does.

n vectors of dimension D, K levels, S_k codes of level k, C codes of the largest level. Levels count
from 0. A level may have fewer codewords than codes, where there is less to tell apart than
`codebook_size`; the codes beyond them are infinitely far from everything.
"""

from __future__ import annotations

import contextlib
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from recbole_qbert.common.errors import InputError

# Vectors are searched in blocks of exactly this many rows, the last one filled up with zeros: the
# rounding of a matrix product depends on its shape, so a vector gets the same code in any batch.
BLOCK = 1024
_on_one_thread = contextvars.ContextVar("_on_one_thread", default=False)


class Quantizer(ABC):
    """Fitted and frozen: vectors to code tuples and back.

    Attributes:
        method: its name in `registry.METHODS`.
        codebook_sizes: S_k, K of them, as they were asked for.
        dimension: D.
    """

    method: str
    codebook_sizes: tuple[int, ...]
    dimension: int

    @abstractmethod
    def _search(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes int64 [n, K] and squared distances float32 [n, K, C] of float32 [n, D]."""

    @abstractmethod
    def _decode(self, codes: np.ndarray) -> np.ndarray:
        """float32 [n, D] from the first k levels, int64 [n, k]."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything, for `save_checkpoint` and `load_quantizer`."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: Mapping[str, Any]) -> Quantizer:
        """The inverse of `state`."""

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """The nearest codes, level by level; of codes equally near the lower.

        Args:
            vectors: float [n, D].

        Returns:
            int64 [n, K]; a vector's codes do not depend on the other vectors.

        Raises:
            InputError: another dimension, or a value that is not finite.
        """
        parts = [codes for codes, _ in self._searched(vectors)]
        return np.concatenate([np.empty((0, len(self.codebook_sizes)), dtype=np.int64), *parts])

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """D of eq. 10: from what enters each level, on the path of `encode`, to its codewords.

        Args:
            vectors: float [n, D].

        Returns:
            Squared distances, float32 [n, K, C]; infinite where there is no codeword. The least of
            each level is at the code that `encode` gives.
        """
        shape = (0, len(self.codebook_sizes), max(self.codebook_sizes))
        parts = [distances for _, distances in self._searched(vectors)]
        return np.concatenate([np.empty(shape, dtype=np.float32), *parts])

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Vectors from codes; a code without a codeword adds nothing.

        Args:
            codes: int64 [n, K].

        Returns:
            float32 [n, D].
        """
        if codes.ndim != 2 or codes.shape[1] != len(self.codebook_sizes):
            raise ValueError(f"codes {codes.shape} do not belong to {self.codebook_sizes}")
        empty = np.empty((0, self.dimension), dtype=np.float32)
        with one_thread():
            parts = [self._decode(block)[:n] for block, n in _blocks(codes)]
        return np.concatenate([empty, *parts])

    def report(self, vectors: np.ndarray) -> dict[str, Any]:
        """How well the codes tell the vectors apart and keep them.

        Args:
            vectors: float [n, D].

        Returns:
            `levels`, per level: what `usage` says, and `relative_error`, the squared error with the
            levels up to this one over the squared distance of the vectors to their mean.
            `collisions`: rows less distinct tuples. `identical`: rows less `count_distinct`:
            collisions that no quantizer can avoid.
        """
        checked = checked_vectors(vectors, self.dimension)
        codes = self.encode(checked)
        n_levels = len(self.codebook_sizes)
        errors = self.squared_errors(checked, codes, range(1, n_levels + 1))
        mean = checked.mean(axis=0, dtype=np.float64)
        total = sum(float(((block[:n] - mean) ** 2).sum()) for block, n in _blocks(checked))
        levels = []
        for level, (size, error) in enumerate(zip(self.codebook_sizes, errors, strict=True)):
            relative = error / total if total > 0 else 0.0
            levels.append({**usage(codes[:, level], size), "relative_error": relative})
        identical = len(checked) - count_distinct(checked)
        return {"levels": levels, "collisions": count_collisions(codes), "identical": identical}

    def squared_errors(
        self, vectors: np.ndarray, codes: np.ndarray, n_levels: Iterable[int]
    ) -> list[float]:
        """Squared distances between vectors and what their first levels say, summed over all rows.

        Args:
            vectors: float32 [n, D].
            codes: int64 [n, K].
            n_levels: how many levels; one sum for each.
        """
        wanted = list(n_levels)
        errors = [0.0] * len(wanted)
        with one_thread():
            for (part, n), (block, _) in zip(_blocks(codes), _blocks(vectors), strict=True):
                for place, k in enumerate(wanted):
                    off = (block - self._decode(part[:, :k]))[:n]
                    errors[place] += float((off.astype(np.float64) ** 2).sum())
        return errors

    def _searched(self, vectors: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        checked = checked_vectors(vectors, self.dimension)
        with one_thread():
            for block, n in _blocks(checked):
                codes, distances = self._search(block)
                yield codes[:n], distances[:n]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for everything inside: sums over threads differ in their last bits."""
    if _on_one_thread.get():  # looking for the pools takes milliseconds
        yield
        return
    before = torch.get_num_threads()  # a pool of its own, which threadpoolctl does not see
    token = _on_one_thread.set(True)
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)
        _on_one_thread.reset(token)


def greedy(
    residuals: np.ndarray, codebooks: Sequence[np.ndarray], width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 6: level by level the codeword nearest to what the levels before left over.

    Args:
        residuals: [n, d].
        codebooks: K arrays, float [C_k, d].
        width: C.

    Returns:
        Codes int64 [n, K], and the squared distances they are the least of, float32 [n, K, C].
    """
    # Rounded to float32 only in the end: near a codeword the expanded square loses most digits.
    left = residuals.astype(np.float64)
    codes = np.empty((len(left), len(codebooks)), dtype=np.int64)
    distances = np.full((*codes.shape, width), np.inf, dtype=np.float32)
    for level, codebook in enumerate(codebooks):
        distances[:, level, : len(codebook)] = squared_distances(left, codebook)
        codes[:, level] = distances[:, level].argmin(axis=1)
        left -= codebook[codes[:, level]]
    return codes, distances


def squared_distances(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """float64 [n, C] of float64 [n, d] and [C, d]."""
    codebook = codebook.astype(np.float64)
    product = vectors @ codebook.T
    lengths = (vectors**2).sum(axis=1)[:, None] + (codebook**2).sum(axis=1)
    return np.maximum(lengths - 2 * product, 0)


def decoded_sum(codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of the codewords of int64 [n, k], float64 [n, d]; a code without one adds nothing."""
    total = np.zeros((len(codes), codebooks[0].shape[1]))
    for level, codebook in zip(codes.T, codebooks, strict=False):
        known = level < len(codebook)
        total[known] += codebook[level[known]]
    return total


def usage(codes: np.ndarray, size: int) -> dict[str, Any]:
    """Use of one level's codes, int64 [n].

    Returns:
        `codebook_size`; `used` codes; `usage`, their share; `perplexity`, exp of the entropy of
        their use; `shared`, the share of the items whose code another item has; `mean_group`,
        items a used code.
    """
    counts = np.bincount(codes, minlength=size)
    used = counts[counts > 0]
    n_items = max(1, len(codes))
    shares = used / n_items
    return {
        "codebook_size": size,
        "used": len(used),
        "usage": len(used) / size,
        "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
        "shared": int(used[used > 1].sum()) / n_items,
        "mean_group": n_items / max(1, len(used)),
    }


def count_collisions(codes: np.ndarray) -> int:
    """Items less distinct tuples of codes [N, K]: how many items must change to be unique."""
    return len(codes) - len(np.unique(codes, axis=0))


def count_distinct(vectors: np.ndarray) -> int:
    """How many vectors, float32 [n, D], n > 0, differ by more than an encoder's rounding.

    Rounding is a thousandth of the values' spread; where that is itself below a hundred-thousandth
    of the values, all vectors count as one.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    spread = sum(float(((block[:n] - mean) ** 2).sum()) for block, n in _blocks(vectors))
    if spread <= 1e-10 * (spread + len(vectors) * float((mean**2).sum())):
        return 1
    step = 1e-3 * (spread / vectors.size) ** 0.5
    return len(np.unique(row_keys(vectors, step=step)))


def row_keys(vectors: np.ndarray, seed: int = 0, step: float = 0.0) -> np.ndarray:
    """A number for each row that depends on its values and the seed only, uint64 [n].

    Equal rows have equal keys; different rows practically never. The order of the keys is a random
    order of the rows that does not depend on how they come. With `step`, values are rounded to its
    multiples first.
    """
    drawn = np.random.default_rng(seed).integers(0, 2**64, vectors.shape[1], dtype=np.uint64)
    keys = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), BLOCK):
        values = vectors[start : start + BLOCK].astype(np.float32)
        if step:
            values = np.round(values / np.float32(step))
        values += np.float32(0)  # turns -0.0 into 0.0, which are equal but not in their bits
        bits = values.view(np.uint32).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(32)
        keys[start : start + BLOCK] = (bits * (drawn | np.uint64(1))).sum(axis=1, dtype=np.uint64)
    return keys ^ (keys >> np.uint64(29))


def checked_vectors(vectors: np.ndarray, dimension: int | None = None) -> np.ndarray:
    """The vectors as float32 [n, D], without a copy where they are that.

    Raises:
        InputError: another shape, or a value that is not finite.
    """
    checked = np.asarray(vectors)
    if checked.ndim != 2:
        raise InputError(f"vectors have shape {checked.shape}; [items, dimension] is expected")
    if dimension is not None and checked.shape[1] != dimension:
        raise InputError(
            f"vectors have dimension {checked.shape[1]}, but the quantizer was fitted on "
            f"{dimension}; give vectors of the encoder it was made with"
        )
    with np.errstate(over="ignore"):  # a value beyond float32 is found just below
        checked = checked.astype(np.float32, copy=False)
    for start in range(0, len(checked), BLOCK):
        bad = np.flatnonzero(~np.isfinite(checked[start : start + BLOCK]).all(axis=1))
        if len(bad):
            row = start + int(bad[0])
            raise InputError(
                f"the vector of row {row} holds a value that is not finite; "
                "make the embeddings again or remove the item"
            )
    return checked


def _blocks(rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """`BLOCK` rows at a time, and how many of them are real."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        n = len(block)
        if n < BLOCK:
            block = np.concatenate([block, np.zeros((BLOCK - n, rows.shape[1]), rows.dtype)])
        yield block, n
