"""Dense item vectors keyed by raw item token: `.npz` with `items` [n] and `vectors` [n, D]."""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from recbole_qbert.errors import InputError


def read_item_vectors(path: str | Path) -> tuple[list[str], np.ndarray]:
    """Item tokens and float32 vectors [n, D].

    Raises:
        InputError: missing file, wrong arrays, doubled items, or a value that is not finite.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with archive:
            items, vectors = archive["items"], archive["vectors"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; item_vectors names a .npz file") from None
    except (ValueError, OSError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path}: not an .npz file with string array 'items' and matrix 'vectors' ({error})"
        ) from None
    if vectors.ndim != 2 or items.ndim != 1 or len(items) != len(vectors):
        raise InputError(
            f"{path}: items {items.shape} and vectors {vectors.shape} do not fit; "
            f"one row an item is needed"
        )
    if vectors.dtype.kind not in "fiu":
        raise InputError(f"{path}: vectors are {vectors.dtype}, not numbers; save them as float32")
    with np.errstate(over="ignore"):
        vectors = vectors.astype(np.float32)
    tokens = [str(item) for item in items]
    if len(set(tokens)) < len(tokens):
        raise InputError(f"{path}: items holds the same token twice; keep one row an item")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise InputError(f"{path}: vectors row {row} (item {tokens[row]}) is not finite")
    return tokens, vectors
