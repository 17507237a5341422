"""The experiment's folder: what each trial reported and how it ended, safe against a kill.

experiment.json   what the sweep is: space, drawn trials, seeds, versions, data hashes
reports.jsonl     one line an evaluation or end of a trial, in the order in which they came
trials/001/       a trial: trial.yaml, checkpoints, learning curve; fault.json where it failed
trials.csv        a line a trial
best.yaml         settings of the best one, for `run --config_files=best.yaml`
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import append_line, read_line

EXPERIMENT, REPORTS, FAULT, TRIAL_YAML = (
    "experiment.json",
    "reports.jsonl",
    "fault.json",
    "trial.yaml",
)
WAITING, RUNNING = "waiting", "running"
# Finished: trained to its last epoch or to RecBole's early stopping; stopped: by the scheduler.
FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"
Report = dict[str, Any]


@dataclass
class Trial:
    """What is known of one trial.

    Attributes:
        number: counted from 1.
        values: what it draws.
        reports: one an evaluation on valid: evaluation (from 1), epoch (from 0), valid, best_valid,
            best_epoch, seconds.
        state: one of the five above.
        fault: one line, where it failed.
    """

    number: int
    values: dict[str, Any]
    reports: list[Report] = field(default_factory=list)
    state: str = WAITING
    fault: str = ""

    @property
    def best(self) -> float | None:
        """The best valid value so far."""
        return float(self.reports[-1]["best_valid"]) if self.reports else None

    @property
    def is_done(self) -> bool:
        """Whether it needs no more training; a failed one is tried again by `--resume`."""
        return self.state in (FINISHED, STOPPED)


def trial_folder(experiment: str | Path, number: int) -> Path:
    """`trials/007`."""
    return Path(experiment) / "trials" / f"{number:03d}"


class TrialLog:
    """Reports and ends of trials, appended as they come.

    A kill can tear the last line only; reading leaves a torn line out, and what it said comes again
    when the trial goes on.
    """

    def __init__(self, path: Path):
        self.path = path
        self._mend()

    def _mend(self) -> None:
        """Cut a torn last line off, or the next one would be glued to it."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with open(self.path, "r+b") as handle:
                handle.truncate(len(whole))

    def append(self, line: Report) -> None:
        """One write, on the disk before this returns."""
        append_line(self.path, line)

    def lines(self) -> list[Report]:
        """Everything so far.

        Raises:
            InputError: a line is broken or damaged.
        """
        if not self.path.is_file():
            return []
        lines = []
        for number, text in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                lines.append(read_line(text))
            except ValueError:
                raise InputError(f"{self.path}:{number}: broken; delete the line") from None
        return lines

    def replay(self, trials: dict[int, Trial]) -> list[tuple[int, Report]]:
        """Bring trials up to date.

        Returns:
            Number and report of every evaluation, in the order in which they came.
        """
        history = []
        for line in self.lines():
            trial = trials[line["trial"]]
            if "state" in line:
                trial.state, trial.fault = line["state"], line["fault"]
            elif line["evaluation"] == len(trial.reports) + 1:
                report = {key: value for key, value in line.items() if key != "trial"}
                trial.reports.append(report)
                history.append((trial.number, report))
        return history
