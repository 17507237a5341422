"""The embedded text encoder: TF-IDF and a truncated SVD. It downloads nothing and needs no GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from recbole_qbert.errors import InputError

_POWER_ITERATIONS = 7
_NEGLIGIBLE = 1e-6  # relative singular value, or length of a unit row, that counts as zero


def tfidf_vectors(texts: Sequence[str], n_components: int, seed: int) -> np.ndarray:
    """Latent semantic vectors of short texts.

    Words and word pairs carry the meaning; character 3- and 4-grams inside words relate
    "Nightmare" to "Nightmares", which matters where a title has three words. Both blocks are
    sublinear TF-IDF with rows of length 1, so they weigh the same; a truncated SVD follows.

    The SVD is fitted on the distinct texts in sorted order, on one thread: equal texts get equal
    vectors, and a text's vector depends neither on the order of `texts` nor on the machine's
    number of cores.

    Args:
        texts: N texts; a blank one gets a row of zeros, as does one that shares nothing with the
            kept components.
        n_components: the most columns wanted; the rank of the data caps it.
        seed: of the randomised SVD.

    Returns:
        float32 [N, D], rows of length 1 or 0.

    Raises:
        InputError: every text is blank, or `n_components` is not positive.
    """
    if n_components < 1:
        raise InputError(f"n_components is {n_components}; it must be at least 1")
    distinct = sorted({text for text in texts if text.strip()})
    if not distinct:
        raise InputError(f"all {len(texts)} texts are empty; name fields that hold text")

    features = _features(distinct)
    with threadpool_limits(limits=1):
        left, singular, _ = randomized_svd(
            features,
            n_components=min(n_components, *features.shape),
            n_iter=_POWER_ITERATIONS,
            random_state=seed,
        )
    rank = int((singular > _NEGLIGIBLE * singular[0]).sum())
    # The square root keeps frequent words from filling the vector: the residuals of later k-means
    # levels spread better, which gives fewer equal IDs than the plain singular values do.
    latent = left[:, :rank] * np.sqrt(singular[:rank])
    lengths = np.linalg.norm(latent, axis=1, keepdims=True)
    # A row of rounding noise would become a random direction if it were normalised.
    latent = np.where(lengths > _NEGLIGIBLE, latent / np.maximum(lengths, _NEGLIGIBLE), 0.0)

    blank = len(distinct)  # index of the row of zeros appended for the blank texts
    index = {text: row for row, text in enumerate(distinct)}
    table = np.vstack([latent, np.zeros((1, rank))]).astype(np.float32)
    return table[[index.get(text, blank) for text in texts]]


def encoder_description(n_components: int, dimension: int) -> dict[str, Any]:
    """What a sidecar records about the vectors, enough to make them again.

    Args:
        n_components: the number of columns asked for.
        dimension: the number of columns obtained, D.
    """
    return {
        "name": "tfidf-svd",
        "word_ngrams": [1, 2],
        "char_wb_ngrams": [3, 4],
        "sublinear_tf": True,
        "singular_value_power": 0.5,
        "n_components": n_components,
        "dimension": dimension,
        "scikit_learn": sklearn.__version__,
    }


def _features(texts: Sequence[str]) -> csr_matrix:
    """TF-IDF of N non-blank texts, sparse [N, F]: the word block beside the character block."""
    blocks = [TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True)]
    if any(re.search(r"\w", text) for text in texts):  # the vectoriser refuses to find no word
        # The pattern keeps one-letter words: "M" and "8 1/2" are titles.
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        blocks.append(words)
    return hstack([block.fit_transform(texts) for block in blocks], format="csr")
