"""Import of MQL4GRec's and LC-Rec's JSON files to atomic files; see `mql4grec` for the format."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write, read_json, sidecar_path, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic import LARGE, read_atomic
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.codec import parse_token, quote
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.merge import ITEM
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.datasets.item_texts import as_cell, kept_objects
from recbole_qbert.datasets.json_layout import style_of
from recbole_qbert.datasets.mql4grec import CODES, INDEX
from recbole_qbert.datasets.mql4grec_export import contents_of
from recbole_qbert.datasets.numbering import count_items, read_tokens
from recbole_qbert.datasets.split import INTER_CELLS, UserSequences, read_sequences, sequence_rows

_LARGEST = 2**31 - 1  # largest number of an item


def import_json(folder: Path, name: str, into: DatasetPaths) -> dict[str, Any]:
    """Write atomic files from JSON files.

    Args:
        folder: folder of `<name>.inter.json` and the optional files.
        name: name of the data set there.
        into: the data set to write.

    Returns:
        Numbers of `users`, `items` and `interactions`; `remarks`, lines on content that an export
        will not reproduce.

    Raises:
        InputError: a file is missing or invalid, or its numbers do not match those of other files.
    """
    paths = {path.name: path for path in sorted(folder.glob(f"{name}.*.json"))}
    shape_path = folder / f"{name}.atomic.json"
    shape = read_json(shape_path)["cells"] if shape_path.is_file() else None
    inter_name = f"{name}.inter.json"
    content = {each: read_json(path) for each, path in paths.items() if _is_ours(each, name)}
    if inter_name not in content:
        raise InputError(f"{folder / inter_name}: no such file; correct the folder or the name")
    users, codes, offsets = _sequences(content[inter_name], folder / inter_name)
    described = max([len(each) for key, each in content.items() if key != inter_name], default=0)
    n_items = count_items(int(codes.max()), described, len(codes), folder / inter_name)
    item_numbers = [str(number) for number in range(n_items)]
    items = read_tokens(folder / f"{name}.item2id", item_numbers, folder / inter_name)
    users = read_tokens(folder / f"{name}.user2id", users, folder / inter_name)
    numbers = np.arange(len(codes))
    owners = np.repeat(np.arange(len(users)), np.diff(offsets))
    sequences = UserSequences(
        users=pa.array(users, LARGE),
        items=pa.array(items, LARGE),
        codes=codes,
        offsets=offsets,
        times=(numbers - offsets[owners]).astype(np.float64),
        parts=np.zeros(len(codes), dtype=np.int64),
    )
    remarks: list[str] = []
    columns = _item_columns(content, folder, name, items)
    _write_atomic(into, sequences, items, columns, shape)
    for stale in (into.file("semid"), sidecar_path(into.file("semid"))):
        stale.unlink(missing_ok=True)  # IDs of an earlier data set
    index_name = f"{name}.{INDEX}.json"
    if index_name in content:
        try:
            table = table_of(content[index_name], items, folder / index_name)
        except InputError as error:
            remarks.append(f"no {into.file('semid').name}: {error}")
        else:
            source = {"method": "import", "files": {index_name: sha256_file(folder / index_name)}}
            write_semantic_ids(into.file("semid"), table, source)
    styles = {each: style_of(folder / each, content[each]) for each in content}
    files = {
        f"{into.name}{each.removeprefix(name)}": style for each, style in styles.items() if style
    }
    texts = content.get(f"{name}.item.json", {})
    rows = [texts[number] for number in item_numbers if texts]
    objects = kept_objects(rows, {key: columns[key] for key in _field_names(rows)}) if rows else {}
    if objects:
        remarks.append(
            f"{name}.item.json: {len(objects)} items have values that are missing, no text, or "
            "that RecBole could not read back; an export gives them as they were"
        )
    notes = {"styles": files, "objects": {f"{into.name}.item.json": objects}}
    write_json(into.file("mql4grec.json"), notes)
    remarks += [
        f"{each}: laid out in a way of its own" for each, style in styles.items() if not style
    ]
    remarks += _not_the_same(into, content, name)
    return {**sequences.counts(), "remarks": remarks}


def _is_ours(file: str, name: str) -> bool:
    kind = file.removeprefix(f"{name}.").removesuffix(".json")
    return kind in ("inter", "item", INDEX) or kind.startswith(f"{INDEX}_")


def _sequences(content: Mapping[str, Any], path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return user keys [U], item numbers [T] and offsets [U + 1] of an `.inter.json` file."""
    lists = list(content.values())
    wrong = [user for user, items in content.items() if not isinstance(items, list) or not items]
    if wrong or not lists:
        wanted = f"user {quote(wrong[0])}: a list of item numbers" if wrong else "users"
        raise InputError(f"{path}: {wanted} was expected; make the file again")
    flat = list(itertools.chain.from_iterable(lists))
    if set(map(type, flat)) != {int} or min(flat) < 0 or max(flat) > _LARGEST:
        user = next(
            user for user, items in content.items()
            if not all(type(item) is int and 0 <= item <= _LARGEST for item in items)
        )  # fmt: skip
        raise InputError(f"{path}: user {quote(user)}: not all items are numbers from 0; mend it")
    codes = np.array(flat, dtype=np.int64)
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    return list(content), codes, np.concatenate([[0], np.cumsum(lengths)])


def _item_columns(
    content: Mapping[str, Mapping[str, Any]],
    folder: Path,
    name: str,
    items: Sequence[str],
) -> dict[str, list[str]]:
    """Build the columns of the `.item` file, by name."""
    columns: dict[str, list[str]] = {}
    for file, each in content.items():
        kind = file.removeprefix(f"{name}.").removesuffix(".json")
        path = folder / file
        if kind == "inter":
            continue
        lacking = [str(n) for n in range(len(items)) if str(n) not in each]
        if lacking:
            raise InputError(
                f"{path}: {len(lacking)} items are not in it: {preview(lacking, 3)}; make it again "
                f"from all {len(items)} items"
            )
        rows = [each[str(number)] for number in range(len(items))]
        if kind == "item":
            columns = _text_columns(rows, path) | columns
        else:
            column = CODES if kind == INDEX else kind.removeprefix(f"{INDEX}_")
            columns[column] = _code_column(rows, path)
    return columns


def _field_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields of all items, in the order of their first appearance."""
    return list(dict.fromkeys(itertools.chain.from_iterable(rows)))


def _text_columns(rows: Sequence[Any], path: Path) -> dict[str, list[str]]:
    """Build one column per field; other values are converted to text."""
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"{path}: item {number}: `field: text` was expected; make it again")
    names = _field_names(rows)
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
            raise InputError(f"{path}: item {number}: a list of tokens was expected") from None
    return cells


def table_of(
    index: Mapping[str, Sequence[str]], items: Sequence[str], path: Path
) -> SemanticIDTable:
    """Convert an index to a `.semid` table; the largest codes determine the codebook sizes.

    Raises:
        InputError: a token is invalid, items have different levels, or items share a tuple.
    """
    rows: list[list[int]] = []
    for number in range(len(items)):
        tokens = index[str(number)]
        try:
            pairs = [parse_token(token.strip("<>").lower()) for token in tokens]
        except InputError as error:
            raise InputError(f"{path}: item {number}: {error}") from None
        if [level for level, _ in pairs] != list(range(len(rows[0]) if rows else len(pairs))):
            raise InputError(
                f"{path}: item {number}: {' '.join(tokens)}: give the levels in order, as many as "
                "the first item has"
            )
        rows.append([code for _, code in pairs])
    codes = np.array(rows, dtype=np.int64)
    sizes = tuple((codes.max(axis=0) + 1).tolist())
    return SemanticIDTable(tuple(items), codes, sizes)


def _write_atomic(
    into: DatasetPaths,
    sequences: UserSequences,
    items: Sequence[str],
    columns: Mapping[str, list[str]],
    shape: Mapping[str, Sequence[str]] | None,
) -> None:
    """Write the `.inter` and the `.item` file.

    Without fields, an `.item` file is still written, because its order keeps the items' numbers.
    `shape` has the header cells of the atomic files that the JSON files were exported from, if any.
    """
    has_items = bool(columns) or shape is None or bool(shape["item"])
    shape = shape or {"inter": [], "item": []}
    cells = {cell.partition(":")[0]: cell for cell in (*INTER_CELLS, *shape["inter"])}
    known = {cell.partition(":")[0]: cell for cell in shape["item"]}
    order = [name for name in known if name in columns or name == ITEM]
    order += [name for name in (ITEM, *columns) if name not in known]
    given = {ITEM: list(items), **columns}
    default = {ITEM: f"{ITEM}:token"}
    header = [known.get(name, default.get(name, f"{name}:token_seq")) for name in order]
    with ExitStack() as stack:  # both files get their final names together at the end
        handle = stack.enter_context(atomic_write(into.file("inter"), "wb"))
        write_header(handle, (cells[cell.partition(":")[0]] for cell in INTER_CELLS))
        write_rows(handle, list(sequence_rows(sequences)))
        if has_items:
            handle = stack.enter_context(atomic_write(into.file("item"), "wb"))
            write_header(handle, header)
            write_rows(handle, [pa.array(given[name], LARGE) for name in order])
    if not has_items:
        into.file("item").unlink(missing_ok=True)


def _not_the_same(into: DatasetPaths, content: Mapping[str, Any], name: str) -> list[str]:
    """Return a line for each file that an export would write differently."""
    sequences = read_sequences(into.file("inter"))
    item_file = read_atomic(into.file("item")) if into.file("item").is_file() else None
    items = item_file.columns[ITEM].to_pylist() if item_file else sequences.items.to_pylist()
    back = contents_of(into, sequences, items, item_file)
    return [
        f"{file}: an export will number or order it otherwise"
        for file, each in content.items()
        if json.dumps(back.get(f"{into.name}{file.removeprefix(name)}")) != json.dumps(each)
    ]
