"""Conversion of item texts between JSON objects and the cells of an atomic file.

A cell is one line of text without tabs. Objects that cannot be restored from their cells are stored
beside the atomic files, so that an export can write them unchanged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_qbert.datasets.text import whole

_UNFIT = re.compile("[\\t\\n\\r\\0]")


def as_cell(value: Any) -> str:
    """Convert a value to a cell: list elements are joined by commas, null becomes empty."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return _UNFIT.sub(" ", whole("" if value is None else str(value)))


def kept_objects(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Return the objects that their cells cannot restore, as JSON, by row number.

    Args:
        rows: objects.
        columns: cells of each field, one per row.
    """
    cells = zip(*columns.values(), strict=True)
    written = [json.dumps(dict(zip(columns, each, strict=True))) for each in cells]
    texts = [json.dumps(row) for row in rows]
    return {
        str(number): text
        for number, (text, other) in enumerate(zip(texts, written, strict=True))
        if text != other
    }


def restored(cells: dict[str, str], kept: str | None) -> dict[str, Any]:
    """Return the object of a row: `kept` if the cells are unchanged since, else the cells.

    Args:
        cells: the row's cells by field.
        kept: JSON of the original object, from `kept_objects`, or None.
    """
    if kept is None:
        return cells
    row: dict[str, Any] = json.loads(kept)
    same = set(row) <= set(cells) and all(as_cell(row.get(name)) == cells[name] for name in cells)
    return row if same else cells
