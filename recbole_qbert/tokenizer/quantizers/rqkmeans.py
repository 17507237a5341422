"""Residual k-means: each level clusters the residuals of the levels before it.

High-dimensional residuals are mostly noise, and k-means then gives outliers their own clusters:
most items share one code of a late level. On partly whitened principal components, the levels stay
balanced.

Shapes: n vectors, D dimensions, E components, K levels, S_k codes and C_k codewords of level k.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.cluster import KMeans

from recbole_qbert.config.settings import Chance, Count, Number
from recbole_qbert.tokenizer.quantizers.base import (
    Quantizer,
    decoded_sum,
    greedy,
    one_thread,
    row_keys,
)
from recbole_qbert.tokenizer.stages import QuantizerSettings

_START_ITERATIONS = 50  # iterations where the codebooks are only a start


class RQKMeansSettings(QuantizerSettings):
    """Settings of residual k-means; `properties/tokenize.yaml` documents each."""

    section: ClassVar[str] = "rqkmeans"
    restarts: Count
    iterations: Count
    rows_per_code: Count
    n_components: Number
    whitening: Chance


@dataclass(frozen=True, eq=False)
class Components:
    """Projection of vectors to E principal components, optionally whitened.

    Attributes:
        mean: float64 [D], subtracted from the vectors.
        axes: float64 [D, E], orthonormal columns.
        scale: float64 [E], the factor of each component.
    """

    mean: np.ndarray
    axes: np.ndarray
    scale: np.ndarray

    def of(self, vectors: np.ndarray) -> np.ndarray:
        """Project vectors, float [n, D], to float64 [n, E]."""
        return (vectors - self.mean) @ self.axes * self.scale

    def back(self, components: np.ndarray) -> np.ndarray:
        """Map components, float [n, E], back to vectors, float64 [n, D]."""
        return components / self.scale @ self.axes.T + self.mean


@dataclass(frozen=True, eq=False)
class ResidualKMeans(Quantizer):
    """Fitted codebooks of the vectors, or of E components of them.

    Attributes:
        codebooks: K arrays, float32 [C_k, E], `C_k = min(S_k, distinct residuals of the fit)`.
        codebook_sizes: K sizes S_k.
        frame: the components, or None if the vectors themselves are clustered (E = D).
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
        """Return the complete state, for `load_quantizer`."""
        return {
            "method": self.method,
            "codebooks": self.codebooks,
            "codebook_sizes": list(self.codebook_sizes),
            "frame": None if self.frame is None else dataclasses.asdict(self.frame),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ResidualKMeans:
        """Restore a quantizer from the result of `state`."""
        frame = None if state["frame"] is None else Components(**state["frame"])
        return cls(list(state["codebooks"]), tuple(state["codebook_sizes"]), frame)


def fit_residual_kmeans(
    vectors: np.ndarray, settings: RQKMeansSettings, seed: int
) -> ResidualKMeans:
    """Fit K codebooks, each by k-means on the residuals of the levels before, on one thread.

    The fit uses the distinct vectors in the order of their hashes (`row_keys`), weighted by their
    frequency. The result therefore does not depend on the order of the rows, and equal vectors get
    equal codes.

    Args:
        vectors: float32 [N, D], finite, N > 0.
        settings: settings of residual k-means.
        seed: seed of the sample and the initial centers; level k uses `seed + k`.
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


def initial_codebooks(
    latents: np.ndarray, codebook_sizes: Sequence[int], seed: int
) -> list[np.ndarray]:
    """Fit the codebooks from which the training of a quantizer starts.

    Args:
        latents: float32 [N, D].
        codebook_sizes: K sizes S_k.
        seed: see `fit_residual_kmeans`.

    Returns:
        K arrays, float32 [C_k, D], `C_k <= S_k`.
    """
    sizes = {"n_levels": len(codebook_sizes), "codebook_size": list(codebook_sizes)}
    plain = {"restarts": 1, "n_components": 0, "whitening": 0.0, "iterations": _START_ITERATIONS}
    settings = RQKMeansSettings.model_validate({**sizes, **plain})
    return fit_residual_kmeans(latents, settings, seed).codebooks


def fit_components(
    vectors: np.ndarray, weights: np.ndarray, n_components: int, whitening: float
) -> Components:
    """Compute the principal components of vectors [n, D] with frequencies `weights` [n].

    Components without variance are left out. At most `n_components` are kept (0: all). Each is
    divided by its standard deviation to the power `whitening`.
    """
    mean = np.average(vectors, axis=0, weights=weights)
    centered = vectors - mean
    covariance = (centered * weights[:, None]).T @ centered / weights.sum()
    variance, axes = np.linalg.eigh(covariance)  # in increasing order
    variance, axes = variance[::-1], axes[:, ::-1]
    rounding = 1e-14 * np.square(vectors).mean()
    varies = variance > max(1e-10 * variance[0], rounding)
    kept = max(1, min(n_components or len(variance), int(varies.sum())))
    scale = np.where(varies, variance, 1.0)[:kept] ** (-whitening / 2)
    return Components(mean, np.ascontiguousarray(axes[:, :kept]), scale)


def _fit_level(
    residuals: np.ndarray, weights: np.ndarray, size: int, settings: RQKMeansSettings, seed: int
) -> np.ndarray:
    """Fit one codebook, float32 [C_k, E], to weighted residuals [n, E]."""
    rounded = residuals.astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0
    distinct = np.unique(rounded, axis=0)
    if len(distinct) <= size:
        return distinct  # one codeword per residual leaves no error
    kmeans = KMeans(size, n_init=settings.restarts, max_iter=settings.iterations, random_state=seed)
    kmeans.fit(rounded, sample_weight=weights)
    return kmeans.cluster_centers_
