"""Embedding tables: the vectors of one modality, keyed by raw item token.

A table is an uncompressed `.npz` file with `items` [n], `vectors` [n, J, D] and `mask` [n, J], and
a sidecar `x.npz.json` that records how it was made. Any `.npz` with `items` [n] and `vectors`
[n, D], without a sidecar, can be read too.

Shapes: n items of the table, N requested items, J parts of an item (text fields, image patches),
D dimension.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from torch import nn

from recbole_qbert.common.errors import InputError, error_context, preview
from recbole_qbert.common.files import read_json, sidecar_path, write_json, write_npz
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.checks import check_items
from recbole_qbert.data.codec import quote
from recbole_qbert.data.semid import items_sha256

# Reserved names of tokenizer streams: the fused vectors of stage 1, co-occurrence in training
# sequences, and every modality that has embeddings.
FUSED, IDENTITY, CONTENT = "fused", "identity", "content"
SIDECAR_FORMAT = "recbole-qbert/embeddings"
SIDECAR_VERSION = 1
_NOT_NPZ = "not an .npz file with string array 'items' and numeric array 'vectors'"


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Validated vectors of the items that have at least one part.

    Attributes:
        items: n raw item tokens, unique, in any order.
        vectors: float32 or float16 [n, J, D], finite, zeros where `mask` is False.
        mask: bool [n, J], True at present parts; every item has at least one.
        meta: JSON values: modality, encoder, the items without a vector and why, and so on.

    Raises:
        InputError: one of these does not hold.
    """

    items: tuple[str, ...] = field(repr=False)
    vectors: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    meta: dict[str, Any]

    def __post_init__(self) -> None:
        _check_table(self, "embeddings", lambda row: f"row {row}")

    @property
    def n_items(self) -> int:
        """Number of items n."""
        return len(self.items)

    @property
    def n_parts(self) -> int:
        """Number of parts per item J."""
        return int(self.vectors.shape[1])

    @property
    def dimension(self) -> int:
        """Dimension of the vectors D."""
        return int(self.vectors.shape[2])

    def pooled(self) -> np.ndarray:
        """Return each item's mean over its present parts, float32 [n, D]."""
        counts = self.mask.sum(axis=1, dtype=np.float32)  # absent parts are zeros
        return self.vectors.sum(axis=1, dtype=np.float32) / counts[:, None]


@dataclass(frozen=True)
class Coverage:
    """Requested items that a table has and lacks.

    Attributes:
        n_items: N, number of requested items.
        n_present: number of those that have a vector.
        missing: those without a vector, in the requested order.
        unknown: items of the table that were not requested.
    """

    n_items: int
    n_present: int
    missing: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.n_present} of {self.n_items} items have a vector"]
        if self.missing:
            parts.append(f"{len(self.missing)} have none: {_examples(self.missing)}")
        if self.unknown:
            parts.append(
                f"the table has {len(self.unknown)} more that the data set does not know: "
                f"{_examples(self.unknown)}"
            )
        if self.missing and self.unknown:
            parts.append("do both number the items alike, from 0 or from 1?")
        return "; ".join(parts)


def _examples(items: Sequence[str]) -> str:
    return preview([quote(item) for item in items])


def write_embeddings(path: str | Path, table: EmbeddingTable) -> None:
    """Write the table and then its sidecar, each atomically.

    Equal tables give equal bytes. A kill between the two leaves the new table with the old
    sidecar, which the reader refuses.

    Raises:
        InputError: `meta` is not JSON, or a file cannot be written.
    """
    try:
        json.dumps(table.meta, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: meta cannot be written as JSON ({quote(error, limit=120)}); "
            "give texts, finite numbers, lists and mappings"
        ) from None
    try:
        items = np.array(table.items, dtype=np.str_)
        write_npz(path, items=items, vectors=table.vectors, mask=table.mask)
        write_json(sidecar_path(path), _sidecar(path, table) | {"meta": table.meta})
    except OSError as error:
        reason = error.strerror or quote(error)
        raise InputError(f"{path}: cannot be written ({reason}); correct the path") from None


def read_embeddings(path: str | Path) -> EmbeddingTable:
    """Read and check a table, and its sidecar if there is one.

    Args:
        path: a file of `write_embeddings`, or any `.npz` with `items` [n] (strings or integers),
            `vectors` [n, D] or [n, J, D] (numbers) and, optionally, `mask` [n, J] (bool). Numbers
            other than float16 and float32 become float32; masked parts become zeros.

    Returns:
        The table; `meta` is empty without a sidecar.

    Raises:
        InputError: the file is missing, its arrays have wrong types or shapes, an item occurs
            twice, a value is not finite, an item has no part, or the sidecar does not match.
    """
    arrays = _load_arrays(path)
    items, vectors = arrays["items"], arrays["vectors"]
    if vectors.ndim not in (2, 3) or items.ndim != 1 or len(items) != len(vectors):
        raise InputError(
            f"{path}: items {items.shape} and vectors {vectors.shape} do not fit; "
            "one row an item is needed"
        )
    if items.dtype.kind not in "Uiu":
        raise InputError(f"{path}: items are {items.dtype}, not strings; save them as strings")
    vectors = _as_float(vectors, str(path))
    if vectors.ndim == 2:
        vectors = vectors[:, None]
    mask = arrays.get("mask", np.ones(vectors.shape[:2], dtype=np.bool_))
    if mask.dtype != np.bool_ or mask.shape != vectors.shape[:2]:
        raise InputError(
            f"{path}: mask is {mask.dtype} {mask.shape}; bool {vectors.shape[:2]} is needed"
        )
    vectors[~mask] = 0
    with error_context(str(path)):
        table = EmbeddingTable(tuple(map(str, items.tolist())), vectors, mask, {})
    if sidecar_path(path).exists():
        table.meta.update(_checked_meta(path, table))
    return table


def join(
    table: EmbeddingTable, items: Sequence[str], named: str
) -> tuple[np.ndarray, np.ndarray, Coverage]:
    """Look up the table's vectors for a list of items, by raw token.

    Args:
        table: table of n items.
        items: N raw tokens.
        named: name of the table in messages, such as its path.

    Returns:
        vectors: float32 [N, J, D], zeros for items that the table lacks.
        mask: bool [N, J], False for those.
        coverage: the number of present and missing items.

    Raises:
        InputError: the table has none of the items.
    """
    rows = pd.Index(table.items, dtype=object).get_indexer(pd.Index(list(items), dtype=object))
    present = rows >= 0
    if len(rows) and not present.any():
        raise InputError(
            f"{named}: none of the {len(rows)} items asked for has a vector: they look like "
            f"{quote(items[0])}, those of the table like {quote(table.items[0])}; make the table "
            "from this data set's items"
        )
    vectors = np.zeros((len(rows), table.n_parts, table.dimension), dtype=np.float32)
    vectors[present] = table.vectors[rows[present]]
    mask = np.zeros(vectors.shape[:2], dtype=np.bool_)
    mask[present] = table.mask[rows[present]]
    return vectors, mask, coverage(table, items)


def coverage(table: EmbeddingTable, items: Sequence[str]) -> Coverage:
    """Count the items, of N raw tokens, that the table has, lacks, and has in addition."""
    asked, own = pd.Index(list(items), dtype=object), pd.Index(table.items, dtype=object)
    present = asked.isin(own)
    unknown = own[~own.isin(asked)]
    return Coverage(len(asked), int(present.sum()), tuple(asked[~present]), tuple(unknown))


def import_matrix(
    matrix_path: str | Path, items_path: str | Path, modality: str, encoder: str
) -> EmbeddingTable:
    """Build a table from vectors that another program made.

    Args:
        matrix_path: `.npy` file, [n, D] or [n, J, D]. A part that is all zeros counts as missing,
            because such files mark missing parts so.
        items_path: UTF-8 text with the item token of each row, one per line.
        modality: `text`, `image`, ...
        encoder: name of the encoder that made the vectors.

    Returns:
        The table; items without any part are listed in `meta["missing"]`.

    Raises:
        InputError: a file cannot be read, their lengths differ, a token is empty or doubled, a
            value is not finite, or every vector is zero.
    """
    tokens = _read_tokens(items_path)
    try:
        matrix = np.load(matrix_path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{matrix_path}: no such file; correct the path") from None
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise InputError(f"{matrix_path}: not an .npy array ({quote(error, 120)})") from None
    if not isinstance(matrix, np.ndarray) or matrix.ndim not in (2, 3):
        raise InputError(f"{matrix_path}: not one array [n, D] or [n, J, D]; use numpy.save")
    if len(matrix) != len(tokens):
        raise InputError(
            f"{items_path}: {len(tokens)} tokens for the {len(matrix)} rows of {matrix_path}; "
            "give one token a row, each on a line"
        )
    vectors = _as_float(matrix, str(matrix_path))
    if vectors.ndim == 2:
        vectors = vectors[:, None]
    _check_finite(tokens, vectors, str(matrix_path))
    mask = vectors.any(axis=2)
    present = mask.any(axis=1)
    if not present.any():
        raise InputError(f"{matrix_path}: every vector is zero; give the encoder's vectors")
    missing = [tokens[row] for row in np.flatnonzero(~present)]
    meta = {
        "modality": modality,
        "encoder": {"name": encoder},
        "source": {
            "matrix_file": Path(matrix_path).name,
            "matrix_file_sha256": sha256_file(matrix_path),
            "items_file": Path(items_path).name,
            "items_file_sha256": sha256_file(items_path),
        },
        "missing": dict.fromkeys(missing, "the vector is all zeros"),
    }
    kept = tuple(tokens[row] for row in np.flatnonzero(present))
    return EmbeddingTable(kept, vectors[present], mask[present], meta)


def _check_table(table: EmbeddingTable, named: str, place: Callable[[int], str]) -> None:
    """Check the invariants of `EmbeddingTable`; the InputError names the first bad row."""
    vectors, mask = table.vectors, table.mask
    check_items(table.items, len(vectors), named, place)
    # NumPy drops trailing NULs of its strings, so such a token would be read back shorter.
    row = next((row for row, item in enumerate(table.items) if "\0" in item), None)
    if row is not None:
        raise InputError(
            f"{named}: {place(row)}, item_id: {quote(table.items[row])} holds a NUL character; "
            "rename the item"
        )
    if vectors.ndim != 3 or 0 in vectors.shape or vectors.dtype not in (np.float32, np.float16):
        raise InputError(
            f"{named}: vectors are {vectors.dtype} {vectors.shape}; "
            "float32 or float16 [items, parts, dimension] is needed"
        )
    if mask.dtype != np.bool_ or mask.shape != vectors.shape[:2]:
        raise InputError(
            f"{named}: mask is {mask.dtype} {mask.shape}; bool {vectors.shape[:2]} is needed"
        )
    _check_finite(table.items, vectors, named)
    if not mask.any(axis=1).all():
        row = int(np.flatnonzero(~mask.any(axis=1))[0])
        raise InputError(
            f"{named}: mask {place(row)} (item {table.items[row]}) has no part; "
            "leave items without a vector out"
        )
    if vectors[~mask].any():
        raise InputError(f"{named}: a masked part's vector is not zero; set it to zero")


def _check_finite(items: Sequence[str], vectors: np.ndarray, named: str) -> None:
    """Raise an InputError for the first item with an infinite value or a NaN."""
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=(1, 2)))[0])
        raise InputError(
            f"{named}: vectors row {row} (item {items[row]}) is not finite; "
            "give finite values or leave the item out"
        )


def _as_float(vectors: np.ndarray, named: str) -> np.ndarray:
    """Convert to float32; float16 is kept."""
    if vectors.dtype.kind not in "fiu":
        raise InputError(f"{named}: vectors are {vectors.dtype}, not numbers; save them as float32")
    target = np.float16 if vectors.dtype.itemsize == 2 and vectors.dtype.kind == "f" else np.float32
    with np.errstate(over="ignore"):  # an overflow gives infinity, which is refused later
        return vectors.astype(target, copy=False)


def _load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Load `items`, `vectors` and, if present, `mask` from an `.npz` file."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with archive:
            names = ["items", "vectors"] + ["mask"] * ("mask" in archive.files)
            return {name: archive[name] for name in names}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give an .npz file of item vectors") from None
    except (ValueError, OSError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: {_NOT_NPZ} ({quote(error, 120)}); make it again") from None


def _sidecar(path: str | Path, table: EmbeddingTable) -> dict[str, Any]:
    """Return the sidecar's content that follows from the table, without `meta`."""
    return {
        "format": SIDECAR_FORMAT,
        "version": SIDECAR_VERSION,
        "sha256": sha256_file(path),
        "items_sha256": items_sha256(table.items),
        "shape": list(table.vectors.shape),
        "dtype": str(table.vectors.dtype),
    }


def _checked_meta(path: str | Path, table: EmbeddingTable) -> dict[str, Any]:
    """Return the sidecar's `meta`, after checking that the rest of the sidecar matches the file."""
    sidecar = sidecar_path(path)
    content = read_json(sidecar)
    for key, value in _sidecar(path, table).items():
        if content.get(key) != value:
            raise InputError(
                f"{sidecar}: {key} is {quote(content.get(key), limit=70)}, that of {path} is "
                f"{value!r}; make the table again (or delete the sidecar, if the table is right)"
            )
    if not isinstance(content.get("meta"), dict):
        raise InputError(f"{sidecar}: meta is no JSON object; make the table again")
    return content["meta"]


def _read_tokens(path: str | Path) -> tuple[str, ...]:
    """Read item tokens from a text file, one per line."""
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; correct the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); convert the file to UTF-8") from None
    if not lines[-1]:
        lines.pop()
    tokens = tuple(line.removesuffix("\r") for line in lines)
    check_items(tokens, len(tokens), str(path), lambda row: f"line {row + 1}")
    return tokens


def check_modality(name: Any) -> None:
    """Check that a name can be a modality: part of a file name, of a parameter and of a stream.

    Raises:
        InputError: it has other characters, is reserved, or is an attribute of `nn.ModuleDict`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or not isinstance(name, str):
        raise InputError(f"modalities: {name!r}; use letters, digits, _ and - only")
    if name in (FUSED, IDENTITY, CONTENT) or hasattr(nn.ModuleDict, name):
        raise InputError(f"modalities: {name!r} is a reserved word; rename <dataset>.{name}.npz")
