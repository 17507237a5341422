"""The embedded text encoder: near texts are near, it freezes, and order is immaterial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_qbert.common.errors import InputError
from recbole_qbert.encoders.tfidf import TfidfEncoder
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint

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
MANY = [f"item {i % 7} of kind {i % 5} made in {i}" for i in range(60)]


def tfidf_vectors(texts: Sequence[str], n_components: int, seed: int) -> np.ndarray:
    """Fitted on the texts themselves."""
    return TfidfEncoder.fit(texts, n_components, seed).transform(texts)


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


def test_against_a_dense_eigendecomposition() -> None:
    """With X = U S V', the rows X V / sqrt(S) have the inner products U S U', which is the square
    root of X X'; so the vectors' cosines are known without a choice of basis."""
    texts = sorted(set(MANY))
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True)
    features = np.hstack([each.fit_transform(texts).toarray() for each in (words, characters)])
    squares, basis = np.linalg.eigh(features @ features.T)
    inner = basis * np.sqrt(squares) @ basis.T
    lengths = np.sqrt(np.diag(inner))
    vectors = tfidf_vectors(texts, 128, 3)
    np.testing.assert_allclose(vectors @ vectors.T, inner / np.outer(lengths, lengths), atol=1e-5)


def test_tags_against_a_dense_eigendecomposition() -> None:
    """As above, with weights by hand: ln((1 + n) / (1 + n with the tag)) + 1, rows of length 1."""
    texts = ["17 171", "171 A", "17 a b", "b"]
    names = ["17", "171", "A", "a", "b"]
    held = np.array([[name in text.split() for name in names] for text in texts], dtype=float)
    features = held * (np.log(5 / (1 + held.sum(axis=0))) + 1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    squares, basis = np.linalg.eigh(features @ features.T)
    inner = basis * np.sqrt(squares) @ basis.T
    lengths = np.sqrt(np.diag(inner))
    encoder = TfidfEncoder.fit(texts, 128, 3, tags=True)
    vectors = encoder.transform(texts)
    np.testing.assert_allclose(vectors @ vectors.T, inner / np.outer(lengths, lengths), atol=1e-5)
    np.testing.assert_array_equal(encoder.transform(["a 17 b"])[0], vectors[2])  # no order
    assert not encoder.transform(["1 B"]).any()  # nothing but whole tags, as they are written
    assert encoder.tags and encoder.describe()["name"] == "tfidf-tags-svd"
    assert not TfidfEncoder.fit(texts, 128, 3).tags


def test_columns_are_capped_by_the_rank() -> None:
    assert tfidf_vectors(TEXTS, 128, 1).shape[1] == 6  # distinct texts that are not blank
    assert tfidf_vectors(TEXTS, 3, 1).shape[1] == 3
    assert tfidf_vectors(["ab", "AB", "ab "], 8, 1).shape[1] == 1  # one direction after lowering
    assert tfidf_vectors(["!"], 8, 1).tolist() in ([[1.0]], [[-1.0]])  # one feature, no word


def test_same_seed_same_bits_in_any_row_order() -> None:
    vectors = tfidf_vectors(MANY, 16, 3)
    assert vectors.tobytes() == tfidf_vectors(MANY, 16, 3).tobytes()
    shuffled = np.random.default_rng(0).permutation(60)
    again = tfidf_vectors([MANY[row] for row in shuffled], 16, 3)
    np.testing.assert_array_equal(again, vectors[shuffled])


def test_a_frozen_encoder_gives_the_same_bits_to_any_batch(tmp_path: Path) -> None:
    encoder = TfidfEncoder.fit(MANY, 16, 3)
    save_checkpoint(tmp_path / "e.safetensors", encoder.state())
    frozen = TfidfEncoder(load_checkpoint(tmp_path / "e.safetensors"))
    assert frozen.describe() == encoder.describe()
    vectors = tfidf_vectors(MANY, 16, 3)
    assert frozen.transform(MANY).tobytes() == vectors.tobytes()
    for row in (0, 17, 59):
        assert frozen.transform([MANY[row]]).tobytes() == vectors[row].tobytes()


def test_new_texts_lie_near_their_like() -> None:
    encoder = TfidfEncoder.fit(TEXTS, 128, 1)
    known, new = encoder.transform(TEXTS), encoder.transform(["A toy story", "zzzz", ""])
    assert np.argmax(known @ new[0]) in (2, 7)
    np.testing.assert_allclose(np.linalg.norm(new, axis=1), [1.0, 0.0, 0.0], atol=1e-6)


def test_fields_apart() -> None:
    encoder = TfidfEncoder.fit(TEXTS, 128, 1)
    inputs = [("Toy Story", "M"), (" ", "toy story 2"), ("", ""), ("zzzz", "")]
    batch = encoder.encode(inputs)
    assert batch.mask.tolist() == [[True, True], [False, True], [False, False], [False, False]]
    assert batch.reasons == ["", "", "blank text", "no known token"]
    single = encoder.transform(["Toy Story", "M", "toy story 2"])
    np.testing.assert_array_equal(batch.vectors[batch.mask], single)
    assert not batch.vectors[~batch.mask].any()


def test_refusals() -> None:
    with pytest.raises(InputError, match="all 2 texts are empty"):
        tfidf_vectors(["", " \n"], 4, 0)
    with pytest.raises(InputError, match="n_components is 0"):
        tfidf_vectors(["a"], 0, 0)
    with pytest.raises(InputError, match="not a TF-IDF encoder"):
        TfidfEncoder({"codebooks": np.zeros(3)})


def test_description_names_the_sizes_and_the_fit() -> None:
    description = TfidfEncoder.fit(TEXTS, 128, 1).describe()
    assert (description["n_components"], description["dimension"]) == (128, 6)
    others = [TfidfEncoder.fit(TEXTS, 128, 2), TfidfEncoder.fit(TEXTS[:4], 128, 1)]
    hashes = {each.describe()["state_sha256"] for each in others}
    assert len(hashes | {description["state_sha256"]}) == 3
