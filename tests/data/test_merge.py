"""Merged data sets against a loop over the files' lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.data import merge as module
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, read_embeddings, write_embeddings
from recbole_qbert.data.merge import merge
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids


def write(root: Path, name: str, suffix: str, lines: list[str]) -> None:
    (root / name).mkdir(exist_ok=True)
    path = root / name / f"{name}.{suffix}"
    path.write_bytes("\n".join([*lines, ""]).encode())


def lines_of(root: Path, name: str, suffix: str) -> list[str]:
    text = (root / name / f"{name}.{suffix}").read_bytes().decode()
    assert text.endswith("\n")
    return text.split("\n")[:-1]


def domains(root: Path, names: str = "AB") -> list[DatasetPaths]:
    return [DatasetPaths(name, root / name) for name in names]


def two(root: Path) -> list[DatasetPaths]:
    write(root, "A", "inter", ["user_id:token\titem_id:token\ttimestamp:float", "u\ti\t1.50"])
    write(
        root,
        "B",
        "inter",
        ["timestamp:float\titem_id:token\tuser_id:token\trating:float", "007\ti\tu\t3"],
    )
    return domains(root)


def ids(root: Path, name: str, codes: list[list[int]], vocabulary: str = "v") -> None:
    table = SemanticIDTable(
        tuple(f"i{n}" for n in range(len(codes))), codes, (4, 4), vocabulary=vocabulary
    )
    write_semantic_ids(root / name / f"{name}.semid", table, {})


def test_columns_that_all_have_in_the_first_ones_order(tmp_path: Path) -> None:
    merged = merge(two(tmp_path), DatasetPaths("AB", tmp_path / "AB"))
    assert merged == ({"inter": 2}, {"inter": ["rating"]}, {})
    assert lines_of(tmp_path, "AB", "inter") == [
        "user_id:token\titem_id:token\ttimestamp:float",
        "A/u\tA/i\t1.50",
        "B/u\tB/i\t007",
    ]
    assert [path.name for path in (tmp_path / "AB").iterdir()] == ["AB.inter"]


TEXT = st.text(st.sampled_from("abc\"', ;é\\#NA."), max_size=5)


@settings(deadline=None, max_examples=40)
@given(titles=st.lists(st.lists(TEXT, min_size=1, max_size=6), min_size=2, max_size=2))
def test_every_text_stays_as_it_was(
    titles: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("x")
    header = "item_id:token\ttitle:token_seq"
    expected = []
    for name, own in zip("AB", titles, strict=True):
        write(root, name, "inter", ["user_id:token\titem_id:token", "u\ti0"])
        rows = [f"i{place}\t{title}" for place, title in enumerate(own)]
        write(root, name, "item", [header, *rows])
        read = read_columns(root / name / f"{name}.item", ["item_id", "title"])
        expected += [(f"{name}/{item}", title) for item, title in read.itertuples(index=False)]
    merge(domains(root), DatasetPaths("AB", root / "AB"))
    back = read_columns(root / "AB" / "AB.item", ["item_id", "title"])
    assert list(back.itertuples(index=False, name=None)) == expected


def test_one_vocabulary_keeps_its_codes(tmp_path: Path) -> None:
    parts = two(tmp_path)
    ids(tmp_path, "A", [[0, 1], [2, 3]])
    ids(tmp_path, "B", [[1, 0]])
    assert merge(parts, DatasetPaths("AB", tmp_path / "AB")).rows["semid"] == 3
    table = read_semantic_ids(tmp_path / "AB" / "AB.semid")
    assert table.items == ("A/i0", "A/i1", "B/i0")
    assert table.codes.tolist() == [[0, 1], [2, 3], [1, 0]]
    assert (table.codebook_sizes, table.vocabulary) == ((4, 4), "v")


def test_another_vocabulary_comes_behind(tmp_path: Path) -> None:
    parts = two(tmp_path)
    ids(tmp_path, "A", [[0, 1], [2, 3]])
    ids(tmp_path, "B", [[0, 1]], "w")
    merge(parts, DatasetPaths("AB", tmp_path / "AB"))
    table = read_semantic_ids(tmp_path / "AB" / "AB.semid")
    assert table.codes.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert table.codebook_sizes == (8, 8)
    assert table.vocabulary not in ("v", "w")


def test_shared_tuples_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    parts = two(tmp_path)
    ids(tmp_path, "A", [[0, 1], [2, 3]])
    ids(tmp_path, "B", [[2, 3]])
    with pytest.raises(InputError, match=r"'B/i0' has the same tuple as item 'A/i1'"):
        merge(parts, DatasetPaths("AB", tmp_path / "AB"))
    assert not (tmp_path / "AB").exists()


def vectors(root: Path, name: str, items: list[str], encoder: str = "E") -> np.ndarray:
    drawn = np.random.default_rng(len(name)).normal(size=(len(items), 1, 3)).astype(np.float32)
    mask = np.ones((len(items), 1), dtype=np.bool_)
    table = EmbeddingTable(tuple(items), drawn, mask, {"modality": "text", "encoder": encoder})
    write_embeddings(root / name / f"{name}.text.npz", table)
    return drawn


def test_vectors_that_all_have(tmp_path: Path) -> None:
    parts = two(tmp_path)
    both = [vectors(tmp_path, "A", ["i", "j"]), vectors(tmp_path, "B", ["i"])]
    (tmp_path / "A" / "A.text.npz").rename(tmp_path / "A" / "A.text.npz.kept")
    assert merge(parts, DatasetPaths("one", tmp_path / "one")).without == {"text.npz": ["A"]}
    (tmp_path / "A" / "A.text.npz.kept").rename(tmp_path / "A" / "A.text.npz")
    assert merge(parts, DatasetPaths("AB", tmp_path / "AB")).rows["text.npz"] == 3
    table = read_embeddings(tmp_path / "AB" / "AB.text.npz")
    assert table.items == ("A/i", "A/j", "B/i") and table.meta["encoder"] == "E"
    assert np.array_equal(table.vectors, np.concatenate(both))


def test_vectors_of_different_encoders_are_refused(tmp_path: Path) -> None:
    parts = two(tmp_path)
    vectors(tmp_path, "A", ["i"])
    vectors(tmp_path, "B", ["i"], "another")
    with pytest.raises(InputError, match=r"B\.text\.npz: its encoder, .* that of A\.text\.npz"):
        merge(parts, DatasetPaths("AB", tmp_path / "AB"))
    assert not (tmp_path / "AB").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u\ti", r"B\.inter: line 2: 2 fields where the header has 3"),
        ("\n", "timestamp has several types"),
    ],
)
def test_faults(tmp_path: Path, line: str, message: str) -> None:
    parts = two(tmp_path)
    kind = "token" if line == "\n" else "float"
    write(tmp_path, "B", "inter", [f"user_id:token\titem_id:token\ttimestamp:{kind}", line])
    with pytest.raises(InputError, match=message):
        merge(parts, DatasetPaths("AB", tmp_path / "AB"))
    assert not (tmp_path / "AB").exists()


def test_times_of_some_only_are_refused(tmp_path: Path) -> None:
    parts = two(tmp_path)
    write(tmp_path, "A", "inter", ["user_id:token\titem_id:token", "u\ti"])
    with pytest.raises(InputError, match=r"A\.inter has no timestamp, but .*B\.inter has"):
        merge(parts, DatasetPaths("AB", tmp_path / "AB"))
    assert not (tmp_path / "AB").exists()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two(tmp_path)
    ids(tmp_path, "A", [[0, 1]])
    command = ["prepare", "merge", f"--data_path={tmp_path}", "--into=AB"]
    assert main([*command, "--datasets=A,B"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith("AB.inter: 2 rows; left out, as not all have it: rating")
    assert printed[1].endswith("AB.semid: not written, because it is missing in B")
    assert len(printed) == 2
    for datasets, message in (
        ("A,B", "exists already"),
        ("A,A", "name each data set once"),
        ("A", "name two or more"),
        ("A,C", "no such folder"),
    ):
        assert main([*command, f"--datasets={datasets}"]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("suffix", "header"),
    [("inter", "uid:token\titem_id:token"), ("inter", "user_id:token\tiid:token"),
     ("item", "iid:token\ttitle:token")],
)  # fmt: skip
def test_columns_of_other_names_are_not_joined(tmp_path: Path, suffix: str, header: str) -> None:
    """Their tokens would stay without the data set's name: two users 1 would become one."""
    both = two(tmp_path)
    if suffix == "item":
        for name in "AB":
            write(tmp_path, name, "item", [header, "i\tx"])
    else:
        write(tmp_path, "B", suffix, [header, "1\t5"])
    with pytest.raises(InputError, match=r"no column '(user|item)_id'.*rename the column"):
        merge(both, DatasetPaths("AB", tmp_path / "AB"))
    assert not (tmp_path / "AB").exists()


def test_a_broken_merge_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = two(tmp_path)
    for name in "AB":
        write(tmp_path, name, "item", ["item_id:token\ttitle:token", "i\tx"])
    whole, n_written = module._write, 0

    def broken(path: Path, *more: Any) -> int:
        nonlocal n_written
        n_written += 1
        if n_written == 2:
            raise KeyboardInterrupt
        return whole(path, *more)

    monkeypatch.setattr(module, "_write", broken)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        merge(both, DatasetPaths("AB", tmp_path / "AB"))
    assert sorted(tmp_path.rglob("*")) == before
    monkeypatch.setattr(module, "_write", whole)
    assert merge(both, DatasetPaths("AB", tmp_path / "AB")).rows == {"inter": 2, "item": 2}


@pytest.mark.parametrize(
    ("suffix", "lines", "said"),
    [
        ("inter", ["user_id:token\titem_id:token", "u\t"], "A.inter: line 2"),
        ("inter", ["user_id:token\titem_id:token", "\ti"], "A.inter: line 2"),
        ("item", ["item_id:token", "i", "i"], "A.item: line 3: item 'i' occurs a second time"),
        ("user", ["user_id:token", "u", "u"], "A.user: line 3: user 'u' occurs a second time"),
    ],
)
def test_ids_that_a_run_would_refuse(
    tmp_path: Path, suffix: str, lines: list[str], said: str
) -> None:
    """A prefix would make an empty ID valid."""
    both = two(tmp_path)
    for kind, name in (("item", "item_id"), ("user", "user_id")):
        for domain in "AB":
            write(tmp_path, domain, kind, [f"{name}:token", "x"])
    write(tmp_path, "A", suffix, lines)
    with pytest.raises(InputError, match=said):
        merge(both, DatasetPaths("AB", tmp_path / "AB"))
    assert not (tmp_path / "AB").exists()


def test_columns_of_users(tmp_path: Path) -> None:
    both = two(tmp_path)
    write(tmp_path, "A", "user", ["user_id:token\tage:float", "u\t3"])
    assert merge(both, DatasetPaths("one", tmp_path / "one")).without == {"user": ["B"]}
    write(tmp_path, "B", "user", ["age:float\tuser_id:token", "5\tu"])
    merge(both, DatasetPaths("AB", tmp_path / "AB"))
    assert lines_of(tmp_path, "AB", "user") == ["user_id:token\tage:float", "A/u\t3", "B/u\t5"]
