"""Export of atomic files to MQL4GRec's and LC-Rec's JSON files; see `mql4grec` for the format."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write, read_json, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic import Atomic, read_atomic
from recbole_qbert.data.codec import quote
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.merge import ITEM
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids
from recbole_qbert.datasets.item_texts import restored
from recbole_qbert.datasets.json_layout import STYLES, as_json
from recbole_qbert.datasets.mql4grec import CODES, INDEX
from recbole_qbert.datasets.numbering import write_tokens
from recbole_qbert.datasets.split import INTER_CELLS, TIME, UserSequences, read_sequences

_CODE_CELL = r"^[A-Za-z]+_[0-9]+( [A-Za-z]+_[0-9]+)*$"


def export_json(domain: DatasetPaths, folder: Path) -> dict[str, Any]:
    """Write a data set as JSON files.

    Items are numbered in the order of the `.item` file or, without one, of their first appearance;
    users in the order of their first appearance. Columns of codes become indices, other columns
    become fields of the items. Only the order of the interactions is exported.

    Args:
        domain: the data set to export.
        folder: the target folder.

    Returns:
        Numbers of `users`, `items` and `interactions`; `lost`, the columns of the `.inter` file
        that the format cannot represent.

    Raises:
        InputError: a file cannot be read, or an interaction's item is not in the `.item` file.
    """
    sequences = read_sequences(domain.file("inter"))
    cells = read_atomic(domain.file("inter")).cells
    item_file = read_atomic(domain.file("item")) if domain.file("item").is_file() else None
    users, items = sequences.users.to_pylist(), sequences.items.to_pylist()
    if item_file is not None:
        items = item_file.columns[ITEM].to_pylist()
    contents = contents_of(domain, sequences, items, item_file)
    styles = _noted(domain, "styles")
    written = {}
    for name, content in contents.items():
        style = styles.get(name, STYLES[0])
        with atomic_write(folder / name) as handle:
            handle.write(as_json(content, style))
        written[name] = sha256_file(folder / name)
    for suffix, tokens in (("user2id", users), ("item2id", items)):
        path = folder / f"{domain.name}.{suffix}"
        if tokens == [str(number) for number in range(len(tokens))]:
            path.unlink(missing_ok=True)  # from an earlier export of other data
        else:
            write_tokens(path, tokens)
    shape = {"inter": cells, "item": item_file.cells if item_file else []}
    write_json(folder / f"{domain.name}.atomic.json", {"files": written, "cells": shape})
    kept = {cell.partition(":")[0] for cell in INTER_CELLS}
    lost = [cell for cell in cells if cell.partition(":")[0] not in kept]
    lost += [f"{TIME} (its order is kept)"] if sequences.timed else []
    return {**sequences.counts(), "items": len(items), "lost": lost}


def contents_of(
    domain: DatasetPaths, sequences: UserSequences, items: Sequence[str], item_file: Atomic | None
) -> dict[str, Any]:
    """Return the content of each JSON file, by file name.

    Args:
        domain: the data set, named in messages; its `.semid` file is the index without a column.
        sequences: the interactions.
        items: item tokens in the order of their numbers.
        item_file: the `.item` file, if there is one.

    Raises:
        InputError: an interaction's item is not in `items`.
    """
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
        file = f"{domain.name}.item.json"
        kept = _noted(domain, "objects").get(file, {})
        contents[file] = {
            number: restored(dict(zip(texts, cells, strict=True)), kept.get(number))
            for number, cells in zip(
                map(str, itertools.count()), zip(*texts.values(), strict=True), strict=False
            )
        }
    if f"{domain.name}.{INDEX}.json" not in contents and domain.file("semid").is_file():
        contents[f"{domain.name}.{INDEX}.json"] = index_of(
            read_semantic_ids(domain.file("semid")), items
        )
    return contents


def index_of(table: SemanticIDTable, items: Sequence[str]) -> dict[str, list[str]]:
    """Convert a `.semid` table to an index: number of an item -> `["<a_1>", "<b_2>"]`.

    Raises:
        InputError: an item has no semantic ID.
    """
    ids = table.semantic_ids()
    return {
        str(number): [f"<{token}>" for token in ids[row].split(" ")]
        for number, row in enumerate(table.rows_for(items).tolist())
    }


def _noted(domain: DatasetPaths, what: str) -> dict[str, dict[str, Any]]:
    """Read an import's notes by file: its layout (`styles`) or `objects` that cells cannot hold."""
    path = domain.file("mql4grec.json")
    return dict(read_json(path).get(what, {})) if path.is_file() else {}
