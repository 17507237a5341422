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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from torch import nn

from recbole_qbert.common.errors import InputError, error_context, preview
from recbole_qbert.common.files import sidecar_path, write_json, write_npz
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.data.atomic import read_lines
from recbole_qbert.data.codec import check_items, quote
from recbole_qbert.data.semid import items_sha256, read_sidecar

# Reserved names of tokenizer streams: the fused vectors of stage 1, co-occurrence in training
# sequences, behavior-bound latents, and every modality that has embeddings.
FUSED, IDENTITY, BBQ, CONTENT = "fused", "identity", "bbq", "content"
Z_ID = "z_ID"  # of the stream bbq: the segment beside those of the modalities
SIDECAR = {"format": "recbole-qbert/embeddings", "version": 1}
_BROKEN = (ValueError, OSError, KeyError, EOFError, BadZipFile, zlib.error)  # of NumPy's readers


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
        vectors, mask = self.vectors, self.mask
        check_items(self.items, len(vectors), "embeddings", lambda row: f"row {row}")
        if vectors.ndim != 3 or 0 in vectors.shape or vectors.dtype not in (np.float32, np.float16):
            raise InputError(
                f"embeddings: vectors are {vectors.dtype} {vectors.shape}; "
                "give float32 or float16 [items, parts, dimension]"
            )
        if mask.dtype != np.bool_ or mask.shape != vectors.shape[:2]:
            raise InputError(
                f"embeddings: mask is {mask.dtype} {mask.shape}; give bool {vectors.shape[:2]}"
            )
        for fault, rows in (
            ("is not finite; give finite values or leave the item out",
             ~np.isfinite(vectors).all(axis=(1, 2))),
            ("has no part in the mask; leave items without a vector out", ~mask.any(axis=1)),
            ("has a masked part that is not zero; set it to zero",
             (vectors.any(axis=2) & ~mask).any(axis=1)),
        ):  # fmt: skip
            if rows.any():
                item = quote(self.items[int(rows.argmax())])
                raise InputError(f"embeddings: the vector of item {item} {fault}")

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
        return mean_of_parts(self.vectors, self.mask)


def mean_of_parts(vectors: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the mean over the present parts of vectors [n, J, D] with mask [n, J].

    Absent parts are zeros.

    Returns:
        float32 [n, D], zeros where no part is present.
    """
    counts = np.maximum(mask.sum(axis=1, dtype=np.float32), 1)
    return vectors.sum(axis=1, dtype=np.float32) / counts[:, None]


@dataclass(frozen=True)
class Coverage:
    """Requested items that a table has and lacks."""

    n_items: int  # N, requested items
    n_present: int  # those that have a vector
    missing: tuple[str, ...]  # those without a vector, in the requested order
    unknown: tuple[str, ...] = ()  # items of the table that were not requested

    def __str__(self) -> str:
        parts = [f"{self.n_present:,} of {counted(self.n_items, 'item')} have a vector"]
        if self.missing:
            parts.append(
                f"{counted(len(self.missing), 'has', 'have')} none: {_examples(self.missing)}"
            )
        if self.unknown:
            parts.append(
                f"the table has {len(self.unknown)} more that the data set does not know: "
                f"{_examples(self.unknown)}"
            )
        if self.missing and self.unknown:
            parts.append("check that both number the items from the same start, 0 or 1")
        return "; ".join(parts)


def _examples(items: Sequence[str]) -> str:
    return preview([quote(item) for item in items])


def write_embeddings(path: str | Path, table: EmbeddingTable) -> None:
    """Write the table and then its sidecar, each atomically.

    Equal tables give equal bytes. A kill between the two leaves the new table with the old
    sidecar, which the reader refuses. `meta` must hold JSON values.

    Raises:
        InputError: a file cannot be written.
    """
    json.dumps(table.meta, allow_nan=False)  # an error here leaves the old table
    items = np.array(table.items, dtype=np.str_)
    write_npz(path, items=items, vectors=table.vectors, mask=table.mask)
    write_json(
        sidecar_path(path),
        {
            **SIDECAR,
            "sha256": sha256_file(path),
            "items_sha256": items_sha256(table.items),
            "shape": list(table.vectors.shape),
            "dtype": str(table.vectors.dtype),
            "meta": table.meta,
        },
    )


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
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = ["items", "vectors", *({"mask"} & set(archive.files))]
            arrays = {name: archive[name] for name in names}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give an .npz file of item vectors") from None
    except (*_BROKEN, AttributeError, TypeError) as error:  # the last two: an .npy array
        raise InputError(
            f"{path}: not an .npz file with string array 'items' and numeric array 'vectors' "
            f"({quote(error, 120)}); make it again"
        ) from None
    items = arrays["items"]
    if items.dtype.kind not in "Uiu" or items.ndim != 1:
        raise InputError(f"{path}: items are {items.dtype} {items.shape}; save n strings [n]")
    with error_context(str(path)):
        vectors = _as_parts(arrays["vectors"], arrays.get("mask"))
        mask = arrays.get("mask", np.ones(vectors.shape[:2], dtype=np.bool_))
        table = EmbeddingTable(tuple(map(str, items.tolist())), vectors, mask, {})
    content = read_sidecar(path, SIDECAR)
    if content is not None:
        if not isinstance(content.get("meta"), dict):
            raise InputError(f"{sidecar_path(path)}: no JSON object 'meta'; make the table again")
        table.meta.update(content["meta"])
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
    asked, own = pd.Index(list(items), dtype=object), pd.Index(table.items, dtype=object)
    rows = own.get_indexer(asked)
    present = rows >= 0
    if len(rows) and not present.any():
        raise InputError(
            f"{named}: none of {counted(len(rows), 'requested item')} has a vector; their tokens "
            "are like "
            f"{quote(items[0])}, those of the table like {quote(table.items[0])}; make the table "
            "from the items of this data set"
        )
    vectors = np.zeros((len(rows), table.n_parts, table.dimension), dtype=np.float32)
    vectors[present] = table.vectors[rows[present]]
    mask = np.zeros(vectors.shape[:2], dtype=np.bool_)
    mask[present] = table.mask[rows[present]]
    unknown = tuple(own[~own.isin(asked)])
    return vectors, mask, Coverage(len(asked), int(present.sum()), tuple(asked[~present]), unknown)


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
    lines = read_lines(Path(items_path))
    tokens = lines if lines[-1] else lines[:-1]
    check_items(tokens, len(tokens), str(items_path), lambda row: f"line {row + 1}")
    try:
        matrix = np.load(matrix_path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{matrix_path}: no such file; correct the path") from None
    except _BROKEN as error:
        raise InputError(
            f"{matrix_path}: not an .npy array ({quote(error, 120)}); use numpy.save"
        ) from None
    with error_context(str(matrix_path)):
        vectors = _as_parts(matrix)
        if len(vectors) != len(tokens):
            raise InputError(
                f"{counted(len(vectors), 'row')}, but {items_path} has "
                f"{counted(len(tokens), 'token')}; give one token per row, each on a line"
            )
        mask = vectors.any(axis=2)
        present = mask.any(axis=1)
        if not present.any():
            raise InputError("every vector is zero; give the encoder's vectors")
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


def _as_parts(vectors: Any, mask: np.ndarray | None = None) -> np.ndarray:
    """Convert [n, D] or [n, J, D] to float32 [n, J, D]; float16 is kept, masked parts are zeros."""
    if not isinstance(vectors, np.ndarray) or vectors.ndim not in (2, 3):
        raise InputError("not one array [n, D] or [n, J, D] of vectors; save it with numpy")
    if vectors.dtype.kind not in "fiu":
        raise InputError(f"vectors are {vectors.dtype}, not numbers; save them as float32")
    vectors = vectors[:, None] if vectors.ndim == 2 else vectors
    if mask is not None and mask.dtype == np.bool_ and mask.shape == vectors.shape[:2]:
        vectors = np.where(mask[:, :, None], vectors, vectors.dtype.type(0))
    if vectors.dtype != np.float16:
        with np.errstate(over="ignore"):
            exact, vectors = vectors, vectors.astype(np.float32, copy=False)
        if (np.isinf(vectors) & np.isfinite(exact)).any():
            raise InputError("a value is too large for float32; scale the vectors")
    return vectors


def check_modality(name: Any) -> None:
    """Check that a name can be a modality: part of a file name, of a parameter and of a stream.

    Raises:
        InputError: it has other characters, is reserved, or is an attribute of `nn.ModuleDict` or
            `nn.ParameterDict`.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or not isinstance(name, str):
        raise InputError(f"modalities: {name!r}; use only letters, digits, _ and -")
    reserved = name in (FUSED, IDENTITY, BBQ, CONTENT, Z_ID)
    # Of instances, which have more attributes than the classes.
    if reserved or any(hasattr(each, name) for each in (nn.ModuleDict(), nn.ParameterDict())):
        raise InputError(f"modalities: {name!r} is a reserved word; rename <dataset>.{name}.npz")
