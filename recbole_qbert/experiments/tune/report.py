"""Output of a sweep: its trial log, a line per event, the final table and `trials.csv`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console

from recbole_qbert.common.files import atomic_write, read_json
from recbole_qbert.common.output import duration, time_left
from recbole_qbert.evaluation.results import metric_title
from recbole_qbert.experiments.benchmark.tables import BenchmarkTable, TableCell
from recbole_qbert.experiments.tune.settings import describe, short
from recbole_qbert.experiments.tune.trial_log import (
    FAILED,
    FAULT,
    FINISHED,
    REPORTS,
    RUNNING,
    STOPPED,
    WAITING,
    Report,
    Trial,
    TrialLog,
    trial_folder,
)

TRIALS_CSV = "trials.csv"
COLUMNS = ("best_valid", "best_epoch", "epochs", "max_epochs", "stopped_early", "seconds", "fault")


class Length(NamedTuple):
    """Maximum length of a trial."""

    epochs: int
    evaluations: int

    def stopped_early(self, trial: Trial) -> bool:
        """Whether early stopping ended a trial before its last evaluation."""
        return trial.state == FINISHED and len(trial.reports) < self.evaluations

    def epochs_of(self, trial: Trial) -> str:
        """Trained epochs, such as `12 of 24`; empty before the first evaluation."""
        return f"{trial.reports[-1]['epoch'] + 1} of {self.epochs}" if trial.reports else ""

    def state_of(self, trial: Trial) -> str:
        """State of a trial as printed."""
        by = " by ASHA" if trial.state == STOPPED else ""
        return trial.state + by + ", stopped early" * self.stopped_early(trial)


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """Find the trial with the best valid value over all its evaluations; ties go to the first.

    Failed trials are left out, since a run with their settings would fail too.
    """
    scored = [each for each in trials if each.state != FAILED and each.best is not None]
    return max(scored, key=lambda each: (each.best or 0.0, -each.number), default=None)


def write_csv(path: Path, trials: Sequence[Trial], keys: Sequence[str], length: Length) -> None:
    """Write one row per trial: number, state, drawn values and results. Epochs count from 1."""
    rows: list[list[Any]] = []
    for trial in trials:
        cells: list[Any] = [""] * (len(COLUMNS) - 1)
        if trial.reports:
            last = trial.reports[-1]
            cells = [last["best_valid"], last["best_epoch"] + 1, last["epoch"] + 1, length.epochs]
            cells += ["yes" if length.stopped_early(trial) else "no", round(last["seconds"], 1)]
        drawn = [trial.values[key] for key in keys]
        rows.append([trial.number, trial.state, *drawn, *cells, trial.fault])
    table = pd.DataFrame(rows, columns=["trial", "state", *keys, *COLUMNS], dtype=object)
    with atomic_write(path) as handle:
        table.to_csv(handle, index=False, lineterminator="\n")


def trials_table(
    trials: Sequence[Trial], keys: Sequence[str], metric: str, length: Length
) -> BenchmarkTable:
    """Table of all trials, with a star at the best one."""
    best = best_trial(trials)
    rows = [
        [
            str(trial.number),
            length.state_of(trial),
            *(short(trial.values[key]) for key in keys),
            length.epochs_of(trial),
            "" if trial.best is None else f"{trial.best:.4f}{'*' if trial is best else ' '}",
        ]
        for trial in trials
    ]
    head = ("trial", "state", *keys, "epochs", f"best valid {metric_title(metric)}")
    lines = [[*map(TableCell, row)] for row in rows]
    return BenchmarkTable("Trials", head, [("", lines)], n_names=2)


class Recorder:
    """Listener that logs the events of trials, prints a line per event, and writes `trials.csv`.

    The printed time left is an upper bound, because trials may stop early. It is estimated from the
    evaluations since the start.
    """

    def __init__(
        self,
        folder: Path,
        trials: Sequence[Trial],
        keys: Sequence[str],
        metric: str,
        length: Length,
        console: Console,
        now: Callable[[], float] = time.monotonic,
    ):
        self.trials, self.keys, self.metric, self.length = trials, keys, metric, length
        self._folder, self._log, self._console = folder, TrialLog(folder / REPORTS), console
        self._now, self._started, self._n_reports = now, now(), 0
        self._has_begun = False

    def started(self, number: int) -> None:
        """Mark a trial as running; it may resume an earlier process."""
        if not self._has_begun:  # the time that Ray needs to start is not part of the estimate
            self._started, self._has_begun = self._now(), True
        trial = self.trials[number - 1]
        again = trial.state == RUNNING or bool(trial.reports)
        trial.state = RUNNING
        self._print(trial, describe(trial.values) + "  resumed" * again)

    def reported(self, number: int, report: Report) -> None:
        """Log an evaluation, unless a resumed trial repeats it."""
        trial = self.trials[number - 1]
        if report["evaluation"] != len(trial.reports) + 1:
            return
        self._log.append({"trial": number, **report})
        trial.reports.append(report)
        self._n_reports += 1
        mark = "*" if report["valid"] >= report["best_valid"] else " "
        self._print(
            trial,
            f"epoch {report['epoch'] + 1:>3}  valid {metric_title(self.metric)} "
            f"{report['valid']:.4f}{mark}  "
            f"{duration(report['seconds'])}{time_left(self.seconds_left())}",
        )

    def ended(self, number: int, stopped: bool) -> None:
        """Log the end of a trial; its process may have written the reason of a failure."""
        fault = trial_folder(self._folder, number) / FAULT
        if fault.is_file():
            self.failed(number, read_json(fault)["fault"])
        else:
            self._end(number, STOPPED if stopped else FINISHED, "")

    def failed(self, number: int, fault: str) -> None:
        """Log a failed trial."""
        self._end(number, FAILED, fault)

    def _end(self, number: int, state: str, fault: str) -> None:
        trial = self.trials[number - 1]
        trial.state, trial.fault = state, fault
        self._log.append({"trial": number, "state": state, "fault": fault})
        self.write_csv()
        parts = [self.length.state_of(trial)]
        if trial.best is not None:
            parts.append(f"{self.length.epochs_of(trial)} epochs")
            parts.append(f"best valid {metric_title(self.metric)} {trial.best:.4f}")
        self._print(trial, "  ".join([*parts, *[fault] * bool(fault)]))

    def seconds_left(self) -> float:
        """Upper bound of the seconds left, after at least one evaluation."""
        open_trials = [each for each in self.trials if each.state in (WAITING, RUNNING)]
        n_left = sum(self.length.evaluations - len(each.reports) for each in open_trials)
        return (self._now() - self._started) / self._n_reports * n_left

    def write_csv(self) -> None:
        """Write `trials.csv` in the sweep's folder."""
        write_csv(self._folder / TRIALS_CSV, self.trials, self.keys, self.length)

    def _print(self, trial: Trial, text: str) -> None:
        head = f"trial {trial.number}/{len(self.trials)}  {text}"
        self._console.print(head, highlight=False, soft_wrap=True, markup=False)
