"""`recommend` and `evaluate`: from a table of clicks to lists, and the metrics of the run again."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import N_ITEMS, Tiny, files_below, timed_rows
from processes import PACKAGE, run_command

from recbole_qbert.cli import main
from recbole_qbert.common.output import new_console
from recbole_qbert.evaluation.results import RunResult, read_results
from recbole_qbert.experiments import export
from recbole_qbert.experiments.evaluate import evaluate
from recbole_qbert.experiments.run import run_models
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.serving.scoring import scores_of

RESULTS = "saved/results.jsonl"


@pytest.fixture
def run(tiny: Tiny) -> RunResult:
    """A run of SASRec on the toy data, in `saved/`."""
    (result,) = run_models(["SASRec"], "toy", settings=tiny.settings("SASRec", epochs=1))
    return result


def lists_of(path: Path) -> dict[str, list[tuple[str, float]]]:
    """Lists of items and scores by user, of a file of any format."""
    if path.suffix == ".parquet":
        frame = pq.read_table(path).to_pandas()
    elif path.suffix == ".jsonl":
        frame = pd.read_json(path, lines=True, dtype={"user": str, "item": str})
    else:
        frame = pd.read_csv(path, sep="\t", dtype={"user": str, "item": str})
    assert [*frame] == ["user", "rank", "item", "score", "title"]
    assert (frame["title"] == "Thing " + frame["item"].str[1:]).all()
    found: dict[str, list[tuple[str, float]]] = {}
    for row in frame.itertuples():
        found.setdefault(row.user, []).append((row.item, row.score))
        assert row.rank == len(found[row.user])
    return found


def assert_lists_are(
    found: dict[str, list[tuple[str, float]]], bundle: str, histories: dict[str, list[str]], k: int
) -> None:
    """Those of the Python interface, in the order of the users."""
    assert [*found] == [*histories]
    expected = Recommender.load(bundle).recommend(histories.values(), k=k)
    for left, right in zip(found.values(), expected, strict=True):
        assert [item for item, _ in left] == [item for item, _ in right]
        assert [s for _, s in left] == pytest.approx([s for _, s in right], abs=1e-5)


def write_clicks(path: Path, rows: Iterable[tuple[str, str, float]]) -> None:
    frame = pd.DataFrame(rows, columns=["who", "what", "when"])
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)


def test_three_commands_from_clicks_to_lists(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = timed_rows(tiny.sequences)
    write_clicks(Path("events.csv"), rows)
    columns = ["--user=who", "--item=what", "--time=when"]
    assert main(["prepare", "table", "--dataset=Shop", "--inter_file=events.csv", *columns]) == 0
    small = ["--hidden_size=16", "--inner_size=16", "--MAX_ITEM_LIST_LENGTH=8", "--epochs=1"]
    where = ["--dataset=Shop", "--data_path=dataset", "--use_gpu=False", "--show_progress=False"]
    assert main(["run", "--model=SASRec", *where, *small]) == 0
    assert main(["recommend", RESULTS, "--dataset=Shop", "--output=lists.parquet", "--k=3"]) == 0
    assert "lists.parquet: 40 users" in capsys.readouterr().out
    frame = pq.read_table("lists.parquet").to_pandas()
    assert [*frame] == ["user", "rank", "item", "score"]  # the clicks have no titles
    (result,) = read_results(RESULTS)
    users = [*frame["user"].unique()]
    assert {*users} == {*tiny.sequences}
    lists = Recommender.load(result.bundle).recommend([tiny.sequences[u] for u in users], k=3)
    assert frame["item"].tolist() == [item for each in lists for item, _ in each]


def test_every_source_and_format_gives_the_same_lists(tiny: Tiny, run: RunResult) -> None:
    write_clicks(Path("events.csv"), tiny.rows)
    write_clicks(Path("events.parquet"), tiny.rows)
    tiny.write_inter(tiny.rows)
    table = ["--user=who", "--item=what", "--time=when"]
    users = dict.fromkeys(user for user, _, _ in tiny.rows)
    for source in (
        ["--history_file=events.csv", *table],
        ["--history_file=events.parquet", *table],
        ["--history_file=toy/toy.inter"],
        ["--dataset=toy", "--data_path=."],
    ):
        for format in ("tsv", "jsonl", "parquet"):
            output = f"--output=lists.{format}"
            assert main(["recommend", RESULTS, *source, output, "--k=4", "--overwrite"]) == 0
            found = lists_of(Path(f"lists.{format}"))
            histories = {user: tiny.sequences[user] for user in users}
            assert_lists_are(found, run.bundle, histories, 4)
        assert not [each for each in files_below(Path()) if ".parts" in each]


def test_filters_and_titles(tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    Path("some.txt").write_text("i3\ni4\ni5\n\ni6\nx\n")
    Path("never.txt").write_text("i4\r\n")
    source = ["recommend", run.folder, "--dataset=toy", "--data_path=.", "--output=o.tsv"]
    lists = ["--candidates=some.txt", "--exclude=never.txt", "--exclude_seen=False", "--overwrite"]
    assert main([*source, *lists]) == 0
    said = capsys.readouterr()
    assert said.err == "  candidates and exclude: items unknown to the model (1): 'x'\n"
    found = lists_of(Path("o.tsv"))
    assert all({item for item, _ in each} == {"i3", "i5", "i6"} for each in found.values())
    assert main([*source, "--title_field=class", "--overwrite"]) == 0
    frame = pd.read_csv("o.tsv", sep="\t").set_index("item")["title"]
    assert frame["i1"].eq("red").all() and frame["i2"].eq("green").all()


def test_one_history(tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    (expected,) = Recommender.load(run.bundle).recommend([["i1", "i2"]], k=3)
    for name in (run.bundle, run.folder, RESULTS, f"{RESULTS}:SASRec"):
        assert main(["recommend", name, "--history=i1,zz,i2", "--k=3", "--explain"]) == 0
        said = capsys.readouterr()
        for rank, (item, score) in enumerate(expected, start=1):
            row = rf"{rank} \u2502 {item} +\u2502 +{score:.4f} \u2502 Thing {item[1:]} "
            assert re.search(row, said.out)
        assert "without Thing" in said.out or "no shared code" in said.out
        assert said.err == "  items unknown to the model (1): 'zz'\n"


def test_lists_of_a_search_that_goes_on(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """Five beams, one candidate that they miss: it is listed, and its explanation says why."""
    given = tiny.settings("TIGER", epochs=1, beam_size=5, topk=[5], valid_metric="NDCG@5")
    (result,) = run_models(["TIGER"], "toy", settings=given)
    recommender = Recommender.load(result.bundle)
    row = torch.zeros(1, 8, dtype=torch.long)
    row[0, 0] = recommender.tokens.index("i1") + 1
    scores = scores_of(recommender.model, recommender.config, row, torch.tensor([1]))[0]
    missed = recommender.tokens[int((scores[1:] == -torch.inf).nonzero()[-1])]
    Path("candidates").write_text(f"{missed}\n")
    capsys.readouterr()
    words = ["--history=i1", "--candidates=candidates", "--exclude_seen=False", "--explain"]
    assert main(["recommend", RESULTS, *words]) == 0
    said = capsys.readouterr().out
    title = f"Thing {missed[1:]}"
    assert re.search(rf"1 \u2502 {missed} ", said)
    assert said.endswith(f"{title}\n  not explained: only a wider search finds it\n")


def test_an_empty_list_excludes_nothing(
    tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    for content in (b"", b"\n", b"\xef\xbb\xbf"):
        Path("list").write_bytes(content)
        capsys.readouterr()
        assert main(["recommend", RESULTS, "--history=i1"]) == 0
        expected = capsys.readouterr().out
        assert main(["recommend", RESULTS, "--history=i1", "--exclude=list"]) == 0
        assert capsys.readouterr().out == expected
        assert main(["recommend", RESULTS, "--history=i1", "--candidates=list"]) == 2
        assert "candidates: none is known to the model and not" in capsys.readouterr().err


def test_lists_as_a_stream(tiny: Tiny, run: RunResult) -> None:
    rows = [("ann", "i1", 1.0), ("bob", "zz", 1.0), ("ann", "i2", 2.0), ("", "i1", 1.0)]
    write_clicks(Path("events.csv"), rows)
    table = ["--history_file=events.csv", "--user=who", "--item=what", "--time=when"]
    made = run_command("recommend", RESULTS, "--k=2", *table)
    assert made.returncode == 0, made.stderr
    (expected,) = Recommender.load(run.bundle).recommend([["i1", "i2"]], k=2)
    lines = [line.split("\t") for line in made.stdout.splitlines()]
    assert lines[0] == ["user", "rank", "item", "score", "title"]
    assert [line[:3] for line in lines[1:]] == [
        ["ann", str(rank), item] for rank, (item, _) in enumerate(expected, start=1)
    ]
    assert made.stderr.splitlines()[-3:] == [
        "1 row cannot be used, first: events.csv:5: user ID is blank",
        "1 row with items unknown to the model: 'zz'",
        "1 of 2 users have no known item and get no recommendations, first: 'bob'",
    ]


TABLE = ["--history_file=events.csv", "--user=who", "--item=what"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give one of --history, --history_file and --dataset"),
        (["--history=i1", "--history_file=x.csv"], "give one of --history, --history_file"),
        (
            ["--history=i1", "--dataset=top"],
            "saved/results.jsonl: no run on top; it has runs on toy",
        ),
        (["--history=zz"], "history: no item is known to the model: 'zz'; give at least one"),
        (['--history="z,z",y'], "history: no item is known to the model: 'z,z', 'y'"),
        (["--history=,"], "give one of --history"),
        (["--history=i1", "--output=o.tsv"], "--output takes the users of --history_file or"),
        (["--history=i1", "--user=who"], "--user describes a table, such as a .csv"),
        (["--dataset=toy", "--item=what"], "--item describes a table"),
        (["--dataset=toy", "--data_path=.", "--explain"], "--explain explains one history"),
        (["--dataset=top"], "saved/results.jsonl: no run on top; it has runs on toy"),
        (["--dataset=toy"], "dataset/toy: no such folder"),
        (["--dataset=toy", "--output=o.csv"], "o.csv: format: 'csv' is none of tsv, jsonl"),
        (["--history=i1", "--k=0"], "k: 0 is not a whole number of at least 1"),
        ([*TABLE, "--k=31"], "--k: 31 is more than the 30 items"),
        ([*TABLE, "--batch_size=0"], "--batch_size: 0 is not a whole number of at least 1"),
        ([TABLE[0], "--user=who"], "--item: give the column of items of events.csv; it has who,"),
        ([*TABLE[:2], "--item=whar"], "events.csv: no column 'whar'; it has who, what"),
        ([*TABLE, "--time=when", "--time_unit=h"], "time_unit: 'h' is none of s, ms"),
        (["--history_file=no.csv", *TABLE[1:]], "no.csv: no such file"),
        (["--history_file=no.inter"], "no.inter: no such file"),
        ([*TABLE[:2], "--item=who"], "events.csv: no item is known to the model ('u"),
        ([*TABLE, "--candidates=no.txt"], "no.txt: no such file"),
        (["--history=i1", "--device=tpu"], "device: 'tpu' is unusable"),
        (["--history=i1", "--title_field=class"], "--title_field names a field of --item_file"),
        (["--history=i1", "--item_file=toy/toy.item"], "--item_file: give the field of the titles"),
        (["--history=i1", "--title_field=x", "--item_file=toy/toy.item"], "no column 'x'"),
    ],
)
def test_faults_of_recommend(
    tiny: Tiny, run: RunResult, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clicks(Path("events.csv"), tiny.rows)
    before = files_below(Path())
    capsys.readouterr()
    output = (
        [] if any(w.startswith(("--output", "--history=")) for w in words) else ["--output=o.tsv"]
    )
    assert main(["recommend", RESULTS, *words, *output]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recbole-qbert: ") and error.count("\n") == 1
    assert said in error
    assert files_below(Path()) == before


def test_a_table_without_a_usable_row(
    tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line gives the number of rows, and the first of them with the reason."""
    Path("events.csv").write_text("who,what,when\nu1,,5\nu2,,6\n")
    words = ["--history_file=events.csv", "--user=who", "--item=what", "--time=when"]
    capsys.readouterr()
    assert main(["recommend", RESULTS, *words, "--output=o.tsv"]) == 2
    error = capsys.readouterr().err
    said = "events.csv: no usable row (2 rows cannot be used, first: "
    assert said in error and error.count("\n") == 1
    assert not Path("o.tsv").exists()


@pytest.mark.parametrize(
    "name", ["no", "no.jsonl", "no.jsonl:SASRec", "saved/results.jsonl:GRU4Rec", "toy"]
)
def test_what_is_no_bundle(
    tiny: Tiny, run: RunResult, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for command in (["recommend", name, "--history=i1"], ["evaluate", name]):
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_killed_export_goes_on(
    tiny: Tiny, run: RunResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is that of an export without a kill, byte for byte."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as here; more threads round differently
    words = ["recommend", RESULTS, "--dataset=toy", "--data_path=.", "--k=3"]
    program = f"""
import os, signal, sys
from recbole_qbert.experiments import export
from recbole_qbert.cli import main
export.ROWS_OF_A_PART = 15
original, made = export._part, []
def part(*arguments):
    made.append(arguments[-2])
    if len(made) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
export._part = part
main({[*words, "--output=killed.jsonl"]!r})
"""
    ended = PACKAGE.run(program)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not Path("killed.jsonl").exists()
    monkeypatch.setattr(export, "ROWS_OF_A_PART", 15)
    original, made = export._part, []

    def part(*arguments: object) -> object:
        made.append(arguments[-2])
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(export, "_part", part)
    assert main([*words, "--output=killed.jsonl"]) == 0
    assert "Continued after 15 users" in capsys.readouterr().out
    assert made == [15, 20, 25, 30, 35]
    assert main([*words, "--output=whole.jsonl"]) == 0
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert_lists_are(lists_of(Path("whole.jsonl")), run.bundle, users_of(tiny), 3)


def users_of(tiny: Tiny) -> dict[str, list[str]]:
    """Histories in the order of the users in the file."""
    return {user: tiny.sequences[user] for user, _, _ in tiny.rows}


# evaluate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec", "FDSA", "BERT4Rec", "BigramChain"])
def test_evaluate_gives_what_run_recorded(
    tiny: Tiny, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the last digit, also without the files that only training reads."""
    settings = tiny.settings(model, epochs=1, metrics=["Hit", "NDCG", "MRR"])
    (result,) = run_models([model], "toy", settings=settings, console=new_console())
    table = capsys.readouterr().out
    tiny.remove_semantic_ids()
    (tiny.folder / "toy.item").unlink()
    assert main(["evaluate", RESULTS, "--data_path=.", "--json=found.json"]) == 0
    found = json.loads(Path("found.json").read_text())
    assert found["valid"] == result.valid and found["test"] == result.test
    printed = [line for line in capsys.readouterr().out.splitlines() if "\u2502" in line]
    assert len(printed) in (4, 8) and all(line in table for line in printed)


def test_evaluate_on_items_in_another_order(tiny: Tiny, run: RunResult) -> None:
    """Internal IDs differ, the ranks do not."""
    recommender = Recommender.load(run.bundle)
    other = tiny.root / "other"
    other.mkdir()
    tiny.write_inter(sorted(tiny.rows, key=lambda row: row[::-1]), "other")
    found = evaluate(recommender, "other", tiny.root)
    assert found.test == pytest.approx(run.test) and found.valid == pytest.approx(run.valid)
    assert found.notes == []


@pytest.mark.parametrize("left_out", [(), ("i3", "i7")])
def test_evaluate_a_search_on_items_in_another_order(tiny: Tiny, left_out: tuple[str, ...]) -> None:
    """Few beams, so that lists are filled up: the ranks are those of the bundle's own numbers."""
    given = tiny.settings("TIGER", epochs=1, beam_size=5, topk=[5], valid_metric="NDCG@5")
    (result,) = run_models(["TIGER"], "toy", settings=given)
    recommender = Recommender.load(result.bundle)
    rows = [row for row in tiny.rows if row[1] not in left_out]
    found = []
    for name, order in (("same", 1), ("other", -1)):
        (tiny.root / name).mkdir()
        tiny.write_inter(sorted(rows, key=lambda row: row[::order]), name)
        found.append(evaluate(recommender, name, tiny.root))
    assert found[0].test == pytest.approx(found[1].test)
    assert found[0].valid == pytest.approx(found[1].valid)
    if not left_out:
        assert found[0].test == pytest.approx(result.test)
    n_out = len(left_out)
    notes = [f"{n_out} items of the bundle are not in the data set and not ranked"] * bool(n_out)
    assert found[1].notes == notes


def test_evaluate_on_items_that_the_bundle_does_not_know(tiny: Tiny, run: RunResult) -> None:
    """They leave the histories, and are missed as targets: worked out row by row."""
    recommender = Recommender.load(run.bundle)
    new = {"i2": "new2", "i17": "new17", "i29": "new29"}
    sequences = {u: [new.get(i, i) for i in items] for u, items in tiny.sequences.items()}
    (tiny.root / "other").mkdir()
    tiny.write_inter(timed_rows(sequences), "other")
    found = evaluate(recommender, "other", tiny.root, batch_size=7)
    items = {item for sequence in sequences.values() for item in sequence}
    hits, unseen_hits = [], []
    for sequence in sequences.values():
        *history, target = sequence
        known = [item for item in history[-8:] if item in recommender.tokens]
        pairs = recommender.recommend([known], k=N_ITEMS, exclude_seen=False)[0] if known else []
        ranked = [item for item, _ in pairs if item in items]
        unseen = [item for item in ranked if item == target or item not in history]
        hits.append(target in ranked[:5])
        unseen_hits.append(target in unseen[:5])
    assert found.test["hit@5"] == pytest.approx(np.mean(hits))
    assert found.test["unseen_hit@5"] == pytest.approx(np.mean(unseen_hits))
    assert [note.partition(" (")[0] for note in found.notes] == [
        f"3 of {len(items)} items are unknown to the bundle",
        "3 items of the bundle are not in the data set and not ranked",
    ]


def test_faults_of_evaluate(tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    strange = {u: [f"s{item}" for item in items] for u, items in tiny.sequences.items()}
    (tiny.root / "other").mkdir()
    tiny.write_inter(timed_rows(strange), "other")
    capsys.readouterr()
    bundle = run.bundle
    for words, said in (
        (["--dataset=other", "--data_path=."], "dataset other: none of its items is known to the"),
        (["--dataset=no", "--data_path=."], "no"),
        (["--data_path=no"], "no/toy: no such folder"),
        (
            ["--data_path=.", "--batch_size=0"],
            "--batch_size: 0 is not a whole number of at least 1",
        ),
        (["--data_path=.", "--json=toy"], "--json=toy: is a folder; name a file"),
        (
            ["--data_path=.", "--json=toy/toy.inter/x"],
            "--json=toy/toy.inter/x: toy/toy.inter: is not writable",
        ),
    ):
        assert main(["evaluate", bundle, *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("recbole-qbert: ") and error.count("\n") == 1, error
        assert said in error


def test_brackets_in_titles_and_paths(
    tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are no markup of the terminal's library: `[/dvd]` would be an error of it."""
    path = tiny.folder / "toy.item"
    path.write_text(path.read_text().replace("Thing ", "[/dvd] [bold] :100:"))
    capsys.readouterr()
    words = ["--history=i1", "--title_field=title", f"--item_file={path}", "--k=3"]
    assert main(["recommend", RESULTS, *words]) == 0
    assert capsys.readouterr().out.count("[/dvd] [bold] :100:") == 3
    Path("[/old]").mkdir(parents=True)
    inter = f"--history_file={tiny.folder / 'toy.inter'}"
    assert main(["recommend", RESULTS, inter, "--output=[/old]/x.tsv"]) == 0
    assert "[/old]/x.tsv: 40 users" in capsys.readouterr().out


def test_nothing_to_explain(tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    Path("candidates").write_text("i1\n")
    words = ["--history=i1", "--candidates=candidates", "--explain"]
    assert main(["recommend", RESULTS, *words]) == 0


def test_a_format_without_a_file(
    tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--history_file={tiny.folder / 'toy.inter'}", "--output_format=jsonl"]
    capsys.readouterr()
    assert main(["recommend", RESULTS, *words]) == 2
    assert "--output_format: give the file with --output as well" in capsys.readouterr().err
