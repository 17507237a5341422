"""Residual k-means against hand-worked points, and its independence of order and batch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recbole_qbert.errors import InputError
from recbole_qbert.tokenizer.rqkmeans import count_collisions, fit_residual_kmeans

FOUR_POINTS = np.array([[0.0, 0.0], [0.0, 2.0], [10.0, 0.0], [10.0, 2.0]])


def _vectors(n: int = 300, dimension: int = 12) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(n, dimension)).astype(np.float32)


def test_four_points_by_hand() -> None:
    # Level 1 splits left from right: centres (0, 1) and (10, 1). What is left over is (0, -1) or
    # (0, 1), two distinct residuals, so level 2 has these two codes and level 3 only the zero.
    fitted = fit_residual_kmeans(FOUR_POINTS, n_levels=3, codebook_size=2, seed=0)
    first = fitted.codebooks[0]
    assert sorted(map(tuple, first.tolist())) == [(0.0, 1.0), (10.0, 1.0)]
    assert fitted.codebooks[1].tolist() == [[0.0, -1.0], [0.0, 1.0]]
    assert fitted.codebooks[2].tolist() == [[0.0, 0.0]]
    left = first[:, 0].tolist().index(0.0)
    assert fitted.codes.tolist() == [[left, 0, 0], [left, 1, 0], [1 - left, 0, 0], [1 - left, 1, 0]]
    # Squared lengths 0 + 4 + 100 + 104; level 1 leaves four residuals of squared length 1.
    assert fitted.relative_errors == pytest.approx([4 / 208, 0.0, 0.0])
    report = fitted.report()
    assert [level["used"] for level in report["levels"]] == [2, 2, 1]
    assert [level["perplexity"] for level in report["levels"]] == pytest.approx([2.0, 2.0, 1.0])
    assert report["collisions"] == 0


def test_encode_matches_a_plain_loop() -> None:
    vectors = _vectors(80)
    fitted = fit_residual_kmeans(vectors, 3, 8, 1)
    for vector, expected in zip(vectors.astype(float), fitted.codes.tolist(), strict=True):
        residual, codes = vector, []
        for codebook in fitted.codebooks:
            distances = [math.dist(residual, codeword) for codeword in codebook]
            codes.append(distances.index(min(distances)))
            residual = residual - codebook[codes[-1]]
        assert codes == expected


def test_reconstruction_improves_by_level_and_matches_its_definition() -> None:
    vectors = _vectors()
    fitted = fit_residual_kmeans(vectors, 4, 16, 1)
    left_over = vectors.astype(float)
    for level, codebook in enumerate(fitted.codebooks):
        left_over = left_over - codebook[fitted.codes[:, level]]
        relative = (left_over**2).sum() / (vectors.astype(float) ** 2).sum()
        assert fitted.relative_errors[level] == pytest.approx(relative, rel=1e-9)
    errors = [1.0, *fitted.relative_errors]
    assert all(after < before for before, after in zip(errors, errors[1:], strict=False))


def test_same_seed_same_bits_and_any_row_order() -> None:
    vectors = np.concatenate([_vectors(), _vectors()[:40]])  # with repeated rows
    fitted = fit_residual_kmeans(vectors, 3, 16, 7)
    again = fit_residual_kmeans(vectors.copy(), 3, 16, 7)
    shuffled = np.random.default_rng(1).permutation(len(vectors))
    moved = fit_residual_kmeans(vectors[shuffled], 3, 16, 7)
    for codebook, same, other in zip(
        fitted.codebooks, again.codebooks, moved.codebooks, strict=True
    ):
        assert codebook.tobytes() == same.tobytes() == other.tobytes()
    np.testing.assert_array_equal(moved.codes, fitted.codes[shuffled])
    np.testing.assert_array_equal(fitted.codes[:40], fitted.codes[300:])


def test_encode_agrees_with_the_fit_in_any_batch() -> None:
    vectors = _vectors()
    fitted = fit_residual_kmeans(vectors, 3, 16, 7)
    np.testing.assert_array_equal(fitted.encode(vectors), fitted.codes)
    np.testing.assert_array_equal(fitted.encode(vectors[17:18]), fitted.codes[17:18])


def test_last_level_distances() -> None:
    vectors = _vectors(50)
    fitted = fit_residual_kmeans(vectors, 3, 8, 2)
    distances = fitted.last_level_distances(vectors)
    assert distances.shape == (50, 8)
    np.testing.assert_array_equal(distances.argmin(axis=1), fitted.codes[:, -1])
    residual = vectors[4].astype(float)
    for codebook, code in zip(fitted.codebooks[:2], fitted.codes[4, :2], strict=True):
        residual = residual - codebook[code]
    expected = [math.dist(residual, codeword) ** 2 for codeword in fitted.codebooks[2]]
    np.testing.assert_allclose(distances[4], expected)


def test_zero_vectors_and_signed_zeros() -> None:
    fitted = fit_residual_kmeans(np.array([[0.0, -0.0], [-0.0, 0.0]]), 2, 4, 0)
    assert [len(codebook) for codebook in fitted.codebooks] == [1, 1]
    assert fitted.relative_errors == [0.0, 0.0]
    assert fitted.report()["collisions"] == 1


def test_count_collisions() -> None:
    assert count_collisions(np.array([[1, 2], [1, 2], [1, 2], [2, 1], [3, 3], [3, 3]])) == 3


@pytest.mark.parametrize(
    ("vectors", "sizes", "message"),
    [
        (np.array([[1.0], [np.nan]]), (2, 2), "row 1 holds a value that is not finite"),
        (np.zeros((0, 3)), (2, 2), "no vectors"),
        (np.zeros(3), (2, 2), r"shape \(3,\)"),
        (FOUR_POINTS, (0, 2), "n_levels is 0"),
        (FOUR_POINTS, (2, 0), "codebook_size 0"),
    ],
)
def test_refusals(vectors: np.ndarray, sizes: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_residual_kmeans(vectors, *sizes, seed=0)
