"""Registry of the quantizers: settings, fitting and loading by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_qbert.common.errors import InputError, check_seed, one_of
from recbole_qbert.tokenizer.quantizers.base import Quantizer, checked_vectors
from recbole_qbert.tokenizer.quantizers.opq import OPQ, OPQSettings, fit_opq
from recbole_qbert.tokenizer.quantizers.rqkmeans import (
    ResidualKMeans,
    RQKMeansSettings,
    fit_residual_kmeans,
)
from recbole_qbert.tokenizer.quantizers.rqvae import RQVAEQuantizer, RQVAESettings
from recbole_qbert.tokenizer.quantizers.rqvae_fit import fit_rqvae
from recbole_qbert.tokenizer.quantizers.shared import SharedResidual
from recbole_qbert.tokenizer.stages import QuantizerSettings, check_sizes, read_settings


class Method(NamedTuple):
    """Registered quantizer.

    Attributes:
        settings: class of its settings.
        fit: function of (vectors, settings, seed) that returns a fitted quantizer.
        kind: class of the fitted quantizer.
        resumable: whether `fit` also takes `folder` and `show_progress`.
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
# Quantizers that are trained with the vectors of their stream, and so cannot be chosen for others.
OF_STREAMS: dict[str, type[Quantizer]] = {SharedResidual.method: SharedResidual}


def fit_quantizer(
    vectors: np.ndarray,
    method: str,
    settings: Mapping[str, Any],
    *,
    seed: int,
    folder: Path | None = None,
    show_progress: bool = False,
) -> Quantizer:
    """Fit a quantizer; the result does not depend on the order of the rows.

    Args:
        vectors: float [N, D]; rows may be equal.
        method: one of `METHODS`.
        settings: settings of the method, see its settings class; `n_levels` and `codebook_size` are
            required, other missing settings have their defaults.
        seed: random seed, from 0 to 2**32 - 1.
        folder: folder for the state of an unfinished fit, which the next fit continues; None saves
            nothing.
        show_progress: whether to show a progress bar.

    Raises:
        InputError: a setting or a vector is invalid, or a codebook collapsed.
    """
    check_seed(seed)
    checked = checked_vectors(vectors)
    if checked.size == 0:
        raise InputError("there are no vectors to quantize; give items with embeddings")
    one_of("quantizer", method, tuple(METHODS))
    chosen = METHODS[method]
    more = (folder, show_progress) if chosen.resumable else ()
    given = read_settings(chosen.settings, method, settings)
    check_sizes(given.n_levels, given.codebook_size)
    return chosen.fit(checked, given, seed, *more)


def load_quantizer(state: Mapping[str, Any]) -> Quantizer:
    """Restore a quantizer from its `state()`.

    Raises:
        InputError: the method is unknown.
    """
    method = state.get("method")
    kinds = {name: chosen.kind for name, chosen in METHODS.items()} | OF_STREAMS
    if method not in kinds:
        raise InputError(f"quantizer method {method!r} is unknown to this version; register it")
    return kinds[method].from_state(state)
