"""Reading in blocks agrees with reading line by line, filters with loops over sets."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_qbert.common.errors import InputError
from recbole_qbert.datasets import sources
from recbole_qbert.datasets.delimited import delimited
from recbole_qbert.datasets.interactions import Interactions, candidates, coded, filtered
from recbole_qbert.datasets.kcore import Rules, core_rows, without_repeats
from recbole_qbert.datasets.sources import Rejects, json_lines, line_blocks

SCHEMA = pa.schema([("u", pa.string()), ("n", pa.int64()), ("r", pa.float64())])
GOOD = [
    '{"u": "a", "n": 7, "r": 1.5}',
    '{"r": 3, "n": 123456789012345678, "x": {"u": [1, "}"]}, "u": "\\u00e9\\ud83d\\ude00"}',
    '{"u": "é", "n": null, "x": "{\\"u\\": 1}"}',
    "{}",
]
ODD = [
    '{"u": 5, "n": "x7", "r": "2.5"}',
    '{"u": "b", "x": 1, "x": 2, "n": 7.0}',
    '{"u": "a", "x": "tab\there"}',
    '{"u": "a", "n": 1e3, "x": "\\ud83d"}',
    ' {"u": "a"} ',
]
BAD = [
    '{"u": "a"',
    '{"u": "a"} {"u": "b"}',
    '{"u": "a",',
    '"n": 1}',
    "[1]",
    '{"r": true}',
    '{"u": ["a"]}',
    '{"u": "\\ud83d"}',
]
EXPECTED = [
    ("a", "7", 1.5), ("é😀", "123456789012345678", 3.0), ("é", None, None), (None, None, None),
    ("5", "x7", 2.5), ("b", "7", None), ("a", None, None), ("a", "1000", None), ("a", None, None),
]  # fmt: skip
LINES = GOOD + ODD


def read(path: Path) -> tuple[list[tuple[int, tuple[object, ...]]], str]:
    """Rows with their line numbers, and the report."""
    report = io.StringIO()
    rows = []
    for numbers, table in json_lines(path, SCHEMA, Rejects(report)):
        values = zip(*(column.to_pylist() for column in table.columns), strict=True)
        rows += zip(numbers.tolist(), values, strict=True)
    return rows, report.getvalue()


@settings(max_examples=60, deadline=None)
@given(
    picked=st.lists(st.sampled_from([*LINES, *BAD, ""]), max_size=12),
    size=st.sampled_from([1, 50, 1 << 20]),
    few=st.sampled_from([1, 2, 64]),
    end=st.sampled_from(["\n", "\r\n"]),
    packed=st.booleans(),
)
def test_json_lines_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    picked: list[str], size: int, few: int, end: str, packed: bool,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("lines") / "x"
    data = end.join(picked).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "_FEW", few)
        patched.setattr(sources, "BLOCK", size)
        rows, report = read(path)
    wanted = [
        (number, EXPECTED[LINES.index(line)])
        for number, line in enumerate(picked, 1)
        if line in LINES
    ]
    assert rows == wanted
    refused = [int(line.split(":")[1].split("\t")[0]) for line in report.splitlines()]
    assert refused == [number for number, line in enumerate(picked, 1) if line in BAD]


def test_bytes_that_are_no_text_matter_only_in_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b'\xef\xbb\xbf{"u": "a", "x": "\xff"}\n{"u": "\xff"}\n{"u": "\xef\xbf\xbd"}\n')
    rows, report = read(path)
    assert rows == [(1, ("a", None, None)), (3, ("\ufffd", None, None))]
    assert report.startswith("x:2\tnot valid UTF-8")


def test_files_that_are_no_lines_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.gz"
    data = gzip.compress(json.dumps({"u": "a" * 1000}).encode() * 100)
    for cut in (data[:-1], data[:30], data[:20] + b"xx" + data[22:], data + b"more"):
        path.write_bytes(cut)
        with pytest.raises(InputError, match="damaged or incomplete.*download the file again"):
            list(line_blocks(path))
    path.write_bytes(data)
    monkeypatch.setattr(sources, "LONGEST_LINE", 5000)
    with pytest.raises(InputError, match="line 1 is longer"):
        list(line_blocks(path, size=1000))
    with pytest.raises(InputError, match="cannot be read"):
        list(line_blocks(tmp_path / "nowhere"))


@settings(max_examples=40, deadline=None)
@given(widths=st.lists(st.integers(1, 4), min_size=1, max_size=40), block=st.integers(30, 60))
def test_rows_of_another_width_are_named_by_their_number(
    tmp_path_factory: pytest.TempPathFactory, widths: list[int], block: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.csv"
    rows = [",".join(f"{place}{letter}" for letter in "abcd"[:n]) for place, n in enumerate(widths)]
    path.write_text("\n".join(["p,q", *rows, ""]))
    report = io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "BLOCK", block)  # several blocks
        found = [
            (number, cell)
            for numbers, table in delimited(path, Rejects(report))
            for number, cell in zip(numbers.tolist(), table["p"].to_pylist(), strict=True)
        ]
    assert found == [(n, f"{n - 2}a") for n, width in enumerate(widths, 2) if width == 2]
    refused = [int(line.split(":")[1].split("\t")[0]) for line in report.getvalue().splitlines()]
    assert refused == [n for n, width in enumerate(widths, 2) if width != 2]


def read_table(path: Path, block: int = 1 << 20, **how: object) -> tuple[list[object], list[str]]:
    """Line numbers and cells of a table with a header, and the report's lines."""
    report = io.StringIO()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sources, "BLOCK", block)
        rows = [
            (number, *cells)
            for numbers, table in delimited(path, Rejects(report), **how)  # type: ignore[arg-type]
            for number, *cells in zip(
                numbers.tolist(), *(column.to_pylist() for column in table.columns), strict=True
            )
        ]
    return rows, report.getvalue().splitlines()


CELLS = st.text(st.sampled_from('ab",;\n\t é'), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=12),
    block=st.integers(1, 60),
    delimiter=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    encoding=st.sampled_from(["utf-8", "latin-1", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_a_csv_writer_writes_is_read_with_its_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]], block: int,
    delimiter: str, quoting: int, encoding: str, end: str,
) -> None:  # fmt: skip
    handle = io.StringIO(newline="")
    writer = csv.writer(handle, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerow(["p", "q", "r"])
    lines = []
    for row in rows:
        lines.append(handle.getvalue().count("\n") + 1)
        writer.writerow(row)
    path = tmp_path_factory.mktemp("quoted") / "x"
    path.write_bytes(handle.getvalue().encode(encoding))
    found, report = read_table(path, block, delimiter=delimiter, encoding=encoding)
    wanted = [(line, *row) for line, row in zip(lines, rows, strict=True)]
    assert found == wanted and not report


@settings(max_examples=150, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(["plain", "quoted", "long", "inch", "open", "early"]),
                   max_size=14),
    block=st.integers(1, 80),
    delimiter=st.sampled_from(",\t"),
)  # fmt: skip
def test_a_quotation_that_never_closes_takes_its_line_only(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], block: int, delimiter: str
) -> None:
    """Whatever stands before and after it, and however many there are."""
    lines, wanted, refused = ["p,q,r"], [], []
    for place, kind in enumerate(kinds):
        line = sum(each.count("\n") + 1 for each in lines) + 1
        note = {
            "plain": ("fine", "fine"), "quoted": ('"a ""b"", c"', 'a "b", c'),
            "long": ('"two\nlines"', "two\nlines"), "inch": ('8" wide', '8" wide'),
            "open": ('"8 inch, blue', None), "early": ('"8 inch', None),
        }[kind]  # fmt: skip
        cells = [f"u{place}", note[0], "x"] if kind == "early" else [f"u{place}", "i", note[0]]
        lines.append(",".join(cells))
        if note[1] is None:
            refused.append(f"x:{line}\tunclosed quotation")
        else:
            wanted.append((line, f"u{place}", "i", note[1].replace(",", delimiter)))
    path = tmp_path_factory.mktemp("open") / "x"
    path.write_text("\n".join([*lines, ""]).replace(",", delimiter))
    found, report = read_table(path, block, delimiter=delimiter)
    assert found == wanted
    assert [line.rpartition("\t")[0] for line in report] == refused


def test_quotations_at_the_end_and_in_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text('p,q\n1,"a\n2,b\n3,c"d\n4,"""')
    found, report = read_table(path)
    assert found == [(3, "2", "b"), (4, "3", 'c"d')]
    assert [line.split("\t")[0] for line in report] == ["x:2", "x:5"]
    path.write_text('p,"q\n1,2\n')
    with pytest.raises(InputError, match="line 1: unclosed quotation"):
        read_table(path)
    found, report = read_table(path, quoted=False)
    assert found == [(2, "1", "2")] and not report


ROWS = st.lists(
    st.tuples(*(st.integers(0, 5) for _ in range(3)), st.integers(1, 2)), max_size=40
)  # user, item, time, rating


def columns(rows: list[tuple[int, int, int, int]]) -> list[np.ndarray]:
    """Columns of rows, also of none."""
    return list(np.array(rows, dtype=np.int64).reshape(-1, 4).T)


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, core=st.integers(0, 4))
def test_core_beside_a_loop_over_sets(rows: list[tuple[int, int, int, int]], core: int) -> None:
    users, items, _, _ = columns(rows)
    kept = set(range(len(rows)))
    while True:
        by_user = Counter(rows[row][0] for row in kept)
        by_item = Counter(rows[row][1] for row in kept)
        few = {r for r in kept if by_user[rows[r][0]] < core or by_item[rows[r][1]] < core}
        if not few:
            break
        kept -= few
    assert core_rows(users, items, core).tolist() == sorted(kept)
    hashes = users.astype(np.uint64), items.astype(np.uint64)
    assert np.flatnonzero(candidates(*hashes, core)).tolist() == sorted(kept)
    allowed = np.array([1, 3, 5], dtype=np.uint64)
    some = np.flatnonzero(candidates(*hashes, core, allowed))
    odd = [row for row in range(len(rows)) if rows[row][1] % 2]
    again = core_rows(users[odd], items[odd], core)
    assert some.tolist() == [odd[place] for place in again]


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_repeats_and_order_beside_sorting(rows: list[tuple[int, int, int, int]]) -> None:
    users, items, times, ratings = columns(rows)
    for keep, sign in (("first", 1), ("last", -1)):
        best: dict[tuple[int, int], tuple[int, int]] = {}
        for user, item, time, rating in rows:
            key = (sign * time, -rating)
            best[user, item] = min(best.get((user, item), key), key)
        kept = without_repeats(users, items, times, ratings, Rules(0, keep, "file"))
        found = {rows[row][:2]: (sign * rows[row][2], -rows[row][3]) for row in kept}
        assert found == best and len(kept) == len(best)
    tokens = pa.array(["0", "1", "2", "3", "4", "5"])
    inter = Interactions(tokens, tokens, users, items, times, ratings)
    made = filtered(inter, Rules(ties="token"))
    found = zip(made.users, made.items, made.times, made.ratings, strict=True)
    assert list(found) == sorted(rows, key=lambda r: (r[0], r[2], r[1], r[3]))


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.lists(st.text(max_size=3), max_size=5), max_size=4))
def test_codes_are_places_among_the_sorted_tokens(chunks: list[list[str]]) -> None:
    column = pa.chunked_array([pa.array(chunk, pa.string()) for chunk in chunks], pa.string())
    tokens, codes = coded(column)
    assert tokens.to_pylist() == sorted(set(column.to_pylist()), key=lambda text: text.encode())
    assert [tokens[code].as_py() for code in codes.tolist()] == column.to_pylist()
