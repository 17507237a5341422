"""Results folders made by hand: runs with ranks and curves, and sweeps, through the writers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert.common.files import write_json
from recbole_qbert.evaluation.ranking import Lists, Ranks, save_ranks, summarize
from recbole_qbert.evaluation.results import RunResult, append_result
from recbole_qbert.experiments.tune.report import Length, write_csv
from recbole_qbert.experiments.tune.sweep import TRIALS_CSV
from recbole_qbert.experiments.tune.trial_log import EXPERIMENT, Trial

# Of four users: the target's id, and how many items stand before it; how often items occur.
TARGETS, HISTORY = [1, 2, 3, 4], [3, 6, 11, 25]
COUNTS = np.array([0, 0, 5, 6, 30, 1])


def add_run(
    base: Path,
    ranks: Sequence[int],
    model: str = "SASRec",
    seed: int = 1,
    unseen: Sequence[int] = (),
    keys: Mapping[str, Any] | None = None,
    dataset: str = "toy",
    curve: Sequence[float] = (0.1, 0.3, 0.2),
    users: Sequence[int] = (1, 2, 3, 4),
    **more: Any,
) -> RunResult:
    """One line of `<base>/results.jsonl` and its folder: ranks of four users, a curve on valid.

    Args:
        base: the `checkpoint_dir`.
        ranks: of the four targets among all items.
        model, seed, dataset: of the run.
        unseen: ranks among unseen items; those among all where none are given.
        keys: settings besides the metrics'.
        curve: ndcg@10 on valid, one an epoch of two seconds.
        users: of the four targets.
        more: other fields of the result.
    """
    settings = {"metrics": ["Hit", "NDCG"], "topk": [1, 5, 10], "seed": seed, **(keys or {})}
    name = "-".join(f"{key}{value}" for key, value in (keys or {}).items())
    folder = base / dataset / f"{model}-seed{seed}-{name}"
    folder.mkdir(parents=True)
    shown = np.zeros((4, 10), dtype=int)
    shown[:, 0] = ranks
    lists = Lists(np.array(TARGETS), np.array(HISTORY), shown, np.ones_like(shown))
    found = Ranks(np.array(users), np.array(ranks), np.array(unseen or ranks), lists)
    save_ranks(folder / "test_ranks.npz", found, COUNTS)
    metrics = summarize(found, ["Hit", "NDCG"], [1, 5, 10])
    points = [
        {"epoch": epoch, "seconds": 2.0 * (epoch + 1), "ndcg@10": value, "unseen_ndcg@10": value}
        for epoch, value in enumerate(curve)
    ]
    write_json(folder / f"{model}.curve.json", {"valid_metric": "ndcg@10", "curve": points})
    result = RunResult(
        model=model,
        dataset=dataset,
        seed=seed,
        valid={key: value / 2 for key, value in metrics.items()},
        test=metrics,
        valid_metric="ndcg@10",
        exclude_visible=False,
        loss="CE",
        best_epoch=1,
        epochs=3,
        max_epochs=9,
        seconds=6.0,
        test_seconds=1.0,
        n_parameters=1234,
        peak_memory_mb=100.0,
        counts={"test rows": 4, "items": 5},
        data_sha256={f"{dataset}.inter": "a"},
        config={"keys": settings},
        config_files=[],
        versions={},
        device="cpu",
        threads=1,
        bundle="",
        folder=str(folder),
    )
    result = dataclasses.replace(result, **more)
    append_result(base / "results.jsonl", result)
    return result


def add_sweep(
    folder: Path,
    space: Mapping[str, Any],
    tried: Sequence[tuple[Mapping[str, Any], float | None, str]],
    model: str = "QBERT4Rec",
) -> Path:
    """A sweep's `experiment.json` and `trials.csv`; a trial is what it drew, its value, its state.

    A trial with None reported nothing.
    """
    trials = []
    for number, (values, best, state) in enumerate(tried, start=1):
        report = {"best_valid": best, "best_epoch": 1, "epoch": 3, "seconds": 2.5}
        reports = [] if best is None else [report]
        trials.append(Trial(number, dict(values), reports, state))
    content = {
        "model": model,
        "dataset": "toy",
        "valid_metric": "NDCG@10",
        "space": dict(space),
        "trials": [trial.values for trial in trials],
    }
    write_json(folder / EXPERIMENT, content)
    write_csv(folder / TRIALS_CSV, trials, list(space), Length(4, 4))
    return folder
