"""The trial log of a sweep, which survives a kill at any moment. Files of the sweep's folder:

experiment.json   definition of the sweep: space, drawn trials, seeds, versions, data hashes
reports.jsonl     the trial log: one line per evaluation or end of a trial, in order of arrival
trials/001/       one trial: trial.yaml, checkpoints, learning curve; fault.json if it failed
trials.csv        one row per trial
best.yaml         settings of the best trial, for `run --config_files=best.yaml`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import append_line, read_line

EXPERIMENT, REPORTS = "experiment.json", "reports.jsonl"
FAULT, TRIAL_YAML = "fault.json", "trial.yaml"
WAITING, RUNNING = "waiting", "running"
# FINISHED: trained to the last epoch or to early stopping. STOPPED: stopped by the scheduler.
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
Report = dict[str, Any]


@dataclass
class Trial:
    """State of one trial.

    It has one report per evaluation on valid, with the keys evaluation (from 1), epoch (from 0),
    valid, best_valid, best_epoch (from 0) and seconds.
    """

    number: int  # from 1
    values: dict[str, Any]  # drawn values
    reports: list[Report] = field(default_factory=list)
    state: str = WAITING
    fault: str = ""  # one-line error message of a failed trial

    @property
    def best(self) -> float | None:
        """Best value of the valid metric so far; None before the first evaluation."""
        return float(self.reports[-1]["best_valid"]) if self.reports else None

    @property
    def is_done(self) -> bool:
        """Whether the trial needs no more training; `--resume` repeats a failed trial."""
        return self.state in (FINISHED, STOPPED)


def trial_folder(experiment: str | Path, number: int) -> Path:
    """Folder of a trial, such as `trials/007`."""
    return Path(experiment) / "trials" / f"{number:03d}"


class TrialLog:
    """Append-only log of the reports and ends of trials.

    A kill can only truncate the last line. A truncated line is dropped; its trial sends the report
    again when it resumes.
    """

    def __init__(self, path: Path):
        self.path = path
        content = path.read_bytes() if path.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with open(path, "r+b") as handle:
                handle.truncate(whole)

    def append(self, line: Report) -> None:
        """Append a line in one write, and flush it to disk."""
        append_line(self.path, line)

    def lines(self) -> list[Report]:
        """Read all lines.

        Raises:
            InputError: a line is damaged.
        """
        content = self.path.read_bytes() if self.path.is_file() else b""
        lines = []
        for number, text in enumerate(content.splitlines(), start=1):
            try:
                lines.append(read_line(text))
            except ValueError:
                raise InputError(f"{self.path}:{number}: damaged line; delete it") from None
        return lines

    def replay(self, trials: dict[int, Trial]) -> list[tuple[int, Report]]:
        """Restore the states of trials from the log.

        Args:
            trials: trials by number; updated in place.

        Returns:
            Trial number and report of each evaluation, in order of arrival.
        """
        history = []
        for line in self.lines():
            trial = trials[line.pop("trial")]
            if "state" in line:
                trial.state, trial.fault = line["state"], line["fault"]
            elif line["evaluation"] == len(trial.reports) + 1:
                trial.reports.append(line)
                history.append((trial.number, line))
        return history
