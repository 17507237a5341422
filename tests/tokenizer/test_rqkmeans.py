"""Residual k-means against hand-worked points; what all quantizers share is in test_quantizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recbole_qbert.tokenizer.quantizers.base import greedy
from recbole_qbert.tokenizer.quantizers.registry import load_quantizer
from recbole_qbert.tokenizer.quantizers.rqkmeans import (
    RQKMeansSettings,
    fit_components,
    fit_residual_kmeans,
)

FOUR_POINTS = np.array([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]], dtype=np.float32)


def _plain(n_levels: int, codebook_size: Any, **given: Any) -> RQKMeansSettings:
    """K-means on the vectors themselves."""
    plain = {"n_components": 0, "whitening": 0.0, **given}
    return RQKMeansSettings(n_levels=n_levels, codebook_size=codebook_size, **plain)


def _vectors(n: int = 300, dimension: int = 12) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(n, dimension)).astype(np.float32)


def test_four_points_by_hand() -> None:
    # Level 0 splits left from right: centers (0, 1) and (10, 1). What is left over is (0, -1) or
    # (0, 1), two distinct residuals, so level 1 has these two codes and level 2 only the zero.
    fitted = fit_residual_kmeans(FOUR_POINTS, _plain(3, 2), seed=0)
    first = fitted.codebooks[0]
    assert sorted(map(tuple, first.tolist())) == [(0.0, 1.0), (10.0, 1.0)]
    assert fitted.codebooks[1].tolist() == [[0.0, -1.0], [0.0, 1.0]]
    assert fitted.codebooks[2].tolist() == [[0.0, 0.0]]
    left = first[:, 0].tolist().index(0.0)
    codes = fitted.encode(FOUR_POINTS)
    assert codes.tolist() == [[left, 0, 0], [left, 1, 0], [1 - left, 0, 0], [1 - left, 1, 0]]
    # Around the mean (5, 1) the squared lengths are 26 each; level 0 leaves 1 of each.
    report = fitted.report(FOUR_POINTS)
    errors = [level["relative_error"] for level in report["levels"]]
    assert errors == pytest.approx([4 / 104, 0.0, 0.0])
    assert [level["used"] for level in report["levels"]] == [2, 2, 1]
    assert [level["perplexity"] for level in report["levels"]] == pytest.approx([2.0, 2.0, 1.0])
    assert report["collisions"] == report["identical"] == 0
    # The second code of level 2 was asked for, but has no codeword.
    assert fitted.codebook_sizes == (2, 2, 2)
    assert fitted.distances(FOUR_POINTS)[0, 2].tolist() == [0.0, np.inf]
    assert fitted.reconstruct(np.array([[left, 1, 1]])).tolist() == [[0.0, 2.0]]


def test_codewords_are_the_means_of_what_chose_them() -> None:
    vectors = _vectors()
    fitted = fit_residual_kmeans(vectors, _plain(3, 8), 1)
    left = vectors.astype(float)
    for level, codebook in enumerate(fitted.codebooks):
        chosen = fitted.encode(vectors)[:, level]
        for code in range(8):
            np.testing.assert_allclose(codebook[code], left[chosen == code].mean(axis=0), atol=1e-5)
        left = left - codebook[chosen]


def test_repeated_rows_weigh_what_they_count() -> None:
    # One code for 0, 0, 0 and 4 is their mean, 1; 0 and 4 alone would give 2.
    vectors = np.array([[0.0], [4.0], [0.0], [0.0]], dtype=np.float32)
    fitted = fit_residual_kmeans(vectors, _plain(1, 1), 0)
    assert fitted.codebooks[0].tolist() == [[1.0]]


def test_sizes_of_each_level() -> None:
    settings = _plain(3, [8, 4, 2])
    fitted = fit_residual_kmeans(_vectors(), settings, 1)
    assert [len(codebook) for codebook in fitted.codebooks] == [8, 4, 2]
    assert np.isinf(fitted.distances(_vectors(5))[:, 1, 4:]).all()


def test_a_large_catalog_is_sampled_without_regard_to_row_order() -> None:
    vectors = _vectors(2000)
    settings = _plain(2, 8, restarts=1, rows_per_code=20)  # 160 rows
    fitted = fit_residual_kmeans(vectors, settings, 3)
    shuffled = fit_residual_kmeans(vectors[::-1].copy(), settings, 3)
    for codebook, same in zip(fitted.codebooks, shuffled.codebooks, strict=True):
        assert codebook.tobytes() == same.tobytes()
    whole = fit_residual_kmeans(vectors, _plain(2, 8, restarts=1), 3)
    assert fitted.codebooks[0].tobytes() != whole.codebooks[0].tobytes()
    # A sample of 160 still serves the other rows: not much worse than the fit on all.
    errors = [each.report(vectors)["levels"][-1]["relative_error"] for each in (fitted, whole)]
    assert errors[1] < errors[0] < 1.15 * errors[1]


def test_more_restarts_are_no_worse() -> None:
    vectors = _vectors()
    errors = []
    for restarts in (1, 5):
        settings = _plain(1, 16, restarts=restarts)
        codebook = fit_residual_kmeans(vectors, settings, 4).codebooks[0]
        errors.append(greedy(vectors, [codebook], 16)[1].min(axis=2).sum())
    assert errors[1] <= errors[0]


def test_zero_vectors_and_signed_zeros() -> None:
    zeros = np.array([[0.0, -0.0], [-0.0, 0.0]], dtype=np.float32)
    fitted = fit_residual_kmeans(zeros, _plain(2, 4), 0)
    assert [len(codebook) for codebook in fitted.codebooks] == [1, 1]
    assert fitted.encode(zeros).tolist() == [[0, 0], [0, 0]]


def test_components_by_hand() -> None:
    # Around the mean (5, 1): deviations 5 and 1, already along the axes.
    ones = np.ones(4)
    frame = fit_components(FOUR_POINTS.astype(float), ones, 0, 1.0)
    np.testing.assert_allclose(np.abs(frame.of(FOUR_POINTS)), np.ones((4, 2)))
    half = fit_components(FOUR_POINTS.astype(float), ones, 0, 0.5)
    np.testing.assert_allclose(np.abs(half.of(FOUR_POINTS))[0], [5**0.5, 1])
    np.testing.assert_allclose(half.back(half.of(FOUR_POINTS)), FOUR_POINTS, atol=1e-12)
    widest = fit_components(FOUR_POINTS.astype(float), ones, 1, 0.0)
    left_and_right = [[0, 1], [0, 1], [10, 1], [10, 1]]
    np.testing.assert_allclose(widest.back(widest.of(FOUR_POINTS)), left_and_right, atol=1e-12)
    # Weights are repeated rows.
    repeated = fit_components(FOUR_POINTS[[0, 0, 0, 3]].astype(float), ones, 0, 0.5)
    weighted = fit_components(FOUR_POINTS[[0, 3]].astype(float), np.array([3.0, 1.0]), 0, 0.5)
    np.testing.assert_allclose(repeated.mean, weighted.mean)
    np.testing.assert_allclose(repeated.scale, weighted.scale)


def test_all_components_unscaled_are_a_rotation() -> None:
    """Distances stay, so that a level's codebook reconstructs as well."""
    vectors = _vectors()
    plain = fit_residual_kmeans(vectors, _plain(2, 8, restarts=10), 1)
    turned = fit_residual_kmeans(vectors, _plain(2, 8, restarts=10, n_components=12), 1)
    errors = [each.report(vectors)["levels"][0]["relative_error"] for each in (plain, turned)]
    assert errors[1] == pytest.approx(errors[0], rel=0.03)


def test_whitened_codes_are_those_of_whitened_vectors() -> None:
    """The same as whitening first; and the frame is kept with the codebooks."""
    vectors = _vectors() * np.linspace(0.1, 3, 12, dtype=np.float32)
    settings = RQKMeansSettings(n_levels=3, codebook_size=8, n_components=6, whitening=0.5)
    fitted = fit_residual_kmeans(vectors, settings, 2)
    frame = fit_components(vectors.astype(float), np.ones(len(vectors)), 6, 0.5)
    seen = frame.of(vectors)
    codes = greedy(seen, fitted.codebooks, 8)[0]
    np.testing.assert_array_equal(fitted.encode(vectors), codes)
    again = load_quantizer(fitted.state())
    assert again.dimension == 12
    np.testing.assert_array_equal(again.encode(vectors), codes)
    np.testing.assert_array_equal(again.reconstruct(codes), fitted.reconstruct(codes))
    error = fitted.report(vectors)["levels"][-1]["relative_error"]
    assert 0 < error < fitted.report(vectors)["levels"][0]["relative_error"]


def test_equal_vectors_have_one_component() -> None:
    settings = RQKMeansSettings(n_levels=2, codebook_size=4, whitening=1.0)
    fitted = fit_residual_kmeans(np.ones((5, 3), dtype=np.float32), settings, 0)
    assert np.isfinite(fitted.reconstruct(fitted.encode(np.ones((1, 3))))).all()
