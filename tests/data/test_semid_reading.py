"""Reading the semantic-ID file: spellings, refusals, the sidecar, damage."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_semid import GOOD, SOURCE, file_of, refusal, small_table

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import sidecar_path
from recbole_qbert.data.semid import (
    HEADER,
    check_semantic_ids,
    read_semantic_ids,
    write_semantic_ids,
)

# --- spellings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        f"{HEADER}\nx1\t<a_0><b_1>\nx2\t<a_0> <b_2>\nx3\ta_3 b_1\n",
        GOOD.replace("x2", "\nx2") + "\n\n",
    ],
    ids=["plain", "no last line end", "CRLF", "BOM", "paper spelling", "blank lines"],
)
def test_accepted_spellings(tmp_path: Path, content: str) -> None:
    assert read_semantic_ids(file_of(tmp_path, content), (4, 5)) == small_table()


def test_sizes_without_sidecar_are_the_largest_codes(tmp_path: Path) -> None:
    assert read_semantic_ids(file_of(tmp_path, GOOD)).codebook_sizes == (4, 3)


# --- refusals ----------------------------------------------------------------------------------


def rows(*lines: str) -> str:
    return "\n".join((HEADER, *lines, ""))


REFUSALS: list[tuple[str, str | bytes, str, list[str]]] = [
    ("empty", "", " is empty", ["make it again"]),
    ("only a BOM", "\ufeff", " is empty", []),
    ("only a line end", "\n", ": line 1 ", ["is empty"]),
    ("header", "item_id\tsemantic_id\nx\ta_1\n", ": line 1: ",
     ["'item_id semantic_id'", "must be"]),
    ("header order", "semantic_id:token_seq\titem_id:token\nx\ta_1\n", ": line 1: ", ["must be"]),
    ("no header", "x1\ta_0 b_1\n", ": line 1: ", ["header"]),
    ("not UTF-8", GOOD.encode().replace(b"x2", b"\xff2"), ": line 3: ",
     ["not UTF-8", "position 47"]),
    ("UTF-16", GOOD.encode("utf-16"), ": line 1: ", ["not UTF-8", "position 0"]),
    ("one field", rows("x1\ta_0", "x2"), ": line 3: ", ["1 fields where the header has 2"]),
    ("three fields", rows("x1\ta_0", "x2\ta_1\t"), ": line 3: ", ["3 fields"]),
    ("empty item", rows("x1\ta_0", "\ta_1"), ": line 3, item_id: ", ["cannot be an item token"]),
    ("CR in an item", rows("x1\ta_0", "x\r2\ta_1"), ": line 3: ", ["a carriage return"]),
    ("doubled item", rows("x1\ta_0", "", "x2\ta_1", "x1\ta_2"), ": line 5, item_id: ",
     ["'x1'", "line 2", "one row"]),
    ("doubled tuples",
     rows("x1\ta_0", "x2\ta_1", "x3\ta_2", "x4\ta_1", "x5\ta_0", "x6\ta_1"),
     ": line 5, semantic_id: ",
     ["item 'x4'", "item 'x2' on line 3", "3 such rows", "reallocation", "add a level"]),
    ("huge", rows("x1\ta_0", "x2\ta_1048576"), ": line 3, semantic_id: ", ["codes below 1048576"]),
    ("absurdly huge", rows("x1\ta_0", "x2\ta_" + "7" * 9999), ": line 3, semantic_id: ",
     ["'a_777"]),
    ("no rows", HEADER + "\n", " is empty", ["no rows follow the header"]),
    ("no rows, no line end", HEADER, " is empty", ["no rows follow the header"]),
]  # fmt: skip
# Rows that follow a row of two levels, or stand first, and are no tuple of two levels.
NO_TUPLES = [
    "", "a_0  b_1", "a_0 b_1 ", "a_1", "a_1 b_1 c_1", "b_3 b_1", "b_1 a_0", "a_1 b1", "A_0 b_0",
    "<a_0> b_1", "<<a_0> <b_1>>", "a_0 b_0\x07", "a_\u0663 b_0", "a_-1 b_0", "a_00 b_0", "a_0,b_0",
]  # fmt: skip


@pytest.mark.parametrize("text", NO_TUPLES)
def test_rows_that_are_no_tuple_are_refused(tmp_path: Path, text: str) -> None:
    path = file_of(tmp_path, rows("x1\ta_0 b_1", f"x2\t{text}", "x3\ta_1 b_1"))
    message = refusal(lambda: read_semantic_ids(path))
    assert message.startswith(f"{path}: line 3, semantic_id: {text!r} is not a tuple of 2 level")
    assert "as many as on line 2" in message
    if text not in ("a_1", "a_1 b_1 c_1"):
        path = file_of(tmp_path, rows(f"x2\t{text}", "x3\ta_1 b_1"))
        assert f"{path}: line 2, semantic_id: {text!r}" in refusal(lambda: read_semantic_ids(path))


@pytest.mark.parametrize(
    ("content", "place", "fragments"),
    [case[1:] for case in REFUSALS],
    ids=[case[0] for case in REFUSALS],
)
def test_refusals(tmp_path: Path, content: str | bytes, place: str, fragments: list[str]) -> None:
    path = file_of(tmp_path, content)
    message = refusal(lambda: read_semantic_ids(path))
    assert message.startswith(f"{path}{place}")
    for fragment in fragments:
        assert fragment in message
    assert len(message) < len(str(path)) + 400
    assert refusal(lambda: check_semantic_ids(path)) == message


def test_refuses_codes_outside_the_given_codebooks(tmp_path: Path) -> None:
    path = file_of(tmp_path, GOOD)
    message = refusal(lambda: read_semantic_ids(path, (4, 2)))
    assert f"{path}: line 3, semantic_id" in message
    assert "'b_2': code out of range; level b has codes 0 to 1" in message
    assert "3 levels, the rows" in refusal(lambda: read_semantic_ids(path, (4, 3, 2)))
    assert "from 1 to" in refusal(lambda: read_semantic_ids(path, (4, 0)))


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(lambda: read_semantic_ids(tmp_path / "none.semid"))
    assert "no such file" in refusal(lambda: read_semantic_ids(tmp_path))


# --- sidecar -----------------------------------------------------------------------------------


def test_sidecar_of_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    path.write_text(GOOD.replace("x3", "x4"), encoding="utf-8")
    message = refusal(lambda: read_semantic_ids(path))
    assert message.startswith(f"{path}.json: its sha256 is not that of {path}")
    assert "make the file again" in message


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"format": "other\n"}, r"format is 'other\n', not 'recbole-qbert/semid'"),
        ({"version": 2}, "version is '2', not 1"),
        ({"sha256": None}, "its sha256 is not that of"),
        ({"codebook_sizes": [4]}, "1 level, the rows"),
        ({"codebook_sizes": [4, 2]}, "out of range"),
        ({"codebook_sizes": [4, "5"]}, "one integer from 1 to"),
        ({"codebook_sizes": 4}, "one integer from 1 to"),
        ({"codebook_sizes": []}, "for each level"),
    ],
)
def test_faulty_sidecars_are_refused(tmp_path: Path, change: dict[str, Any], fragment: str) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    content = json.loads(sidecar_path(path).read_text())
    sidecar_path(path).write_text(json.dumps({**content, **change}))
    assert fragment in refusal(lambda: read_semantic_ids(path))


@pytest.mark.parametrize("text", ["", "[]", "{", "\udcff", "[" * 100_000, '{"n":' + "1" * 5000])
def test_unreadable_sidecars_are_refused(tmp_path: Path, text: str) -> None:
    path = file_of(tmp_path, GOOD)
    sidecar_path(path).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert f"{path}.json" in refusal(lambda: read_semantic_ids(path))


# --- damage ------------------------------------------------------------------------------------

DAMAGE = ("flip", "insert", "delete", "truncate", "double line", "swap lines", "swap fields")
SPECIAL = b"\t\n\r _<>-0a1bz\x00\xff\xc3\xef\x85"


def damaged(data: bytes, kind: str, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    byte = bytes([rng.choice([rng.choice(SPECIAL), rng.randrange(256)])])
    lines = data.split(b"\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == "flip":
        return data[:place] + byte + data[place + 1 :]
    if kind == "insert":
        return data[:place] + byte + data[place:]
    if kind == "delete":
        return data[:place] + data[place + rng.randrange(1, 6) :]
    if kind == "truncate":
        return data[:place]
    if kind == "double line":
        lines.insert(two, lines[one])
    elif kind == "swap lines":
        lines[one], lines[two] = lines[two], lines[one]
    else:
        lines[one] = b"\t".join(reversed(lines[one].split(b"\t")))
    return b"\n".join(lines)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.lists(st.sampled_from(DAMAGE), min_size=1, max_size=4),
    paper=st.booleans(),
)
def test_damaged_files(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kinds: list[str], paper: bool
) -> None:
    rng = random.Random(seed)
    codes = rng.sample([(a, b, c) for a in range(9) for b in range(12) for c in range(3)], 8)
    spelling = "<a_{}><b_{}> <c_{}>" if paper else "a_{} b_{} c_{}"
    data = rows(*[f"é{n}\t{spelling.format(*row)}" for n, row in enumerate(codes)]).encode()
    for kind in kinds:
        data = damaged(data, kind, rng) or b"\n"
    path = file_of(tmp_path_factory.mktemp("fuzz"), data)
    try:
        table = read_semantic_ids(path)
    except InputError as error:
        assert str(error).isprintable()
        assert str(error).startswith(f"{path}: line ") or " is empty" in str(error)
        return
    assert len(set(table.items)) == table.n_items == len(table.codes) > 0
    assert len({tuple(row) for row in table.codes.tolist()}) == table.n_items
    assert (table.codes >= 0).all() and (table.codes < np.array(table.codebook_sizes)).all()
    path.unlink()
    write_semantic_ids(path, table, SOURCE)
    assert read_semantic_ids(path) == table


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), kinds=st.lists(st.sampled_from(DAMAGE[:4]), max_size=3))
def test_damaged_sidecars(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kinds: list[str]
) -> None:
    rng = random.Random(seed)
    path = tmp_path_factory.mktemp("fuzz") / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    data = sidecar_path(path).read_bytes()
    for kind in kinds:
        data = damaged(data, kind, rng) or b"\n"
    sidecar_path(path).write_bytes(data)
    try:
        table = read_semantic_ids(path)
    except InputError as error:
        assert str(error).isprintable()
        return
    assert table.items == small_table().items
    assert np.array_equal(table.codes, small_table().codes)
