"""Item fields, from a RecBole `.item` file or a plain tab-separated table, and their text."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic import read_atomic

ITEM_FIELD = "item_id"
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")


def read_item_fields(
    item_path: str | Path, fields: Sequence[str], plain_header: bool = False
) -> pd.DataFrame:
    """Read item tokens (column `item_id`) and fields of an `.item` file as text, one row per item.

    Args:
        item_path: the file.
        fields: names of the fields.
        plain_header: whether field names without types are allowed in the header.

    Raises:
        InputError: no field is given, the file has no rows, a field is unknown, or an item occurs
            twice.
    """
    if isinstance(fields, str) or not fields:
        raise InputError(f"{item_path}: the fields are {fields!r}; give a list of one or more")
    names = list(dict.fromkeys([ITEM_FIELD, *fields]))
    file = read_atomic(item_path, names, plain_header=plain_header)
    file.need_rows()
    file.check_ids(ITEM_FIELD)
    file.check_unique(ITEM_FIELD, "item")
    return file.frame(names)


def read_item_table(path: str | Path, fields: list[str]) -> pd.DataFrame:
    """Read an `.item` file or a table with plain field names, as in `read_item_fields`."""
    return read_item_fields(path, fields, plain_header=True)


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
