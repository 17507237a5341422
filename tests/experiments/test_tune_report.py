"""The table, the CSV file and the time that is left."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rich.console import Console

from recbole_qbert.experiments.benchmark.outputs import print_table
from recbole_qbert.experiments.tune.report import (
    Length,
    Recorder,
    best_trial,
    trials_table,
    write_csv,
)
from recbole_qbert.experiments.tune.trial_log import Trial, TrialLog

KEYS = ["n_layers", "learning_rate"]
LENGTH = Length(epochs=4, evaluations=4)


def trial(number: int, values: list[float], state: str, fault: str = "") -> Trial:
    reports: list[dict[str, Any]] = []
    for place, valid in enumerate(values):
        best = max(values[: place + 1])
        reports.append(
            {
                "evaluation": place + 1,
                "epoch": place,
                "valid": valid,
                "best_valid": best,
                "best_epoch": values.index(best),
                "seconds": 2.0 * place,
            }
        )
    drawn = {"n_layers": number, "learning_rate": 0.001234567}
    return Trial(number, drawn, reports, state, fault)


def trials() -> list[Trial]:
    return [
        trial(1, [0.1, 0.4, 0.2], "finished"),
        trial(2, [0.9], "failed", "learning_rate: a, b"),
        trial(3, [0.4], "stopped"),
        trial(4, [], "waiting"),
        trial(5, [0.3], "running"),
    ]


def test_the_best_over_all_evaluations() -> None:
    """Not the last value, not of a failed trial; the first of equal ones."""
    best = best_trial(trials())
    assert best is not None and best.number == 1
    assert best_trial([trial(2, [0.9], "failed"), trial(4, [], "waiting")]) is None
    zero = best_trial([trial(1, [0.0], "finished")])
    assert zero is not None


def test_csv(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", trials(), KEYS, LENGTH)
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert rows[0] == {
        "trial": "1",
        "state": "finished",
        "n_layers": "1",
        "learning_rate": "0.001234567",
        "best_valid": "0.4",
        "best_epoch": "2",
        "epochs": "3",
        "max_epochs": "4",
        "stopped_early": "yes",
        "seconds": "4.0",
        "fault": "",
    }
    assert rows[1]["fault"] == "learning_rate: a, b"
    # Only patience ends a trial early: not ASHA, a fault or a kill.
    assert [row["stopped_early"] for row in rows] == ["yes", "no", "no", "", "no"]
    assert rows[3]["best_valid"] == rows[3]["max_epochs"] == ""
    assert rows[3].keys() == rows[0].keys()


def test_table() -> None:
    output = io.StringIO()
    print_table(trials_table(trials(), KEYS, "ndcg@10", LENGTH), Console(file=output, width=120))
    whole = output.getvalue()
    assert "best valid NDCG@10" in whole
    assert "0.4000*" in whole and "0.001235" in whole
    assert all(state in whole for state in ("finished", "failed", "stopped", "waiting", "running"))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in whole.splitlines()]
    told = {row[0]: (row[4], row[1]) for row in rows if len(row) == 6}
    assert told == {
        "1": ("3 of 4", "finished, stopped early"),
        "2": ("1 of 4", "failed"),
        "3": ("1 of 4", "stopped by ASHA"),
        "4": ("", "waiting"),
        "5": ("1 of 4", "running"),
    }


def test_a_trial_of_all_its_evaluations_did_not_stop_early() -> None:
    """Of 10 epochs with an evaluation after each third, the last is after the ninth."""
    length = Length(epochs=10, evaluations=3)
    whole = trial(1, [0.1, 0.2, 0.3], "finished")
    assert not length.stopped_early(whole) and length.state_of(whole) == "finished"
    assert length.stopped_early(trial(1, [0.1, 0.2], "finished"))


def recorder(folder: Path, every: list[Trial], console: Console, **more: Any) -> Recorder:
    return Recorder(folder, every, KEYS, "NDCG@10", LENGTH, console, **more)


def test_time_left(tmp_path: Path) -> None:
    now, every = 100.0, trials()
    found = recorder(tmp_path, every, Console(quiet=True), now=lambda: now)
    every[4].reports.clear()
    now = 120.0
    for report in trial(5, [0.1, 0.2, 0.3, 0.4], "running").reports[:2]:
        found.reported(5, report)
    # 10 s an evaluation; 4 of the waiting trial and 2 of the running one are left.
    assert found.seconds_left() == 60.0
    # Nothing of Ray's start is in the estimate, and nothing is left after the last evaluation.
    now = 1000.0
    again = recorder(tmp_path, [trial(1, [], "waiting")], Console(quiet=True), now=lambda: now)
    now = 2000.0
    again.started(1)
    times = (2010.0, 2020.0, 2030.0, 2040.0)
    for now, report in zip(times, trial(5, [0.1] * 4, "x").reports, strict=True):
        again.reported(1, report)
        assert again.seconds_left() == 2040.0 - now


def test_a_line_per_event(tmp_path: Path) -> None:
    output = io.StringIO()
    every = trials()
    found = recorder(tmp_path, every, Console(file=output, width=120), now=lambda: 0.0)
    found.started(5)
    report = every[4].reports.pop()
    found.reported(5, report)
    found.reported(5, report)  # a resumed trial repeats its reports
    found.ended(3, True)
    found.ended(1, False)
    found.failed(2, "learning_rate: a, b")
    assert output.getvalue().splitlines() == [
        "trial 5/5  n_layers=5 learning_rate=0.001235  resumed",
        "trial 5/5  epoch   1  valid NDCG@10 0.3000*  0 s",
        "trial 3/5  stopped by ASHA  1 of 4 epochs  best valid NDCG@10 0.4000",
        "trial 1/5  finished, stopped early  3 of 4 epochs  best valid NDCG@10 0.4000",
        "trial 2/5  failed  1 of 4 epochs  best valid NDCG@10 0.9000  learning_rate: a, b",
    ]
    lines = TrialLog(tmp_path / "reports.jsonl").lines()
    assert [line["trial"] for line in lines] == [5, 3, 1, 2]
    assert (tmp_path / "trials.csv").is_file()
