"""Output of a sweep: a live table on a terminal, otherwise a line per event; and `trials.csv`."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from recbole_qbert.common.files import atomic_write
from recbole_qbert.experiments.tune.settings import describe, short
from recbole_qbert.experiments.tune.trial_log import (
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    Trial,
)

COLUMNS = ("best_valid", "best_epoch", "epochs", "max_epochs", "stopped_early", "seconds", "fault")
SECONDS_A_REFRESH = 0.5


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
    with atomic_write(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["trial", "state", *keys, *COLUMNS])
        for trial in trials:
            last = trial.reports[-1] if trial.reports else None
            cells: list[Any] = [""] * (len(COLUMNS) - 1)
            if last is not None:
                cells = [last["best_valid"], last["best_epoch"] + 1, last["epoch"] + 1]
                cells += [length.epochs, "yes" if length.stopped_early(trial) else "no"]
                cells.append(round(last["seconds"], 1))
            drawn = [trial.values[key] for key in keys]
            writer.writerow([trial.number, trial.state, *drawn, *cells, trial.fault])


def trials_table(
    trials: Sequence[Trial],
    keys: Sequence[str],
    metric: str,
    length: Length,
    n_rows: int | None = None,
) -> Table:
    """Table of all trials. If there are more than `n_rows`, it shows the running and best ones."""
    best = best_trial(trials)
    shown = list(trials)
    if n_rows is not None and len(shown) > n_rows:
        order = sorted(
            trials, key=lambda each: (each.state != RUNNING, -(each.best or -1.0), each.number)
        )
        shown = sorted(order[: max(1, n_rows)], key=lambda each: each.number)
    table = Table(caption=f"{len(shown)} of {len(trials)} trials" * (len(shown) < len(trials)))
    for column in ("trial", *keys, "epochs", f"best valid {metric}"):
        table.add_column(column, justify="right", overflow="fold")
    table.add_column("state")
    for trial in shown:
        table.add_row(
            str(trial.number),
            *(escape(short(trial.values[key])) for key in keys),
            length.epochs_of(trial),
            f"{trial.best:.4f}{'*' if trial is best else ' '}" if trial.best is not None else "",
            length.state_of(trial),
        )
    return table


class Clock:
    """Estimate of the time left, from the evaluations since the start."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._started = now()
        self._n_seen = 0

    def tick(self) -> None:
        """Count one evaluation."""
        self._n_seen += 1

    def left(self, trials: Iterable[Trial], n_evaluations: int) -> float | None:
        """Upper bound of the seconds left (trials may stop early); None before any evaluation."""
        if not self._n_seen:
            return None
        n_left = sum(
            n_evaluations - len(each.reports) for each in trials if each.state in (WAITING, RUNNING)
        )
        return (self._now() - self._started) / self._n_seen * n_left


def duration(seconds: float) -> str:
    """Format as `1 h 05 min`, `12 min` or `40 s`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"


class Display:
    """Progress of the trials: a live table on a terminal, otherwise a line per event."""

    def __init__(
        self,
        console: Console,
        trials: Sequence[Trial],
        keys: Sequence[str],
        metric: str,
        length: Length,
    ):
        self._console, self._trials, self._keys = console, trials, keys
        self._metric, self._length = metric, length
        self._clock = Clock()
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=1 / SECONDS_A_REFRESH, transient=True
            )
            self._live.start()
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def _draw(self) -> None:
        if self._live is not None:
            rows = max(3, self._console.height - 8)
            table = trials_table(self._trials, self._keys, self._metric, self._length, rows)
            table.title = self._left()
            self._live.update(table)

    def _left(self) -> str:
        left = self._clock.left(self._trials, self._length.evaluations)
        return "" if left is None else f"at most {duration(left)} left"

    def _line(self, trial: Trial, text: str) -> None:
        if self._live is None:
            head = f"trial {trial.number}/{len(self._trials)}  {text}"
            self._console.print(head, highlight=False, soft_wrap=True, markup=False)

    def started(self, trial: Trial, again: bool) -> None:
        """Show that a process started or resumed the trial."""
        self._line(trial, describe(trial.values) + ("  goes on" if again else ""))
        self._draw()

    def reported(self, trial: Trial) -> None:
        """Show the trial's last evaluation."""
        self._clock.tick()
        last = trial.reports[-1]
        mark = "*" if last["valid"] >= last["best_valid"] else " "
        self._line(
            trial,
            f"epoch {last['epoch'] + 1:>3}  valid {self._metric} {last['valid']:.4f}{mark}  "
            f"{last['seconds']:.0f} s, {self._left()}",
        )
        self._draw()

    def ended(self, trial: Trial) -> None:
        """Show the end of a trial that finished, was stopped or failed."""
        state, fault = self._length.state_of(trial), f"  {trial.fault}" if trial.fault else ""
        best = ""
        if trial.best is not None:
            epochs = self._length.epochs_of(trial)
            best = f"  {epochs} epochs  best valid {self._metric} {trial.best:.4f}"
        self._line(trial, f"{state}{best}{fault}")
        self._draw()
