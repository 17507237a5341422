"""Columns of an atomic file come back exactly as written, or the refusal says what to do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from recbole_qbert.common.errors import InputError
from recbole_qbert.data import atomic
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


@pytest.mark.parametrize("kind", ["token_seq", "float_seq"])
@pytest.mark.parametrize("between", [" ", ", ", "|"])
@pytest.mark.parametrize("block", [1 << 24, 100])
def test_lists_are_those_of_a_plain_loop(
    tmp_path: Path, kind: str, between: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With empty lists, separators in a row and at the ends, and a file read in several blocks."""
    monkeypatch.setattr(atomic, "BLOCK_BYTES", block)
    words = ["", "", "1", "-2.5e3", "007", "18446744073709551616", "0.1"]
    words += ["\u00c9t\u00e9", "NA", "nan", '"a', " b"] if kind == "token_seq" else []
    draw = random.Random(3)
    cells = [between.join(draw.choices(words, k=draw.randint(1, 6))) for _ in range(300)]
    lines = "".join(f"{number}\t{cell}\n" for number, cell in enumerate(cells))
    file = read_atomic(_write(tmp_path, f"item_id:token\tx:{kind}\n{lines}"))
    found = file.lists("x", between)
    expected = [list(filter(None, cell.split(between))) for cell in cells]
    assert [] in expected and len(found) == len(expected)
    for mine, parts in zip(found, expected, strict=True):
        assert mine.tolist() == (parts if kind == "token_seq" else [float(each) for each in parts])
        assert mine.dtype == (object if kind == "token_seq" else float)


def test_a_list_with_a_wrong_number_names_its_line(tmp_path: Path) -> None:
    path = _write(tmp_path, "a:token\tx:float_seq\n1\t\n2\t1  2\n3\t1 inf\n4\tx y\n")
    with pytest.raises(InputError) as caught:
        read_atomic(path).lists("x", " ")
    assert str(caught.value) == (
        f"{path}: line 4, x: '1 inf' has an element that is not a finite number; correct it "
        "(1 more such lines)"
    )


@pytest.mark.parametrize("kind", ["token_seq", "float_seq"])
def test_no_rows_are_no_lists(tmp_path: Path, kind: str) -> None:
    assert read_atomic(_write(tmp_path, f"a:token\tx:{kind}\n")).lists("x", " ") == []


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
