"""What is found in folders, and how runs become named rows."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_results import add_run, add_sweep

from recbole_qbert.common.errors import InputError
from recbole_qbert.evaluation.results import append_result, flat_settings
from recbole_qbert.experiments.benchmark.plan import ModelRow
from recbole_qbert.experiments.benchmark.scores import Row, score
from recbole_qbert.experiments.benchmark.table_json import read_sidecar, write_sidecar
from recbole_qbert.experiments.benchmark.tables import metrics_sheet
from recbole_qbert.reports.comparisons import ComparisonData, compare_all
from recbole_qbert.reports.discovery import find_results

GOOD, FAIR, POOR = [1, 1, 3, 20], [1, 20, 3, 20], [20, 20, 20, 20]


def compared(*folders: Path) -> ComparisonData:
    (one,) = compare_all(find_results(folders))
    return one


def named(*folders: Path) -> dict[str, list[int]]:
    """Seeds of each row."""
    return {row.name: [run.seed for run in row.runs] for row in compared(*folders).scores.rows}


def test_runs_of_one_setting_are_a_row(tmp_path: Path) -> None:
    for seed in (2, 1):
        add_run(tmp_path, GOOD, "QBERT4Rec", seed)
    add_run(tmp_path, FAIR)
    assert named(tmp_path) == {"QBERT4Rec": [1, 2], "SASRec": [1]}
    one = compared(tmp_path)
    assert one.scores.reference is not None and one.scores.reference.name == "QBERT4Rec"
    assert one.scores.tested["SASRec"]["ndcg@10"].change == pytest.approx(200 / 3)  # 2.5 over 1.5
    assert one.warnings == ()


def test_rows_of_one_model_are_told_apart(tmp_path: Path) -> None:
    """By the settings that differ, of other folders by the folder, of nothing else by a number."""
    for layers in (1, 2):
        add_run(tmp_path, GOOD, "QBERT4Rec", keys={"n_layers": layers, "mask": {"span": layers}})
    names = [f"QBERT4Rec, mask.span={n} n_layers={n}" for n in (1, 2)]
    assert list(named(tmp_path)) == names
    add_run(tmp_path / "deep" / "er", GOOD, "QBERT4Rec", keys={"n_layers": 3})
    assert set(named(tmp_path)) == {*names, "QBERT4Rec, er"}
    other = tmp_path / "other"
    add_run(other, GOOD, keys={"a": 1})
    add_run(other, GOOD, seed=3, keys={"b": 1})
    assert set(named(other)) == {"SASRec, a=1 b=unset", "SASRec, a=unset b=1"}
    for seed, file in ((1, "toy.user"), (2, "toy.item")):
        add_run(tmp_path / "same", GOOD, seed=seed, data_sha256={file: "a"})
    lacking = {"SASRec, toy.user=a toy.item=none", "SASRec, toy.user=none toy.item=a"}
    assert set(named(tmp_path / "same")) == lacking


def test_a_run_that_was_repeated_counts_once(tmp_path: Path) -> None:
    """The last line of a folder; and of two folders with one seed and setting, the last."""
    first = add_run(tmp_path, GOOD)
    append_result(tmp_path / "results.jsonl", dataclasses.replace(first, seconds=99.0))
    (run,) = find_results([tmp_path]).runs
    assert run.result.seconds == 99.0
    add_run(tmp_path / "again", GOOD, seconds=7.0)
    assert named(tmp_path) == {"SASRec": [1]}


def test_moved_results_are_found(tmp_path: Path) -> None:
    add_run(tmp_path / "old", GOOD, "QBERT4Rec", bundle="old/bundle")
    shutil.move(tmp_path / "old", tmp_path / "new")
    (run,) = find_results([tmp_path / "new"]).runs
    assert Path(run.result.folder).parent == tmp_path / "new" / "toy"
    assert run.result.bundle == str(Path(run.result.folder) / "bundle")
    assert compared(tmp_path / "new").warnings == ()


def test_warnings(tmp_path: Path) -> None:
    """A best epoch that was the last, ranks that are gone, other data."""
    add_run(tmp_path, GOOD, "QBERT4Rec", seed=1, best_epoch=2, max_epochs=3)
    add_run(tmp_path, GOOD, "QBERT4Rec", seed=2, max_epochs=3)
    lost = add_run(tmp_path, FAIR, data_sha256={"toy.inter": "b"})
    Path(lost.folder, "test_ranks.npz").unlink()
    one = compared(tmp_path)
    assert any("no test_ranks.npz of SASRec" in line for line in one.warnings)
    assert any("QBERT4Rec: the best epoch was the last" in line for line in one.warnings)
    assert any("(3, seed 1)" in line for line in one.warnings)
    assert any(
        "different .inter files; not the common one: SASRec" in line for line in one.warnings
    )
    assert one.scores.tested == {}


def test_users_that_differ_are_not_tested(tmp_path: Path) -> None:
    add_run(tmp_path, GOOD, "QBERT4Rec")
    other = Path(add_run(tmp_path, FAIR).folder, "test_ranks.npz")
    shutil.copyfile(Path(add_run(tmp_path / "x", GOOD).folder, "test_ranks.npz"), other)
    with np.load(other) as stored:
        content = dict(stored)
    np.savez(other, **content | {"users": content["users"] + 1})
    (tmp_path / "x" / "results.jsonl").unlink()
    one = compared(tmp_path)
    assert any("were tested on different users" in line for line in one.warnings)


def test_a_benchmark_is_found_as_it_was(tmp_path: Path) -> None:
    """Names, budgets, reference and numbers come back from `table.json`; other runs stand apart."""
    rows = [
        Row(ModelRow(name, model, budget=budget), tuple(
            add_run(tmp_path, ranks, model, seed, keys={"x": name}) for seed in (1, 2)))
        for name, model, budget, ranks in (
            ("ours, large", "QBERT4Rec", "9 trials", GOOD), ("theirs", "SASRec", "none", FAIR))
    ]  # fmt: skip
    scores = score("toy", tuple(rows), "ours, large")
    write_sidecar(tmp_path / "benchmark", [scores], ["z on toy: why"], "b.yaml")
    add_run(tmp_path, POOR, "GRU4Rec")
    first, second = compare_all(find_results([tmp_path]))
    assert metrics_sheet(first.scores) == metrics_sheet(scores)
    assert [row.model_row for row in first.scores.rows] == [row.model_row for row in rows]
    assert first.warnings == ("z on toy: why",)
    assert first.command == "recbole-qbert benchmark b.yaml"
    assert [row.name for row in second.scores.rows] == ["GRU4Rec"]
    shutil.rmtree(tmp_path / "toy" / "SASRec-seed2-xtheirs")
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(lines[:3] + lines[4:]), encoding="utf-8")
    (first, _) = compare_all(find_results([tmp_path]))
    assert "SASRec-seed2-xtheirs: listed in" in first.warnings[-1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "not a table of this version"),
        ('{"format": "recbole-qbert/benchmark/1", "source": "x"}', "damaged"),
        ("[]", "not a JSON object"),
    ],
)
def test_a_damaged_benchmark_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_sidecar(path, lambda dataset, name: None)
    assert str(path) in str(caught.value)


def test_folders_without_anything(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_results([tmp_path / "none"])
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "results.jsonl").write_text("not ours\n", encoding="utf-8")
    with pytest.raises(InputError, match="found no runs and no sweeps"):
        find_results([tmp_path])
    (tmp_path / "results.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"results.jsonl:1: not a run of this version"):
        find_results([tmp_path])


def test_sweeps_are_found_and_their_trials_passed_over(tmp_path: Path) -> None:
    folder = add_sweep(tmp_path / "tune" / "s", {"n_layers": {"grid": [1]}}, [])
    (folder / "trials" / "001").mkdir(parents=True)
    (folder / "trials" / "001" / "experiment.json").write_text("{}", encoding="utf-8")
    found = find_results([tmp_path])
    assert found.sweeps == (folder,)
    assert found.name(folder) == f"{tmp_path.name}/tune/s"


def test_settings_are_flat(tmp_path: Path) -> None:
    keys = {"mask": {"span": 1, "tail": 2}, "data_path": "x", "n": [1]}
    flat = flat_settings(add_run(tmp_path, GOOD, keys=keys))
    assert flat["mask.span"] == 1 and flat["mask.tail"] == 2 and flat["n"] == [1]
    assert not {"seed", "data_path", "mask"} & flat.keys()
