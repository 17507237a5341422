"""Columns of an atomic file come back exactly as written, or the refusal says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.atomic import read_atomic, read_columns

HEADER = "item_id:token\ttitle:token_seq\tyear:float\n"


def _write(folder: Path, content: str | bytes) -> Path:
    path = folder / "x.item"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_strings_stay_as_written(tmp_path: Path) -> None:
    rows = '007\tNA\t1.50\nnan\t"Quoted, "" half\t\n i \t\u2028 Été\u0085x\tNone\n'
    frame = read_columns(_write(tmp_path, HEADER + rows), ["year", "item_id", "title"])
    assert list(frame.columns) == ["year", "item_id", "title"]
    assert frame["item_id"].tolist() == ["007", "nan", " i "]
    assert frame["title"].tolist() == ["NA", '"Quoted, "" half', "\u2028 Été\u0085x"]
    assert frame["year"].tolist() == ["1.50", "", "None"]
    assert frame.index.tolist() == [2, 3, 4]


def test_byte_order_mark_crlf_blank_lines_and_no_final_line_end(tmp_path: Path) -> None:
    content = "\ufeff" + (HEADER + "1\ta\t2\n\n2\tb\t3").replace("\n", "\r\n")
    frame = read_columns(_write(tmp_path, content), ["item_id", "year"])
    assert frame["item_id"].tolist() == ["1", "2"]
    assert frame["year"].tolist() == ["2", "3"]
    assert frame.index.tolist() == [2, 4]


def test_header_alone_gives_no_rows(tmp_path: Path) -> None:
    frame = read_columns(_write(tmp_path, HEADER), ["title"])
    assert frame.shape == (0, 1)


@pytest.mark.parametrize(
    ("content", "fields", "parts"),
    [
        (HEADER + "1\ta\t2\n", ["titel"], ["'titel'", "item_id, title, year", "mean 'title'"]),
        (HEADER + "1\ta\t2\n", ["title", "title"], ["'title' is given twice"]),
        (HEADER + "1\ta\t2\n2\tb\n", ["title"], ["line 3", "2 fields", "header has 3"]),
        (HEADER + "1\ta\t2\t\n", ["title"], ["line 2", "4 fields"]),
        ("item_id\ttitle:token\n", ["title"], ["line 1", "'item_id'", "name:type"]),
        ("a:token\ta:float\n", ["a"], ["'a' occurs twice in line 1"]),
        ("", ["title"], ["x.item is empty"]),
        ("\n1\ta\t2\n", ["title"], ["line 1 is empty"]),
        (HEADER.encode() + b"\xff\t\t\n", ["title"], ["not UTF-8", "convert"]),
    ],
)
def test_refusals(
    tmp_path: Path, content: str | bytes, fields: list[str], parts: list[str]
) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read_columns(path, fields)
    for part in [str(path), *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("separator", "named"), [("\t", "tab"), (",", "comma"), (" ", "blank"), (";", "';'")]
)
def test_a_wrong_number_of_fields_names_the_separator(
    tmp_path: Path, separator: str, named: str
) -> None:
    rows = [["item_id:token", "year:float"], ["a", "1"], ["b", "2", "3"]]
    path = _write(tmp_path, "".join(separator.join(row) + "\n" for row in rows))
    with pytest.raises(InputError) as caught:
        read_atomic(path, separator=separator)
    assert str(caught.value) == (
        f"{path}: line 3: 3 fields where the header has 2; separate fields with one {named} and "
        f"remove each {named} inside a field"
    )


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_columns(tmp_path / "absent.item", ["title"])
