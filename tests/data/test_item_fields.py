"""Fields of an `.item` file: one row an item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.items import item_file_entry, read_item_fields

HEADER = "item_id:token\ttitle:token_seq\tbrand:token"


def write(folder: Path, *rows: str) -> Path:
    path = folder / "toy.item"
    path.write_text("\n".join([HEADER, *rows, ""]), encoding="utf-8")
    return path


def test_fields_as_they_are_written(tmp_path: Path) -> None:
    path = write(tmp_path, "007\tNA \tx", "8\t\ty")
    frame = read_item_fields(path, ["brand", "title"])
    assert frame.columns.tolist() == ["item_id", "brand", "title"]
    assert frame.to_numpy().tolist() == [["007", "x", "NA "], ["8", "y", ""]]
    assert item_file_entry(path) == {
        "item_file": "toy.item",
        "item_file_sha256": sha256_file(path),
    }


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (["1\ta\tb"], [], r"the fields are \[\]; give a list"),
        (["1\ta\tb"], "title", "the fields are 'title'; give a list"),
        (
            ["1\ta\tb"],
            ["titel"],
            "no column 'titel'; it has item_id, title, brand; did you mean 'title'",
        ),
        ([], ["title"], "no rows follow the header"),
        (["1\ta\tb", "", "1\tc\td"], ["title"], "line 4: item '1' occurs a second time"),
    ],
)
def test_refusals(tmp_path: Path, rows: list[str], fields: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_item_fields(write(tmp_path, *rows), fields)
