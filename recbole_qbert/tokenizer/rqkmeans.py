"""Residual k-means: each level clusters what the levels before it left over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from recbole_qbert.errors import InputError

_RESTARTS = 3
_MAX_ITERATIONS = 100


@dataclass(frozen=True)
class ResidualKMeans:
    """K codebooks and the codes of the vectors they were fitted on.

    Attributes:
        codebooks: K arrays, float64 [C_k, D].
        codes: int64 [N, K], row for row those of the fitted vectors.
        relative_errors: K numbers, the squared reconstruction error after each level over the
            squared length of the vectors.
    """

    codebooks: list[np.ndarray]
    codes: np.ndarray
    relative_errors: list[float]

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes of any vectors.

        Args:
            vectors: [M, D].

        Returns:
            int64 [M, K]; for the fitted vectors it equals `codes`.
        """
        residuals = _checked(vectors)
        levels = []
        for codebook in self.codebooks:
            nearest = _nearest(residuals, codebook)
            residuals = residuals - codebook[nearest]
            levels.append(nearest)
        return np.stack(levels, axis=1)

    def last_level_distances(self, vectors: np.ndarray) -> np.ndarray:
        """Squared distance of each vector's last residual to each last-level codeword.

        Args:
            vectors: [M, D].

        Returns:
            float64 [M, C_K].
        """
        residuals = _checked(vectors)
        for codebook in self.codebooks[:-1]:
            residuals = residuals - codebook[_nearest(residuals, codebook)]
        return cdist(residuals, self.codebooks[-1], "sqeuclidean")

    def report(self) -> dict[str, Any]:
        """Counts for a sidecar.

        Returns:
            `levels`: per level its codebook size, the codes in use, the perplexity of their use
            and the relative reconstruction error; `collisions`: items less distinct tuples.
        """
        levels = []
        for level, codebook in enumerate(self.codebooks):
            counts = np.bincount(self.codes[:, level], minlength=len(codebook))
            shares = counts[counts > 0] / counts.sum()
            levels.append(
                {
                    "codebook_size": len(codebook),
                    "used": len(shares),
                    "perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
                    "relative_error": self.relative_errors[level],
                }
            )
        return {"levels": levels, "collisions": count_collisions(self.codes)}


def count_collisions(codes: np.ndarray) -> int:
    """Items less distinct tuples of codes [N, K]: how many items must change to be unique."""
    return len(codes) - len(np.unique(codes, axis=0))


def fit_residual_kmeans(
    vectors: np.ndarray, n_levels: int, codebook_size: int, seed: int
) -> ResidualKMeans:
    """Fit K codebooks, each by k-means on the residuals of the levels before.

    The fit sees the distinct vectors in lexicographic order, weighted by how many rows hold each:
    the result does not depend on the order of the rows, and equal vectors get equal codes. It
    runs on one thread, because sums over threads differ in their last bits.

    Args:
        vectors: [N, D], finite.
        n_levels: K.
        codebook_size: the most codes of a level; a level has `C_k = min(codebook_size, number of
            distinct residuals)`, so that no code is without an item.
        seed: of the initial centres; level k uses `seed + k`.

    Raises:
        InputError: there is no vector, a value is not finite, or a size is not positive.
    """
    if n_levels < 1 or codebook_size < 1:
        raise InputError(
            f"n_levels is {n_levels} and codebook_size {codebook_size}; both must be at least 1"
        )
    checked = _checked(vectors)
    if checked.size == 0:
        raise InputError("there are no vectors to quantise")
    # Adding 0.0 turns -0.0 into 0.0, which compare equal but sort by their bytes.
    distinct, inverse, counts = np.unique(
        checked + 0.0, axis=0, return_inverse=True, return_counts=True
    )
    total = float((counts * (distinct**2).sum(axis=1)).sum())

    residuals = distinct
    codebooks, codes, relative_errors = [], [], []
    for level in range(n_levels):
        codebook = _fit_level(residuals, counts, codebook_size, seed + level)
        nearest = _nearest(residuals, codebook)
        residuals = residuals - codebook[nearest]
        error = float((counts * (residuals**2).sum(axis=1)).sum())
        codebooks.append(codebook)
        codes.append(nearest)
        relative_errors.append(error / total if total > 0 else 0.0)
    # NumPy 2.0 gives the inverse a second axis.
    by_row = np.stack(codes, axis=1)[inverse.reshape(-1)]
    return ResidualKMeans(codebooks, by_row, relative_errors)


def _fit_level(
    residuals: np.ndarray, counts: np.ndarray, codebook_size: int, seed: int
) -> np.ndarray:
    """One codebook [C_k, D] for weighted residuals [U, D]."""
    distinct = np.unique(residuals, axis=0)
    if len(distinct) <= codebook_size:
        return distinct  # one code per residual: nothing to cluster, and no error is left
    kmeans = KMeans(codebook_size, n_init=_RESTARTS, max_iter=_MAX_ITERATIONS, random_state=seed)
    with threadpool_limits(limits=1):
        kmeans.fit(residuals, sample_weight=counts)
    return kmeans.cluster_centers_


def _nearest(residuals: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """Index of the nearest codeword, int64 [M]; the lowest index among equals.

    `cdist` computes each pair by itself, unlike a matrix product, whose rounding may depend on
    the other rows; so a vector gets the same code in any batch.
    """
    return cdist(residuals, codebook, "sqeuclidean").argmin(axis=1).astype(np.int64)


def _checked(vectors: np.ndarray) -> np.ndarray:
    """The vectors as float64 [M, D], finite."""
    checked = np.asarray(vectors, dtype=np.float64)
    if checked.ndim != 2:
        raise InputError(f"vectors have shape {checked.shape}; [items, dimension] is expected")
    bad = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if len(bad):
        raise InputError(f"the vector of row {bad[0]} holds a value that is not finite")
    return checked
