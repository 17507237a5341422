"""Encode item pictures in batches. An unusable picture gets a reason and no vector.

Shapes: b pictures, g usable pictures of a batch, J vectors of a picture, D dimensions.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from recbole_qbert.common.process import n_cores
from recbole_qbert.data.pictures import UnreadablePicture
from recbole_qbert.encoders.shards import EncodedBatch

T = TypeVar("T")


def encode_pictures(
    paths: Sequence[str | Path | None],
    prepare: Callable[[str | Path], T],
    encode: Callable[[list[T]], np.ndarray],
    *,
    n_parts: int,
    batch_size: int,
    n_threads: int,
) -> EncodedBatch:
    """Encode pictures; threads prepare the next batch while the encoder runs.

    Args:
        paths: b files; None for an item without one.
        prepare: reads one file; called on several threads at once, may raise `UnreadablePicture`.
        encode: maps the g >= 1 results of `prepare` for a batch to float32 [g, J, D].
        n_parts: J.
        batch_size: largest number of pictures in a batch.
        n_threads: number of threads that prepare; the result does not depend on it.

    Returns:
        Vectors [b, J, D] in the order of `paths`, masked for unusable pictures.
    """
    encoded = [np.zeros((0, n_parts, 0), dtype=np.float32)]
    reasons: list[str] = []
    batches = _prepared(paths, prepare, batch_size, n_threads)
    # Pillow warns of sizes, which `open_picture` refuses, and of odd metadata, which is harmless.
    with warnings.catch_warnings(), contextlib.closing(batches):
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for batch in batches:
            reasons += [why for _, why in batch]
            good = [ready for ready, _ in batch if ready is not None]
            if good:
                encoded.append(encode(good))
    usable = np.array([not why for why in reasons])
    vectors = np.zeros((len(paths), *encoded[-1].shape[1:]), dtype=np.float32)
    vectors[usable] = np.concatenate(encoded[1:] or encoded)
    return EncodedBatch(vectors, np.repeat(usable[:, None], vectors.shape[1], axis=1), reasons)


def default_threads() -> int:
    """Return the number of threads that read files: one per core, at most 4.

    The interpreter lock keeps more than four threads from being busy.
    """
    return min(4, n_cores())


def _prepared(
    paths: Sequence[str | Path | None],
    prepare: Callable[[str | Path], T],
    batch_size: int,
    n_threads: int,
) -> Generator[list[tuple[T | None, str]], None, None]:
    """Yield batches of pairs: the prepared picture and "", or None and the reason."""

    def attempt(path: str | Path | None) -> tuple[T | None, str]:
        if path is None:
            return None, "no picture"
        try:
            return prepare(path), ""
        except UnreadablePicture as error:
            return None, str(error)

    with ThreadPoolExecutor(n_threads) as pool:
        starts = range(0, len(paths), batch_size)
        batches = (pool.map(attempt, paths[start : start + batch_size]) for start in starts)
        ahead = next(batches)  # `map` submits at once
        for following in batches:
            yield list(ahead)
            ahead = following
        yield list(ahead)
