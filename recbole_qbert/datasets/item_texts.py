"""Texts of items between JSON objects and the cells of an atomic file.

A cell is one line of text without tabs. Objects that their cells do not give back are kept beside
the atomic files, so that an export can write them as they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_qbert.datasets.text import whole

_UNFIT = re.compile("[\\t\\n\\r\\0]")


def as_cell(value: Any) -> str:
    """A value as a cell: of a list its parts with commas between, nothing for null."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return _UNFIT.sub(" ", whole("" if value is None else str(value)))


def kept_objects(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """The objects that differ from their cells, as JSON, by the number of their row."""
    cells = zip(*columns.values(), strict=True)
    written = [json.dumps(dict(zip(columns, each, strict=True))) for each in cells]
    texts = [json.dumps(row) for row in rows]
    return {
        str(number): text
        for number, (text, other) in enumerate(zip(texts, written, strict=True))
        if text != other
    }


def restored(cells: dict[str, str], kept: str | None) -> dict[str, Any]:
    """The object of a row: the kept one, if the row's cells are still those made from it."""
    if kept is None:
        return cells
    row: dict[str, Any] = json.loads(kept)
    same = set(row) <= set(cells) and all(as_cell(row.get(name)) == cells[name] for name in cells)
    return row if same else cells
