"""The embedded text encoder: near texts are near, blanks are zero, order is immaterial."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_qbert.errors import InputError
from recbole_qbert.tokenizer.text import encoder_description, tfidf_vectors

TEXTS = [
    "Nightmare on Elm Street, A",
    "Nightmares of Elm Street",
    "Toy Story",
    "toy story 2",
    "M",
    "",
    "   ",
    "Toy Story",
    "???",
]


def test_rows_have_length_one_or_zero() -> None:
    vectors = tfidf_vectors(TEXTS, 128, 1)
    assert vectors.dtype == np.float32
    assert vectors.shape[0] == len(TEXTS)
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_array_equal(lengths[[5, 6]], 0.0)
    np.testing.assert_allclose(np.delete(lengths, [5, 6]), 1.0, atol=1e-6)


def test_related_texts_are_nearer() -> None:
    vectors = tfidf_vectors(TEXTS, 128, 1)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.1
    assert similarity[2, 3] > similarity[2, 0] + 0.1
    np.testing.assert_array_equal(vectors[2], vectors[7])


def test_columns_are_capped_by_the_rank() -> None:
    assert tfidf_vectors(TEXTS, 128, 1).shape[1] == 6  # distinct texts that are not blank
    assert tfidf_vectors(TEXTS, 3, 1).shape[1] == 3
    assert tfidf_vectors(["ab", "AB", "ab "], 8, 1).shape[1] == 1  # one direction after lowering
    assert tfidf_vectors(["!"], 8, 1).tolist() in ([[1.0]], [[-1.0]])  # one feature, no word


def test_same_seed_same_bits_in_any_row_order() -> None:
    texts = [f"item {i % 7} of kind {i % 5} made in {i}" for i in range(60)]
    vectors = tfidf_vectors(texts, 16, 3)
    assert vectors.tobytes() == tfidf_vectors(texts, 16, 3).tobytes()
    shuffled = np.random.default_rng(0).permutation(60)
    again = tfidf_vectors([texts[row] for row in shuffled], 16, 3)
    np.testing.assert_array_equal(again, vectors[shuffled])


def test_refusals() -> None:
    with pytest.raises(InputError, match="all 2 texts are empty"):
        tfidf_vectors(["", " \n"], 4, 0)
    with pytest.raises(InputError, match="n_components is 0"):
        tfidf_vectors(["a"], 0, 0)


def test_description_names_the_sizes() -> None:
    description = encoder_description(128, 6)
    assert (description["n_components"], description["dimension"]) == (128, 6)
