"""MQL4GRec's and LC-Rec's JSON: there and back gives the same bytes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from atomic_toys import SEQUENCES, placed, recbole_alone, unisrec_like, write_inter
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_folder
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.datasets.json_layout import STYLES, as_json
from recbole_qbert.datasets.mql4grec_export import export_json
from recbole_qbert.datasets.mql4grec_import import import_json
from recbole_qbert.datasets.unisrec import export_folder, import_folder

ROOT = Path(__file__).resolve().parents[2]
# Users, items and interactions of the paper's Table 1.
TABLE_1 = {"Instruments": (17_112, 6_250, 136_226), "Games": (42_259, 13_839, 373_514)}


@pytest.mark.parametrize("name", list(TABLE_1))
def test_the_real_data_come_back_byte_for_byte(name: str, tmp_path: Path) -> None:
    source = ROOT.parent / "shared" / "data" / name
    if not source.is_dir():
        pytest.skip(f"{source}: not here")
    facts = export_json(DatasetPaths(name, source), tmp_path / "json")
    assert (facts["users"], facts["items"], facts["interactions"]) == TABLE_1[name]
    assert facts["lost"] == []
    into = DatasetPaths(name, tmp_path / "atomic")
    assert import_json(tmp_path / "json", name, into)["remarks"] == []
    for suffix in ("inter", "item"):
        assert into.file(suffix).read_bytes() == (source / f"{name}.{suffix}").read_bytes()
    export_json(into, tmp_path / "again")
    assert sha256_folder(tmp_path / "json") == sha256_folder(tmp_path / "again")
    content = json.loads((tmp_path / "json" / f"{name}.inter.json").read_text())
    assert sum(map(len, content.values())) == TABLE_1[name][2]


# Any value, also those that a cell of an atomic file cannot hold.
VALUES = st.one_of(
    st.text(st.sampled_from('ab"\t\r\n\0é\ud83d '), max_size=5), st.none(), st.integers(0, 9),
    st.lists(st.text("ab,", max_size=2), max_size=2),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(SEQUENCES, st.sampled_from(STYLES), st.data())
def test_json_comes_back_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, sequences: dict[str, list[str]], style, data
) -> None:
    """Whatever its layout, with or without tokens, texts and indices."""
    folder = tmp_path_factory.mktemp("json")
    n_items = 13
    inter = {
        str(number): [int(item[1:]) for item in items]
        for number, items in enumerate(sequences.values())
    }
    files = {"inter": inter}
    if data.draw(st.booleans()):
        rows = data.draw(st.lists(st.dictionaries(
            st.sampled_from(["title", "brand", "x"]), VALUES), min_size=2, max_size=3))  # fmt: skip
        files["item"] = {"0": {"title": "t", "brand": ""}} | {
            str(n): rows[n % len(rows)] for n in range(1, n_items)
        }
    for suffix in data.draw(st.sets(st.sampled_from(["index", "index_vitemb"]))):
        files[suffix] = {str(n): [f"<a_{n % 4}>", f"<b_{n}>"] for n in range(n_items)}
    if len(files) == 1:
        files["item"] = {str(n): {"title": "t"} for n in range(n_items)}
    for suffix, content in files.items():
        try:
            text = as_json(content, style)
            (folder / f"x.{suffix}.json").write_text(text, encoding="utf-8")
        except UnicodeEncodeError:  # half a surrogate pair needs ASCII
            text = as_json(content, style | {"ensure_ascii": True})
            (folder / f"x.{suffix}.json").write_text(text, encoding="utf-8")
    if data.draw(st.booleans()):
        lines = [f"asin{n}\t{n}\n" for n in range(n_items)]
        (folder / "x.item2id").write_text("".join(lines))
        users = [f"{user}\t{n}\n" for n, user in enumerate(sequences)]
        if [user for user in sequences] != [str(n) for n in range(len(sequences))]:
            (folder / "x.user2id").write_text("".join(users))
    into = DatasetPaths("x", folder / "atomic")
    import_json(folder, "x", into)
    for line in into.file("item").read_bytes().decode().split("\n"):
        opened = [cell for cell in line.split("\t") if cell.startswith('"')]
        assert all(re.fullmatch('"([^"]|"")*"', cell) for cell in opened) and "\r" not in line
    export_json(into, folder / "again")
    for path in [path for path in folder.iterdir() if path.is_file()]:
        assert (folder / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def small_json(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "inter": {"0": [2, 0, 1], "1": [1, 2]},
        "item": {str(n): {"title": f"t {n}", "tags": "x"} for n in range(3)},
        "index": {"0": ["<a_1>", "<b_0>"], "1": ["<a_1>", "<b_5>"], "2": ["<a_0>", "<b_0>"]},
    }
    for suffix, content in contents.items():
        (folder / f"x.{suffix}.json").write_text(json.dumps(content))
    (folder / "x.item2id").write_text("A\t0\nB\t1\nC\t2\n")


def test_what_is_imported(tmp_path: Path) -> None:
    small_json(tmp_path)
    into = DatasetPaths("x", tmp_path / "x")
    facts = import_json(tmp_path, "x", into)
    assert facts == {"users": 2, "items": 3, "interactions": 5, "remarks": []}
    assert into.file("inter").read_text() == (
        "user_id:token\titem_id:token\ttimestamp:float\n"
        "0\tC\t0\n0\tA\t1\n0\tB\t2\n1\tB\t0\n1\tC\t1\n"
    )
    assert into.file("item").read_text() == (
        "item_id:token\ttitle:token_seq\ttags:token_seq\tcodes:token_seq\n"
        "A\tt 0\tx\ta_1 b_0\nB\tt 1\tx\ta_1 b_5\nC\tt 2\tx\ta_0 b_0\n"
    )
    table = read_semantic_ids(into.file("semid"))
    assert table.items == ("A", "B", "C") and table.codes.tolist() == [[1, 0], [1, 5], [0, 0]]
    assert table.codebook_sizes == (2, 6)


def test_a_semid_file_becomes_an_index(tmp_path: Path) -> None:
    write_inter(tmp_path / "x" / "x.inter", placed({"u": ["p", "q"]}))
    (tmp_path / "x" / "x.semid").write_text(
        "item_id:token\tsemantic_id:token_seq\nq\ta_3 b_1\np\ta_0 b_2\n"
    )
    export_json(DatasetPaths("x", tmp_path / "x"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "x.index.json").read_text()) == {
        "0": ["<a_0>", "<b_2>"], "1": ["<a_3>", "<b_1>"],
    }  # fmt: skip
    assert (tmp_path / "out" / "x.item2id").read_text() == "p\t0\nq\t1\n"
    assert (tmp_path / "out" / "x.user2id").read_text() == "u\t0\n"


def test_what_json_cannot_carry_is_said(tmp_path: Path) -> None:
    rows = [("u", "p", 1_400_000_000), ("u", "q", 1_400_000_500)]
    write_inter(tmp_path / "x" / "x.inter", rows)
    facts = export_json(DatasetPaths("x", tmp_path / "x"), tmp_path / "out")
    assert facts["lost"] == ["timestamp (its order is kept)"]
    small_json(tmp_path / "j")
    (tmp_path / "j" / "x.item.json").write_text(
        json.dumps({"0": {"title": "a\tb"}, "1": {}, "2": {"title": ["k", "l"]}})
    )
    (tmp_path / "j" / "x.index.json").write_text(json.dumps({str(n): ["<a_1>"] for n in range(3)}))
    into = DatasetPaths("y", tmp_path / "y")
    remarks = import_json(tmp_path / "j", "x", into)["remarks"]
    assert "2 such rows" in remarks[0]
    assert remarks[1].startswith("x.item.json: 3 items have values that are missing, no text, or")
    assert len(remarks) == 2
    assert into.file("item").read_text().splitlines()[1:] == [
        "A\ta b\ta_1", "B\t\ta_1", "C\tk, l\ta_1",
    ]  # fmt: skip
    assert not into.file("semid").exists()
    export_json(into, tmp_path / "back")
    given = json.loads((tmp_path / "j" / "x.item.json").read_text())
    assert json.loads((tmp_path / "back" / "y.item.json").read_text()) == given
    # A cell that somebody changed counts, not what it was once made from.
    into.file("item").write_text(into.file("item").read_text().replace("k, l", "new"))
    export_json(into, tmp_path / "back")
    changed = json.loads((tmp_path / "back" / "y.item.json").read_text())
    assert changed == given | {"2": {"title": "new"}}


def test_a_second_import_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    small_json(tmp_path / "a")
    unisrec_like(tmp_path / "u", {"0": list("01234")}, 5)
    into = DatasetPaths("x", tmp_path / "x")
    import_json(tmp_path / "a", "x", into)
    assert into.file("semid").exists() and into.file("semid.json").exists()
    import_folder(tmp_path / "u", "x", into)
    assert not into.file("semid").exists() and into.file("text.npz").exists()
    for name in ("x.text", "x.feat1CLS"):
        (tmp_path / "u" / name).unlink()
    import_folder(tmp_path / "u", "x", into)
    assert not into.file("text.npz").exists() and not into.file("item").exists()
    small_json(tmp_path / "a")
    import_json(tmp_path / "a", "x", into)
    (tmp_path / "a" / "x.index.json").unlink()
    import_json(tmp_path / "a", "x", into)
    assert not into.file("semid").exists() and not into.file("semid.json").exists()


FAULTS = {
    "no inter": ("inter", None, r"x\.inter\.json: no such file"),
    "no json": ("inter", "{", r"x\.inter\.json: not valid JSON"),
    "a token": ("inter", '{"0": [0, "1"]}', "user '0': not all items are numbers from 0"),
    "a truth": ("inter", '{"0": [0, true]}', "user '0': not all items are numbers from 0"),
    "huge": ("inter", '{"0": [0, 99999999999999999999]}', "user '0': not all items are numbers"),
    "sparse": ("inter", '{"0": [0, 1999999999]}', "an item has the number 1999999999; number the"),
    "a user": ("inter", '{"A\\tB": [0]}', r"x\.inter\.json: 1 tokens .* the first 'A"),
    "negative": ("inter", '{"0": [1], "5": [0, -1]}', "user '5': not all items are numbers"),
    "no list": ("inter", '{"0": 3}', "user '0': a list of item numbers was expected"),
    "no users": ("inter", "{}", "users was expected"),
    "too few items": ("item", '{"0": {"t": "x"}}', r"x\.item\.json: 2 items are not in it: 1, 2"),
    "no fields": ("item", '{"0": 1, "1": 2, "2": 3}', "item 0: `field: text` was expected"),
    "a bad field": ("item", '{"0": {"a:b": ""}, "1": {}, "2": {}}', "rename item_id"),
    "no tokens": ("index", '{"0": 1, "1": 2, "2": 3}', "item 0: a list of tokens was expected"),
    "ids": ("item2id", "A\t0\nA1 1\n", r"x\.item2id: line 2: a new token, a tab and a new"),
    "one id twice": (
        "item2id",
        "A\t0\nA\t1\nC\t2\n",
        r"x\.item2id: line 2: a new token, a tab and",
    ),
    "unfit ids": ("item2id", "NA\t0\nA\tB\t1\nC\t2\n", "1 tokens .* the first 'A.*B'; rename them"),
    "ids not UTF-8": ("item2id", b"\xff\t0\n", r"x\.item2id: not UTF-8 .*; convert the file"),
    "ids lacking": ("item2id", "A\t0\n", "2 numbers have no token: 1, 2"),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_faults_of_json(tmp_path: Path, fault: str) -> None:
    suffix, text, message = FAULTS[fault]
    small_json(tmp_path)
    path = tmp_path / (f"x.{suffix}" if suffix == "item2id" else f"x.{suffix}.json")
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError, match=message):
        import_json(tmp_path, "x", DatasetPaths("x", tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_an_item_without_a_row(tmp_path: Path) -> None:
    write_inter(tmp_path / "x" / "x.inter", placed({"u": ["p", "q"]}))
    (tmp_path / "x" / "x.item").write_text("item_id:token\nq\n")
    with pytest.raises(InputError, match="1 items are not in .*x.item: 'p'; add their rows"):
        export_json(DatasetPaths("x", tmp_path / "x"), tmp_path / "out")
    with pytest.raises(InputError, match="no rows for p; add them"):
        export_folder(DatasetPaths("x", tmp_path / "x"), tmp_path / "out", [])


def test_the_scripts_and_recbole_alone(tmp_path: Path) -> None:
    """JSON to atomic files that RecBole itself loads, and on to a UniSRec folder."""
    sequences = {f"{user}": [(user + k) % 9 for k in range(5)] for user in range(8)}
    (tmp_path / "x.inter.json").write_text(json.dumps(sequences))
    texts = ['"A quotation that never ends', "12'' of wood", 'an inch "', "tab\there", "NA"]
    items = {str(n): {"title": texts[n % 5], "brand": '"'} for n in range(9)}
    (tmp_path / "x.item.json").write_text(json.dumps(items))
    script = [sys.executable, str(ROOT / "dataset_scripts" / "import_data.py")]
    script += ["--format=mql4grec", f"--source={tmp_path}", "--dataset=x"]
    script += [f"--data_path={tmp_path / 'dataset'}"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "8 users, 9 items, 40 interactions" in done.stdout
    fields = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "title", "brand"]}
    read = recbole_alone(tmp_path / "dataset", "x", load_col=fields)
    assert (read["users"], read["items"]) == (8, 9)
    tests = read["rows"][-9:-1]
    assert sorted(tests) == sorted(
        [user, [str(item) for item in items[:-1]], str(items[-1])]
        for user, items in sequences.items()
    )
    done = subprocess.run(script, capture_output=True, text=True, timeout=250)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("import_data.py: ")
    shutil.rmtree(tmp_path / "dataset")
