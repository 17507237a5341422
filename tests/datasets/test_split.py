"""Splits against a loop over users, and against what RecBole alone makes of the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from atomic_toys import SEQUENCES, placed, recbole_alone, write_inter
from conftest import Tiny, files_below
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_script
from rich.console import Console

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import build_config
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.split import (
    PARTS,
    cut_offs,
    explain,
    leak,
    leave_one_out,
    own_parts,
    ranges,
    read_sequences,
    temporal,
    write_split,
)
from recbole_qbert.experiments.run import run_model
from recbole_qbert.experiments.splits import data_counts, load_splits
from recbole_qbert.training.inputs import inputs_of

Row = tuple[str, list[str], str]


def rows_of(path: Path) -> list[Row]:
    _, *lines = path.read_text(encoding="utf-8").splitlines()
    return [(u, h.split(" "), i) for u, h, i in (line.split("\t") for line in lines)]


def by_hand(sequences: dict[str, list[str]], length: int) -> dict[str, list[Row]]:
    """Leave-one-out, one user after the other."""
    parts: dict[str, list[Row]] = {part: [] for part in PARTS}
    for user, items in sequences.items():
        for place in range(1, len(items)):
            part = "train"
            if len(items) >= 3 and place == len(items) - 1:
                part = "test"
            elif len(items) >= 4 and place == len(items) - 2:
                part = "valid"
            start = max(0, place - length) if length else 0
            parts[part].append((user, items[start:place], items[place]))
    return parts


@settings(max_examples=40, deadline=None)
@given(SEQUENCES, st.integers(0, 5), st.randoms())
def test_leave_one_out_is_what_a_loop_makes(
    tmp_path_factory: pytest.TempPathFactory, sequences: dict[str, list[str]], length: int, draw
) -> None:
    folder = tmp_path_factory.mktemp("split")
    rows = placed(sequences)
    draw.shuffle(rows)
    write_inter(folder / "x.inter", rows)
    read = read_sequences(folder / "x.inter")
    write_split(DatasetPaths("x", folder), read, leave_one_out(read), length, {})
    order = {user: place for place, user in enumerate(dict.fromkeys(row[0] for row in rows))}
    for part, expected in by_hand(sequences, length).items():
        expected.sort(key=lambda row: order[row[0]])  # stable
        assert rows_of(folder / f"x.{part}.inter") == expected


def test_a_cut_in_time_and_its_leak(tmp_path: Path) -> None:
    """Worked by hand: a's 40 and b's 41 are in the test part, item n is never trained on."""
    rows = [("a", "m", 10), ("a", "k", 20), ("a", "l", 30), ("a", "n", 40),
            ("b", "k", 15), ("b", "m", 25), ("b", "l", 41), ("c", "k", 42)]  # fmt: skip
    write_inter(tmp_path / "x.inter", rows)
    read = read_sequences(tmp_path / "x.inter")
    parts = temporal(read, 30, 40)
    write_split(DatasetPaths("x", tmp_path), read, parts, 2, {"method": "temporal"})
    assert rows_of(tmp_path / "x.train.inter") == [("a", ["m"], "k"), ("b", ["k"], "m")]
    assert rows_of(tmp_path / "x.valid.inter") == [("a", ["m", "k"], "l")]
    assert rows_of(tmp_path / "x.test.inter") == [
        ("a", ["k", "l"], "n"), ("b", ["k", "m"], "l"),
    ]  # fmt: skip
    facts = leak(read, parts)
    assert facts["test_targets_before_the_end_of_training"] == 0
    assert facts["test_targets_never_in_training"] == 1.0  # l too: it is only of valid and test
    last = leak(read, leave_one_out(read))
    # Training rows of leave-one-out end at 20 (a) and none of b; test targets come at 40 and 41.
    assert last["test_targets_before_the_end_of_training"] == 0
    assert "no test target precedes" in explain(last)[0]
    rows[3] = ("a", "n", 16)  # now a is m, n, k, l: the last training row is n at 16
    rows[6] = ("b", "l", 15.5)  # b is k, l, m
    write_inter(tmp_path / "x.inter", rows)
    read = read_sequences(tmp_path / "x.inter")
    early = leak(read, leave_one_out(read))["test_targets_before_the_end_of_training"]
    assert early == 0  # targets at 30 and 25, training until 16
    write_inter(tmp_path / "x.inter", [*rows, ("d", "k", 90), ("d", "m", 91), ("d", "l", 92),
                                       ("d", "n", 93)])  # fmt: skip
    read = read_sequences(tmp_path / "x.inter")
    facts = leak(read, leave_one_out(read))
    assert facts["test_targets_before_the_end_of_training"] == pytest.approx(2 / 3, abs=1e-6)
    assert "66.7% of the test targets precede" in explain(facts)[0]
    assert cut_offs(read, [0.5, 0.9]) == tuple(
        np.quantile(sorted(read.times), [0.5, 0.9], method="higher")
    )


def test_few_users_to_train_on(tmp_path: Path) -> None:
    """All rows of a third of the users, and no item of the others counts as trained on."""
    sequences = {f"u{n}": [f"i{(n * 7 + place) % 40}" for place in range(6)] for n in range(30)}
    folder = tmp_path / "x"
    folder.mkdir()
    write_inter(folder / "x.inter", placed(sequences))
    words = ["prepare", "split", "--dataset=x", f"--data_path={tmp_path}", "--max_length=0"]
    assert main([*words, "--train_users=0.3333", "--seed=3"]) == 0
    found = {part: rows_of(folder / f"x.{part}.inter") for part in PARTS}
    users = {user for user, _, _ in found["train"]}
    assert len(users) == 10
    expected = by_hand(sequences, 0)
    assert found["train"] == [row for row in expected["train"] if row[0] in users]
    assert found["valid"] == expected["valid"] and found["test"] == expected["test"]
    trained = {item for user in users for item in sequences[user][:-2]}
    cold = [item not in trained for _, _, item in found["test"]]
    facts = json.loads((folder / "x.split.json").read_text())
    assert facts["test_targets_never_in_training"] == pytest.approx(np.mean(cold), abs=1e-6)
    assert (facts["train_users"], facts["seed"]) == (0.3333, 3)
    assert main([*words, "--train_users=0.3333", "--seed=4"]) == 0
    assert {user for user, _, _ in rows_of(folder / "x.train.inter")} != users


@pytest.mark.parametrize("share", ["0", "1.5", "-1", "nan", "0.001"])
def test_a_share_of_users_that_cannot_be(
    tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    write_inter(tmp_path / "x" / "x.inter", placed({"u": ["a", "b", "c", "d"]}))
    before = files_below(tmp_path)
    words = ["prepare", "split", "--dataset=x", f"--data_path={tmp_path}"]
    assert main([*words, f"--train_users={share}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recbole-qbert: train_users: ") and error.count("\n") == 1
    assert files_below(tmp_path) == before


def test_faults(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    write_inter(path, placed({"u": ["a", "b", "c", "d"]}))
    read = read_sequences(path)
    with pytest.raises(InputError, match="are positions in the sequences, not times"):
        temporal(read, 1, 2)
    write_inter(path, [("u", "a", 1), ("u", "b", 5), ("u", "c", 9), ("u", "d d", 10)])
    read = read_sequences(path)
    for cuts, message in (((9, 5), "must start first"), ((20, 30), "the part valid is empty")):
        with pytest.raises(InputError, match=message):
            temporal(read, *cuts)
    with pytest.raises(InputError, match="two increasing numbers"):
        cut_offs(read, [0.9, 0.8])
    before = files_below(tmp_path)
    with pytest.raises(InputError, match="1 item token contains blanks"):
        write_split(DatasetPaths("x", tmp_path), read, leave_one_out(read), 0, {})
    assert files_below(tmp_path) == before
    for rows, message in (
        ([("u", "a", "soon")], "line 2, timestamp: 'soon' is not a finite number"),
        ([("u", "a", "nan")], "line 2, timestamp: 'nan' is not a finite number"),
        ([], "no rows follow the header"),
    ):
        write_inter(path, rows)
        with pytest.raises(InputError, match=message):
            read_sequences(path)
    path.write_text("user:token\titem_id:token\nu\ta\n")
    with pytest.raises(InputError, match="no column 'user_id'; it has .*; did you mean 'user'"):
        read_sequences(path)


def test_own_parts_keep_their_order_and_refuse_what_is_in_two(tmp_path: Path) -> None:
    files = {
        "a": [("u", "x", 1), ("u", "y", 2), ("v", "x", 1)],
        "b": [("u", "z", 3), ("v", "y", 0)],
        "c": [("u", "w", 4), ("w", "x", 9)],
    }
    paths = [tmp_path / f"{name}.inter" for name in files]
    for path, rows in zip(paths, files.values(), strict=True):
        write_inter(path, rows)
    read = read_sequences(*paths)
    write_split(DatasetPaths("x", tmp_path), read, own_parts(read, paths), 0, {})
    assert rows_of(tmp_path / "x.train.inter") == [("u", ["x"], "y")]
    assert rows_of(tmp_path / "x.valid.inter") == [("u", ["x", "y"], "z"), ("v", ["x"], "y")]
    assert rows_of(tmp_path / "x.test.inter") == [("u", ["x", "y", "z"], "w")]
    write_inter(paths[2], [("u", "z", 3)])
    read = read_sequences(*paths)
    with pytest.raises(InputError, match="both have user 'u' and item 'z' at the same time"):
        own_parts(read, paths)


def test_without_times_the_leakage_is_unknown(tmp_path: Path) -> None:
    rows = ["u\ta", "v\tb", "u\tc", "u\td", "v\ta", "v\tc"]
    path = tmp_path / "x.inter"
    path.write_text("\n".join(["user_id:token\titem_id:token", *rows, ""]), encoding="utf-8")
    read = read_sequences(path)
    assert read.times.tolist() == [0, 1, 2, 0, 1, 2]
    facts = leak(read, leave_one_out(read))
    # Targets d and c: u trains on a and c, v on b and a.
    assert facts == {"test_targets_never_in_training": 0.5}
    assert explain(facts)[0].startswith("leakage is unknown: the timestamps are positions")
    with pytest.raises(InputError, match="are positions in the sequences, not times"):
        temporal(read, 1, 2)


def test_own_parts_without_times_may_repeat_an_item(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.inter" for name in "abc"]
    for path, items in zip(paths, ("xy", "x", "y"), strict=True):
        rows = [f"u\t{item}" for item in items]
        path.write_text("\n".join(["user_id:token\titem_id:token", *rows, ""]), encoding="utf-8")
    read = read_sequences(*paths)
    assert [rows.tolist() for rows in own_parts(read, paths)] == [[1], [2], [3]]


def test_ranges() -> None:
    assert ranges(np.array([3, 7, 9]), np.array([5, 7, 12])).tolist() == [3, 4, 9, 10, 11]


def test_recbole_alone_reads_the_split_with_one_numbering(tmp_path: Path) -> None:
    """Through the script. Histories and targets of one token must be one number."""
    sequences = {f"u{n}": [f"i{(3 * n + k) % 17}" for k in range(6)] for n in range(12)}
    write_inter(tmp_path / "x" / "x.inter", placed(sequences))
    done = run_script("split.py", "--dataset=x", f"--data_path={tmp_path}", "--max_length=4")
    assert done.returncode == 0, done.stderr
    assert "train 36 rows, valid 12 rows, test 12 rows" in done.stdout
    assert "timestamps are positions in the sequences" in done.stdout
    extra = load_yaml(tmp_path / "x" / "x.split.yaml")
    assert extra == yaml.safe_load((tmp_path / "x" / "x.split.yaml").read_text())
    read = recbole_alone(tmp_path, "x", **extra)
    expected = by_hand(sequences, 4)
    flat: list[object] = []
    for part in PARTS:
        flat += [[user, history, item] for user, history, item in expected[part]] + [None]
    assert (read["users"], read["items"]) == (12, 17)
    assert _sorted(read["rows"]) == _sorted(flat)


def _sorted(rows: list[object]) -> list[object]:
    """Rows of each part, in any order."""
    parts: list[list[object]] = [[]]
    for row in rows:
        if row is None:
            parts[-1].sort(key=str)
            parts.append([])
        else:
            parts[-1].append(row)
    return parts  # type: ignore[return-value]


@pytest.mark.parametrize("augmentation", ["prefix", "none"])
def test_a_run_on_the_split_is_a_run_on_the_whole(tiny: Tiny, augmentation: str) -> None:
    """Leave-one-out as files: same rows, same sequences, and controls with the same metrics."""
    read = read_sequences(tiny.folder / "toy.inter")
    split = tiny.folder / "toy.split.yaml"
    write_split(DatasetPaths("toy", tiny.folder), read, leave_one_out(read), 0, {})
    for model in ("BigramChain", "Popularity"):
        given = tiny.settings(model, augmentation=augmentation)
        whole = load_splits(build_config(model, "toy", settings=given))
        parts = load_splits(build_config(model, "toy", [split], settings=given))
        # Of the whole, `augmentation` chooses the rows; the split has one for each prefix.
        counts = [data_counts(*loaded) for loaded in (whole, parts)]
        held = [each.pop("of them in training rows") for each in counts]
        last = 9 if augmentation == "none" else 12  # 8 items of a history and a target, or all
        lengths = [len(sequence) - 2 for sequence in tiny.sequences.values()]
        assert held == [sum(min(length, last) for length in lengths), sum(lengths)]
        assert max(lengths) > 9
        assert counts[1] | {"training rows": 0} == counts[0] | {"training rows": 0}
        for name in ("train", "valid", "test"):
            left, right = getattr(whole, name), getattr(parts, name)
            if augmentation == "prefix" or name != "train":
                assert len(left._dataset) == len(right._dataset)
        tokens = [
            {
                str(loaded.dataset.id2token("user_id", user)): loaded.dataset.id2token(
                    "item_id", items[offsets[user] : offsets[user + 1]]
                ).tolist()
                for user in range(1, loaded.dataset.user_num)
            }
            for loaded in (whole, parts)
            for items, offsets in [loaded.train._dataset.training_sequences()]
        ]
        assert tokens[0] == tokens[1]
        assert set(inputs_of(parts.dataset.config)) == {
            "toy.train.inter", "toy.valid.inter", "toy.test.inter", "toy.item",
        }  # fmt: skip


def test_seen_items_of_a_split_do_not_depend_on_the_length_of_inputs(tiny: Tiny) -> None:
    """The items of the history in the file, whatever a model reads of it."""
    read = read_sequences(tiny.folder / "toy.inter")
    write_split(DatasetPaths("toy", tiny.folder), read, leave_one_out(read), 0, {})
    split = tiny.folder / "toy.split.yaml"
    found = []
    for files, length in (([], 3), ([split], 3), ([split], 50)):
        given = tiny.settings("SASRec", MAX_ITEM_LIST_LENGTH=length)
        loaded = load_splits(build_config("SASRec", "toy", files, given))
        seen = {}
        for batch, *_ in loaded.test:
            rows, items = loaded.test._dataset.seen_items(batch)
            for row, user in enumerate(batch["user_id"].tolist()):
                tokens = loaded.dataset.id2token("item_id", items[rows == row])
                seen[str(loaded.dataset.id2token("user_id", user))] = sorted(tokens)
        found.append(seen)
    assert found[0] == {user: sorted(items[:-1]) for user, items in tiny.sequences.items()}
    assert found[1] == found[0] and found[2] == found[0]


def run_on(tiny: Tiny, model: str, *files: Path, **settings: Any) -> dict[str, float]:
    """Test metrics of a run."""
    given = tiny.settings(model, **{"epochs": 1, "MAX_ITEM_LIST_LENGTH": 12, **settings})
    return run_model(build_config(model, "toy", files, given), Console(quiet=True)).test


def test_metrics_on_the_split_are_those_on_the_whole(tiny: Tiny) -> None:
    read = read_sequences(tiny.folder / "toy.inter")
    write_split(DatasetPaths("toy", tiny.folder), read, leave_one_out(read), 0, {})
    split = tiny.folder / "toy.split.yaml"
    for model in ("BigramChain", "Popularity"):
        assert run_on(tiny, model, split) == run_on(tiny, model)
    short = {"MAX_ITEM_LIST_LENGTH": 4}  # histories longer than the model takes
    assert run_on(tiny, "Popularity", split, **short) == run_on(tiny, "Popularity", **short)
    for model in ("QBERT4Rec", "SASRec"):
        assert set(run_on(tiny, model, split, **short)) >= {"ndcg@10"}


@pytest.mark.parametrize("flag", ["--shares=0.8,0.9", "--valid_from=3", "--test_from=5"])
@pytest.mark.parametrize("others", [[], ["--parts=a,b,c"]])
def test_flags_of_another_method(
    tmp_path: Path, flag: str, others: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    write_inter(tmp_path / "x" / "x.inter", placed({"u": ["a", "b", "c", "d"]}))
    words = ["prepare", "split", "--dataset=x", f"--data_path={tmp_path}", flag, *others]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "it needs --method=temporal, without --parts" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("sequences", "part"),
    [({"u": list("abc"), "v": list("bca")}, "valid"), ({"u": ["a", "b"]}, "valid"),
     ({"u": ["a"], "v": ["b"]}, "train")],
)  # fmt: skip
def test_an_empty_part_is_refused(
    tmp_path: Path, sequences: dict[str, list[str]], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").mkdir()
    write_inter(tmp_path / "x" / "x.inter", placed(sequences))
    assert by_hand(sequences, 0)[part] == []
    before = files_below(tmp_path)
    assert main(["prepare", "split", "--dataset=x", f"--data_path={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert f"the part {part} is empty: no user has four interactions" in said
    assert said.count("\n") == 1 and files_below(tmp_path) == before
