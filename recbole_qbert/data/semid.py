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
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write, read_json, sidecar_path, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.data.atomic import Atomic, read_atomic
from recbole_qbert.data.codec import (
    CODE,
    CODEBOOK_LIMIT,
    IntArray,
    SemanticIDCodec,
    check_codes,
    check_items,
    checked_sizes,
    level_letters,
    quote,
)

ITEM_FIELD, ID_FIELD = "item_id", "semantic_id"
HEADER = f"{ITEM_FIELD}:token\t{ID_FIELD}:token_seq"
SIDECAR = {"format": "recbole-qbert/semid", "version": 1}


@dataclass(frozen=True, eq=False)
class SemanticIDTable:
    """Validated codes of items.

    Attributes:
        items: N raw item tokens, unique.
        codes: int64 [N, K], read-only, unique rows, each code below its codebook's size.
        codebook_sizes: number of codes of each level, K of them.
        file: file of the rows; with it, error messages give line numbers.
        vocabulary: name of the code vocabulary; files with equal names share the meaning of their
            codes. A file whose sidecar names none gets its own, named by the hash of its bytes.
        extra_level: level that only counts the items of equal tuples (`unique: extra_level`); None
            if there is none.

    Raises:
        InputError: one of these does not hold.
    """

    items: tuple[str, ...] = field(repr=False)
    codes: IntArray = field(repr=False)
    codebook_sizes: tuple[int, ...]
    file: InitVar[Atomic | None] = None
    vocabulary: str = ""
    extra_level: int | None = None

    def __post_init__(self, file: Atomic | None) -> None:
        named = "semantic IDs" if file is None else str(file.path)
        items, sizes = tuple(self.items), checked_sizes(self.codebook_sizes, named)
        codes = np.array(self.codes)
        if codes.shape[1:] != (len(sizes),) or not np.issubdtype(codes.dtype, np.integer):
            raise InputError(
                f"{named}: codes are {codes.dtype} {list(codes.shape)}; "
                f"give integers [N, {len(sizes)}]"
            )
        codes = codes.astype(np.int64, copy=False)

        def place(row: int) -> str:
            return f"row {row}" if file is None else f"line {file.lines[row]}"

        check_items(items, len(codes), named, place)
        check_codes(items, codes, sizes, named, place)
        codes.setflags(write=False)
        for name, value in (("items", items), ("codes", codes), ("codebook_sizes", sizes)):
            object.__setattr__(self, name, value)

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

    def __contains__(self, item: object) -> bool:
        return item in self._rows

    def joined(self, other: SemanticIDTable) -> SemanticIDTable:
        """Return this table followed by the items of `other` that it lacks; raises as the class."""
        new = [item for item in other.items if item not in self]
        codes = np.concatenate([self.codes, other.codes_for(new)])
        return replace(self, items=(*self.items, *new), codes=codes, file=None)

    def codes_for(self, items: Sequence[str]) -> IntArray:
        """Return the codes [n, K] of n items, in the given order.

        Raises:
            InputError: items have no semantic ID; gives their number and the first ten.
        """
        return self.codes[self.rows_for(items)]

    def rows_for(self, items: Sequence[str]) -> IntArray:
        """Return the row numbers [n] of n items, in the given order; raises as `codes_for`."""
        self.check_known(items, "semantic IDs")
        return np.asarray([self._rows[item] for item in items], dtype=np.int64)

    @functools.cached_property
    def _rows(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.items)}

    def check_known(self, asked: Iterable[str], named: str) -> None:
        """Raise an InputError if items that `named` asks for have no semantic ID."""
        distinct = dict.fromkeys(asked)
        missing = [item for item in distinct if item not in self._rows]
        if missing:
            raise InputError(
                f"{named}: {len(missing)} of {len(distinct)} items have no semantic ID: "
                f"{preview([quote(item) for item in missing])}; "
                "make the semantic-ID file again from all items of the data set"
            )


def read_semantic_ids(
    path: str | Path, codebook_sizes: Sequence[int] | None = None
) -> SemanticIDTable:
    """Read and check a semantic-ID file, and its sidecar if there is one.

    Args:
        path: the `.semid` file; the paper's spelling of IDs, `<a_1><b_2>`, is read too.
        codebook_sizes: K sizes; default: those of the sidecar, else each level's largest code + 1.

    Raises:
        InputError: the file or its sidecar is missing, malformed or inconsistent; names the file,
            line, field and remedy.
    """
    file = read_atomic(path, plain_header=True, unquote=False)
    if file.cells != HEADER.split("\t"):
        raise InputError(
            f"{path}: line 1: the header is {quote(' '.join(file.cells))}; it must be {HEADER!r}"
        )
    file.need_rows()
    codes = _parse_codes(file)
    sidecar = read_sidecar(path, SIDECAR)
    named: str | Path = path
    if codebook_sizes is None and sidecar is not None:
        codebook_sizes, named = sidecar.get("codebook_sizes"), sidecar_path(path)
    elif codebook_sizes is None:
        codebook_sizes = (codes.max(axis=0) + 1).tolist()
    sizes = checked_sizes(codebook_sizes, str(named))
    if len(sizes) != codes.shape[1]:
        raise InputError(
            f"{named}: codebook_sizes has {counted(len(sizes), 'level')}, the rows of {path} have "
            f"{codes.shape[1]}; give one size per level"
        )
    stated = sidecar or {}
    vocabulary = str(stated.get("vocabulary") or f"sha256:{sha256_file(path)}")
    items = tuple(file.columns[ITEM_FIELD].to_pylist())
    return SemanticIDTable(items, codes, sizes, file, vocabulary, stated.get("extra_level"))


def _parse_codes(file: Atomic) -> IntArray:
    """Parse the column of semantic IDs to codes [N, K]; the first row defines K."""
    text = file.columns[ID_FIELD]
    wrapped = pc.match_substring_regex(text, "^<.*>$")
    if pc.any(wrapped).as_py():
        inner = pc.replace_substring_regex(pc.utf8_slice_codeunits(text, 1, -1), "> *<", " ")
        text = pc.if_else(wrapped, inner, text)
    n_levels = text[0].as_py().count(" ") + 1
    pattern = " ".join(f"{level_letters(level)}_{CODE}" for level in range(n_levels))
    form = (
        f"is not a tuple of {n_levels} level tokens, as many as on line {file.lines[0]}; write "
        f"tokens such as 'a_17 b_3', one per level in order, with one space between them and "
        f"codes below {CODEBOOK_LIMIT}"
    )
    wrong = pc.invert(pc.match_substring_regex(text, f"^{pattern}$"))
    if pc.any(wrong).as_py():
        raise file.fault(wrong, ID_FIELD, form)
    numbers = pc.split_pattern(pc.replace_substring_regex(text, "[a-z]+_", ""), " ")
    codes: IntArray = pc.cast(pc.list_flatten(numbers), pa.int64()).to_numpy()
    codes = codes.reshape(-1, n_levels)
    if codes.max() >= CODEBOOK_LIMIT:
        raise file.fault((codes >= CODEBOOK_LIMIT).any(axis=1), ID_FIELD, form)
    return codes


def read_sidecar(path: str | Path, form: Mapping[str, Any]) -> dict[str, Any] | None:
    """Read the sidecar of the file `path`; None if there is none.

    Raises:
        InputError: the sidecar is not JSON, lacks the format and version of `form`, or names
            another SHA-256 than the file's.
    """
    sidecar = sidecar_path(path)
    if not sidecar.exists():
        return None
    content = read_json(sidecar)
    for key, wanted in form.items():
        if content.get(key) != wanted:
            raise InputError(
                f"{sidecar}: {key} is {quote(content.get(key))}, not {wanted!r}; "
                f"make {path} again with this version"
            )
    if content.get("sha256") != sha256_file(path):
        raise InputError(
            f"{sidecar}: its sha256 is not that of {path}; make the file again, or delete the "
            "sidecar if the file is right"
        )
    return content


def tokenized_from(path: str | Path) -> list[dict[str, Any]]:
    """Return what is recorded of the runs of `tokenize` that made the codes of a `.semid` file.

    These are settings and hashes of the interactions: of one run, or of those that made the files
    from which this one was joined. Empty for IDs of another source, and without a sidecar.
    """
    source: dict[str, Any] = (read_sidecar(path, SIDECAR) or {}).get("source", {})
    if source.get("method") != "tokenize":
        return list(source.get("tokenized_from", ()))
    interactions = source.get("report", {}).get("interactions", {})
    return [{"settings": source.get("settings", {}), "interactions": interactions}]


def items_sha256(items: Iterable[str]) -> str:
    """Hash a set of items, whatever their order: sorted tokens, joined by line ends."""
    return hashlib.sha256("\n".join(sorted(items)).encode("utf-8")).hexdigest()


def write_semantic_ids(path: str | Path, table: SemanticIDTable, source: Mapping[str, Any]) -> None:
    """Write the file and then its sidecar, each atomically.

    A kill between the two leaves the new file with the old sidecar, which the reader refuses.

    Args:
        path: the `.semid` file.
        table: the table.
        source: provenance of the table: hashes, seed, command. JSON values only.

    Raises:
        InputError: a file cannot be written.
    """
    json.dumps(dict(source), allow_nan=False)  # an error here leaves the old file
    rows = map("\t".join, zip(table.items, table.semantic_ids(), strict=True))
    with atomic_write(path) as handle:
        handle.write("\n".join((HEADER, *rows, "")))
    write_json(
        sidecar_path(path),
        {
            **SIDECAR,
            "n_levels": table.n_levels,
            "codebook_sizes": list(table.codebook_sizes),
            "n_items": table.n_items,
            "sha256": sha256_file(path),
            "items_sha256": items_sha256(table.items),
            **({"vocabulary": table.vocabulary} if table.vocabulary else {}),
            **({} if table.extra_level is None else {"extra_level": table.extra_level}),
            "source": dict(source),
        },
    )


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
    report = [f"{path}: {counted(table.n_items, 'item')}, {counted(table.n_levels, 'level')}"]
    report.append("codebook sizes: " + " ".join(map(str, table.codebook_sizes)))
    for level, size in enumerate(table.codebook_sizes):
        used = len(np.unique(table.codes[:, level]))
        report.append(f"level {level_letters(level)}: {used}/{size} codes used")
    if sidecar_path(path).exists():
        report.append(f"sidecar: {sidecar_path(path)} matches the file")
    else:
        report.append("sidecar: none; each codebook size is the largest code + 1")
    if inter_path is not None:
        file = read_atomic(inter_path, [ITEM_FIELD])
        file.check_ids(ITEM_FIELD)
        items = pc.unique(file.columns[ITEM_FIELD]).to_pylist()
        table.check_known(items, str(inter_path))
        report.append(
            f"coverage: all {len(items)} items of {inter_path} have a semantic ID; "
            f"{counted(table.n_items - len(items), 'other item has', 'other items have')} no "
            "interaction there"
        )
    return report
