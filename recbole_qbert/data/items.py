"""Item fields, from a RecBole `.item` file or a plain tab-separated table, and their text."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recbole_qbert.common.errors import InputError, did_you_mean, preview
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic import read_atomic, read_lines
from recbole_qbert.data.checks import check_items

ITEM_FIELD = "item_id"
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")


def read_item_fields(item_path: str | Path, fields: Sequence[str]) -> pd.DataFrame:
    """Read item tokens (column `item_id`) and fields of an `.item` file as text, one row per item.

    Raises:
        InputError: no field is given, the file has no rows, a field is unknown, or an item occurs
            twice.
    """
    if isinstance(fields, str) or not fields:
        raise InputError(f"{item_path}: the fields are {fields!r}; give a list of one or more")
    file = read_atomic(item_path)
    frame = file.frame(list(dict.fromkeys([ITEM_FIELD, *fields])))
    file.need_rows()
    file.check_ids(ITEM_FIELD)
    file.check_unique(ITEM_FIELD, "item")
    return frame


def item_file_entry(item_path: str | Path) -> dict[str, str]:
    """Return a sidecar's entry for an `.item` file: its hash and its name without folders.

    Folders are left out because they differ between machines.
    """
    return {"item_file": Path(item_path).name, "item_file_sha256": sha256_file(item_path)}


def clean_text(text: str) -> str:
    """Decode HTML entities, however often escaped, remove tags, and collapse runs of blanks."""
    while (plain := html.unescape(text)) != text:
        text = plain
    return " ".join(_TAG.sub(" ", text).split())


def read_item_table(path: str | Path, fields: list[str]) -> pd.DataFrame:
    """Read item tokens (`item_id`) and fields of an `.item` file or of a tab-separated table.

    A table has a header of plain field names.

    Raises:
        InputError: a field is missing, a row has another number of fields, or an item occurs
            twice.
    """
    header, *lines = read_lines(Path(path))
    if ":" in header:
        return read_item_fields(path, fields)
    names = header.split("\t")
    for field in (ITEM_FIELD, *fields):
        if names.count(field) != 1:
            raise InputError(
                f"{path}: line 1: {names.count(field)} fields '{field}' where there must be one "
                f"(it has {preview(names)}){did_you_mean(field, names)}"
            )
    numbered = {number: line.split("\t") for number, line in enumerate(lines, 2) if line}
    for number, row in numbered.items():
        if len(row) != len(names):
            raise InputError(
                f"{path}: line {number}: {len(row)} fields where the header has {len(names)}; "
                "separate fields with one tab"
            )
    frame = pd.DataFrame(list(numbered.values()), columns=names, dtype=object)
    numbers = list(numbered)
    check_items(tuple(frame[ITEM_FIELD]), len(frame), str(path), lambda row: f"line {numbers[row]}")
    return frame
