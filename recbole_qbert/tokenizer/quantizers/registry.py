"""The quantizers by name: how each is set, fitted, kept and read again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.tokenizer.quantizers.base import Quantizer, checked_vectors
from recbole_qbert.tokenizer.quantizers.opq import OPQ, OPQSettings, fit_opq
from recbole_qbert.tokenizer.quantizers.rqkmeans import (
    ResidualKMeans,
    RQKMeansSettings,
    fit_residual_kmeans,
)
from recbole_qbert.tokenizer.quantizers.rqvae import RQVAEQuantizer
from recbole_qbert.tokenizer.quantizers.rqvae_fit import fit_rqvae
from recbole_qbert.tokenizer.quantizers.rqvae_settings import RQVAESettings
from recbole_qbert.tokenizer.stage_settings import QuantizerSettings, read_quantizer_settings


class Method(NamedTuple):
    """One way to quantize.

    Attributes:
        settings: class of its settings; their defaults are its section of `tokenize.yaml`.
        fit: (vectors, settings, seed) to a fitted quantizer.
        kind: class of the fitted quantizer.
        resumable: whether `fit` also takes the folder of its state, and whether to show a bar.
    """

    settings: type[QuantizerSettings]
    fit: Callable[..., Quantizer]
    kind: type[Quantizer]
    resumable: bool = False


METHODS: dict[str, Method] = {
    "rqvae": Method(RQVAESettings, fit_rqvae, RQVAEQuantizer, resumable=True),
    "rqkmeans": Method(RQKMeansSettings, fit_residual_kmeans, ResidualKMeans),
    "opq": Method(OPQSettings, fit_opq, OPQ),
}


def fit_quantizer(
    vectors: np.ndarray,
    method: str,
    settings: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None = None,
    show_progress: bool = False,
) -> Quantizer:
    """Fit a quantizer; the result depends on the set of vectors, not on the order of the rows.

    Args:
        vectors: float [N, D]; equal rows are fine.
        method: one of `METHODS`.
        settings: of the method, see its settings class, with `n_levels` and `codebook_size`. What
            else is missing has its default.
        seed: of everything random.
        folder: where a killed fit leaves its state and the next one finds it; None keeps nothing.
        show_progress: a bar with the time left.

    Raises:
        InputError: a setting or vector that cannot be used, or a codebook that collapsed.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed: {seed} is not between 0 and {2**32 - 1}")
    checked = checked_vectors(vectors)
    if checked.size == 0:
        raise InputError("there are no vectors to quantize; give items with embeddings")
    if method not in METHODS:
        hint = did_you_mean(method, METHODS)
        raise InputError(f"quantizer: {method!r} is none of {', '.join(METHODS)}{hint}")
    chosen = METHODS[method]
    more = (folder, show_progress) if chosen.resumable else ()
    given = read_quantizer_settings(chosen.settings, method, settings)
    return chosen.fit(checked, given, seed, *more)


def load_quantizer(state: Mapping[str, Any]) -> Quantizer:
    """The quantizer of a `state`."""
    method = state.get("method")
    if method not in METHODS:
        raise InputError(f"a quantizer of method {method!r} is not of this version")
    return METHODS[method].kind.from_state(state)
