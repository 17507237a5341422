"""Built-in encoder of texts and tags: TF-IDF and a truncated SVD, without downloads or a GPU."""

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

# Arguments of scikit-learn's vectorizer for each block of features.
_SETTINGS: dict[str, dict[str, Any]] = {
    "tag": {"token_pattern": r"\S+", "lowercase": False},
    "char": {"analyzer": "char_wb", "ngram_range": (3, 4), "sublinear_tf": True},
    # The pattern keeps one-letter words, because "M" and "8 1/2" are titles.
    "word": {"ngram_range": (1, 2), "sublinear_tf": True, "token_pattern": r"(?u)\b\w+\b"},
}
_POWER_ITERATIONS = 7
_NEGLIGIBLE = 1e-6  # relative singular values and row norms up to this count as zero


class TfidfEncoder:
    """Latent semantic encoder of short texts or of tags; fixed once fitted.

    Texts have two feature blocks: words with word pairs, and character 3- and 4-grams inside words.
    The latter relate "Nightmare" to "Nightmares", which matters for titles of few words. Tags
    (categories, brands, numbered attributes) have one block of whole tags, without order: "17" is
    unrelated to "171". Each block is TF-IDF (sublinear for texts) with rows of length 1, so that
    all blocks have the same weight. Let X = U S V' be the truncated SVD of the fitted texts. Any
    text x, new or fitted, becomes x V / sqrt(S), normalized. Features that the fit did not see are
    ignored.

    Shapes: n texts, D = rank of the fit, at most `n_components`.

    Args:
        state: result of `state()` of a fitted encoder; `fit` makes a new one.

    Raises:
        InputError: `state` is something else.
    """

    def __init__(self, state: Mapping[str, Any]):
        self._state = dict(state)
        self._blocks = []
        try:
            for kind in state["blocks"]:
                words = state[f"{kind}_vocabulary"].tobytes().decode().split("\n")
                self._blocks.append(TfidfVectorizer(**_SETTINGS[kind], vocabulary=words))
                self._blocks[-1].idf_ = state[f"{kind}_idf"]
            self._projection = state["projection"].astype(np.float64)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise InputError("not a TF-IDF encoder; embed the texts again") from None

    @classmethod
    def fit(
        cls, texts: Sequence[str], n_components: int, seed: int, *, tags: bool = False
    ) -> TfidfEncoder:
        """Fit on the distinct texts in sorted order, on one thread.

        Equal sets of texts therefore give equal encoders, on any number of cores.

        Args:
            texts: texts of the whole catalog; blank texts are skipped.
            n_components: largest D; the rank of the data may be lower.
            seed: seed of the randomized SVD.
            tags: whether a text is a list of tags separated by blanks; else it has words.

        Raises:
            InputError: every text is blank, or `n_components` is not positive.
        """
        if n_components < 1:
            raise InputError(f"n_components is {n_components}; give at least 1")
        distinct = sorted({text for text in texts if text.strip()})
        if not distinct:
            raise InputError(f"all {len(texts)} texts are empty; give fields with text")
        kinds = ["tag"] if tags else ["char"]
        if not tags and any(re.search(r"\w", text) for text in distinct):
            kinds.append("word")  # scikit-learn raises an error if no text has a word
        blocks = {kind: TfidfVectorizer(**_SETTINGS[kind]) for kind in kinds}
        features = hstack([each.fit_transform(distinct) for each in blocks.values()], format="csr")
        with threadpool_limits(limits=1):
            _, singular, components = randomized_svd(
                features,
                n_components=min(n_components, *features.shape),
                n_iter=_POWER_ITERATIONS,
                random_state=seed,
            )
        rank = int((singular > _NEGLIGIBLE * singular[0]).sum())
        # The square root keeps frequent words from dominating the vector. The residuals of later
        # k-means levels then spread more evenly, and fewer items get equal semantic IDs.
        projection = components[:rank].T / np.sqrt(singular[:rank])
        state = {
            "blocks": list(blocks),
            "projection": np.ascontiguousarray(projection, dtype=np.float32),
            "n_components": n_components,
            "seed": seed,
        }
        for kind, block in blocks.items():
            # Stored as bytes, because a large vocabulary would not fit into a checkpoint's JSON
            # header. No feature contains a line feed, because all analyzers split at whitespace.
            words = "\n".join(block.get_feature_names_out()).encode()
            state[f"{kind}_vocabulary"] = np.frombuffer(words, dtype=np.uint8)
            state[f"{kind}_idf"] = block.idf_
        return cls(state)

    @property
    def tags(self) -> bool:
        """Whether the encoder compares tags; else it compares words."""
        return "tag" in self._state["blocks"]

    def state(self) -> dict[str, Any]:
        """Return arrays and numbers for `checkpoint.save_checkpoint`."""
        return dict(self._state)

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Encode n texts independently of each other, float32 [n, D].

        Rows have length 1, or are zero for a text without a feature of the fitted texts.
        """
        # Rows are independent: all is float64, and SciPy's sparse product runs row by row.
        features = hstack([block.transform(texts) for block in self._blocks], format="csr")
        latent = np.asarray(csr_matrix(features) @ self._projection)
        lengths = np.linalg.norm(latent, axis=1, keepdims=True)
        # Normalizing a row of rounding noise would give a random direction. A row with NaN is kept,
        # and `encode_shard` refuses it.
        kept = ~(lengths <= _NEGLIGIBLE)
        return np.where(kept, latent / np.maximum(lengths, _NEGLIGIBLE), 0.0).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Return the JSON description for the sidecar, sufficient to reproduce the vectors."""
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
        """Encode b items of J texts each, [b, J, D]; parts whose vector is zero are masked."""
        return encode_distinct(
            inputs, lambda texts: ((vectors := self.transform(texts)), vectors.any(axis=1))
        )
