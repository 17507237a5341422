"""Base class of the quantizers, and functions that they share.

Shapes: n vectors of dimension D, K levels, S_k codes of level k, C codes of the largest level, d
dimensions of a codeword. Levels count from 0. A level has fewer codewords than codes if there are
fewer distinct vectors than `codebook_size`; codes without a codeword are infinitely far from every
vector.
"""

from __future__ import annotations

import contextlib
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from recbole_qbert.common.errors import InputError

# Vectors are searched in blocks of exactly this many rows, the last one padded with zeros. The
# rounding of a matrix product depends on its shape; with a fixed shape, a vector gets the same
# codes in any batch.
BLOCK = 1024
_on_one_thread = contextvars.ContextVar("_on_one_thread", default=False)


class Quantizer(ABC):
    """Fitted, frozen quantizer that maps vectors to code tuples and back.

    Attributes:
        method: its name in `registry.METHODS`.
        codebook_sizes: K sizes S_k, as requested by the settings.
        dimension: D.
    """

    method: str
    codebook_sizes: tuple[int, ...]
    dimension: int

    @abstractmethod
    def _search(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute codes int64 [n, K] and squared distances float32 [n, K, C] of float32 [n, D]."""

    @abstractmethod
    def _decode(self, codes: np.ndarray) -> np.ndarray:
        """Reconstruct float32 [n, D] from the codes of the first k levels, int64 [n, k]."""

    def state(self) -> dict[str, Any]:
        """Return the complete state, for `save_checkpoint` and `load_quantizer`.

        For a dataclass, these are its fields. Other classes override `state` and `from_state`.
        """
        return {"method": self.method, **vars(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Quantizer:
        """Restore a quantizer from the result of `state`."""
        return cls(**{name: value for name, value in state.items() if name != "method"})

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Find the nearest code level by level; the lower code wins a tie. [n, D] -> int64 [n, K].

        A vector's codes do not depend on the other vectors.

        Raises:
            InputError: the dimension is not D, or a value is not finite.
        """
        parts = [codes for codes, _ in self._searched(vectors)]
        return np.concatenate([np.empty((0, len(self.codebook_sizes)), dtype=np.int64), *parts])

    def distances(self, vectors: np.ndarray) -> np.ndarray:
        """Compute the distances D of eq. 10, from each level's input to its codewords.

        The inputs of the levels are those on the path of `encode`, for example residuals.

        Returns:
            Squared distances, float32 [n, K, C]; infinite for codes without a codeword. The minimum
            of each level is at the code that `encode` returns.
        """
        shape = (0, len(self.codebook_sizes), max(self.codebook_sizes))
        parts = [distances for _, distances in self._searched(vectors)]
        return np.concatenate([np.empty(shape, dtype=np.float32), *parts])

    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """Reconstruct vectors from codes, int64 [n, K] -> float32 [n, D].

        A code without a codeword adds nothing.
        """
        empty = np.empty((0, self.dimension), dtype=np.float32)
        with one_thread():
            parts = [self._decode(block)[:n] for block, n in _blocks(codes)]
        return np.concatenate([empty, *parts])

    def report(self, vectors: np.ndarray) -> dict[str, Any]:
        """Report code usage, reconstruction error and collisions of vectors, float [n, D].

        Returns:
            `levels`, for each level: the values of `usage`, and `relative_error`, the squared error
            of the reconstruction from the levels up to this one, divided by the squared distance of
            the vectors to their mean. `collisions`: n minus the number of distinct tuples.
            `identical`: n minus `count_distinct`, the collisions that no quantizer can avoid.
        """
        checked = checked_vectors(vectors, self.dimension)
        codes = self.encode(checked)
        errors = self.squared_errors(checked, codes, range(1, codes.shape[1] + 1))
        mean = checked.mean(axis=0, dtype=np.float64)
        total = sum(float(((block[:n] - mean) ** 2).sum()) for block, n in _blocks(checked))
        levels = [
            {**usage(column, size), "relative_error": error / total if total > 0 else 0.0}
            for column, size, error in zip(codes.T, self.codebook_sizes, errors, strict=True)
        ]
        identical = len(checked) - count_distinct(checked)
        return {"levels": levels, "collisions": count_collisions(codes), "identical": identical}

    def squared_errors(
        self, vectors: np.ndarray, codes: np.ndarray, n_levels: Sequence[int]
    ) -> list[float]:
        """Sum the squared reconstruction errors of vectors [n, D] from codes [n, K] over all rows.

        Returns:
            One sum for each number of first levels in `n_levels`.
        """
        errors = [0.0] * len(n_levels)
        with one_thread():
            for (part, n), (block, _) in zip(_blocks(codes), _blocks(vectors), strict=True):
                for place, k in enumerate(n_levels):
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
    """Run the block on one thread, because the rounding of sums depends on the thread count."""
    if _on_one_thread.get():  # finding the thread pools takes milliseconds
        yield
        return
    before = torch.get_num_threads()  # PyTorch has a pool that threadpoolctl does not find
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
    """Quantize residuals [n, d] greedily (eq. 6): at each level, take the nearest codeword.

    Args:
        residuals: [n, d].
        codebooks: K arrays, float [C_k, d].
        width: C.

    Returns:
        Codes int64 [n, K], and the squared distances that they minimize, float32 [n, K, C].
    """
    # float64, because the expanded square loses most digits near a codeword.
    left = residuals.astype(np.float64)
    codes = np.empty((len(left), len(codebooks)), dtype=np.int64)
    distances = np.full((*codes.shape, width), np.inf, dtype=np.float32)
    for level, codebook in enumerate(codebooks):
        distances[:, level, : len(codebook)] = squared_distances(left, codebook)
        codes[:, level] = distances[:, level].argmin(axis=1)
        left -= codebook[codes[:, level]]
    return codes, distances


def squared_distances(vectors: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Compute squared distances float64 [n, C] of vectors float64 [n, d] to a codebook [C, d]."""
    codebook = codebook.astype(np.float64)
    lengths = (vectors**2).sum(axis=1)[:, None] + (codebook**2).sum(axis=1)
    return np.maximum(lengths - 2 * (vectors @ codebook.T), 0)


def decoded_sum(codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Sum the codewords of codes int64 [n, k] to float64 [n, d].

    A code without a codeword adds nothing.
    """
    total = np.zeros((len(codes), codebooks[0].shape[1]))
    for level, codebook in zip(codes.T, codebooks, strict=False):
        known = level < len(codebook)
        total[known] += codebook[level[known]]
    return total


def usage(codes: np.ndarray, size: int) -> dict[str, Any]:
    """Compute statistics of the codes of one level, int64 [n], all below `size`.

    Returns:
        `codebook_size`; `used`, the number of used codes; `usage`, their share of all codes;
        `perplexity`, the exponential of the entropy of the code distribution; `shared`, the share
        of items whose code another item also has; `mean_group`, items per used code.
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
    """Count the items that must move to make codes [n, K] unique: n minus the distinct tuples."""
    return len(codes) - len(np.unique(codes, axis=0))


def count_distinct(vectors: np.ndarray) -> int:
    """Count the vectors, float32 [n, D], n > 0, that differ by more than an encoder's rounding.

    Values are rounded to a thousandth of their standard deviation over the vectors. If that
    deviation is itself below 1e-5 of the values' root mean square, all vectors count as one.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    squares = sum(float(((block[:n] - mean) ** 2).sum()) for block, n in _blocks(vectors))
    if squares <= 1e-10 * (squares + len(vectors) * float((mean**2).sum())):
        return 1
    step = 1e-3 * (squares / vectors.size) ** 0.5
    return len(np.unique(row_keys(vectors, step=step)))


def row_keys(vectors: np.ndarray, seed: int = 0, step: float = 0.0) -> np.ndarray:
    """Hash each row of vectors [n, D] with a seed, uint64 [n].

    Equal rows have equal keys; different rows practically never do. Sorting by key gives a random
    order of the rows that does not depend on their given order. With a `step` above 0, values are
    first rounded to multiples of it.
    """
    drawn = np.random.default_rng(seed).integers(0, 2**64, vectors.shape[1], dtype=np.uint64)
    keys = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(vectors), BLOCK):
        values = vectors[start : start + BLOCK].astype(np.float32)
        if step:
            values = np.round(values / np.float32(step))
        values += np.float32(0)  # turns -0.0 into 0.0, which has other bits
        bits = values.view(np.uint32).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(32)
        keys[start : start + BLOCK] = (bits * (drawn | np.uint64(1))).sum(axis=1, dtype=np.uint64)
    return keys ^ (keys >> np.uint64(29))


def checked_vectors(vectors: np.ndarray, dimension: int | None = None) -> np.ndarray:
    """Return the vectors as float32 [n, D], without a copy if possible.

    Raises:
        InputError: the shape is not [n, D], or a value is not finite.
    """
    checked = np.asarray(vectors)
    if checked.ndim != 2:
        raise InputError(f"vectors have shape {checked.shape}; [items, dimension] is expected")
    if dimension is not None and checked.shape[1] != dimension:
        raise InputError(
            f"vectors have dimension {checked.shape[1]}, but the quantizer was fitted on "
            f"{dimension}; give vectors of the same encoder"
        )
    with np.errstate(over="ignore"):  # the loop below finds values beyond float32
        checked = checked.astype(np.float32, copy=False)
    for start in range(0, len(checked), BLOCK):
        bad = np.flatnonzero(~np.isfinite(checked[start : start + BLOCK]).all(axis=1))
        if len(bad):
            row = start + int(bad[0])
            raise InputError(
                f"the vector of row {row} contains a value that is not finite; "
                "compute the embeddings again or remove the item"
            )
    return checked


def _blocks(rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yield blocks of `BLOCK` rows, the last one padded, with their number of real rows."""
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        n = len(block)
        if n < BLOCK:
            block = np.concatenate([block, np.zeros((BLOCK - n, rows.shape[1]), rows.dtype)])
        yield block, n
