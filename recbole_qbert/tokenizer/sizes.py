"""Automatic numbers of levels and codes, for `n_levels: auto` and `codebook_size: auto`.

A code is useful to a model only if several items share it: the model learns nothing about other
items from the code of a single one.

Shapes: N items, n vectors of a stream, K levels, C codes per level, D dimensions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from recbole_qbert.data.codec import level_letters
from recbole_qbert.tokenizer.quantizers.base import count_distinct

logger = logging.getLogger(__name__)

AUTO = "auto"
MOST_LEVELS, MOST_CODES = 4, 256  # the values of the paper
ITEMS_PER_CODE = 6  # minimum of the average
_LEAST_CODES = 4
# A level that lowers the relative squared error by less than this encodes only rounding errors.
_MIN_IMPROVEMENT = 1e-6
_MIN_SHARED = 0.5  # warn below this share of items whose code another item has
_MIN_PERPLEXITY = 1.5  # warn below this perplexity


def automatic_size(n_items: int) -> int:
    """Return C for N items: the largest power of two with 6 items per code, within 4 to 256.

    With fewer than 8 items, C is N // 2, but at least 2.
    """
    least = min(_LEAST_CODES, max(2, n_items // 2))
    return max(least, min(MOST_CODES, _power_of_two(n_items // ITEMS_PER_CODE)))


def stream_sizes(
    settings: Mapping[str, Any], n_items: int, vectors: np.ndarray
) -> tuple[int, int | list[int]]:
    """Return the numbers of levels and codes of a stream, with `auto` replaced.

    Args:
        settings: result of `tokenize_settings`.
        n_items: number of items with a vector, which determines the automatic size.
        vectors: float32 [n, D] of the stream; the automatic size is at most the number of distinct
            vectors.

    Returns:
        K, and C or a list of K sizes.
    """
    n_levels, size = settings["n_levels"], settings["codebook_size"]
    if size == AUTO:
        size = min(automatic_size(n_items), count_distinct(vectors))
        if settings["quantizer"] == "opq":  # OPQ requires a power of two
            size = max(2, _power_of_two(size))
    if n_levels == AUTO:
        n_levels = len(size) if isinstance(size, list) else MOST_LEVELS
    return n_levels, size


def automatic_levels(settings: Mapping[str, Any]) -> bool:
    """Return whether the number of levels follows the vectors; a list of sizes fixes it."""
    return settings["n_levels"] == AUTO and not isinstance(settings["codebook_size"], list)


def informative_levels(levels: Sequence[Mapping[str, Any]]) -> int:
    """Count the levels before the first one that does not lower the error; at least 1.

    Args:
        levels: `levels` of `Quantizer.report`.
    """
    before = 1.0
    for place, row in enumerate(levels):
        if row["used"] < 2 or abs(before - row["relative_error"]) < _MIN_IMPROVEMENT:
            return max(1, place)
        before = row["relative_error"]
    return len(levels)


def spare_sizes(codes: np.ndarray) -> tuple[int, ...]:
    """Return the sizes of the extra levels that separate items of equal codes [N, K].

    There are as many levels as the largest group of equal codes requires, () if all are distinct.
    """
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    size = automatic_size(len(codes))
    return (size,) * math.ceil(math.log(int(groups.max()), size) - 1e-9)


def warn_of_sharing(levels: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Warn of levels whose codes are rarely shared, and of levels where most items share one code.

    Args:
        levels: `usage` of each level of all streams.
        settings: settings of the tokenizer.
    """
    unshared = _letters(row["shared"] < _MIN_SHARED for row in levels)
    constant = _letters(row["perplexity"] < _MIN_PERPLEXITY for row in levels)
    if unshared:
        logger.warning(
            "level %s: only %.0f%% of the items share their code with another item; %s",
            unshared,
            100 * min(row["shared"] for row in levels),
            _decrease("codebook_size", settings),
        )
    if constant:
        logger.warning(
            "level %s: nearly all items have the same code; %s, and check that the embeddings "
            "differ between items",
            constant,
            _decrease("n_levels", settings),
        )


def _decrease(key: str, settings: Mapping[str, Any]) -> str:
    """Describe the remedy for a size that is too large."""
    return f"decrease {key}" + f", or set {key}: auto" * (settings[key] != AUTO)


def _letters(chosen: Iterable[bool]) -> str:
    return ", ".join(level_letters(level) for level, yes in enumerate(chosen) if yes)


def _power_of_two(most: int) -> int:
    """Return the largest power of two up to `most`; 0 if there is none."""
    return 1 << most.bit_length() - 1 if most > 0 else 0
