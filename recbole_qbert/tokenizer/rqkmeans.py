"""Residual k-means: each level clusters what the levels before it left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from recbole_qbert.tokenizer.quantiser import Quantiser, decoded_sum, greedy, one_thread, row_keys
from recbole_qbert.tokenizer.quantiser_settings import QuantiserSettings, setting


@dataclass(frozen=True)
class RQKMeansSettings(QuantiserSettings):
    """Settings of residual k-means.

    Attributes:
        restarts: k-means runs of a level, of which the best counts.
        iterations: the most steps of a run.
        rows_per_code: with more distinct vectors than this many for each code of the largest level,
            the fit sees a random sample of them.
    """

    restarts: int = setting(3, low=1)
    iterations: int = setting(100, low=1)
    rows_per_code: int = setting(256, low=1)


@dataclass(frozen=True, eq=False)
class ResidualKMeans(Quantiser):
    """K codebooks.

    Attributes:
        codebooks: K arrays, float32 [C_k, D], `C_k = min(S_k, distinct residuals of the fit)`.
        codebook_sizes: S_k, K of them.
    """

    codebooks: list[np.ndarray]
    codebook_sizes: tuple[int, ...]
    method = "rqkmeans"

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """D."""
        return int(self.codebooks[0].shape[1])

    def _search(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return greedy(block, self.codebooks, max(self.codebook_sizes))

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        return decoded_sum(codes, self.codebooks).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """For `load_quantiser`."""
        sizes = list(self.codebook_sizes)
        return {"method": self.method, "codebooks": self.codebooks, "codebook_sizes": sizes}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ResidualKMeans:
        """The inverse of `state`."""
        return cls(list(state["codebooks"]), tuple(state["codebook_sizes"]))


def fit_residual_kmeans(
    vectors: np.ndarray, settings: RQKMeansSettings, seed: int
) -> ResidualKMeans:
    """Fit K codebooks, each by k-means on the residuals of the levels before.

    The fit sees the distinct vectors in an order of their own (`row_keys`), weighted by how many
    rows hold each: the result does not depend on the order of the rows, and equal vectors get equal
    codes. It runs on one thread, because sums over threads differ in their last bits.

    Args:
        vectors: float32 [N, D], finite, N > 0.
        settings: of residual k-means.
        seed: of the sample and the initial centres; level k uses `seed + k`.
    """
    sizes = settings.codebook_sizes
    _, first, counts = np.unique(row_keys(vectors, seed), return_index=True, return_counts=True)
    n_rows = settings.rows_per_code * max(sizes)
    residuals = vectors[first[:n_rows]].astype(np.float64)
    weights = counts[:n_rows]
    codebooks = []
    with one_thread():
        for level, size in enumerate(sizes):
            codebook = _fit_level(residuals, weights, size, settings, (seed + level) % 2**32)
            codes, _ = greedy(residuals, [codebook], len(codebook))
            residuals -= codebook[codes[:, 0]]
            codebooks.append(codebook)
    return ResidualKMeans(codebooks, sizes)


def _fit_level(
    residuals: np.ndarray, weights: np.ndarray, size: int, settings: RQKMeansSettings, seed: int
) -> np.ndarray:
    """One codebook, float32 [C_k, D], for weighted residuals [U, D]."""
    rounded = residuals.astype(np.float32) + np.float32(0)
    # A few more rows than codes settle whether there is anything to cluster.
    distinct = np.unique(rounded, axis=0)
    if len(distinct) <= size:
        return distinct  # one code per residual: no error is left
    kmeans = KMeans(size, n_init=settings.restarts, max_iter=settings.iterations, random_state=seed)
    kmeans.fit(rounded, sample_weight=weights)
    return kmeans.cluster_centers_
