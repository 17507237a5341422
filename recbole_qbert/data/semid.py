"""Read, check and write semantic-ID files `<ds>.semid`.

The file is tab-separated UTF-8 with the header `item_id:token<TAB>semantic_id:token_seq` and one
row per item: `B00ABC<TAB>a_170 b_224 c_251 d_151`. All items have the same number of levels, and no
two items have the same tuple. Shapes: N items, K levels.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write, read_json, sidecar_path, write_json
from recbole_qbert.data.atomic import read_atomic
from recbole_qbert.data.checks import check_codes, check_items
from recbole_qbert.data.codec import (
    CODEBOOK_LIMIT,
    HEADER,
    IntArray,
    SemanticIDCodec,
    as_code_array,
    checked_sizes,
    level_letters,
    parse_rows,
    quote,
)

__all__ = [
    "CODEBOOK_LIMIT",
    "HEADER",
    "SIDECAR_FORMAT",
    "SIDECAR_VERSION",
    "SemanticIDCodec",
    "SemanticIDTable",
    "check_semantic_ids",
    "items_sha256",
    "level_letters",
    "read_semantic_ids",
    "write_semantic_ids",
]

SIDECAR_FORMAT = "recbole-qbert/semid"
SIDECAR_VERSION = 1
ITEM_FIELD = "item_id"


@dataclass(frozen=True, eq=False)
class SemanticIDTable:
    """Validated codes of items.

    Attributes:
        items: N raw item tokens, unique.
        codes: int64 [N, K], read-only, unique rows, each code below its codebook's size.
        codebook_sizes: number of codes of each level, K of them.
        path: file of the rows; with it, error messages give line numbers.
        vocabulary: name of the code vocabulary; files with equal names share the meaning of their
            codes. A file whose sidecar names none gets its own, named by the hash of its bytes.

    Raises:
        InputError: one of these does not hold.
    """

    items: tuple[str, ...] = field(repr=False)
    codes: IntArray = field(repr=False)
    codebook_sizes: tuple[int, ...]
    path: InitVar[str | None] = None
    vocabulary: str = ""

    def __post_init__(self, path: str | None) -> None:
        named = "semantic IDs" if path is None else path
        first, unit = (0, "row") if path is None else (2, "line")
        given: Any = self.items  # some callers do not use a type checker
        if isinstance(given, str):
            raise InputError(f"{named}: items is one text; give a sequence of item tokens")
        items = tuple(given)
        sizes = checked_sizes(self.codebook_sizes, named)
        codes = as_code_array(self.codes, len(sizes), named)
        check_items(items, len(codes), named, lambda row: f"{unit} {row + first}")
        check_codes(items, codes, sizes, named, lambda row: f"{unit} {row + first}")
        codes.setflags(write=False)
        object.__setattr__(self, "items", items)
        object.__setattr__(self, "codes", codes)
        object.__setattr__(self, "codebook_sizes", sizes)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SemanticIDTable):
            return NotImplemented
        return (
            self.codebook_sizes == other.codebook_sizes
            and self.items == other.items
            and np.array_equal(self.codes, other.codes)
        )

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return len(self.items)

    @property
    def n_levels(self) -> int:
        """Number of levels K."""
        return len(self.codebook_sizes)

    @property
    def codec(self) -> SemanticIDCodec:
        """Codec with these codebook sizes."""
        return SemanticIDCodec(self.codebook_sizes)

    def semantic_ids(self) -> list[str]:
        """Return the N tuples as text, `'a_1 b_2'`."""
        columns = []
        for level in range(self.n_levels):
            letters = level_letters(level)
            columns.append([f"{letters}_{code}" for code in self.codes[:, level].tolist()])
        return list(map(" ".join, zip(*columns, strict=True)))

    def codes_for(self, items: Sequence[str]) -> IntArray:
        """Return the codes [n, K] of n items, in the given order.

        Raises:
            InputError: items have no semantic ID; gives their number and the first ten.
        """
        return self.codes[self.rows_for(items)]

    def rows_for(self, items: Sequence[str]) -> IntArray:
        """Return the row numbers [n] of n items, in the given order.

        Raises:
            InputError: as in `codes_for`.
        """
        self._check_known(items, "semantic IDs")
        return np.asarray([self._rows[item] for item in items], dtype=np.int64)

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.items)}

    def _check_known(self, asked: Iterable[str], named: str) -> None:
        distinct = dict.fromkeys(asked)
        missing = [item for item in distinct if item not in self._rows]
        if missing:
            raise InputError(
                f"{named}: {len(missing)} of {len(distinct)} items have no semantic ID: "
                f"{preview([quote(item) for item in missing])}; "
                "make the semantic-ID file again from all items of the dataset"
            )


def read_semantic_ids(
    path: str | Path, codebook_sizes: Sequence[int] | None = None
) -> SemanticIDTable:
    """Read and check a semantic-ID file, and its sidecar if there is one.

    Args:
        path: the `.semid` file.
        codebook_sizes: K sizes; default: those of the sidecar, else each level's largest code + 1.

    Raises:
        InputError: the file or its sidecar is missing, malformed or inconsistent; names the file,
            line, field and remedy.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it, or correct the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    items, codes = parse_rows(data, str(path))
    sidecar = _read_sidecar(path, data)
    named: str | Path = path
    if codebook_sizes is not None:
        sizes = checked_sizes(codebook_sizes, str(path))
    elif sidecar is not None:
        named = sidecar_path(path)
        sizes = checked_sizes(sidecar.get("codebook_sizes", ()), str(named))
    else:
        sizes = tuple(int(code) + 1 for code in codes.max(axis=0))
    if len(sizes) != codes.shape[1]:
        raise InputError(
            f"{named}: codebook_sizes has {len(sizes)} levels, the rows of {path} have "
            f"{codes.shape[1]}; give one size a level"
        )
    own = f"sha256:{hashlib.sha256(data).hexdigest()}"
    vocabulary = str((sidecar or {}).get("vocabulary") or own)
    table = SemanticIDTable(tuple(items), codes, sizes, str(path), vocabulary)
    if sidecar is not None:
        _check_summary(path, sidecar, table)
    return table


def _read_sidecar(path: str | Path, data: bytes) -> dict[str, Any] | None:
    """Read and check the sidecar of the file whose bytes are `data`; None if there is none."""
    sidecar = sidecar_path(path)
    if not sidecar.exists():
        return None
    try:
        content = read_json(sidecar)
    except (OSError, ValueError, RecursionError) as error:
        reason = quote(error, limit=120)
        raise InputError(f"{sidecar}: cannot be read ({reason}); make it again") from None
    for key, wanted in (("format", SIDECAR_FORMAT), ("version", SIDECAR_VERSION)):
        if content.get(key) != wanted or isinstance(content.get(key), bool):
            raise InputError(
                f"{sidecar}: {key} is {quote(content.get(key))}, not {wanted!r}; "
                "make the semantic-ID file again with this version"
            )
    if content.get("sha256") != hashlib.sha256(data).hexdigest():
        raise InputError(
            f"{sidecar}: the sidecar names other data: its sha256 is not that of {path}; "
            "make the file again (or delete the sidecar, if the file is right as it stands)"
        )
    return content


def _check_summary(path: str | Path, sidecar: Mapping[str, Any], table: SemanticIDTable) -> None:
    """Check the sidecar's counts and item hash against the table."""
    wanted = {
        "n_items": table.n_items,
        "n_levels": table.n_levels,
        "items_sha256": items_sha256(table.items),
    }
    for key, value in wanted.items():
        if sidecar.get(key) != value:
            raise InputError(
                f"{sidecar_path(path)}: {key} is {quote(sidecar.get(key), limit=70)}, "
                f"the file has {value!r}; make the file again"
            )


def items_sha256(items: Iterable[str]) -> str:
    """Hash a set of items, whatever their order: sorted tokens, joined by line ends."""
    return hashlib.sha256("\n".join(sorted(items)).encode("utf-8")).hexdigest()


def write_semantic_ids(path: str | Path, table: SemanticIDTable, source: Mapping[str, Any]) -> None:
    """Write the file and then its sidecar, each atomically.

    A kill between the two leaves the new file with the old sidecar, which the reader refuses.

    Args:
        path: the `.semid` file.
        table: the table; checked again first, so that a fault leaves an old file untouched.
        source: provenance of the table: hashes, seed, command. JSON values only.

    Raises:
        InputError: the table is not valid, `source` is not JSON, or a file cannot be written.
    """
    table = SemanticIDTable(
        table.items, table.codes, table.codebook_sizes, vocabulary=table.vocabulary
    )
    try:
        json.dumps(dict(source), ensure_ascii=False, sort_keys=True).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: source cannot be written as JSON ({quote(error, limit=120)}); "
            "give texts, numbers, lists and mappings"
        ) from None
    rows = map("\t".join, zip(table.items, table.semantic_ids(), strict=True))
    data = "\n".join((HEADER, *rows, "")).encode("utf-8")
    try:
        with atomic_write(path, "wb") as handle:
            handle.write(data)
        write_json(
            sidecar_path(path),
            {
                "format": SIDECAR_FORMAT,
                "version": SIDECAR_VERSION,
                "n_levels": table.n_levels,
                "codebook_sizes": list(table.codebook_sizes),
                "n_items": table.n_items,
                "sha256": hashlib.sha256(data).hexdigest(),
                "items_sha256": items_sha256(table.items),
                **({"vocabulary": table.vocabulary} if table.vocabulary else {}),
                "source": dict(source),
            },
        )
    except OSError as error:
        reason = error.strerror or quote(error)
        raise InputError(f"{path}: cannot be written ({reason}); correct the path") from None


def check_semantic_ids(path: str | Path, inter_path: str | Path | None = None) -> list[str]:
    """Check a semantic-ID file and describe it.

    Args:
        path: the `.semid` file.
        inter_path: a RecBole `.inter` file; all its items (column `item_id:token`) must have a
            semantic ID.

    Returns:
        Lines of text, one per fact.

    Raises:
        InputError: a file has a fault, or items of the `.inter` file have no semantic ID.
    """
    table = read_semantic_ids(path)
    report = [f"{path}: {table.n_items} items, {table.n_levels} levels"]
    report.append("codebook sizes: " + " ".join(map(str, table.codebook_sizes)))
    for level, size in enumerate(table.codebook_sizes):
        used = len(np.unique(table.codes[:, level]))
        report.append(f"level {level_letters(level)}: {used}/{size} codes used")
    if sidecar_path(path).exists():
        report.append(f"sidecar: {sidecar_path(path)} agrees with the file")
    else:
        report.append("sidecar: none; the codebook sizes are those of the largest codes")
    if inter_path is not None:
        items = _interaction_items(inter_path)
        table._check_known(items, str(inter_path))
        report.append(
            f"coverage: all {len(items)} items of {inter_path} have a semantic ID; "
            f"{table.n_items - len(items)} further items have no interaction there"
        )
    return report


def _interaction_items(path: str | Path) -> list[str]:
    """Return the distinct items of a RecBole `.inter` file, in order of first appearance."""
    file = read_atomic(path)
    file.need([ITEM_FIELD], "give a RecBole .inter file")
    file.check_ids(ITEM_FIELD)
    items: list[str] = pc.unique(file.columns[ITEM_FIELD]).to_pylist()
    return items
