"""One trial: trains with its drawn settings and reports on valid. It has no access to test.

A trial runs in a separate process. Its state is saved after each evaluation, so that the trial can
resume after its process or the driver was killed. A resumed trial sends its earlier reports again.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import exclusive, read_json, write_json
from recbole_qbert.common.process import flush_denormals, quiet_recbole
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import build_config
from recbole_qbert.experiments.run import prepare, train
from recbole_qbert.experiments.tune.settings import of_trial
from recbole_qbert.experiments.tune.trial_log import (
    EXPERIMENT,
    FAULT,
    TRIAL_YAML,
    Report,
    trial_folder,
)
from recbole_qbert.training.inputs import check_inputs
from recbole_qbert.training.learning_curve import best_evaluation
from recbole_qbert.training.run_identity import LOCK


class TrialJob(NamedTuple):
    """Arguments that all trials of a sweep share."""

    folder: str  # absolute path of the sweep's folder, equal on all machines
    identity: str  # random identifier of the sweep, to recognize its folder
    data_path: str  # folder that holds the data set's folder
    n_threads: int  # number of PyTorch threads
    gpu: bool  # whether Ray assigns a GPU, or a share of one, to the trial


def run_trial(job: TrialJob, number: int, report: Callable[[Report], None]) -> None:
    """Train trial `number` to its end, or until the scheduler ends the process in `report`.

    An `InputError` of the training is written to `fault.json`. The process does not fail then, so
    that Ray does not repeat the trial.

    Raises:
        InputError: this machine cannot access the sweep's folder or the data.
    """
    sys.argv = sys.argv[:1]  # RecBole would parse Ray's flags
    check_sight(job)
    folder = trial_folder(job.folder, number)
    with exclusive(folder / LOCK):
        try:
            train_trial(job, number, report)
        except InputError as error:
            write_json(folder / FAULT, {"fault": str(error)})


def check_sight(job: TrialJob) -> None:
    """Check that this machine can access the sweep's folder and the data.

    Raises:
        InputError: names the machine and the folder that it cannot access.
    """
    machine = platform.node()
    try:
        identity = read_json(Path(job.folder) / EXPERIMENT).get("identity")
    except InputError:
        identity = None
    if identity != job.identity:
        raise InputError(
            f"{machine} cannot access {job.folder}: checkpoint_dir must be one folder that all "
            f"machines of the cluster share"
        )
    if not Path(job.data_path).is_dir():
        raise InputError(
            f"{machine} cannot access {job.data_path}: data_path must be shared, or copied to the "
            f"same path on every machine of the cluster"
        )


def train_trial(job: TrialJob, number: int, report: Callable[[Report], None]) -> None:
    """Train with the settings of `trial.yaml`, after a check that the input files are unchanged.

    Raises:
        InputError: settings or files cannot be used, or an input file has changed.
    """
    folder = trial_folder(job.folder, number)
    torch.set_num_threads(job.n_threads)
    flush_denormals()
    quiet_recbole()
    settings = load_yaml(folder / TRIAL_YAML)
    own: dict[str, Any] = {
        "checkpoint_dir": str(folder),
        "resume": True,
        "show_progress": False,
        "use_gpu": job.gpu,
    }
    if job.gpu:
        own["gpu_id"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    config = build_config(settings["model"], settings["dataset"], [folder / TRIAL_YAML], own)
    training = prepare(config, Console(quiet=True))
    # A trial must not use test.
    training = training._replace(splits=training.splits._replace(test=None))
    trainer = training.trainer
    known = read_json(Path(job.folder) / EXPERIMENT).get("data_sha256", {})
    own = {name: known.get(of_trial(number, name), known.get(name)) for name in trainer.inputs}
    check_inputs(job.folder, own, trainer.inputs, "start a new sweep with another --name")

    def report_last(epoch: int, score: float) -> None:
        report(report_of(trainer.curve, trainer.valid_metric))

    for n_evaluations in range(1, len(trainer.curve) + 1):
        report(report_of(trainer.curve[:n_evaluations], trainer.valid_metric))
    train(training, report_last)


def report_of(curve: list[dict[str, float]], metric: str) -> Report:
    """Make the report of the last evaluation from a learning curve on valid."""
    best, best_epoch = best_evaluation(curve, metric)
    return {
        "evaluation": len(curve),
        "epoch": int(curve[-1]["epoch"]),
        "valid": curve[-1][metric],
        "best_valid": best,
        "best_epoch": best_epoch,
        "seconds": curve[-1]["seconds"],
    }
