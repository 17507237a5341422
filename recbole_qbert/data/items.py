"""Read fields of a RecBole `.item` file, one row an item, and name the file in a sidecar."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from recbole_qbert.data.atomic import read_atomic
from recbole_qbert.errors import InputError
from recbole_qbert.files import sha256_file

ITEM_FIELD = "item_id"


def read_item_fields(item_path: str | Path, fields: Sequence[str]) -> pd.DataFrame:
    """Item tokens (column `item_id`) and fields as they are written, one row an item.

    Raises:
        InputError: no field or row, an unknown field, or a repeated item.
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
    """How a sidecar names an `.item` file: without folders, which differ between machines."""
    return {"item_file": Path(item_path).name, "item_file_sha256": sha256_file(item_path)}
