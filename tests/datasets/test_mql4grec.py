"""MQL4GRec's and LC-Rec's JSON, to atomic files and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from atomic_toys import SEQUENCES, placed, recbole_alone, unisrec_like, write_inter
from hypothesis import given, settings
from processes import run_script

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.atomic import read_atomic, read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.datasets.mql4grec import export_json, import_json
from recbole_qbert.datasets.unisrec import export_folder, import_folder

ROOT = Path(__file__).resolve().parents[2]
# Users, items and interactions of the paper's Table 1.
TABLE_1 = {"Instruments": (17_112, 6_250, 136_226), "Games": (42_259, 13_839, 373_514)}


@pytest.mark.parametrize("name", list(TABLE_1))
def test_the_real_data_have_the_published_counts_and_come_back(name: str, tmp_path: Path) -> None:
    source = ROOT.parent / "shared" / "data" / name
    if not source.is_dir():
        pytest.skip(f"{source}: not here")
    facts = export_json(DatasetPaths(name, source), tmp_path / "json")
    assert (facts["users"], facts["items"], facts["interactions"]) == TABLE_1[name]
    assert facts["lost"] == []
    into = DatasetPaths(name, tmp_path / "atomic")
    import_json(tmp_path / "json", name, into)
    assert into.file("inter").read_bytes() == (source / f"{name}.inter").read_bytes()
    names = read_atomic(into.file("item")).names  # types and order of the columns may differ
    given = read_columns(source / f"{name}.item", names)
    assert read_columns(into.file("item"), names).equals(given)
    content = json.loads((tmp_path / "json" / f"{name}.inter.json").read_text())
    assert sum(map(len, content.values())) == TABLE_1[name][2]


@settings(max_examples=25, deadline=None)
@given(SEQUENCES)
def test_json_comes_back(
    tmp_path_factory: pytest.TempPathFactory, sequences: dict[str, list[str]]
) -> None:
    """Sequences, texts, indices and tokens."""
    folder = tmp_path_factory.mktemp("json")
    users = enumerate(sequences.values())
    files = {
        "inter": {str(user): [int(item[1:]) for item in items] for user, items in users},
        "item": {str(n): {"title": f't "{n}', "brand": "é" * (n % 2)} for n in range(13)},
        "index": {str(n): [f"<a_{n % 4}>", f"<b_{n}>"] for n in range(13)},
        "index_vitemb": {str(n): [f"<a_{n}>"] for n in range(13)},
    }
    for suffix, content in files.items():
        (folder / f"x.{suffix}.json").write_text(json.dumps(content))
    tokens = {"item2id": [f"asin{n}" for n in range(13)], "user2id": list(sequences)}
    for suffix, names in tokens.items():
        lines = [f"{name}\t{n}\n" for n, name in enumerate(names)]
        (folder / f"x.{suffix}").write_text("".join(lines))
    into = DatasetPaths("x", folder / "atomic")
    import_json(folder, "x", into)
    export_json(into, folder / "again")
    for suffix, content in files.items():
        assert json.loads((folder / "again" / f"x.{suffix}.json").read_text()) == content
    for suffix in tokens:
        assert (folder / "again" / f"x.{suffix}").read_text() == (
            folder / f"x.{suffix}"
        ).read_text()


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


def test_what_json_cannot_represent_is_said(tmp_path: Path) -> None:
    rows = [("u", "p", 1_400_000_000), ("u", "q", 1_400_000_500)]
    write_inter(tmp_path / "x" / "x.inter", rows)
    facts = export_json(DatasetPaths("x", tmp_path / "x"), tmp_path / "out")
    assert facts["lost"] == ["timestamp (the order is kept)"]


def test_values_that_are_not_text_and_tuples_that_repeat(tmp_path: Path) -> None:
    small_json(tmp_path / "j")
    (tmp_path / "j" / "x.item.json").write_text(
        json.dumps({"0": {"title": "a\tb"}, "1": {}, "2": {"title": ["k", "l"]}})
    )
    (tmp_path / "j" / "x.index.json").write_text(json.dumps({str(n): ["<a_1>"] for n in range(3)}))
    into = DatasetPaths("y", tmp_path / "y")
    (remark,) = import_json(tmp_path / "j", "x", into)["remarks"]
    assert remark.startswith("y.semid is not written: ") and "has the same tuple" in remark
    assert into.file("item").read_text().splitlines()[1:] == [
        "A\ta b\ta_1", "B\t\ta_1", "C\tk, l\ta_1",
    ]  # fmt: skip
    assert not into.file("semid").exists()


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
    "a token": ("inter", '{"0": [0, "1"]}', "user '0': an item is not a number from 0"),
    "a truth": ("inter", '{"0": [0, true]}', "user '0': an item is not a number from 0"),
    "huge": ("inter", '{"0": [0, 99999999999999999999]}', "user '0': an item is not a number"),
    "sparse": ("inter", '{"0": [0, 1999999999]}', "an item has the number 1999999999; number the"),
    "a user": ("inter", '{"A\\tB": [0]}', r"x\.inter\.json: the token 'A\\tB' has a tab"),
    "negative": ("inter", '{"0": [1], "5": [0, -1]}', "user '5': an item is not a number"),
    "no list": ("inter", '{"0": 3}', "user '0': give a list of item numbers"),
    "no users": ("inter", "{}", "has no users"),
    "too few items": ("item", '{"0": {"t": "x"}}', r"x\.item\.json: 2 items are missing: 1, 2"),
    "no fields": ("item", '{"0": 1, "1": 2, "2": 3}', "item 0: is not an object of fields"),
    "a bad field": ("item", '{"0": {"a:b": ""}, "1": {}, "2": {}}', "rename item_id"),
    "no tokens": ("index", '{"0": 1, "1": 2, "2": 3}', "item 0: is not a list of tokens"),
    "ids": ("item2id", "A\t0\nA1 1\n", r"x\.item2id: line 2: write a token, a tab and a number"),
    "one id twice": (
        "item2id",
        "A\t0\nA\t1\nC\t2\n",
        r"x\.item2id: 2 numbers have the token 'A'; rename",
    ),
    "unfit ids": (
        "item2id",
        "NA\t0\nA\tB\t1\nC\t2\n",
        r"the token 'A\\tB' has a tab, line end or control character; rename",
    ),
    "ids not UTF-8": (
        "item2id",
        b"\xff\t0\n",
        r"x\.item2id: line 1: not UTF-8 .*; convert the file",
    ),
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
    with pytest.raises(InputError, match="1 item is not in .*x.item: 'p'; add their rows"):
        export_json(DatasetPaths("x", tmp_path / "x"), tmp_path / "out")
    with pytest.raises(InputError, match="1 item is not in .*x.item: 'p'; add their rows"):
        export_folder(DatasetPaths("x", tmp_path / "x"), tmp_path / "out", [])


@pytest.mark.slow
def test_the_scripts_and_recbole_alone(tmp_path: Path) -> None:
    """JSON to atomic files that RecBole itself loads, and on to a UniSRec folder."""
    sequences = {f"{user}": [(user + k) % 9 for k in range(5)] for user in range(8)}
    (tmp_path / "x.inter.json").write_text(json.dumps(sequences))
    texts = ['"A quotation that never ends', "12'' of wood", 'an inch "', "tab\there", "NA"]
    items = {str(n): {"title": texts[n % 5], "brand": '"'} for n in range(9)}
    (tmp_path / "x.item.json").write_text(json.dumps(items))
    script = ["import_data.py", "--format=mql4grec", f"--source={tmp_path}", "--dataset=x"]
    script += [f"--data_path={tmp_path / 'dataset'}"]
    done = run_script(*script)
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
    done = run_script(*script)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("recbole-qbert: ")
    shutil.rmtree(tmp_path / "dataset")


def test_vectors_of_the_data_set_before_are_removed(tmp_path: Path) -> None:
    """Its tokens may be the numbers of the new items, by chance."""
    folder, into = tmp_path / "json", DatasetPaths("x", tmp_path / "x")
    folder.mkdir()
    (folder / "x.inter.json").write_text(json.dumps({"0": [0, 1, 2, 3]}))
    into.folder.mkdir()
    meta = {"modality": "image", "encoder": {"name": "toy"}}
    table = EmbeddingTable(("0",), np.ones((1, 1, 2), np.float32), np.ones((1, 1), bool), meta)
    write_embeddings(into.file("image.npz"), table)
    import_json(folder, "x", into)
    assert not list(into.folder.glob("*.npz*"))


def test_items_under_another_name(tmp_path: Path) -> None:
    domain = DatasetPaths("x", tmp_path / "x")
    domain.folder.mkdir()
    write_inter(domain.file("inter"), placed({"u": ["a", "b", "c"]}))
    domain.file("item").write_text("asin:token\ttitle:token\na\tA\n")
    with pytest.raises(InputError, match="no column 'item_id'.*rename the column of the items"):
        export_json(domain, tmp_path / "json")
    assert not (tmp_path / "json").exists()


@pytest.mark.parametrize(
    ("field", "index", "named"),
    [("codes", "index", "codes"), ("lemb", "index_lemb", "lemb"), ("t", "index_item_id", "item_id"),
     ("t", "index_codes", "codes")],
)  # fmt: skip
def test_two_columns_of_one_name(tmp_path: Path, field: str, index: str, named: str) -> None:
    small_json(tmp_path)
    (tmp_path / "x.item.json").write_text(json.dumps({str(n): {field: "x"} for n in range(3)}))
    if index != "index":
        (tmp_path / f"x.{index}.json").write_text((tmp_path / "x.index.json").read_text())
    with pytest.raises(InputError, match=rf"x\.\w+\.json: the column {named} would occur twice"):
        import_json(tmp_path, "x", DatasetPaths("x", tmp_path / "x"))
    assert not (tmp_path / "x").exists()
