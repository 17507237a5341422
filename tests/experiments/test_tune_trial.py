"""One trial: what it reports, how it goes on, and that test is out of its reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny
from recbole.trainer import Trainer
from rich.console import Console
from tune_toy import SETTINGS, toy_plan

import recbole_qbert.experiments.run
import recbole_qbert.training.trainer
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.experiments.tune.settings import write_yaml
from recbole_qbert.experiments.tune.trial import TrialJob, report_of, run_trial
from recbole_qbert.experiments.tune.trial_log import EXPERIMENT, FAULT, TRIAL_YAML, trial_folder
from recbole_qbert.training.trainer import ResumableTrainer

REPORTED = {"evaluation", "epoch", "valid", "best_valid", "best_epoch", "seconds"}


class Killed(Exception):
    """Stands for a kill at the moment it is raised."""


def begin(tiny: Tiny, name: str = "s", **changes: Any) -> TrialJob:
    """An experiment's folder with the first trial of the toy sweep in it."""
    plan = toy_plan(tiny, name=name, **changes)
    write_yaml(trial_folder(plan.folder, 1) / TRIAL_YAML, plan.trial_settings(1))
    hashes = {name: sha256_file(path) for name, path in plan.files.items()}
    write_json(plan.folder / EXPERIMENT, {"identity": "mine", "data_sha256": hashes})
    return TrialJob(str(plan.folder), "mine", str(tiny.root), 1, False)


def run(job: TrialJob, n_reports: int | None = None) -> list[dict[str, Any]]:
    """All reports, or those until the process is killed in the n-th."""
    reports: list[dict[str, Any]] = []

    def report(content: dict[str, Any]) -> None:
        if len(reports) == n_reports:
            raise Killed
        reports.append(content)

    try:
        run_trial(job, 1, report)
    except Killed:
        assert n_reports is not None
    return reports


def without_seconds(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in each.items() if key != "seconds"} for each in reports]


def test_reports_are_those_of_the_learning_curve(tiny: Tiny) -> None:
    job = begin(tiny)
    reports = run(job)
    folder = trial_folder(job.folder, 1)
    curve = json.loads((folder / "QBERT4Rec.curve.json").read_text())["curve"]
    assert [each["valid"] for each in reports] == [row["ndcg@10"] for row in curve]
    assert [each["evaluation"] for each in reports] == [1, 2, 3, 4]
    assert [each["best_valid"] for each in reports] == [
        max(row["ndcg@10"] for row in curve[: place + 1]) for place in range(4)
    ]
    assert not (folder / FAULT).exists()
    assert not (folder / "test_ranks.npz").exists()


def test_of_equal_epochs_the_last_is_the_best() -> None:
    curve = [{"epoch": float(n), "m": m, "seconds": n} for n, m in enumerate([0.1, 0.3, 0.3, 0.2])]
    report = report_of(curve, "m")
    assert (report["best_valid"], report["best_epoch"], report["valid"]) == (0.3, 2, 0.2)
    assert report.keys() == REPORTED


@pytest.mark.parametrize("n_reports", [0, 1, 3])
def test_a_killed_trial_goes_on_and_reports_the_same(tiny: Tiny, n_reports: int) -> None:
    """Killed in a report, with its state on the disk: that report, too, comes again."""
    unbroken = run(begin(tiny, "unbroken"))
    job = begin(tiny)
    assert len(run(job, n_reports)) == n_reports
    last = trial_folder(job.folder, 1) / "QBERT4Rec.last.safetensors"
    assert last.is_file()
    assert without_seconds(run(job)) == without_seconds(unbroken)
    assert without_seconds(run(job)) == without_seconds(unbroken)  # finished: nothing is trained


def guard_test(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Any ranking of the test rows is an error. Returns the loaders that were ranked."""
    tests: list[Any] = []
    ranked: list[Any] = []
    load_splits = recbole_qbert.experiments.run.load_splits

    def load_and_remember(config: Any) -> Any:
        splits = load_splits(config)
        tests.append(splits.test)
        return splits

    def check(loader: Any) -> None:
        assert tests
        for test in tests:
            assert loader is not test and loader._dataset is not test._dataset, "test was ranked"
        ranked.append(loader)

    for cls in (ResumableTrainer, Trainer):

        def evaluate(self: Any, loader: Any, *rest: Any, _call: Any = cls.evaluate, **more: Any):  # type: ignore[no-untyped-def]
            check(loader)
            return _call(self, loader, *rest, **more)

        monkeypatch.setattr(cls, "evaluate", evaluate)
    rank_targets = recbole_qbert.training.trainer.rank_targets

    def rank(model: Any, loader: Any, *rest: Any) -> Any:
        check(loader)
        return rank_targets(model, loader, *rest)

    monkeypatch.setattr(recbole_qbert.training.trainer, "rank_targets", rank)
    monkeypatch.setattr(recbole_qbert.experiments.run, "load_splits", load_and_remember)
    return ranked


@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec"])
def test_a_trial_never_ranks_test(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Nor reports anything but valid; the same guard refuses a run that tests."""
    ranked = guard_test(monkeypatch)
    reports = run(begin(tiny, model=model))
    assert len(reports) == 4 and len(ranked) >= 4
    assert all(each.keys() == REPORTED for each in reports)
    job = begin(tiny, "again", model=model)
    config = tiny.make_config(model, checkpoint_dir=job.folder)
    training = recbole_qbert.experiments.run.prepare(config, Console(quiet=True))
    recbole_qbert.experiments.run.train(training, lambda epoch, score: None)
    with pytest.raises(AssertionError, match="test was ranked"):
        recbole_qbert.experiments.run.publish(training, Path(job.folder), [])


def test_a_trial_of_s3rec_pretrains_by_its_own_settings(tiny: Tiny) -> None:
    """Killed in its second report, it fine-tunes on from there."""
    settings = {"item_attribute": "semantic_id", "pretrain_epochs": 2}
    changes = {"model": "S3Rec", "space": {"n_layers": {"grid": [1]}}, "trials": 1}
    unbroken = run(begin(tiny, "unbroken", settings=SETTINGS | settings, **changes))
    job = begin(tiny, settings=SETTINGS | settings, **changes)
    assert len(run(job, 1)) == 1
    first = trial_folder(job.folder, 1) / "pretrain" / "S3Rec.safetensors"
    written = first.stat().st_mtime_ns
    assert without_seconds(run(job)) == without_seconds(unbroken)
    assert len(unbroken) == 4
    assert first.stat().st_mtime_ns == written


def test_what_the_settings_cause_is_a_fault_and_no_crash(tiny: Tiny) -> None:
    # The weights grow by a factor of 19 a step, beyond what a float holds.
    wild = {"learner": "sgd", "weight_decay": 10.0, "train_batch_size": 1}
    job = begin(tiny, settings=wild, space={"learning_rate": {"choice": [2.0]}})
    assert run(job) == []
    fault = read_json(trial_folder(job.folder, 1) / FAULT)["fault"]
    assert "lower learning_rate" in fault


def test_what_a_machine_does_not_see(tiny: Tiny) -> None:
    job = begin(tiny)
    other = TrialJob(job.folder, "theirs", job.data_path, 1, False)
    with pytest.raises(InputError, match="checkpoint_dir must be one folder that all machines"):
        run(other)
    absent = TrialJob(job.folder, "mine", str(tiny.root / "absent"), 1, False)
    with pytest.raises(InputError, match="absent: data_path must be shared"):
        run(absent)
    nowhere = TrialJob(str(tiny.root / "nowhere"), "mine", job.data_path, 1, False)
    with pytest.raises(InputError, match="cannot access .*nowhere"):
        run(nowhere)


def test_a_gpu_is_the_one_that_ray_gave(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """And PyTorch gets the trial's threads."""
    seen: dict[str, Any] = {}

    def prepare(config: Any, console: Any) -> Any:
        seen.update(
            gpu_id=config["gpu_id"], threads=recbole_qbert.training.trainer.torch.get_num_threads()
        )
        raise InputError("seen")

    monkeypatch.setattr("recbole_qbert.experiments.tune.trial.prepare", prepare)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    job = begin(tiny)
    run(TrialJob(job.folder, "mine", job.data_path, 2, True))
    recbole_qbert.training.trainer.torch.set_num_threads(1)
    assert (str(seen["gpu_id"]), seen["threads"]) == ("3", 2)
    run(job)
    assert (str(seen["gpu_id"]), seen["threads"]) == ("", 1)
