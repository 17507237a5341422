"""MQL4GRec's and LC-Rec's JSON files, from and to atomic files.

    X.inter.json        {"0": [3, 17, ...]}: each user's items in order, all by number
    X.item.json         {"0": {"title": "...", "brand": "..."}}
    X.index.json        {"0": ["<a_1>", "<b_2>", ...]}: semantic IDs; X.index_lemb.json and the like
    X.user2id, X.item2id   token, tab, number; without them the numbers are the tokens

In atomic files the place in a sequence is the `timestamp`, a field of an item is a column, and each
index a column of codes (`lemb` of X.index_lemb.json, `codes` of X.index.json, whose tuples also
become X.semid if they are unique). Both directions leave a file that says how the other side was
written, so that going there and back gives the same bytes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.data.atomic import write_header, write_rows
from recbole_qbert.data.codec import parse_token, quote
from recbole_qbert.data.domain import Domain
from recbole_qbert.data.merge import ITEM, LARGE, Atomic, read_atomic
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids
from recbole_qbert.errors import InputError, preview
from recbole_qbert.files import atomic_write, read_json, sha256_file, write_json
from recbole_qbert.preparation.split import TIME, Sequences, read_sequences, sequence_rows

INTER_CELLS = ("user_id:token", "item_id:token", f"{TIME}:float")
INDEX, CODES = "index", "codes"
# How JSON may be laid out: MQL4GRec's own way first.
STYLES: tuple[dict[str, Any], ...] = tuple(
    {"indent": indent, "ensure_ascii": ascii_only, "end": end}
    for indent, ascii_only, end in itertools.product((4, None, 2), (True, False), ("", "\n"))
)
_CODE_CELL = r"^[A-Za-z]+_[0-9]+( [A-Za-z]+_[0-9]+)*$"


def export_json(domain: Domain, folder: Path) -> dict[str, Any]:
    """Write a data set as JSON files.

    Items are numbered in the order of the `.item` file, or, without one, as they first come; users
    as they first come. Columns of codes become indices, all others fields of the items; of the
    interactions only the order is kept.

    Returns:
        users, items and interactions; `lost`: columns of the `.inter` that JSON has no place for.

    Raises:
        InputError: a file cannot be read, or an interaction's item is not in the `.item` file.
    """
    sequences = read_sequences(domain.file("inter"))
    cells = read_atomic(domain.file("inter")).cells
    item_file = read_atomic(domain.file("item")) if domain.file("item").is_file() else None
    users, items = sequences.users.to_pylist(), sequences.items.to_pylist()
    if item_file is not None:
        items = item_file.columns[ITEM].to_pylist()
    contents = _contents(domain, sequences, items, item_file)
    styles = _styles(domain)
    written = {}
    for name, content in contents.items():
        style = styles.get(name, STYLES[0])
        with atomic_write(folder / name) as handle:
            handle.write(_as_json(content, style))
        written[name] = sha256_file(folder / name)
    for suffix, tokens in (("user2id", users), ("item2id", items)):
        _write_ids(folder / f"{domain.name}.{suffix}", tokens)
    shape = {"inter": cells, "item": item_file.cells if item_file else []}
    write_json(folder / f"{domain.name}.atomic.json", {"files": written, "cells": shape})
    kept = {cell.partition(":")[0] for cell in INTER_CELLS}
    lost = [cell for cell in cells if cell.partition(":")[0] not in kept]
    lost += [f"{TIME} (its order is kept)"] if sequences.timed else []
    return {**sequences.counts(), "items": len(items), "lost": lost}


def _contents(
    domain: Domain, sequences: Sequences, items: Sequence[str], item_file: Atomic | None
) -> dict[str, Any]:
    """Each JSON file by name."""
    numbers = pc.index_in(sequences.items, pa.array(items, sequences.items.type))
    if numbers.null_count:
        unknown = pc.filter(sequences.items, pc.is_null(numbers)).to_pylist()
        raise InputError(
            f"{domain.file('inter')}: {len(unknown)} items are not in {domain.file('item')}: "
            f"{preview([quote(item) for item in unknown], 3)}; add their rows"
        )
    codes = numbers.to_numpy()[sequences.codes].tolist()
    offsets = sequences.offsets.tolist()
    contents: dict[str, Any] = {
        f"{domain.name}.inter.json": {
            str(user): codes[start:end]
            for user, (start, end) in enumerate(itertools.pairwise(offsets))
        }
    }
    fields = [] if item_file is None else [name for name in item_file.names if name != ITEM]
    texts: dict[str, list[str]] = {}
    for name in fields:
        assert item_file is not None
        column = item_file.columns[name]
        if pc.all(pc.match_substring_regex(column, _CODE_CELL)).as_py():
            suffix = INDEX if name == CODES else f"{INDEX}_{name}"
            contents[f"{domain.name}.{suffix}.json"] = {
                str(number): [f"<{token}>" for token in cell.split(" ")]
                for number, cell in enumerate(column.to_pylist())
            }
        else:
            texts[name] = column.to_pylist()
    if texts:
        contents[f"{domain.name}.item.json"] = {
            str(number): dict(zip(texts, cells, strict=True))
            for number, cells in enumerate(zip(*texts.values(), strict=True))
        }
    if f"{domain.name}.{INDEX}.json" not in contents and domain.file("semid").is_file():
        contents[f"{domain.name}.{INDEX}.json"] = index_of(
            read_semantic_ids(domain.file("semid")), items
        )
    return contents


def index_of(table: SemanticIDTable, items: Sequence[str]) -> dict[str, list[str]]:
    """A `.semid` table as an index: number of an item -> `["<a_1>", "<b_2>"]`.

    Raises:
        InputError: an item has no semantic ID.
    """
    ids = table.semantic_ids()
    return {
        str(number): [f"<{token}>" for token in ids[row].split(" ")]
        for number, row in enumerate(table.rows_for(items).tolist())
    }


def table_of(
    index: Mapping[str, Sequence[str]], items: Sequence[str], path: Path
) -> SemanticIDTable:
    """An index as a `.semid` table, sizes those of the largest codes.

    Raises:
        InputError: a token is none, levels differ in number, or items share a tuple.
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


# From JSON ----------------------------------------------------------------------------------------


def import_json(folder: Path, name: str, into: Domain) -> dict[str, Any]:
    """Write atomic files from JSON files.

    Args:
        folder: holds `<name>.inter.json` and what else there is.
        name: of the data set there.
        into: the data set to write.

    Returns:
        users, items and interactions; `remarks`: what will not come back as it was, in words.

    Raises:
        InputError: a file is missing or broken, or its numbers do not fit the others'.
    """
    paths = {path.name: path for path in sorted(folder.glob(f"{name}.*.json"))}
    shape_path = folder / f"{name}.atomic.json"
    shape = read_json(shape_path)["cells"] if shape_path.is_file() else None
    inter_name = f"{name}.inter.json"
    content = {each: read_json(path) for each, path in paths.items() if _is_ours(each, name)}
    if inter_name not in content:
        raise InputError(f"{folder / inter_name}: no such file; correct the folder or the name")
    users, codes, offsets = _sequences(content[inter_name], folder / inter_name)
    n_items = max(
        [int(codes.max()) + 1, *(len(each) for key, each in content.items() if key != inter_name)]
    )
    items = read_tokens(folder / f"{name}.item2id", [str(number) for number in range(n_items)])
    users = read_tokens(folder / f"{name}.user2id", users)
    numbers = np.arange(len(codes))
    owners = np.repeat(np.arange(len(users)), np.diff(offsets))
    sequences = Sequences(
        users=pa.array(users, LARGE),
        items=pa.array(items, LARGE),
        codes=codes,
        offsets=offsets,
        times=(numbers - offsets[owners]).astype(np.float64),
        parts=np.zeros(len(codes), dtype=np.int64),
    )
    remarks: list[str] = []
    columns = _item_columns(content, folder, name, items, remarks)
    _write_atomic(into, sequences, items, columns, shape)
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
    write_json(into.file("mql4grec.json"), {"styles": files})
    remarks += [
        f"{each}: laid out in a way of its own" for each, style in styles.items() if not style
    ]
    remarks += _not_the_same(into, content, name)
    return {**sequences.counts(), "remarks": remarks}


def _is_ours(file: str, name: str) -> bool:
    kind = file.removeprefix(f"{name}.").removesuffix(".json")
    return kind in ("inter", "item", INDEX) or kind.startswith(f"{INDEX}_")


def _sequences(content: Mapping[str, Any], path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """User keys, item numbers [T] and offsets [U + 1] of an `.inter.json`."""
    lists = list(content.values())
    wrong = [user for user, items in content.items() if not isinstance(items, list) or not items]
    if wrong or not lists:
        said = f"user {quote(wrong[0])}: a list of item numbers" if wrong else "users"
        raise InputError(f"{path}: {said} was expected; make the file again")
    flat = list(itertools.chain.from_iterable(lists))
    codes = np.array(flat) if all(map(int.__instancecheck__, flat)) else np.array([-1])
    if codes.dtype.kind != "i" or codes.min() < 0:
        user = next(
            user for user, items in content.items()
            if not all(type(item) is int and item >= 0 for item in items)
        )  # fmt: skip
        raise InputError(f"{path}: user {quote(user)}: not all items are numbers from 0; mend it")
    lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
    return list(content), codes.astype(np.int64), np.concatenate([[0], np.cumsum(lengths)])


def read_tokens(path: Path, numbers: Sequence[str]) -> list[str]:
    """The token of each number, from a file of tokens and numbers; without it the numbers."""
    if not path.is_file():
        return list(numbers)
    known: dict[str, str] = {}
    for place, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            token, tab, number = line.rpartition("\t")
            if not tab or not token or number in known:
                raise InputError(f"{path}: line {place}: a token, a tab and a new number expected")
            known[number] = token
    lacking = [number for number in numbers if number not in known]
    if lacking:
        raise InputError(
            f"{path}: {len(lacking)} numbers have no token: {preview(lacking, 3)}; add their lines"
        )
    return [known[number] for number in numbers]


def _write_ids(path: Path, tokens: Sequence[str]) -> None:
    """Tokens and their numbers, where they are not the same."""
    if list(tokens) == [str(number) for number in range(len(tokens))]:
        path.unlink(missing_ok=True)  # of an export of other data
        return
    with atomic_write(path) as handle:
        handle.writelines(f"{token}\t{number}\n" for number, token in enumerate(tokens))


def _item_columns(
    content: Mapping[str, Mapping[str, Any]],
    folder: Path,
    name: str,
    items: Sequence[str],
    remarks: list[str],
) -> dict[str, list[str]]:
    """Columns of the `.item` file by name."""
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
            columns = _text_columns(rows, path, remarks) | columns
        else:
            column = CODES if kind == INDEX else kind.removeprefix(f"{INDEX}_")
            columns[column] = _code_column(rows, path)
    return columns


def _text_columns(rows: Sequence[Any], path: Path, remarks: list[str]) -> dict[str, list[str]]:
    """One column a field; what is no text is written as one."""
    names: dict[str, None] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise InputError(f"{path}: item {number}: `field: text` was expected; make it again")
        names |= dict.fromkeys(row)
    if ITEM in names or any(not name or set(name) & set(":\t\n") for name in names):
        raise InputError(f"{path}: fields {preview(list(names))}: rename {ITEM}, and any with ':'")
    columns = {name: [_cell(row.get(name)) for row in rows] for name in names}
    changed = sum(
        row.get(name) != cell
        for name, cells in columns.items()
        for row, cell in zip(rows, cells, strict=True)
    )
    if changed:
        remarks.append(
            f"{path.name}: {changed} values are missing, no text, or had tabs or line ends, which "
            "became blanks"
        )
    return columns


def _cell(value: Any) -> str:
    """A value as a cell of an atomic file."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    text = "" if value is None else str(value)
    return text.replace("\t", " ").replace("\r", " ").replace("\n", " ")


def _code_column(rows: Sequence[Any], path: Path) -> list[str]:
    """`["<a_1>", "<b_2>"]` to `a_1 b_2`."""
    cells = []
    for number, row in enumerate(rows):
        try:
            cells.append(" ".join(token.removeprefix("<").removesuffix(">") for token in row))
        except (TypeError, AttributeError):
            raise InputError(f"{path}: item {number}: a list of tokens was expected") from None
    return cells


def _write_atomic(
    into: Domain,
    sequences: Sequences,
    items: Sequence[str],
    columns: Mapping[str, list[str]],
    shape: Mapping[str, Sequence[str]] | None,
) -> None:
    """`.inter` and `.item`; the latter keeps the items' numbers even if it says no more of them.

    `shape`: header cells of the atomic files that the JSON files are from, where they are.
    """
    has_items = shape is None or bool(shape["item"])
    shape = shape or {"inter": [], "item": []}
    cells = {cell.partition(":")[0]: cell for cell in (*INTER_CELLS, *shape["inter"])}
    with atomic_write(into.file("inter"), "wb") as handle:
        write_header(handle, (cells[cell.partition(":")[0]] for cell in INTER_CELLS))
        write_rows(handle, list(sequence_rows(sequences)))
    if not columns and not has_items:
        return
    known = {cell.partition(":")[0]: cell for cell in shape["item"]}
    order = [name for name in known if name in columns or name == ITEM]
    order += [name for name in (ITEM, *columns) if name not in known]
    given = {ITEM: list(items), **columns}
    default = {ITEM: f"{ITEM}:token"}
    header = [known.get(name, default.get(name, f"{name}:token_seq")) for name in order]
    with atomic_write(into.file("item"), "wb") as handle:
        write_header(handle, header)
        write_rows(handle, [pa.array(given[name], LARGE) for name in order])


# The same bytes again -----------------------------------------------------------------------------


def _as_json(content: Any, style: Mapping[str, Any]) -> str:
    text = json.dumps(content, indent=style["indent"], ensure_ascii=style["ensure_ascii"])
    return text + str(style["end"])


def style_of(path: Path, content: Any) -> dict[str, Any] | None:
    """The layout in which `content` gives the file's very bytes, if it is a usual one."""
    data = path.read_bytes()
    for style in STYLES:
        # The first line tells most styles apart, so that few are tried on a large file.
        if (b"\n" in data[:200].strip()) == (style["indent"] is not None) and (
            data.endswith(b"\n") == bool(style["end"])
        ):
            try:
                if _as_json(content, style).encode() == data:
                    return dict(style)
            except UnicodeEncodeError:
                continue
    return None


def _styles(domain: Domain) -> dict[str, dict[str, Any]]:
    """Layouts that an import found, by file."""
    path = domain.file("mql4grec.json")
    return dict(read_json(path)["styles"]) if path.is_file() else {}


def _not_the_same(into: Domain, content: Mapping[str, Any], name: str) -> list[str]:
    """What an export would write otherwise than it was read."""
    sequences = read_sequences(into.file("inter"))
    item_file = read_atomic(into.file("item")) if into.file("item").is_file() else None
    items = item_file.columns[ITEM].to_pylist() if item_file else sequences.items.to_pylist()
    back = _contents(into, sequences, items, item_file)
    return [
        f"{file}: an export will number or order it otherwise"
        for file, each in content.items()
        if json.dumps(back.get(f"{into.name}{file.removeprefix(name)}")) != json.dumps(each)
    ]
