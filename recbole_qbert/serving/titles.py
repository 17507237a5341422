"""Titles of items, from a RecBole `.item` file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.items import ITEM_FIELD, read_item_fields

TITLE_FIELDS = ("title", "item_name", "name", "movie_title")  # usual names, tried in this order


def read_titles(path: str | Path, tokens: Sequence[str], field: str) -> list[str]:
    """Read the titles of items from a field of an `.item` file; "" for items without one.

    Raises:
        InputError: as in `read_item_fields`.
    """
    titles = read_item_fields(path, [field]).set_index(ITEM_FIELD)[field]
    return [str(title) for title in titles.reindex(list(tokens), fill_value="")]


def usual_titles(path: str | Path, tokens: Sequence[str]) -> list[str] | None:
    """Read the titles from the first of `TITLE_FIELDS` that an `.item` file has.

    Returns None if there is no such file or field, or the file cannot be read.
    """
    for field in TITLE_FIELDS:
        with contextlib.suppress(InputError):
            return read_titles(path, tokens, field)
    return None
