"""The embedded encoder of texts and tags: TF-IDF and a truncated SVD. No download, no GPU."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sklearn
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from recbole_qbert.common.errors import InputError
from recbole_qbert.encoders.driver import encode_distinct
from recbole_qbert.encoders.shards import EncodedBatch

_POWER_ITERATIONS = 7
_NEGLIGIBLE = 1e-6  # relative singular value, or length of a unit row, that counts as zero


class TfidfEncoder:
    """Latent semantic vectors of short texts or of tags; frozen once fitted.

    Words and word pairs carry the meaning; character 3- and 4-grams inside words relate
    "Nightmare" to "Nightmares", which matters where a title has three words. Tags (categories,
    brands, numbered attributes) are compared as they stand, without order or letters: "17" is not
    like "171". Blocks are TF-IDF, those of texts sublinear, with rows of length 1, so that they
    weigh the same. With X = U S V' the truncated SVD of the fitted texts, a text x becomes
    x V / sqrt(S), normalized. New texts go the same way; n-grams that were not fitted count for
    nothing.

    F features, D = rank of the fit, at most `n_components`.
    """

    def __init__(self, state: Mapping[str, Any]):
        """Args: `state`, what `state()` of a fitted encoder returns."""
        self._state = dict(state)
        self._blocks = [
            _fitted_vectoriser(kind, state[f"{kind}_vocabulary"], state[f"{kind}_idf"])
            for kind in state["blocks"]
        ]
        self._projection = state["projection"].astype(np.float64)

    @classmethod
    def fit(
        cls, texts: Sequence[str], n_components: int, seed: int, *, tags: bool = False
    ) -> TfidfEncoder:
        """Fit on the distinct texts in sorted order, on one thread.

        So equal sets of texts give equal encoders, whatever their order, their repetitions and
        the machine's number of cores.

        Args:
            texts: those of the whole catalog; blank ones are passed over.
            n_components: the most columns wanted; the rank of the data caps it.
            seed: of the randomized SVD.
            tags: what stands between blanks is a tag; else a text has words.

        Raises:
            InputError: every text is blank, or `n_components` is not positive.
        """
        if n_components < 1:
            raise InputError(f"n_components is {n_components}; it must be at least 1")
        distinct = sorted({text for text in texts if text.strip()})
        if not distinct:
            raise InputError(f"all {len(texts)} texts are empty; name fields that hold text")
        kinds = ["tag"] if tags else ["char"]
        if not tags and any(re.search(r"\w", text) for text in distinct):
            kinds.append("word")  # it refuses to find none
        blocks = {kind: _vectoriser(kind) for kind in kinds}
        features = hstack([each.fit_transform(distinct) for each in blocks.values()], format="csr")
        with threadpool_limits(limits=1):
            _, singular, components = randomized_svd(
                features,
                n_components=min(n_components, *features.shape),
                n_iter=_POWER_ITERATIONS,
                random_state=seed,
            )
        rank = int((singular > _NEGLIGIBLE * singular[0]).sum())
        # The square root keeps frequent words from filling the vector: the residuals of later
        # k-means levels spread better, which gives fewer equal IDs than plain singular values do.
        projection = components[:rank].T / np.sqrt(singular[:rank])
        state = {
            "blocks": list(blocks),
            "projection": np.ascontiguousarray(projection, dtype=np.float32),
            "n_components": n_components,
            "seed": seed,
        }
        for kind, block in blocks.items():
            # As bytes: a large vocabulary would not fit into a checkpoint's JSON header. No
            # n-gram holds a line end, because both analysers split at blanks.
            words = "\n".join(block.get_feature_names_out()).encode()
            state[f"{kind}_vocabulary"] = np.frombuffer(words, dtype=np.uint8)
            state[f"{kind}_idf"] = block.idf_
        return cls(state)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> TfidfEncoder:
        """The encoder whose `state()` this is.

        Raises:
            InputError: it is the state of something else.
        """
        try:
            return cls(state)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise InputError("not the state of a TF-IDF encoder; embed the texts again") from None

    @property
    def tags(self) -> bool:
        """Whether it compares tags; else words."""
        return "tag" in self._state["blocks"]

    def state(self) -> dict[str, Any]:
        """Arrays and numbers, for `checkpoint.save_checkpoint`."""
        return dict(self._state)

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of any texts; each depends on its own text alone.

        Returns:
            float32 [n, D], rows of length 1, or 0 for a text that is blank or shares nothing with
            the fitted texts.
        """
        # float64 throughout, and SciPy's sparse product goes row by row on one thread.
        features = hstack([block.transform(texts) for block in self._blocks], format="csr")
        latent = np.asarray(csr_matrix(features) @ self._projection)
        lengths = np.linalg.norm(latent, axis=1, keepdims=True)
        # A row of rounding noise would become a random direction if it were normalized. One that
        # is no number stays so, and is refused where it is written.
        kept = ~(lengths <= _NEGLIGIBLE)
        return np.where(kept, latent / np.maximum(lengths, _NEGLIGIBLE), 0.0).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """What a sidecar records, enough to make the vectors again."""
        digest = hashlib.sha256()
        for key in sorted(self._state):
            value = self._state[key]
            array = isinstance(value, np.ndarray)
            digest.update(key.encode() + (value.tobytes() if array else repr(value).encode()))
        words = {"word_ngrams": [1, 2], "char_wb_ngrams": [3, 4], "sublinear_tf": True}
        return {
            "name": "tfidf-tags-svd" if self.tags else "tfidf-svd",
            **({} if self.tags else words),
            "singular_value_power": 0.5,
            "n_components": self._state["n_components"],
            "dimension": self._projection.shape[1],
            "seed": self._state["seed"],
            "state_sha256": digest.hexdigest(),
            "scikit_learn": sklearn.__version__,
        }

    def encode(self, inputs: Sequence[Sequence[str]]) -> EncodedBatch:
        """Vectors of b items of J texts each; parts whose vector is zero are masked."""

        def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            vectors = self.transform(texts)
            return vectors, vectors.any(axis=1)

        return encode_distinct(inputs, encode)


def _vectoriser(kind: str, vocabulary: Sequence[str] | None = None) -> TfidfVectorizer:
    """Unfitted TF-IDF of characters, words or tags."""
    if kind == "tag":
        return TfidfVectorizer(token_pattern=r"\S+", lowercase=False, vocabulary=vocabulary)
    if kind == "char":
        return TfidfVectorizer(
            analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, vocabulary=vocabulary
        )
    # The pattern keeps one-letter words: "M" and "8 1/2" are titles.
    return TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", vocabulary=vocabulary
    )


def _fitted_vectoriser(kind: str, vocabulary: np.ndarray, idf: np.ndarray) -> TfidfVectorizer:
    """TF-IDF with the weights of an earlier fit."""
    vectoriser = _vectoriser(kind, vocabulary.tobytes().decode().split("\n"))
    vectoriser.idf_ = idf
    return vectoriser
