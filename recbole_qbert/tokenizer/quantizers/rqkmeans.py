"""Residual k-means: each level clusters what the levels before it left over.

Residuals of many dimensions are mostly noise, of which k-means picks the outliers: most items share
one code of a late level. On principal components, half whitened, the levels stay balanced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from recbole_qbert.tokenizer.quantizers.base import (
    Quantizer,
    decoded_sum,
    greedy,
    one_thread,
    row_keys,
)
from recbole_qbert.tokenizer.stage_settings import QuantizerSettings, setting


@dataclass(frozen=True)
class RQKMeansSettings(QuantizerSettings):
    """Settings of residual k-means.

    Attributes:
        restarts: k-means runs of a level, of which the best counts.
        iterations: the most steps of a run.
        rows_per_code: with more distinct vectors than this many for each code of the largest level,
            the fit sees a random sample of them.
        n_components: k-means sees so many principal components, at most; 0 for all. With 0 and
            without whitening it sees the vectors themselves.
        whitening: each component is divided by its deviation to this power: 0 keeps distances,
            1 makes all components equally wide.
    """

    restarts: int = setting("rqkmeans.restarts", low=1)
    iterations: int = setting("rqkmeans.iterations", low=1)
    rows_per_code: int = setting("rqkmeans.rows_per_code", low=1)
    n_components: int = setting("rqkmeans.n_components", low=0)
    whitening: float = setting("rqkmeans.whitening", low=0, high=1)


@dataclass(frozen=True, eq=False)
class Components:
    """E principal components of vectors, whitened to some degree.

    Attributes:
        mean: float64 [D], taken off the vectors.
        axes: float64 [D, E], orthonormal columns.
        scale: float64 [E], what each component is multiplied by.
    """

    mean: np.ndarray
    axes: np.ndarray
    scale: np.ndarray

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """float [n, D] to float64 [n, E]."""
        return (vectors - self.mean) @ self.axes * self.scale

    def back(self, components: np.ndarray) -> np.ndarray:
        """float [n, E] to the nearest float64 [n, D] that has them."""
        return components / self.scale @ self.axes.T + self.mean


@dataclass(frozen=True, eq=False)
class ResidualKMeans(Quantizer):
    """K codebooks, of the vectors or of E components of them.

    Attributes:
        codebooks: K arrays, float32 [C_k, E], `C_k = min(S_k, distinct residuals of the fit)`.
        codebook_sizes: S_k, K of them.
        frame: the components, or None where the vectors themselves are clustered (E = D).
    """

    codebooks: list[np.ndarray]
    codebook_sizes: tuple[int, ...]
    frame: Components | None = None
    method = "rqkmeans"

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """D."""
        return int(self.codebooks[0].shape[1]) if self.frame is None else len(self.frame.mean)

    def _search(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = block if self.frame is None else self.frame.of(block)
        return greedy(seen, self.codebooks, max(self.codebook_sizes))

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        decoded = decoded_sum(codes, self.codebooks)
        return (decoded if self.frame is None else self.frame.back(decoded)).astype(np.float32)

    def state(self) -> dict[str, Any]:
        """For `load_quantizer`."""
        return {
            "method": self.method,
            "codebooks": self.codebooks,
            "codebook_sizes": list(self.codebook_sizes),
            "frame": None if self.frame is None else dataclasses.asdict(self.frame),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ResidualKMeans:
        """The inverse of `state`."""
        frame = None if state["frame"] is None else Components(**state["frame"])
        return cls(list(state["codebooks"]), tuple(state["codebook_sizes"]), frame)


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
        seed: of the sample and the initial centers; level k uses `seed + k`.
    """
    sizes = settings.codebook_sizes
    _, first, counts = np.unique(row_keys(vectors, seed), return_index=True, return_counts=True)
    n_rows = settings.rows_per_code * max(sizes)
    residuals = vectors[first[:n_rows]].astype(np.float64)
    weights = counts[:n_rows]
    codebooks = []
    frame = None
    with one_thread():
        if settings.n_components or settings.whitening:
            frame = fit_components(residuals, weights, settings.n_components, settings.whitening)
            residuals = frame.of(residuals)
        for level, size in enumerate(sizes):
            codebook = _fit_level(residuals, weights, size, settings, (seed + level) % 2**32)
            codes, _ = greedy(residuals, [codebook], len(codebook))
            residuals -= codebook[codes[:, 0]]
            codebooks.append(codebook)
    return ResidualKMeans(codebooks, sizes, frame)


def fit_components(
    vectors: np.ndarray, weights: np.ndarray, n_components: int, whitening: float
) -> Components:
    """Principal components of weighted vectors, those without any spread left out.

    Args:
        vectors: float64 [n, D].
        weights: [n], how many rows each stands for.
        n_components: the most components; 0 for all.
        whitening: each is divided by its deviation to this power.
    """
    mean = np.average(vectors, axis=0, weights=weights)
    centered = vectors - mean
    covariance = (centered * weights[:, None]).T @ centered / weights.sum()
    spread, axes = np.linalg.eigh(covariance)  # the widest last
    spread, axes = spread[::-1], axes[:, ::-1]
    rounding = 1e-14 * np.square(vectors).mean()
    wide = spread > max(1e-10 * spread[0], rounding)
    kept = max(1, min(n_components or len(spread), int(wide.sum())))
    scale = np.where(wide, spread, 1.0)[:kept] ** (-whitening / 2)
    return Components(mean, np.ascontiguousarray(axes[:, :kept]), scale)


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
