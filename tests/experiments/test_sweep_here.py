"""A whole sweep with trials run one after another in this process, broken off anywhere."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tiny
from rich.console import Console
from toy_plan import DIVERGING
from tune_toy import SETTINGS, toy_plan, without_ray, write_sweep

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import build_config
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.evaluation.results import RunResult, append_result, read_results
from recbole_qbert.experiments.run import run_model
from recbole_qbert.experiments.tune import ray_adapter
from recbole_qbert.experiments.tune import sweep as sweep_module
from recbole_qbert.experiments.tune.ray_adapter import ResumableASHA, Schedule, run_trials
from recbole_qbert.experiments.tune.sweep import sweep
from recbole_qbert.experiments.tune.trial_log import TrialLog
from recbole_qbert.reports.sweeps import read_experiment


class Killed(BaseException):
    """Stands for a kill of the driver at the moment it is raised."""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)


def run(tiny: Tiny, resume: bool = False, **changes: Any) -> RunResult:
    return sweep(toy_plan(tiny, **changes), Console(quiet=True), resume)


def rows(folder: Path) -> list[dict[str, str]]:
    """`trials.csv` without what a clock says."""
    lines = list(csv.DictReader((folder / "trials.csv").open()))
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_sweep(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(write_sweep(tiny))]) == 0
    output = capsys.readouterr().out
    assert "4 trials planned (2 in the grid x 2 samples)" in output
    folder = tiny.root / "saved" / "tune" / "s"
    lines = rows(folder)
    assert [line["trial"] for line in lines] == ["1", "2", "3", "4"]
    states = [line["state"] for line in lines]
    assert set(states) == {"finished", "stopped"}  # ASHA stopped some
    assert all(line["epochs"] == "4" for line in lines if line["state"] == "finished")
    assert all(int(line["epochs"]) < 4 for line in lines if line["state"] == "stopped")

    # The winner has the best valid value of all evaluations, and its own best weights are tested.
    reports = [line for line in TrialLog(folder / "reports.jsonl").lines() if "valid" in line]
    highest = max(reports, key=lambda each: each["valid"])
    (result,) = read_results(tiny.root / "saved" / "results.jsonl")
    assert result.valid["ndcg@10"] == highest["valid"]
    assert result.best_epoch == highest["epoch"]
    assert Path(result.folder, "test_ranks.npz").is_file()
    assert Path(result.bundle).is_dir()
    experiment = read_json(folder / "experiment.json")
    assert experiment["data_sha256"].keys() == {
        "toy.inter", "toy.item", "toy.semid", "toy.semid.json",
    }  # fmt: skip
    assert len(experiment["trials"]) == 4 and experiment["seed"] == 2026

    # A report reads the same trials, and their settings with their types.
    drawn = read_experiment(folder)
    assert drawn is not None and set(drawn.keys) == {"n_layers", "learning_rate"}
    assert [str(each.best) for each in drawn.trials] == [line["best_valid"] for line in lines]
    assert [each.values for each in drawn.trials] == experiment["trials"]

    # `run` with best.yaml is that very run, and trains to the same result.
    best = folder / "best.yaml"
    assert main(["run", f"--config_files={best}", "--use_gpu=False"]) == 0
    again = read_results(tiny.root / "saved" / "results.jsonl")[1]
    assert again.folder == result.folder
    assert again.valid == result.valid and again.test == result.test

    assert main(["tune", str(write_sweep(tiny))]) == 2
    assert "this sweep exists; add --resume" in capsys.readouterr().err
    assert main(["tune", str(write_sweep(tiny)), "--resume"]) == 0  # done: nothing is run
    assert len(read_results(tiny.root / "saved" / "results.jsonl")) == 2
    assert main(["tune", str(write_sweep(tiny)), "--resume", "--seed=3"]) == 2
    assert "this sweep has different seed, settings, trials;" in capsys.readouterr().err
    tiny.write_inter(tiny.rows[:-1])
    assert main(["tune", str(write_sweep(tiny)), "--resume"]) == 2
    assert "toy.inter changed since it was made" in capsys.readouterr().err


def test_the_best_trial_of_s3rec_is_tested_without_training(tiny: Tiny) -> None:
    """Its first stage lies in the trial's folder, and moves with it."""
    settings = SETTINGS | {"item_attribute": "semantic_id", "pretrain_epochs": 1}
    changes = {"model": "S3Rec", "settings": settings, "space": {"n_layers": {"grid": [1]}}}
    result = run(tiny, trials=1, **changes)
    trial = tiny.root / "saved" / "tune" / "s" / "trials" / "001"
    assert result.valid["ndcg@10"] == max(
        line["valid"]
        for line in TrialLog(trial.parents[1] / "reports.jsonl").lines()
        if "valid" in line
    )
    for name in ("S3Rec.safetensors", "pretrain/S3Rec.safetensors"):
        assert Path(result.folder, name).read_bytes() == (trial / name).read_bytes()


def test_a_sweep_killed_at_any_event_ends_as_the_unbroken_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sweep killed again and again, each time after three more lines in its journal."""
    unbroken = run(tiny, name="unbroken", checkpoint_dir="elsewhere")
    append, left = TrialLog.append, 0

    def append_or_die(self: TrialLog, line: dict[str, Any]) -> None:
        nonlocal left
        append(self, line)
        left -= 1
        if left == 0:
            raise Killed

    monkeypatch.setattr(TrialLog, "append", append_or_die)
    n_kills = 0
    while True:
        left = 3
        try:
            result = run(tiny, resume=n_kills > 0)
            break
        except Killed:
            n_kills += 1
    assert n_kills >= 3
    assert rows(tiny.root / "saved" / "tune" / "s") == rows(
        tiny.root / "elsewhere" / "tune" / "unbroken"
    )
    journals = [
        [
            {key: value for key, value in line.items() if key != "seconds"}
            for line in TrialLog(Path(folder) / "reports.jsonl").lines()
        ]
        for folder in ("saved/tune/s", "elsewhere/tune/unbroken")
    ]
    assert journals[0] == journals[1]
    assert (result.valid, result.test) == (unbroken.valid, unbroken.test)
    best = [
        load_yaml(f"{folder}/best.yaml") for folder in ("saved/tune/s", "elsewhere/tune/unbroken")
    ]
    assert best[0] | {"checkpoint_dir": ""} == best[1] | {"checkpoint_dir": ""}


@pytest.mark.slow
def test_a_sweep_is_lengthened(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After its end, and broken off: it ends as a whole sweep; nothing is trained twice."""
    run(tiny, trials=4, name="whole")
    whole, short = (tiny.root / "saved" / "tune" / name for name in ("whole", "s"))
    run(tiny, trials=2)
    first = TrialLog(short / "reports.jsonl").lines()
    append, left = TrialLog.append, 3

    def append_or_die(self: TrialLog, line: dict[str, Any]) -> None:
        nonlocal left
        append(self, line)
        left -= 1
        if left == 0:
            raise Killed

    monkeypatch.setattr(TrialLog, "append", append_or_die)
    with pytest.raises(Killed):
        run(tiny, resume=True, trials=3)
    assert main(["tune", str(write_sweep(tiny)), "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "this sweep has 6 trials, and 4 were requested; give --trials=3 or" in line
    run(tiny, resume=True, trials=4)
    assert rows(short) == rows(whole)
    journal = TrialLog(short / "reports.jsonl").lines()
    assert journal[: len(first)] == first
    assert {each["trial"] for each in journal[len(first) :]} == {5, 6, 7, 8}
    assert load_yaml(short / "best.yaml") == load_yaml(whole / "best.yaml")


def test_more_trials_may_read_files_of_their_own(tiny: Tiny) -> None:
    """The hash of a file that a further trial alone reads is no change of the sweep's inputs."""
    for name in ("a", "b", "c"):
        for suffix in ("semid", "semid.json"):
            shutil.copy(tiny.folder / f"toy.{suffix}", tiny.root / f"{name}.{suffix}")
    space = {"semantic_id_file": {"choice": [f"{name}.semid" for name in "abc"]}}
    common = {"space": space, "scheduler": "none", "settings": {**SETTINGS, "n_layers": 1}}
    run(tiny, trials=1, **common)
    run(tiny, resume=True, trials=6, **common)
    file = tiny.root / "saved" / "tune" / "s" / "experiment.json"
    assert len(read_json(file)["trials"]) > 1
    with pytest.raises(InputError, match="trials, and 1 were requested"):
        run(tiny, resume=True, trials=1, **common)


def test_killed_before_or_while_testing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The winner is tested once: again only where no result was written."""
    publish = sweep_module.publish

    def die(*arguments: Any) -> Any:
        raise Killed

    monkeypatch.setattr(sweep_module, "publish", die)
    with pytest.raises(Killed):
        run(tiny)
    monkeypatch.setattr(sweep_module, "publish", publish)
    result = run(tiny, resume=True)
    monkeypatch.setattr(sweep_module, "publish", die)
    assert run(tiny, resume=True) == result
    assert len(read_results("saved/results.jsonl")) == 1


@pytest.mark.parametrize(
    "other",
    [{"versions": {"torch": "0"}}, {"epochs": 99}, {"valid": {"ndcg@10": 9.0}}],
    ids=lambda other: next(iter(other)),
)
def test_a_result_of_something_else_is_not_taken_for_the_best_trials(
    tiny: Tiny, other: dict[str, Any]
) -> None:
    """Of a run of the same settings and data by another version, or of another length."""
    changes: dict[str, Any] = {"space": {"n_layers": {"grid": [1]}}, "trials": 1}
    result = run(tiny, **changes)
    file = Path("saved/results.jsonl")
    file.unlink()
    append_result(file, replace(result, test={"ndcg@10": 9.0}, **other))
    again = run(tiny, resume=True, **changes)
    for part in ("test", "versions", "epochs", "valid"):
        assert getattr(again, part) == getattr(result, part)
    assert len(read_results(file)) == 2


def test_a_sweep_that_never_began_is_begun_anew(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(job: Any) -> None:
        raise InputError("machine7 does not see it")

    with monkeypatch.context() as patch:
        patch.setattr(ray_adapter, "check_machines", refuse)
        assert main(["tune", str(write_sweep(tiny))]) == 2
    assert "machine7" in capsys.readouterr().err
    assert main(["tune", str(write_sweep(tiny, trials=1))]) == 0
    assert len(rows(tiny.root / "saved" / "tune" / "s")) == 2


def test_a_trial_that_cannot_be_trained_fails_alone(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """What only its training finds: IDs of other items."""
    for name in ("bad", "worse"):
        write_other_ids(tiny.root / f"{name}.semid")
    good = str(tiny.folder / "toy.semid")
    common: dict[str, Any] = {"trials": 1, "scheduler": "none"}
    space = {"semantic_id_file": {"grid": ["bad.semid", good]}}
    assert main(["tune", str(write_sweep(tiny, space=space, **common))]) == 0
    assert "trial 1 failed: " in capsys.readouterr().out
    lines = rows(tiny.root / "saved" / "tune" / "s")
    assert [line["state"] for line in lines] == ["failed", "finished"]
    assert "bad.semid" in lines[0]["fault"]
    space = {"semantic_id_file": {"grid": ["bad.semid", "worse.semid"]}}
    assert main(["tune", str(write_sweep(tiny, space=space, name="bad", **common))]) == 2
    said = capsys.readouterr().err
    assert said.startswith("recbole-qbert: trial 1 (semantic_id_file=bad.semid): bad.semid: 30 of")
    assert not (tiny.root / "saved" / "tune" / "bad").exists()


def test_no_trial_can_be_trained(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SETTINGS | DIVERGING
    rate = settings.pop("learning_rate")
    changes = {"space": {"learning_rate": {"grid": [rate]}}, "settings": settings, "trials": 1}
    assert main(["tune", str(write_sweep(tiny, scheduler="none", **changes))]) == 2
    said = capsys.readouterr().err
    assert "all trials failed; trial 1: " in said and "the training loss is" in said


def write_other_ids(path: Path) -> None:
    """Semantic IDs of items that the toy data have not."""
    table = SemanticIDTable(("x1", "x2"), np.array([[0, 1], [1, 0]]), (2, 2))
    write_semantic_ids(path, table, {"made_by": "a test"})


def test_a_trial_is_the_run_of_its_settings(tiny: Tiny) -> None:
    """Without a scheduler the tested winner is what `run` gives, also for a model of RecBole's."""
    changes: dict[str, Any] = {
        "model": "SASRec",
        "space": {"hidden_dropout_prob": {"choice": [0.1, 0.4]}},
        "scheduler": "none",
        "baseline": True,
    }
    console = Console(file=io.StringIO(), width=200)
    result = sweep(toy_plan(tiny, **changes), console)
    assert "3 trials planned (2 samples + the baseline)" in console.file.getvalue()  # no grid
    settings = load_yaml("saved/tune/s/best.yaml") | {"checkpoint_dir": "alone", "use_gpu": False}
    alone = run_model(build_config("SASRec", "toy", settings=settings), Console(quiet=True))
    assert (alone.valid, alone.test) == (result.valid, result.test)
    assert Path(alone.folder).name == Path(result.folder).name


def schedule(**changes: Any) -> Schedule:
    values: dict[str, Any] = {
        "n_cpus": 1, "n_gpus": 0.0, "max_concurrent": None, "max_failures": 1, "asha": True,
        "grace": 1, "reduction": 2, "n_evaluations": 4,
    }  # fmt: skip
    return Schedule(**{**values, **changes})


def test_asha_by_hand() -> None:
    """Rungs 1, 2 and 4, halving: who is below the median of a rung stops there."""
    asha = ResumableASHA(schedule())
    seen = []
    for number, values in enumerate([[0.5, 0.5, 0.5, 0.5], [0.1], [0.6, 0.4], [0.55, 0.7]], 1):
        asha.add(number)
        for evaluation, valid in enumerate(values, 1):
            seen.append((number, evaluation, asha.decide(number, evaluation, valid)))
    stops = [(number, evaluation) for number, evaluation, word in seen if word == "STOP"]
    assert stops == [(1, 4), (2, 1), (3, 2)]
    assert asha.stopped == {2, 3}  # the first one came to its end


def test_asha_after_a_replay_decides_as_before() -> None:
    history = [
        (number, {"evaluation": evaluation, "valid": valid})
        for number, evaluation, valid in [
            (1, 1, 0.5), (2, 1, 0.6), (1, 2, 0.5), (3, 1, 0.1), (2, 2, 0.8), (4, 1, 0.7),
        ]
    ]  # fmt: skip
    for cut in range(len(history) + 1):
        asha = ResumableASHA(schedule())
        asha.replay(history[:cut])
        asha.replay(history[:cut])  # what a trial that goes on reports again
        asha.replay(history[cut:])
        assert asha.stopped == {3}
        assert [sorted(rung.values()) for _, rung in asha._brackets[0]._rungs] == [
            [], [0.5, 0.8], [0.1, 0.5, 0.6, 0.7],
        ]  # fmt: skip


def test_a_stop_that_was_not_written_down_is_found_again(tmp_path: Path) -> None:
    ended: list[tuple[int, bool]] = []

    class Listener:
        def started(self, number: int) -> None: ...
        def reported(self, number: int, report: dict[str, Any]) -> None: ...
        def failed(self, number: int, fault: str) -> None: ...
        def ended(self, number: int, stopped: bool) -> None:
            ended.append((number, stopped))

    history = [(1, {"evaluation": 1, "valid": 0.5}), (2, {"evaluation": 1, "valid": 0.1})]
    run_trials(lambda *_: None, [2], schedule(), history, tmp_path / "ray", Listener())
    assert ended == [(2, True)]


def test_two_drivers_do_not_share_a_folder(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    exclusive = sweep_module.exclusive
    monkeypatch.setattr(sweep_module, "exclusive", lambda path, wait_s: exclusive(path, 0.1))
    plan = toy_plan(tiny)
    with exclusive(plan.folder / "lock"), pytest.raises(InputError, match="another process"):
        sweep(plan, Console(quiet=True))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "TIGER", "data_path": "bare"}, "toy.semid: no such file; TIGER reads it"),
        ({"model": "SASRecContent"}, "item_vectors: SASRecContent needs at least one table"),
    ],
)
def test_what_no_trial_can_do_is_said_before_ray_starts(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(sweep_module, "_open_experiment", None)
    (tiny.root / "bare" / "toy").mkdir(parents=True)
    shutil.copy(tiny.folder / "toy.inter", tiny.root / "bare" / "toy")
    plan = toy_plan(tiny, **{"space": {"learning_rate": {"loguniform": [1e-4, 1e-2]}}, **changes})
    with pytest.raises(InputError, match=said):
        sweep(plan, Console(quiet=True))
    assert not plan.folder.exists()


def test_a_model_that_cannot_be_built_is_said_before_ray_starts(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "_open_experiment", None)
    plan = toy_plan(tiny, space={"learning_rate": {"loguniform": [1e-4, 1e-2]}})
    plan.base.update(
        use_content=True, item_representation="flatten", item_vectors=tiny.item_vectors()
    )
    said = r"^trial 1 \(learning_rate=.*\): use_content: a vector cannot be added"
    with pytest.raises(InputError, match=said):
        sweep(plan, Console(quiet=True))
    assert not plan.folder.exists()
    # If a model of the sweep can be built, the others are failed trials.
    plan.trials[-1]["item_representation"] = "compose"
    sweep_module._check_buildable(plan)


def test_a_winner_that_the_scheduler_stopped_is_no_run_of_its_settings(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are tested in a folder of their own; `run` trains the settings to the end."""
    monkeypatch.setattr(
        sweep_module, "best_trial", lambda trials: next(t for t in trials if t.state == "stopped")
    )
    assert main(["tune", str(write_sweep(tiny))]) == 0
    (result,) = read_results("saved/results.jsonl")
    assert result.epochs < result.max_epochs and result.folder.endswith("-trial")
    assert main(["tune", str(write_sweep(tiny)), "--resume"]) == 0
    assert read_results("saved/results.jsonl") == [result]
    best = tiny.root / "saved" / "tune" / "s" / "best.yaml"
    assert main(["run", f"--config_files={best}", "--use_gpu=False"]) == 0
    _, whole = read_results("saved/results.jsonl")
    assert whole.epochs == whole.max_epochs and f"{whole.folder}-trial" == result.folder
