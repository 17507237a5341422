"""Encode item pictures in batches; one that cannot be used has a reason, never a stand-in.

b pictures, g good ones among them, J vectors of a picture, D dimension.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Prepare pictures on threads, one batch ahead of the encoder, and lay the vectors out.

    Args:
        paths: b files; None for an item without one.
        prepare: reads one file; called on several threads at once, may raise `UnreadablePicture`.
        encode: what `prepare` made of g pictures, at least one, to float32 [g, J, D].
        n_parts: J.
        batch_size: the most pictures that `encode` gets.
        n_threads: threads that prepare; the result does not depend on it.
    """
    mask = np.zeros((len(paths), n_parts), dtype=np.bool_)
    vectors = np.zeros((len(paths), n_parts, 0), dtype=np.float32)
    reasons: list[str] = []
    batches = _prepared(paths, prepare, batch_size, n_threads)
    # What Pillow would warn of (sizes, odd metadata) is refused with a reason or does not matter.
    with warnings.catch_warnings(), contextlib.closing(batches):
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for batch in batches:
            good = [ready for ready, _ in batch if ready is not None]
            rows = [row for row, (_, why) in enumerate(batch, len(reasons)) if not why]
            reasons += [why for _, why in batch]
            if not good:
                continue
            encoded = encode(good)
            if not vectors.shape[2]:
                vectors = np.zeros((len(paths), *encoded.shape[1:]), dtype=np.float32)
            vectors[rows] = encoded
            mask[rows] = True
    return EncodedBatch(vectors, mask, reasons)


def default_threads() -> int:
    """Threads that read files: one a core, but the interpreter keeps no more than four busy."""
    return min(4, n_cores())


def _prepared(
    paths: Sequence[str | Path | None],
    prepare: Callable[[str | Path], T],
    batch_size: int,
    n_threads: int,
) -> Generator[list[tuple[T | None, str]], None, None]:
    """Batches of pairs: what was prepared, or None and why not."""

    def attempt(path: str | Path | None) -> tuple[T | None, str]:
        if path is None:
            return None, "no picture"
        try:
            return prepare(path), ""
        except UnreadablePicture as error:
            return None, str(error)

    ahead: list[Future[tuple[T | None, str]]] = []
    with ThreadPoolExecutor(n_threads) as pool:
        for start in range(0, len(paths), batch_size):
            current, ahead = ahead, []
            for path in paths[start : start + batch_size]:
                ahead.append(pool.submit(attempt, path))
            if current:
                yield [future.result() for future in current]
        yield [future.result() for future in ahead]
