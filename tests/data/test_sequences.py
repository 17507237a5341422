"""Flat sequence arrays against a plain loop over the rows of the file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_qbert.common.errors import InputError
from recbole_qbert.data import atomic, sequences
from recbole_qbert.data.atomic import read_atomic
from recbole_qbert.data.sequences import open_sequences, read_interactions

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
Rows = list[tuple[str, str, float]]


def write(path: Path, rows: Rows, end: str = "\n") -> Path:
    """An `.inter` file with the columns in another order than ours."""
    lines = ["item_id:token\trating:float\tuser_id:token\ttimestamp:float"]
    lines += [f"{item}\t1\t{user}\t{time!r}" for user, item, time in rows]
    path.write_bytes((end.join(lines) + end).encode())
    return path


def by_loop(rows: Rows) -> list[list[str]]:
    """Each user's items but the last, in time order; users in order of appearance."""
    users: dict[str, list[tuple[float, str]]] = {}
    for user, item, time in rows:
        users.setdefault(user, []).append((time, item))
    return [
        [item for _, item in sorted(own, key=lambda pair: pair[0])][:-1] for own in users.values()
    ]


def as_lists(found: sequences.Sequences) -> list[list[str]]:
    tokens = found.tokens
    pairs = zip(found.offsets[:-1], found.offsets[1:], strict=True)
    return [[tokens[number] for number in found.items[a:b]] for a, b in pairs]


TOKENS = st.sampled_from(["a", "NA", "007", "7", "null", "é", 'q"x', "a b", "-", "nan", "True"])
ROWS = st.lists(st.tuples(TOKENS, TOKENS, st.integers(0, 5).map(float)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=40)
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]))
def test_any_file_is_what_a_loop_says(
    rows: Rows, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(tmp_path_factory.mktemp("x") / "x.inter", rows, end)
    assert as_lists(open_sequences(path)) == by_loop(rows)


def test_several_blocks_give_one_dictionary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(5)
    rows = [(f"u{chance.randrange(9)}", f"i{chance.randrange(30)}", float(n)) for n in range(400)]
    monkeypatch.setattr(atomic, "BLOCK_BYTES", 256)
    assert as_lists(open_sequences(write(tmp_path / "x.inter", rows))) == by_loop(rows)


def test_the_test_item_is_nowhere_in_the_folder(tmp_path: Path) -> None:
    rows = [("u", f"i{n}", float(n)) for n in range(5)] + [("v", "i0", 0.0), ("v", "i1", 1.0)]
    path = write(tmp_path / "x.inter", rows)
    before = open_sequences(path)
    changed = [row if row[1] != "i4" else ("u", "i0", 4.0) for row in rows]
    after = open_sequences(write(path, changed))
    assert as_lists(before) == as_lists(after) == [["i0", "i1", "i2", "i3"], ["i0"]]


def test_arrays_are_mapped_and_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.inter", [("u", "a", 1.0), ("u", "b", 2.0)])
    first = open_sequences(path)
    assert isinstance(first.items, np.memmap)
    monkeypatch.setattr(sequences, "read_interactions", None)  # would fail if it were called
    assert as_lists(open_sequences(path)) == [["a"]]


def test_another_file_replaces_them(tmp_path: Path) -> None:
    path = write(tmp_path / "x.inter", [("u", "a", 1.0), ("u", "b", 2.0)])
    open_sequences(path)
    write(path, [("u", "c", 1.0), ("u", "b", 2.0)])
    assert as_lists(open_sequences(path)) == [["c"]]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.inter", "x.sequences"]


def test_a_broken_folder_is_made_again(tmp_path: Path) -> None:
    path = write(tmp_path / "x.inter", [("u", "a", 1.0), ("u", "b", 2.0)])
    open_sequences(path)
    (tmp_path / "x.sequences" / "meta.json").write_text("{", encoding="utf-8")
    assert as_lists(open_sequences(path)) == [["a"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u\ta\tsoon", "line 2, timestamp: 'soon' is not a finite number"),
        ("u\ta\tinf", "line 2, timestamp: 'inf' is not a finite number"),
        ("u\ta", "line 2: 2 fields where the header has 3"),
    ],
)
def test_a_fault_names_its_line_and_leaves_nothing(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.inter"
    path.write_text(f"{HEADER}\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        open_sequences(path)
    assert [each.name for each in tmp_path.iterdir()] == ["x.inter"]


def test_missing_file_and_column(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_sequences(tmp_path / "x.inter")
    path = tmp_path / "x.inter"
    path.write_text("user_id:token\titem_id:token\nu\ta\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column 'timestamp'"):
        read_interactions(path)


def test_ids_that_are_quotations_are_those_of_every_other_reader(tmp_path: Path) -> None:
    path = write(tmp_path / "x.inter", [('"u"', "a", 1), ("u", 'b"', 2), ("v", '"b"', 3)])
    frame = sequences.read_interactions(path)
    assert frame["user_id"].tolist() == ["u", "u", "v"]
    assert frame["item_id"].tolist() == ["a", 'b"', "b"]
    file = read_atomic(path)
    assert sorted(file.columns["item_id"].to_pylist()) == sorted(frame["item_id"])
