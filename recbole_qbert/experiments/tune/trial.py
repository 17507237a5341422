"""One trial: trains with its drawn settings, reports on valid, and never looks at test.

It runs in a process of its own. Its folder keeps the state after each evaluation, so that a trial
whose process or driver was killed goes on from there; it then reports again what it had reported.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import exclusive, read_json, write_json
from recbole_qbert.common.process import flush_denormals, quiet_recbole
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import build_config
from recbole_qbert.experiments.run import prepare, train
from recbole_qbert.experiments.tune.journal import (
    EXPERIMENT,
    FAULT,
    TRIAL_YAML,
    Report,
    trial_folder,
)
from recbole_qbert.experiments.tune.settings import of_trial
from recbole_qbert.training.inputs import check_inputs
from recbole_qbert.training.learning_curve import best_evaluation
from recbole_qbert.training.run_identity import LOCK


@dataclass(frozen=True)
class TrialJob:
    """What every trial's process is told.

    Attributes:
        folder: the experiment's, absolute, the same on all machines.
        identity: of the experiment, to know the folder by.
        data_path: folder of the data set's folder.
        n_threads: of PyTorch.
        gpu: whether Ray gives the trial a GPU or a share of one.
    """

    folder: str
    identity: str
    data_path: str
    n_threads: int
    gpu: bool


def run_trial(job: TrialJob, number: int, report: Callable[[Report], None]) -> None:
    """Train trial `number`, to its end or until `report` never returns.

    What the user's settings cause is written to `fault.json` and is no failure of the process, so
    that it is not tried again.

    Raises:
        InputError: this machine does not see the experiment or the data.
    """
    sys.argv = sys.argv[:1]  # the flags are Ray's, and RecBole would read them
    check_sight(job)
    folder = trial_folder(job.folder, number)
    with exclusive(folder / LOCK):
        try:
            train_trial(job, number, report)
        except InputError as error:
            write_json(folder / FAULT, {"fault": str(error)})


def check_sight(job: TrialJob) -> None:
    """This machine sees the very folder of the experiment, and the data.

    Raises:
        InputError: names the machine and what it does not see.
    """
    machine = platform.node()
    try:
        identity = read_json(Path(job.folder) / EXPERIMENT).get("identity")
    except InputError:
        identity = None
    if identity != job.identity:
        raise InputError(
            f"{machine} does not see {job.folder}: checkpoint_dir must be one folder that all "
            f"machines of the cluster share"
        )
    if not Path(job.data_path).is_dir():
        raise InputError(
            f"{machine} does not see {job.data_path}: data_path must be shared, or copied to the "
            f"same place on every machine of the cluster"
        )


def train_trial(job: TrialJob, number: int, report: Callable[[Report], None]) -> None:
    """The training itself; its settings are those of `trial.yaml`, its inputs the experiment's."""
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
    training = training._replace(splits=training.splits._replace(test=None))  # out of reach
    trainer = training.trainer
    known = read_json(Path(job.folder) / EXPERIMENT).get("data_sha256", {})
    own = {name: known.get(of_trial(number, name), known.get(name)) for name in trainer.inputs}
    check_inputs(job.folder, own, trainer.inputs, "start the sweep again with another --name")

    def report_last(epoch: int, score: float) -> None:
        report(report_of(trainer.curve, trainer.valid_metric))

    for n_evaluations in range(1, len(trainer.curve) + 1):
        report(report_of(trainer.curve[:n_evaluations], trainer.valid_metric))
    train(training, report_last)


def report_of(curve: list[dict[str, float]], metric: str) -> Report:
    """What the driver is told after an evaluation: all of it from valid."""
    best, best_epoch = best_evaluation(curve, metric)
    return {
        "evaluation": len(curve),
        "epoch": int(curve[-1]["epoch"]),
        "valid": curve[-1][metric],
        "best_valid": best,
        "best_epoch": best_epoch,
        "seconds": curve[-1]["seconds"],
    }
