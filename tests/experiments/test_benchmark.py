"""Whole benchmarks on the toy data: side by side, killed and repeated, with a failing cell."""

from __future__ import annotations

import csv
import shutil
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tiny
from toy_plan import DIVERGING, SETTINGS, lines_of, write_plan

from recbole_qbert.cli import main
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.evaluation.ranking import read_ranks
from recbole_qbert.experiments.benchmark.plan import CONTROLS
from recbole_qbert.training.trainer import ResumableTrainer

MODELS = ["QBERT4Rec", "SASRec", "Popularity"]
RANKINGS = {"": "all items", "unseen_": "seen excluded"}


def csv_of(folder: str) -> list[dict[str, str]]:
    with open(Path(folder, "benchmark", "table.csv"), encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.slow
def test_killed_and_repeated(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three models, two seeds: what is done is not trained again, what was begun goes on, and the
    results are those of a benchmark that nobody killed."""
    path = str(write_plan(tiny, models=MODELS, seeds=[1, 2], reference="QBERT4Rec"))
    assert main(["benchmark", path, "--checkpoint_dir=whole"]) == 0

    trained: list[tuple[str, int, int]] = []
    train_epoch, keep = ResumableTrainer._train_epoch, ResumableTrainer._save_last_state

    def counted(self: ResumableTrainer, data: Any, epoch: int, *more: Any, **named: Any) -> Any:
        trained.append((self.config["model"], self.config["seed"], epoch))
        return train_epoch(self, data, epoch, *more, **named)

    def killed(self: ResumableTrainer, epoch: int) -> None:
        keep(self, epoch)
        if (self.config["model"], self.config["seed"]) == ("QBERT4Rec", 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(ResumableTrainer, "_train_epoch", counted)
    monkeypatch.setattr(ResumableTrainer, "_save_last_state", killed)
    capsys.readouterr()
    assert main(["benchmark", path]) == 130
    assert "repeat the command to go on" in capsys.readouterr().err
    before = Path("saved/results.jsonl").read_bytes()
    assert len(lines_of("saved")) == 3
    assert not Path("saved/benchmark").exists()

    monkeypatch.setattr(ResumableTrainer, "_save_last_state", keep)
    trained.clear()
    assert main(["benchmark", path]) == 0
    assert trained == [
        ("QBERT4Rec", 2, 1),  # its epoch 0 was kept
        ("SASRec", 2, 0),
        ("SASRec", 2, 1),
        ("Popularity", 2, 0),
    ]
    assert Path("saved/results.jsonl").read_bytes().startswith(before)
    keys = ("model", "seed", "valid", "test", "best_epoch", "epochs")
    for left, right in zip(lines_of("saved"), lines_of("whole"), strict=True):
        assert [left[key] for key in keys] == [right[key] for key in keys]
    assert csv_of("saved") == csv_of("whole")

    # Once more: nothing is left to do, and the tables are the same.
    trained.clear()
    after = Path("saved/results.jsonl").read_bytes()
    tables = {path: path.read_bytes() for path in Path("saved/benchmark").iterdir()}
    assert main(["benchmark", path]) == 0
    assert capsys.readouterr().out.count("already finished") >= 6
    assert trained == []
    assert Path("saved/results.jsonl").read_bytes() == after
    assert {path: path.read_bytes() for path in Path("saved/benchmark").iterdir()} == tables


def test_csv_and_groups_against_loops(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """Controls in, one cell fails, two data sets, one with published figures."""
    shutil.copytree(tiny.folder, tiny.root / "Games")
    for file in (tiny.root / "Games").iterdir():
        file.rename(file.with_name(file.name.replace("toy", "Games", 1)))
    broken = {"name": "broken", "model": "QBERT4Rec", "settings": DIVERGING}
    path = write_plan(
        tiny,
        models=["QBERT4Rec", broken, "SASRec"],
        datasets=["toy", "Games"],
        controls=True,
        settings={**SETTINGS, "epochs": 1, "use_tuned": False},
    )
    assert main(["benchmark", str(path), "--output=out", "--checkpoint_dir=runs"]) == 2
    captured = capsys.readouterr()
    why = "QBERT4Rec: the training loss is nan; lower learning_rate"
    assert [line.partition(", or")[0] for line in captured.err.splitlines()] == [
        f"recbole-qbert: broken on {dataset}, seed 1: {why}" for dataset in ("toy", "Games")
    ]
    assert captured.out.count("failed: ") == 2
    assert captured.out.count("comparison with published values") == 1
    text = Path("out/table.md").read_text(encoding="utf-8")
    assert f"- broken on toy, seed 1: {why}" in text
    assert "## Games: comparison with published values, all items ranked" in text

    results = lines_of("runs")
    names = ["QBERT4Rec", "SASRec", *CONTROLS]
    assert [one["model"] for one in results] == names * 2
    shutil.move("out", "runs/benchmark")
    found = {
        tuple(line[key] for key in ("dataset", "model", "seed", "split", "ranking", "metric")): (
            float(line["value"])
        )
        for line in csv_of("runs")
    }
    n_metrics = 0
    for one in results:
        for split in ("valid", "test"):
            for name, value in one[split].items():
                prefix = "unseen_" if name.startswith("unseen_") else ""
                key = (split, RANKINGS[prefix], name.removeprefix("unseen_"))
                for seed in ("1", "mean"):
                    assert found[(one["dataset"], one["model"], seed, *key)] == value
                    n_metrics += 1
    grouped = {key: value for key, value in found.items() if len(key[5].split(" ")) > 1}
    covered = {key: value for key, value in found.items() if key[5] == "coverage@10"}
    assert len(found) == n_metrics + len(grouped) + len(covered)

    # The groups, from the sequences and the ranks alone.
    counts = Counter(item for items in tiny.sequences.values() for item in items[:-2])
    by_length: dict[str, list[float]] = {}
    by_target: dict[str, list[float]] = {}
    run = next(one for one in results if (one["model"], one["dataset"]) == ("SASRec", "toy"))
    ranks, item_counts = read_ranks(Path(run["folder"]) / "test_ranks.npz")
    assert ranks.lists is not None and item_counts is not None
    assert sorted(item_counts[1:]) == sorted(counts[f"i{n}"] for n in range(30))
    order = list(dict.fromkeys(user for user, _, _ in tiny.rows))  # ids go by appearance
    for user, rank in zip(ranks.users, ranks.raw, strict=True):
        items = tiny.sequences[order[user - 1]]
        length, often = len(items) - 1, counts[items[-1]]
        kind = "1-5" if length <= 5 else "6-10" if length <= 10 else "11-20"
        by_length.setdefault(kind, []).append(float(rank <= 10))
        kind = "never" if not often else "1-5" if often <= 5 else "6-20"
        by_target.setdefault(kind, []).append(float(rank <= 10))
    for label, groups in (("history", by_length), ("target", by_target)):
        for kind, hits in groups.items():
            key = ("toy", "SASRec", "mean", "test", "all items", f"hit@10 {label}: {kind}")
            assert found[key] == pytest.approx(statistics.mean(hits))
        name = f"hit@10 {label}: "
        kinds = {key[5].removeprefix(name) for key in grouped if key[5].startswith(name)}
        assert kinds == groups.keys()
    shown = set(ranks.lists.raw.flatten().tolist()) - {0}
    assert covered["toy", "SASRec", "mean", "test", "all items", "coverage@10"] == len(shown) / 30


def test_popular_items_are_all_that_popularity_shows(tiny: Tiny) -> None:
    """Ten of thirty items for everybody; more where the seen ones make place for others."""
    path = write_plan(
        tiny, models=["Popularity", "BigramChain"], reference="BigramChain", settings={}
    )
    assert main(["benchmark", str(path), "--use_gpu=False", "--show_progress=False"]) == 0
    found = {
        (line["model"], line["ranking"]): float(line["value"])
        for line in csv_of("saved")
        if line["metric"] == "coverage@10" and line["seed"] == "1"
    }
    assert found["Popularity", "all items"] == pytest.approx(10 / 30)
    assert found["Popularity", "seen excluded"] > 10 / 30
    assert found["BigramChain", "all items"] > 0.8


def test_a_run_that_lost_its_ranks_is_evaluated_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a step of training: its latest state is there."""
    path = str(write_plan(tiny, models=["QBERT4Rec"]))
    assert main(["benchmark", path]) == 0
    (run,) = lines_of("saved")
    ranks = Path(run["folder"], "test_ranks.npz")
    before = dict(np.load(ranks))
    ranks.unlink()

    def trained(*_: Any) -> None:
        raise AssertionError("an epoch was trained")

    monkeypatch.setattr(ResumableTrainer, "_train_epoch", trained)
    assert main(["benchmark", path]) == 0
    assert all(np.array_equal(before[name], value) for name, value in np.load(ranks).items())
    assert lines_of("saved") == [run]


def test_runs_of_other_data_are_no_results(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """Other interactions concern every model, other IDs those that read them."""
    path = str(write_plan(tiny, models=["SASRec", "QBERT4Rec"]))
    assert main(["benchmark", path]) == 0
    saved = [Path(run["folder"]) for run in lines_of("saved")]
    table = tiny.table
    turned = SemanticIDTable(table.items, table.codes[::-1].copy(), table.codebook_sizes)
    write_semantic_ids(tiny.folder / "toy.semid", turned, {})
    for folder, file in zip(reversed(saved), ("toy.semid", "toy.inter"), strict=True):
        capsys.readouterr()
        assert main(["benchmark", path]) == 2
        errors = capsys.readouterr().err
        assert f"{folder}: {file}" in errors
        assert errors.count("\n") == 1
        # Only that one is run, and it counts from now on.
        assert main(["benchmark", path, "--retrain=True"]) == 0
        assert main(["benchmark", path]) == 0
        tiny.write_inter(tiny.rows[::-1])
    assert [run["model"] for run in lines_of("saved")] == [
        "SASRec",
        "QBERT4Rec",
        "QBERT4Rec",
        "SASRec",
        "QBERT4Rec",
    ]


def test_data_of_all_rows_are_read_before_the_first_trains(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.root / "other.npz"
    np.savez(path, items=["x1", "x2"], vectors=np.ones((2, 3), dtype=np.float32))
    content = {"model": "SASRecContent", "settings": {"item_vectors": {"text": str(path)}}}
    assert main(["benchmark", str(write_plan(tiny, models=["QBERT4Rec", content]))]) == 2
    assert "SASRecContent on toy: " in (said := capsys.readouterr().err)
    assert "30 of 30 items of the data set have no text" in said
    assert not Path("saved/results.jsonl").exists()


def test_nothing_but_failures(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_plan(tiny, models=["QBERT4Rec"], per_model={"QBERT4Rec": DIVERGING})
    assert main(["benchmark", str(path)]) == 2
    assert "seed 1: QBERT4Rec: the training loss is nan" in capsys.readouterr().err
    assert len(Path("saved/benchmark/table.csv").read_text().splitlines()) == 1
    assert "## Failed" in Path("saved/benchmark/table.md").read_text()


def test_a_broken_results_file_stops_at_once(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_plan(tiny)
    assert main(["benchmark", str(path), "--epochs=1"]) == 0
    with open("saved/results.jsonl", "a", encoding="utf-8") as handle:
        handle.write("{\n")
    capsys.readouterr()
    assert main(["benchmark", str(path), "--epochs=1"]) == 2
    assert "results.jsonl:3: not a run of this version" in capsys.readouterr().err
