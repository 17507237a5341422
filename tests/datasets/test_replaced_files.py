"""Commands that write a data set, a split or an export lose no file that they are not told to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from atomic_toys import placed, unisrec_like, write_inter

from recbole_qbert.cli import main

SEQUENCES = {"u": list("abcde"), "v": list("badce")}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def mql4grec_like(folder: Path, name: str = "x") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {"inter": {"0": [2, 0, 1]}, "item": {str(n): {"title": f"t{n}"} for n in range(3)}}
    for kind, content in files.items():
        (folder / f"{name}.{kind}.json").write_text(json.dumps(content))


def commands(folder: Path) -> dict[str, list[str]]:
    """One call of three importers, with their sources, of the data set x in `data`."""
    (folder / "e.csv").write_text("u,i\na,k\na,l\na,m\na,n\n")
    mql4grec_like(folder / "json")
    ratings = "userId,movieId,rating,timestamp\n1,10,5.0,978300760\n1,20,3.0,978300759\n"
    (folder / "ml").mkdir(exist_ok=True)
    (folder / "ml" / "ratings.csv").write_text(ratings)
    (folder / "ml" / "movies.csv").write_text("movieId,title,genres\n10,T,Drama\n")
    place = ["--dataset=x", f"--data_path={folder / 'data'}"]
    return {
        "table": ["prepare", "table", f"--inter_file={folder / 'e.csv'}", "--user=u", "--item=i",
                  *place],
        "movielens": ["prepare", "movielens", f"--folder={folder / 'ml'}", *place],
        "import": ["prepare", "import", "--format=mql4grec", f"--source={folder / 'json'}", *place],
    }  # fmt: skip


def refused(words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a call that fails and changes nothing."""
    before = contents(folder)
    capsys.readouterr()
    assert main(words) == 2
    assert contents(folder) == before
    said = capsys.readouterr().err
    assert said.startswith("recbole-qbert: ") and said.count("\n") == 1, said
    return said


@pytest.mark.parametrize("name", ["x", "y"])
@pytest.mark.parametrize("kind", ["mql4grec", "unisrec"])
def test_an_import_into_its_own_source(
    tmp_path: Path, kind: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "mql4grec":
        mql4grec_like(tmp_path / name)
    else:
        unisrec_like(tmp_path / name, {"0": list("01234")}, 5)
    words = ["prepare", "import", f"--format={kind}", "--name=x", f"--dataset={name}"]
    words += [f"--source={tmp_path / '.' / name}", f"--data_path={tmp_path}", "--overwrite"]
    assert "--source is the folder to write to" in refused(words, tmp_path, capsys)


@pytest.mark.parametrize("name", ["table", "movielens", "import"])
def test_a_raw_file_with_the_name_of_the_sidecar(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mql4grec_like(tmp_path / "data" / "x")
    words = commands(tmp_path)[name]
    said = refused([*words, "--overwrite"], tmp_path, capsys)
    assert "x.inter.json: has the name of the sidecar, but is another file; move it" in said


ATOMIC = ("inter", "item", "rejected", "user")
MADE = ("semid", "semid.json", "other.semid", "text.npz")


@pytest.mark.parametrize("suffix", [*ATOMIC, *MADE])
@pytest.mark.parametrize("name", ["table", "movielens", "import"])
def test_one_rule_for_all_importers(
    tmp_path: Path, name: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = commands(tmp_path)[name]
    path = tmp_path / "data" / "x" / f"x.{suffix}"
    path.parent.mkdir(parents=True)
    names = [path.name, f"{path.name}.json"] if suffix == "text.npz" else [path.name]
    for each in names:
        (path.parent / each).write_text("mine")
    (path.parent / "notes.semid").write_text("of no data set x")
    said = refused(words, tmp_path, capsys)
    exist = "exist" if len(names) > 1 else "exists"
    assert f"{path.parent}: {', '.join(names)} {exist}; --overwrite replaces or removes" in said
    assert main([*words, "--overwrite"]) == 0
    said = capsys.readouterr().out
    if suffix in MADE:
        assert not any((path.parent / each).exists() for each in names)
        assert f"from the data set before: {', '.join(names)}; make" in " ".join(said.split())
    else:
        assert "from the data set before" not in said
    assert (path.parent / "notes.semid").exists() and (path.parent / "x.inter").is_file()


@pytest.mark.parametrize("name", ["table", "import"])
def test_a_split_of_the_interactions_before_goes(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words, folder = commands(tmp_path)[name], tmp_path / "data" / "x"
    for changed in (False, True):
        write_inter(folder / "x.inter", placed(SEQUENCES))
        assert main(["prepare", "split", "--dataset=x", f"--data_path={folder.parent}"]) == 0
        split = [f"x.{part}" for part in ("train.inter", "valid.inter", "test.inter")]
        split += ["x.split.yaml", "x.split.json"]
        if changed:
            with open(folder / "x.valid.inter", "a") as handle:
                handle.write("w\ta\tb\n")
            split.remove("x.valid.inter")
        assert all(each in refused(words, tmp_path, capsys) for each in split)
        assert main([*words, "--overwrite"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"from the data set before: {', '.join(split)}; make again" in said
        assert ("Warning: x.valid.inter may be of the data set before" in said) == changed
        found = {path.name for path in folder.iterdir() if ".inter" in path.suffixes}
        assert {path.name for path in folder.glob("x.*") if path.name in split} == set()
        assert ("x.valid.inter" in found) == changed


def test_a_split_replaces_none_of_its_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "x"
    rows = {"train": [("u", "a", 1), ("u", "b", 2)], "valid": [("u", "c", 3)],
            "test": [("u", "d", 4)]}  # fmt: skip
    for part, each in rows.items():
        write_inter(folder / f"x.{part}.inter", each)
    words = ["prepare", "split", "--dataset=x", f"--data_path={tmp_path}", "--overwrite"]
    given = ",".join(str(tmp_path / "." / "x" / f"x.{part}.inter") for part in rows)
    said = refused([*words, f"--parts={given}"], tmp_path, capsys)
    assert "x.train.inter would be replaced by the split; rename it" in said


def test_a_split_replaces_only_a_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "x"
    write_inter(folder / "x.inter", placed(SEQUENCES))
    words = ["prepare", "split", "--dataset=x", f"--data_path={tmp_path}"]
    (folder / "x.test.inter").write_text("mine")
    said = refused(words, tmp_path, capsys)
    assert f"{folder}: x.test.inter exists; --overwrite replaces" in said
    assert main([*words, "--overwrite"]) == 0
    first = contents(folder)
    assert main([*words, "--max_length=1"]) == 0  # all of it is a split
    assert contents(folder)["x.test.inter"] != first["x.test.inter"]
    with open(folder / "x.split.yaml", "a") as handle:
        handle.write("epochs: 3\n")
    assert "x.split.yaml exists; " in refused(words, tmp_path, capsys)
    (folder / "x.split.json").write_text("[]")
    assert "x.train.inter, x.valid.inter, " in refused(words, tmp_path, capsys)


@pytest.mark.parametrize("kind", ["mql4grec", "unisrec"])
def test_an_export_replaces_nothing_unasked(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "x"
    write_inter(folder / "x.inter", placed(SEQUENCES))
    words = ["prepare", "export", f"--format={kind}", "--dataset=x", f"--data_path={tmp_path}"]
    for there in (folder, folder / ".." / "x"):
        said = refused([*words, f"--output={there}", "--overwrite"], tmp_path, capsys)
        assert "is the folder of the data set itself; give another --output" in said
    words.append(f"--output={tmp_path / 'out'}")
    assert main(words) == 0
    first = contents(tmp_path / "out")
    for name in first:
        for other in first:
            (tmp_path / "out" / other).unlink(missing_ok=True)
        (tmp_path / "out" / name).write_text("mine")
        said = refused(words, tmp_path, capsys)
        assert f"{tmp_path / 'out'}: {name} exists; add --overwrite" in said
    assert main([*words, "--overwrite"]) == 0
    assert contents(tmp_path / "out") == first
