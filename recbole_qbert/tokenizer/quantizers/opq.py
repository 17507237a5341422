"""Optimized product quantization: a rotation, then one codebook per block of dimensions.

The levels are unordered: no level refines another. faiss learns the rotation and the codebooks; the
fitted quantizer consists of plain arrays.

Shapes: n vectors, D dimensions, K levels, C codes per level, d rotated dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import faiss
import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted
from recbole_qbert.config.settings import Count
from recbole_qbert.tokenizer.quantizers.base import (
    Quantizer,
    one_thread,
    row_keys,
    squared_distances,
)
from recbole_qbert.tokenizer.stages import QuantizerSettings


class OPQSettings(QuantizerSettings):
    """Settings of optimized product quantization; `properties/tokenize.yaml` documents each."""

    section: ClassVar[str] = "opq"
    iterations: Count
    rows_per_code: Count


@dataclass(frozen=True, eq=False)
class OPQ(Quantizer):
    """Fitted rotation and codebooks.

    Attributes:
        mean: mean of the training vectors, float32 [D].
        rotation: float32 [d, D] with orthonormal rows or columns; d is a multiple of K.
        codebooks: float32 [K, C, d / K].
    """

    mean: np.ndarray
    rotation: np.ndarray
    codebooks: np.ndarray
    method = "opq"

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """D."""
        return len(self.mean)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        """K equal sizes C."""
        return (self.codebooks.shape[1],) * len(self.codebooks)

    def _search(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rotated = (block - self.mean).astype(np.float64) @ self.rotation.T.astype(np.float64)
        parts = zip(np.split(rotated, len(self.codebooks), axis=1), self.codebooks, strict=True)
        distances = np.stack([squared_distances(*part) for part in parts], axis=1)
        distances = distances.astype(np.float32)
        return distances.argmin(axis=2), distances

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        n_levels, _, width = self.codebooks.shape
        rotated = np.zeros((len(codes), n_levels, width), dtype=np.float32)
        for level, column in enumerate(codes.T):
            rotated[:, level] = self.codebooks[level, column]
        return rotated.reshape(len(codes), -1) @ self.rotation + self.mean


def fit_opq(vectors: np.ndarray, settings: OPQSettings, seed: int) -> OPQ:
    """Fit the rotation and the codebooks, on one thread, independent of the order of the rows.

    If K does not divide D, the rotation drops the dimensions of least variance; if K is larger than
    D, zeros are added.

    Args:
        vectors: float32 [N, D], finite.
        settings: all levels have one size, a power of two.
        seed: seed of the sample and of the initial centers.

    Raises:
        InputError: the sizes are invalid, or there are fewer vectors than codes.
    """
    size, n_levels = _check_sizes(settings, len(vectors)), settings.n_levels
    chosen = np.argsort(row_keys(vectors, seed), kind="stable")[: settings.rows_per_code * size]
    sample = vectors[chosen]
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample -= mean
    dimension = sample.shape[1]
    kept = max(dimension // n_levels, 1) * n_levels
    # With fewer rows than dimensions, faiss writes beyond its memory. Repeating all rows avoids
    # that and does not change the optimum.
    enough = np.tile(sample, (math.ceil(max(dimension, kept) / len(sample)), 1))

    product, within = (_product_quantizer(kept, n_levels, size, seed) for _ in range(2))
    opq = faiss.OPQMatrix(dimension, n_levels, kept)
    opq.niter, opq.max_train_points, opq.pq = settings.iterations, len(enough), within
    with one_thread():
        opq.train(enough)
        rotation = faiss.vector_to_array(opq.A).reshape(kept, dimension)
        product.train(np.ascontiguousarray(sample @ rotation.T))
    shape = (n_levels, size, kept // n_levels)
    codebooks = faiss.vector_to_array(product.centroids).reshape(shape)
    return OPQ(mean, rotation.copy(), codebooks.copy())


def _check_sizes(settings: OPQSettings, n_vectors: int) -> int:
    """Check the sizes; return C."""
    size = max(settings.codebook_sizes)
    if len(set(settings.codebook_sizes)) > 1 or size & (size - 1) or not 2 <= size <= 2**16:
        raise InputError(
            f"opq.codebook_size: {settings.codebook_size} is not one power of two from 2 to 65536 "
            "for all levels; change codebook_size, or use rqkmeans"
        )
    if n_vectors < size:
        raise InputError(
            f"opq: {counted(n_vectors, 'vector is', 'vectors are')} fewer than the {size} codes "
            "of a level; decrease codebook_size, or use rqkmeans"
        )
    return size


def _product_quantizer(dimension: int, n_levels: int, size: int, seed: int) -> Any:
    """Create faiss's product quantizer, whose k-means uses all rows without warnings."""
    product = faiss.ProductQuantizer(dimension, n_levels, size.bit_length() - 1)
    product.cp.seed = seed % 2**31
    product.cp.max_points_per_centroid = 2**31 - 1
    product.cp.min_points_per_centroid = 1
    return product
