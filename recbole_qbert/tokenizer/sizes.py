"""How many levels and codes there are where the settings say `auto`.

Codes are of use to a model where items share them: a code that one item has says nothing of
another. N items, n vectors of a stream, K levels, C codes a level.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert.data.codec import level_letters
from recbole_qbert.tokenizer.quantizers.base import Quantizer, count_distinct
from recbole_qbert.tokenizer.quantizers.registry import fit_quantizer

logger = logging.getLogger(__name__)

AUTO = "auto"
MOST_LEVELS, MOST_CODES = 4, 256  # the paper's
ITEMS_PER_CODE = 6  # on average, at least
_LEAST_CODES = 4
# A level that lowers the squared error by less than this share of the whole holds rounding alone.
_NOTHING = 1e-6
_SELDOM_SHARED = 0.5  # share of the items whose code another item has
_ALIKE = 1.5  # perplexity


def automatic_size(n_items: int) -> int:
    """C for N items: the largest power of two that leaves 6 items a code, from 4 to 256.

    With fewer than 8 items, half as many codes as items.
    """
    least = min(_LEAST_CODES, max(2, n_items // 2))
    return max(least, min(MOST_CODES, _power_of_two(n_items // ITEMS_PER_CODE)))


def stream_sizes(
    settings: Mapping[str, Any], n_items: int, vectors: np.ndarray
) -> tuple[int, int | list[int]]:
    """Levels and codes of a stream, `auto` replaced.

    Args:
        settings: of `tokenize_settings`.
        n_items: N, which an automatic size follows.
        vectors: float32 [n, D] of the stream; a level needs no more codes than these differ.

    Returns:
        K, and C or K sizes.
    """
    n_levels, size = settings["n_levels"], settings["codebook_size"]
    if size == AUTO:
        size = min(automatic_size(n_items), count_distinct(vectors))
        if settings["quantizer"] == "opq":  # which takes powers of two alone
            size = max(2, _power_of_two(size))
    if n_levels == AUTO:
        n_levels = len(size) if isinstance(size, list) else MOST_LEVELS
    return n_levels, size


def fit_levels(
    vectors: np.ndarray,
    method: str,
    section: Mapping[str, Any],
    *,
    may_lack: bool,
    seed: int,
    folder: Path,
    show_progress: bool,
) -> Quantizer:
    """`fit_quantizer`, without the last levels that hold nothing where that is allowed.

    Args:
        vectors: float32 [n, D].
        method: of the quantizer.
        section: its settings, sizes among them.
        may_lack: whether the number of levels is `auto`; at least one is left.
        seed: of everything random.
        folder: where a killed fit leaves its state.
        show_progress: a bar with the time left.
    """
    kept: dict[str, Any] = {"seed": seed, "folder": folder, "show_progress": show_progress}
    quantizer = fit_quantizer(vectors, method, section, **kept)
    if not may_lack:
        return quantizer
    filled = max(1, _filled_levels(quantizer.report(vectors)["levels"]))
    if filled == section["n_levels"]:
        return quantizer
    return fit_quantizer(vectors, method, {**section, "n_levels": filled}, **kept)


def spare_sizes(codes: np.ndarray, n_items: int) -> tuple[int, ...]:
    """Sizes of levels without content that can tell items of equal codes apart.

    Args:
        codes: int64 [N, K].
        n_items: N, which their size follows.

    Returns:
        as many levels as the largest group of equal codes needs; none where no two are equal.
    """
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    size = automatic_size(n_items)
    return (size,) * math.ceil(math.log(int(groups.max()), size) - 1e-9)


def warn_of_sharing(levels: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """One line where codes are hardly shared, one where nearly all items have one code.

    Args:
        levels: `usage` of each level, of all streams.
        settings: that they were made with.
    """
    fewer, smaller = (
        f"{word} {key}" + ", or auto" * (settings[key] != AUTO)
        for word, key in (("fewer", "n_levels"), ("a smaller", "codebook_size"))
    )
    lonely = [row["shared"] < _SELDOM_SHARED for row in levels]
    alike = [row["perplexity"] < _ALIKE for row in levels]
    if any(lonely):
        least = min(row["shared"] for row in levels)
        logger.warning(
            "codes are hardly shared at level %s: %.0f%% of the items have a code there that "
            "another item has too, at the least; give %s",
            _letters(lonely), 100 * least, smaller,
        )  # fmt: skip
    if any(alike):
        logger.warning(
            "nearly all items have the same code at level %s, which tells nothing; give %s, and "
            "look whether the embeddings differ between items",
            _letters(alike), fewer,
        )  # fmt: skip


def _filled_levels(levels: Sequence[Mapping[str, Any]]) -> int:
    """How many of the first levels hold anything."""
    before = 1.0
    for place, row in enumerate(levels):
        if row["used"] < 2 or abs(before - row["relative_error"]) < _NOTHING:
            return place
        before = row["relative_error"]
    return len(levels)


def _letters(chosen: Sequence[bool]) -> str:
    return ", ".join(level_letters(level) for level, yes in enumerate(chosen) if yes)


def _power_of_two(most: int) -> int:
    """The largest one up to `most`; 0 where there is none."""
    return 1 << most.bit_length() - 1 if most > 0 else 0
