"""The semantic-ID file: codec, round trip, refusals, damage, sidecar."""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_qbert.data.semid import (
    HEADER,
    SemanticIDCodec,
    SemanticIDTable,
    check_semantic_ids,
    items_sha256,
    level_letters,
    read_semantic_ids,
    write_semantic_ids,
)
from recbole_qbert.errors import InputError
from recbole_qbert.files import sha256_file, sidecar_path

SOURCE = {"seed": 7, "command": "tokenize", "made_from": {"codes.npy": "ab" * 32}}
GOOD = f"{HEADER}\nx1\ta_0 b_1\nx2\ta_0 b_2\nx3\ta_3 b_1\n"


def small_table() -> SemanticIDTable:
    return SemanticIDTable(("x1", "x2", "x3"), np.array([[0, 1], [0, 2], [3, 1]]), (4, 5))


def refusal(call: Callable[[], Any]) -> str:
    """The message of the InputError that `call` raises: one printable line."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    return message


def file_of(folder: Path, content: str | bytes) -> Path:
    path = folder / "ds.semid"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- codec -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "letters"),
    [(0, "a"), (1, "b"), (25, "z"), (26, "aa"), (27, "ab"), (51, "az"), (52, "ba"), (701, "zz"),
     (702, "aaa")],
)  # fmt: skip
def test_level_letters(level: int, letters: str) -> None:
    assert level_letters(level) == letters
    assert SemanticIDCodec((2,) * (level + 1)).decode_token(f"{letters}_1") == (level, 1)


def test_codec_by_hand() -> None:
    codec = SemanticIDCodec((4, 2, 3))
    assert (codec.n_levels, codec.vocabulary_size) == (3, 9)
    assert codec.offsets.tolist() == [0, 4, 6]
    assert codec.encode_token(2, 1) == "c_1"
    assert codec.decode_token("b_1") == codec.decode_token("<b_1>") == (1, 1)
    rows = codec.vocabulary_rows(np.array([[3, 0, 2], [0, 1, 0]]))
    assert rows.tolist() == [[3, 4, 8], [0, 5, 6]]
    assert codec.from_vocabulary_rows(rows).tolist() == [[3, 0, 2], [0, 1, 0]]
    assert not codec.offsets.flags.writeable


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda c: c.encode_token(0, 4), "level 0, code 4: code out of range; level a has codes"),
        (lambda c: c.encode_token(0, -1), "out of range"),
        (lambda c: c.encode_token(3, 0), "there are 3 levels"),
        (lambda c: c.decode_token("a_4"), "'a_4': code out of range"),
        (lambda c: c.decode_token("d_0"), "there are 3 levels"),
        (lambda c: c.decode_token("A_1"), "lower-case"),
        (lambda c: c.decode_token("a_-1"), "negative"),
        (lambda c: c.decode_token("a_01"), "leading zeros"),
        (lambda c: c.decode_token("a_" + "9" * 5000), "out of range"),
        (lambda c: c.decode_token("a_1\n"), r"'a_1\n'"),
        (lambda c: c.decode_token("a_\u0663"), "no level token"),
        (lambda c: c.decode_token(""), "no level token"),
        (lambda c: c.vocabulary_rows([[0, 0, 3]]), "row 0: code out of range; level c"),
        (lambda c: c.vocabulary_rows([[0, 0]]), "shape [1, 2]; give an array [N, 3]"),
        (lambda c: c.vocabulary_rows([[0.0, 0.0, 1.0]]), "float64"),
        (lambda c: c.vocabulary_rows([[0, 0, 1], [0, 0]]), "differ in length"),
        (lambda c: c.from_vocabulary_rows([[0, 4, 9]]), "out of range"),
        (lambda c: c.from_vocabulary_rows([[4, 4, 6]]), "out of range"),
        (lambda c: SemanticIDCodec(()), "one size a level"),
        (lambda c: SemanticIDCodec((3, 0)), "from 1 to"),
        (lambda c: SemanticIDCodec((True,)), "integers"),
        (lambda c: SemanticIDCodec((2.5,)), "integers"),
        (lambda c: level_letters(-1), "start at 0"),
    ],
)
def test_codec_refusals(call: Callable[[SemanticIDCodec], Any], fragment: str) -> None:
    assert fragment in refusal(lambda: call(SemanticIDCodec((4, 2, 3))))


# --- round trip --------------------------------------------------------------------------------

TOKENS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1, max_size=12
)


@st.composite
def tables(draw: st.DrawFn) -> SemanticIDTable:
    sizes = tuple(draw(st.lists(st.integers(1, 1000), min_size=1, max_size=30)))
    seed = random.Random(draw(st.integers(0, 2**32)))
    items = draw(st.lists(TOKENS, min_size=1, max_size=12, unique=True))
    rows = dict.fromkeys(tuple(seed.randrange(size) for size in sizes) for _ in items)
    return SemanticIDTable(tuple(items[: len(rows)]), np.array(list(rows)), sizes)


@settings(max_examples=150, deadline=None)
@given(table=tables())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, table: SemanticIDTable) -> None:
    path = tmp_path_factory.mktemp("round") / "ds.semid"
    write_semantic_ids(path, table, SOURCE)
    assert read_semantic_ids(path) == table
    assert read_semantic_ids(path, table.codebook_sizes) == table
    codec = table.codec
    assert np.array_equal(
        codec.from_vocabulary_rows(codec.vocabulary_rows(table.codes)), table.codes
    )
    assert codec.vocabulary_rows(table.codes).max() < codec.vocabulary_size
    decoded = [[codec.decode_token(t)[1] for t in ids.split()] for ids in table.semantic_ids()]
    assert decoded == table.codes.tolist()
    backwards = table.items[::-1]
    assert np.array_equal(table.codes_for(backwards), table.codes[::-1])


def test_written_bytes_and_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    assert path.read_text(encoding="utf-8") == GOOD
    assert json.loads(sidecar_path(path).read_text()) == {
        "format": "recbole-qbert/semid",
        "version": 1,
        "n_levels": 2,
        "codebook_sizes": [4, 5],
        "n_items": 3,
        "sha256": sha256_file(path),
        "items_sha256": items_sha256(["x3", "x1", "x2"]),
        "source": SOURCE,
    }
    assert sorted(os.listdir(tmp_path)) == ["ds.semid", "ds.semid.json"]


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        "\ufeff" + GOOD,
        f"{HEADER}\nx1\t<a_0><b_1>\nx2\t<a_0> <b_2>\nx3\ta_3 b_1\n",
    ],
    ids=["plain", "no last line end", "CRLF", "BOM", "paper spelling"],
)
def test_accepted_spellings(tmp_path: Path, content: str) -> None:
    assert read_semantic_ids(file_of(tmp_path, content), (4, 5)) == small_table()


def test_sizes_without_sidecar_are_the_largest_codes(tmp_path: Path) -> None:
    assert read_semantic_ids(file_of(tmp_path, GOOD)).codebook_sizes == (4, 3)


# --- refusals ----------------------------------------------------------------------------------


def rows(*lines: str) -> str:
    return "\n".join((HEADER, *lines, ""))


REFUSALS: list[tuple[str, str | bytes, int, list[str]]] = [
    ("empty", "", 1, ["file is empty", "make it again"]),
    ("only a BOM", "\ufeff", 1, ["file is empty"]),
    ("only a line end", "\n", 1, ["header is ''"]),
    ("header", "item_id\tsemantic_id\nx\ta_1\n", 1, [r"'item_id\tsemantic_id'", "must be"]),
    ("header order", "semantic_id:token_seq\titem_id:token\nx\ta_1\n", 1, ["must be"]),
    ("no header", "x1\ta_0 b_1\n", 1, ["header"]),
    ("not UTF-8", GOOD.encode().replace(b"x2", b"\xff2"), 3, ["not UTF-8", "byte offset 47"]),
    ("UTF-16", GOOD.encode("utf-16"), 1, ["not UTF-8", "byte offset 0"]),
    ("one field", rows("x1\ta_0", "x2"), 3, ["1 tab-separated fields", "must be 2"]),
    ("three fields", rows("x1\ta_0", "x2\ta_1\t"), 3, ["3 tab-separated fields"]),
    ("blank line", rows("x1\ta_0", "", "x2\ta_1"), 3, ["delete the blank line"]),
    ("blank last line", rows("x1\ta_0", ""), 3, ["delete the blank line"]),
    ("empty item", rows("x1\ta_0", "\ta_1"), 3, ["item_id", "item token is empty"]),
    ("CR in an item", rows("x1\ta_0", "x\r2\ta_1"), 3, ["item_id", r"'x\r2'", "line ends"]),
    ("doubled item", rows("x1\ta_0", "x2\ta_1", "x1\ta_2"), 4, ["'x1'", "line 2", "one row"]),
    (
        "doubled tuples",
        rows("x1\ta_0", "x2\ta_1", "x3\ta_2", "x4\ta_1", "x5\ta_0", "x6\ta_1"),
        5,
        ["item 'x4'", "item 'x2' on line 3", ": 4 in all", "reallocation", "add a level"],
    ),
    ("no ids", rows("x1\ta_0", "x2\t"), 3, ["semantic_id", "empty token"]),
    ("no ids at first", rows("x1\t"), 2, ["empty token"]),
    ("two spaces", rows("x1\ta_0  b_1"), 2, ["empty token", "one space"]),
    ("last space", rows("x1\ta_0 b_1 "), 2, ["empty token"]),
    ("fewer levels", rows("x1\ta_0 b_1", "x2\ta_1"), 3, ["1 levels where line 2 has 2"]),
    ("more levels", rows("x1\ta_0 b_1", "x2\ta_1 b_1 c_1"), 3, ["3 levels where line 2 has 2"]),
    ("wrong level", rows("x1\ta_0 b_1", "x2\tb_3 b_1"), 3, ["'b_3' at level a is of level b"]),
    ("wrong level at first", rows("x1\tb_0"), 2, ["'b_0' at level a"]),
    ("levels swapped", rows("x1\ta_0 b_1", "x2\tb_1 a_0"), 3, ["'b_1' at level a"]),
    ("malformed", rows("x1\ta_0 b_1", "x2\ta_1 b1"), 3, ["'b1' is no level token", "like"]),
    ("capital letter", rows("x1\tA_0"), 2, ["lower-case"]),
    ("half brackets", rows("x1\t<a_0> b_1"), 2, ["'<a_0>' is no level token"]),
    ("nested brackets", rows("x1\t<<a_0>>"), 2, ["'<a_0>' is no level token"]),
    ("control character", rows("x1\ta_0\x07"), 2, [r"'a_0\x07'"]),
    ("Arabic digit", rows("x1\ta_\u0663"), 2, ["no level token"]),
    ("negative", rows("x1\ta_0", "x2\ta_-1"), 3, ["'a_-1' has a negative code"]),
    ("leading zero", rows("x1\ta_0", "x2\ta_00"), 3, ["leading zeros"]),
    ("huge", rows("x1\ta_0", "x2\ta_1048576"), 3, ["out of range"]),
    ("absurdly huge", rows("x1\ta_0", "x2\ta_" + "7" * 9999), 3, ["out of range"]),
    ("no rows", HEADER + "\n", 2, ["no data rows"]),
    ("no rows, no line end", HEADER, 2, ["no data rows"]),
]


@pytest.mark.parametrize(
    ("content", "line", "fragments"),
    [case[1:] for case in REFUSALS],
    ids=[case[0] for case in REFUSALS],
)
def test_refusals(tmp_path: Path, content: str | bytes, line: int, fragments: list[str]) -> None:
    path = file_of(tmp_path, content)
    message = refusal(lambda: read_semantic_ids(path))
    assert message.startswith(f"{path}: line {line}")
    assert not message[len(f"{path}: line {line}")].isdigit()
    for fragment in fragments:
        assert fragment in message
    assert len(message) < len(str(path)) + 400
    assert refusal(lambda: check_semantic_ids(path)) == message


def test_refuses_codes_outside_the_given_codebooks(tmp_path: Path) -> None:
    path = file_of(tmp_path, GOOD)
    message = refusal(lambda: read_semantic_ids(path, (4, 2)))
    assert f"{path}: line 3, semantic_id" in message
    assert "'b_2' is out of range; level b has codes 0 to 1" in message
    assert "3 levels, the rows" in refusal(lambda: read_semantic_ids(path, (4, 3, 2)))
    assert "from 1 to" in refusal(lambda: read_semantic_ids(path, (4, 0)))


def test_refuses_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "no such file" in refusal(lambda: read_semantic_ids(tmp_path / "none.semid"))
    assert "cannot be read" in refusal(lambda: read_semantic_ids(tmp_path))


@pytest.mark.parametrize(
    ("items", "codes", "sizes", "fragment"),
    [
        ((), np.zeros((0, 2), np.int64), (2, 2), "no items"),
        (("x", "y"), [[0, 0]], (2, 2), "2 items and 1 rows"),
        (("x", "x"), [[0, 0], [0, 1]], (2, 2), "row 1, item_id: item 'x' stands on row 0"),
        (("x", "y"), [[0, 1], [0, 1]], (2, 2), "item 'x' on row 0"),
        (("x", "y"), [[0, 1], [0, 2]], (2, 2), "row 1, semantic_id: the code of 'b_2'"),
        (("x", "y"), [[0, 1], [-1, 0]], (2, 2), "'a_-1' is out of range"),
        (("x", "y"), [[0, 1], [1, 0]], (2,), "give an array [N, 1]"),
        (("x", "y"), [0, 1], (2,), "shape [2]"),
        (("x", "y"), [[0.5], [1.0]], (2,), "float64"),
        (("x", ""), [[0], [1]], (2,), "row 1, item_id"),
        (("x", "a\tb"), [[0], [1]], (2,), r"'a\tb'"),
        (("x", "a\nb"), [[0], [1]], (2,), r"'a\nb'"),
        (("x", "\ud800"), [[0], [1]], (2,), r"'\ud800'"),
        (("x", 3), [[0], [1]], (2,), "row 1, item_id: '3'"),
        (("x", [3]), [[0], [1]], (2,), "row 1, item_id: '[3]'"),
        ("xy", [[0], [1]], (2,), "one text"),
    ],
)
def test_tables_made_in_code_are_checked(items: Any, codes: Any, sizes: Any, fragment: str) -> None:
    assert fragment in refusal(lambda: SemanticIDTable(items, codes, sizes))


def test_doubled_tuples_are_found_where_one_integer_cannot_hold_them() -> None:
    codes = np.random.default_rng(0).integers(0, 1000, (50, 30))
    sizes = (1000,) * 30
    items = tuple(map(str, range(50)))
    assert SemanticIDTable(items, codes, sizes).n_levels == 30
    codes[41] = codes[17]
    assert "item '41' has the tuple of item '17'" in refusal(
        lambda: SemanticIDTable(items, codes, sizes)
    )


def test_a_table_is_closed_to_changes() -> None:
    codes = np.array([[0, 1], [0, 2], [3, 1]])
    table = SemanticIDTable(("x1", "x2", "x3"), codes, (4, 5))
    codes[0, 0] = 3
    assert table == small_table()
    assert table.codes.dtype == np.int64
    with pytest.raises(ValueError):
        table.codes[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.items = ()  # type: ignore[misc]
    assert table != dataclasses.replace(table, codebook_sizes=(4, 6))
    assert table != "x1"


def test_codes_for() -> None:
    table = small_table()
    assert table.codes_for(["x3", "x1", "x3"]).tolist() == [[3, 1], [0, 1], [3, 1]]
    assert table.codes_for([]).shape == (0, 2)
    asked = ["x1", *[f"y{n}\n" for n in range(12)], "y0\n"]
    message = refusal(lambda: table.codes_for(asked))
    assert r"12 of 13 items have no semantic ID: 'y0\n', " in message
    assert r"'y9\n', …; make the semantic-ID file again" in message
    assert "y10" not in message


# --- writing fails -----------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def test_a_failed_write_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    before = contents(tmp_path)
    other = SemanticIDTable(("z",), np.array([[0]]), (1,))

    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        assert "No space left" in refusal(lambda: write_semantic_ids(path, other, SOURCE))
    assert contents(tmp_path) == before

    broken = small_table()
    broken.codes.setflags(write=True)
    broken.codes[0] = broken.codes[1]
    assert "share a tuple: 1 in all" in refusal(lambda: write_semantic_ids(path, broken, SOURCE))
    for source in ({"x": {1}}, {"x": "\ud800"}, {1: 1, "a": 2}):
        bad: Any = source
        assert "source cannot" in refusal(lambda bad=bad: write_semantic_ids(path, other, bad))
    assert contents(tmp_path) == before
    assert read_semantic_ids(path) == small_table()


def test_a_kill_between_file_and_sidecar_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    replace = os.replace

    def only_the_file(source: str, target: Path) -> None:
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", only_the_file)
    with pytest.raises(KeyboardInterrupt):
        write_semantic_ids(path, SemanticIDTable(("z",), np.array([[0]]), (1,)), SOURCE)
    assert "names other data" in refusal(lambda: read_semantic_ids(path))


# --- sidecar -----------------------------------------------------------------------------------


def test_sidecar_of_other_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    path.write_text(GOOD.replace("x3", "x4"), encoding="utf-8")
    message = refusal(lambda: read_semantic_ids(path))
    assert message.startswith(f"{path}.json: the sidecar names other data")
    assert "make the file again" in message


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"format": "other\n"}, r"format is 'other\n', not 'recbole-qbert/semid'"),
        ({"version": 2}, "version is '2', not 1"),
        ({"version": True}, "version is 'True'"),
        ({"sha256": None}, "names other data"),
        ({"n_items": 4}, "n_items is '4', the file has 3"),
        ({"n_levels": 3}, "n_levels is '3', the file has 2"),
        ({"items_sha256": "0"}, "items_sha256 is '0'"),
        ({"codebook_sizes": [4]}, "1 levels, the rows"),
        ({"codebook_sizes": [4, 2]}, "out of range"),
        ({"codebook_sizes": [4, "5"]}, "no list of integers"),
        ({"codebook_sizes": 4}, "no list of integers"),
        ({"codebook_sizes": []}, "one size a level"),
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


# --- check -------------------------------------------------------------------------------------


def test_check_report(tmp_path: Path) -> None:
    path, inter = tmp_path / "ds.semid", tmp_path / "ds.inter"
    write_semantic_ids(path, small_table(), SOURCE)
    inter.write_bytes(
        b"\xef\xbb\xbfuser_id:token\titem_id:token\tt:float\r\nu\tx2\t1\r\nu\tx1\t2\r\n\r\nv\tx2\t3"
    )
    assert check_semantic_ids(path, inter) == [
        f"{path}: 3 items, 2 levels",
        "codebook sizes: 4 5",
        "level a: 2/4 codes used",
        "level b: 2/5 codes used",
        f"sidecar: {path}.json agrees with the file",
        f"coverage: all 2 items of {inter} have a semantic ID; "
        "1 further items have no interaction there",
    ]
    sidecar_path(path).unlink()
    assert check_semantic_ids(path)[-1].startswith("sidecar: none")


def test_check_says_which_items_are_missing(tmp_path: Path) -> None:
    path, inter = file_of(tmp_path, GOOD), tmp_path / "ds.inter"
    names = ["x1", *[f"new{n}" for n in range(25)], "x2", "new3"]
    inter.write_text("item_id:token\n" + "\n".join(names) + "\n", encoding="utf-8")
    message = refusal(lambda: check_semantic_ids(path, inter))
    assert message.startswith(f"{inter}: 25 of 27 items have no semantic ID: 'new0', 'new1'")
    assert "'new9', …; make" in message


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "line 1: no column item_id:token"),
        (b"user_id:token\titem_ids:token\n", "did you mean 'item_ids:token'?"),
        (b"user_id:token\titem_id:token\nu\tx1\nu\n", "line 3: 1 tab-separated fields"),
        (b"item_id:token\nx1\n\xff\n", "line 3, item_id: not UTF-8"),
        (b"\xff\x00\n", "line 1: no column"),
    ],
)
def test_faulty_interactions_are_refused(tmp_path: Path, content: bytes, fragment: str) -> None:
    path, inter = file_of(tmp_path, GOOD), tmp_path / "ds.inter"
    assert "no such file" in refusal(lambda: check_semantic_ids(path, inter))
    inter.write_bytes(content)
    assert fragment in refusal(lambda: check_semantic_ids(path, inter))


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
        assert str(error).startswith(f"{path}: line ")
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
