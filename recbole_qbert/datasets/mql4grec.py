"""Import and export of MQL4GRec's and LC-Rec's JSON files.

    X.inter.json        {"0": [3, 17, ...]}: each user's items in order, all by number
    X.item.json         {"0": {"title": "...", "brand": "..."}}
    X.index.json        {"0": ["<a_1>", "<b_2>", ...]}: semantic IDs; X.index_lemb.json and the like
    X.user2id, X.item2id   token, tab, number; without them the numbers are the tokens

In atomic files, the position in a sequence is the `timestamp`, and each field of an item is a
column. Each index is a column of codes: `lemb` for X.index_lemb.json, `codes` for X.index.json. The
tuples of X.index.json also become X.semid if they are unique.
"""

from __future__ import annotations

import glob
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, error_context, preview
from recbole_qbert.common.files import atomic_write, read_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.data.atomic import LARGE, read_atomic
from recbole_qbert.data.codec import parse_token, quote
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.merge import ITEM, TIME, USER
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids
from recbole_qbert.datasets.numbering import (
    as_cell,
    check_export,
    count_items,
    item_numbers,
    read_tokens,
    sequences_of,
    write_import,
    write_tokens,
)
from recbole_qbert.datasets.split import read_sequences

INDEX, CODES = "index", "codes"  # kind of the files of semantic IDs, and name of their column
_LARGEST = 2**31 - 1  # largest number of an item
_CODE_CELL = r"^[A-Za-z]+_[0-9]+( [A-Za-z]+_[0-9]+)*$"


def import_json(folder: Path, name: str, into: DatasetPaths) -> dict[str, Any]:
    """Write atomic files from `<name>.inter.json` and the optional files of a folder.

    Returns:
        Numbers of `users`, `items` and `interactions`; `remarks`, lines for the user.

    Raises:
        InputError: a file is missing or invalid, or its numbers do not match those of other files.
    """
    paths = _json_files(folder, name)
    if "inter" not in paths:
        raise InputError(f"{folder}/{name}.inter.json: no such file; correct the folder or name")
    content = {kind: read_json(path) for kind, path in paths.items()}
    source = paths["inter"]
    users, codes, lengths = _sequences(content.pop("inter"), source)
    described = max(map(len, content.values()), default=0)
    n_items = count_items(int(codes.max()), described, len(codes), source)
    items = read_tokens(folder / f"{name}.item2id", [str(n) for n in range(n_items)], source)
    users = read_tokens(folder / f"{name}.user2id", users, source)
    columns: dict[str, list[str]] = {}
    for kind, each in content.items():
        rows = _rows(each, n_items, paths[kind])
        if kind == "item":
            added = _text_columns(rows, paths[kind])
        else:
            column = CODES if kind == INDEX else kind.removeprefix(f"{INDEX}_")
            added = {column: _code_column(rows, paths[kind])}
        for column in added:
            if column == ITEM or column in columns:
                raise InputError(
                    f"{paths[kind]}: the column {column} would occur twice; rename the field of "
                    f"the items, or the index file ({name}.{INDEX}_<column>.json)"
                )
        columns = added | columns if kind == "item" else columns | added
    fields = {f"{name}:token_seq": pa.array(column, LARGE) for name, column in columns.items()}
    tables = [folder / f"{name}.{suffix}" for suffix in ("user2id", "item2id")]
    inter = sequences_of(users, items, codes, lengths)
    remarks = write_import(
        into, inter, {f"{ITEM}:token": pa.array(items, LARGE), **fields}, "mql4grec",
        [*paths.values(), *tables],
    )  # fmt: skip
    if INDEX in content:
        try:
            table = _semantic_ids(columns[CODES], items, paths[INDEX])
        except InputError as error:
            remarks.append(f"{into.file('semid').name} is not written: {error}")
        else:
            files = {paths[INDEX].name: sha256_file(paths[INDEX])}
            write_semantic_ids(into.file("semid"), table, {"method": "import", "files": files})
    return {**inter.counts._asdict(), "items": n_items, "remarks": remarks}


def _json_files(folder: Path, name: str) -> dict[str, Path]:
    """Return the existing files of interactions, items and semantic IDs, by their kind."""
    paths = {}
    for path in sorted(folder.glob(f"{glob.escape(name)}.*.json")):
        kind = path.name.removeprefix(f"{name}.").removesuffix(".json")
        if kind in ("inter", "item", INDEX) or kind.startswith(f"{INDEX}_"):
            paths[kind] = path
    return paths


def _sequences(content: Mapping[str, Any], path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return user keys [U], item numbers [n] and lengths [U] of an `.inter.json` file."""
    for user, items in content.items():
        if not isinstance(items, list) or not items:
            raise InputError(f"{path}: user {quote(user)}: give a list of item numbers")
        if set(map(type, items)) != {int} or min(items) < 0 or max(items) > _LARGEST:
            raise InputError(
                f"{path}: user {quote(user)}: an item is not a number from 0 to {_LARGEST}; "
                "correct it"
            )
    if not content:
        raise InputError(f"{path}: has no users; create the file again")
    flat = np.fromiter(itertools.chain.from_iterable(content.values()), dtype=np.int64)
    return list(content), flat, np.array(list(map(len, content.values())))


def _rows(content: Mapping[str, Any], n_items: int, path: Path) -> list[Any]:
    """Return the values of all items in the order of their numbers."""
    missing = [str(number) for number in range(n_items) if str(number) not in content]
    if missing:
        raise InputError(
            f"{path}: {counted(len(missing), 'item is', 'items are')} missing: "
            f"{preview(missing, 3)}; create the file again from all {n_items} items"
        )
    return [content[str(number)] for number in range(n_items)]


def _text_columns(rows: Sequence[Any], path: Path) -> dict[str, list[str]]:
    """Build one column per field; other values are converted to text."""
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"{path}: item {number}: is not an object of fields; correct it")
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    if ITEM in names or any(not name or set(name) & set(":\t\n") for name in names):
        raise InputError(f"{path}: fields {preview(names)}: rename {ITEM}, and any with ':'")
    return {name: [as_cell(row.get(name)) for row in rows] for name in names}


def _code_column(rows: Sequence[Any], path: Path) -> list[str]:
    """Convert each `["<a_1>", "<b_2>"]` to `a_1 b_2`."""
    cells = []
    for number, row in enumerate(rows):
        try:
            cells.append(" ".join(token.removeprefix("<").removesuffix(">") for token in row))
        except (TypeError, AttributeError):
            raise InputError(
                f"{path}: item {number}: is not a list of tokens; correct it"
            ) from None
    return cells


def _semantic_ids(cells: Sequence[str], items: Sequence[str], path: Path) -> SemanticIDTable:
    """Convert a column of codes to a `.semid` table; the largest codes are the codebook sizes."""
    with error_context(str(path)):
        tuples = [[parse_token(token) for token in cell.lower().split()] for cell in cells]
    levels = list(range(len(tuples[0])))
    for item, pairs in zip(items, tuples, strict=True):
        if [level for level, _ in pairs] != levels or not pairs:
            raise InputError(
                f"{path}: item {quote(item)}: give one code of each of "
                f"{counted(len(levels), 'level')}"
            )
    codes = np.array([[code for _, code in pairs] for pairs in tuples], dtype=np.int64)
    return SemanticIDTable(tuple(items), codes, tuple((codes.max(axis=0) + 1).tolist()))


def export_json(domain: DatasetPaths, folder: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a data set as JSON files to a folder.

    Items are numbered in the order of the `.item` file or, without one, of their first appearance;
    users in the order of their first appearance. Columns of codes become indices, other columns
    become fields of the items. Only the order of the interactions is exported.

    Returns:
        Numbers of `users`, `items` and `interactions`; `lost`, the columns of the `.inter` file
        that the format cannot represent.

    Raises:
        InputError: a file cannot be read, an interaction's item is not in the `.item` file, or as
            `check_export`.
    """
    tables = [folder / f"{domain.name}.{suffix}" for suffix in ("user2id", "item2id")]
    check_export(domain, folder, [*_json_files(folder, domain.name).values(), *tables], overwrite)
    inter = read_sequences(domain.file("inter"))
    users, items = inter.user_tokens.to_pylist(), inter.item_tokens.to_pylist()
    fields: dict[str, pa.ChunkedArray] = {}
    if domain.file("item").is_file():
        file = read_atomic(domain.file("item"))
        file.need((ITEM,), "rename the column of the items")
        table = file.columns
        items = table[ITEM].to_pylist()
        fields = {name: table[name] for name in table.schema.names if name != ITEM}
    codes = item_numbers(domain, inter, items).tolist()
    ends = np.cumsum(np.bincount(inter.users)).tolist()
    contents: dict[str, Any] = {
        "inter": {
            str(user): codes[start:end]
            for user, (start, end) in enumerate(itertools.pairwise([0, *ends]))
        }
    }
    texts: dict[str, list[str]] = {}
    for name, column in fields.items():
        if pc.all(pc.match_substring_regex(column, _CODE_CELL)).as_py():
            kind = INDEX if name == CODES else f"{INDEX}_{name}"
            contents[kind] = _index(column.to_pylist())
        else:
            texts[name] = column.to_pylist()
    if texts:
        contents["item"] = {
            str(number): dict(zip(texts, cells, strict=True))
            for number, cells in enumerate(zip(*texts.values(), strict=True))
        }
    if INDEX not in contents and domain.file("semid").is_file():
        semantic_ids = read_semantic_ids(domain.file("semid"))
        ids = semantic_ids.semantic_ids()
        contents[INDEX] = _index([ids[row] for row in semantic_ids.rows_for(items).tolist()])
    for kind, content in contents.items():
        with atomic_write(folder / f"{domain.name}.{kind}.json") as handle:
            json.dump(content, handle, indent=4)
    for path, tokens in zip(tables, (users, items), strict=True):
        write_tokens(path, tokens)
    names = read_atomic(domain.file("inter")).names
    lost = [name for name in names if name not in (USER, ITEM, TIME)]
    lost += [f"{TIME} (the order is kept)"] if inter.timed else []
    return {**inter.counts._asdict(), "items": len(items), "lost": lost}


def _index(semantic_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the tokens of each item by its number: `a_1 b_2` -> `["<a_1>", "<b_2>"]`."""
    return {
        str(number): [f"<{token}>" for token in each.split(" ")]
        for number, each in enumerate(semantic_ids)
    }
