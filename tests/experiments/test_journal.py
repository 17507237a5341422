"""Records of a sweep: torn lines, replay, and the lock that ends with its process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from processes import PACKAGE

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import exclusive
from recbole_qbert.experiments.tune.trial_log import Trial, TrialLog, trial_folder


def report(evaluation: int, valid: float = 0.5) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "epoch": evaluation - 1,
        "valid": valid,
        "best_valid": valid,
        "best_epoch": evaluation - 1,
        "seconds": 1.5,
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of two trials, one of which ended."""
    path = tmp_path / "reports.jsonl"
    journal = TrialLog(path)
    journal.append({"trial": 1, **report(1)})
    journal.append({"trial": 2, **report(1, 0.25)})
    journal.append({"trial": 1, **report(2)})
    journal.append({"trial": 1, "state": "stopped", "fault": ""})
    return path


def replayed(path: Path) -> tuple[dict[int, Trial], list[tuple[int, dict[str, Any]]]]:
    trials = {number: Trial(number, {}) for number in (1, 2)}
    return trials, TrialLog(path).replay(trials)


def test_replay(path: Path) -> None:
    trials, history = replayed(path)
    assert [(number, each["evaluation"]) for number, each in history] == [(1, 1), (2, 1), (1, 2)]
    assert history[1] == (2, report(1, 0.25))
    assert (trials[1].state, trials[2].state) == ("stopped", "waiting")
    assert (trials[1].is_done, trials[2].is_done) == (True, False)
    assert trials[1].best == 0.5
    assert Trial(3, {}).best is None


def test_any_torn_end_is_cut_off(path: Path) -> None:
    """A kill in the middle of a line costs that line; the next one stands on its own."""
    content = path.read_bytes()
    starts = [0] + [place + 1 for place, byte in enumerate(content) if byte == 10]
    for end in range(len(content) + 1):
        path.write_bytes(content[:end])
        journal = TrialLog(path)
        n_whole = sum(start <= end for start in starts) - 1
        assert len(journal.lines()) == n_whole
        journal.append({"trial": 2, **report(2)})
        assert len(TrialLog(path).lines()) == n_whole + 1


def test_a_report_that_came_twice_counts_once(path: Path) -> None:
    TrialLog(path).append({"trial": 1, **report(2)})
    _, history = replayed(path)
    assert len(history) == 3


def test_a_broken_line_is_named(path: Path) -> None:
    path.write_text("{\n" + json.dumps({"trial": 1}) + "\n")
    with pytest.raises(InputError, match=r"reports\.jsonl:1: damaged line"):
        TrialLog(path).lines()


def test_folders_are_numbered() -> None:
    assert trial_folder("x", 7) == Path("x/trials/007")


HOLDER = """
import sys, time
from pathlib import Path
from recbole_qbert.common.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    reader, writer = os.pipe()
    holder = PACKAGE.start(HOLDER, str(path), stdout=writer)
    os.close(writer)
    try:
        with open(reader, encoding="utf-8") as output:
            assert output.readline() == "held\n"
        assert path.read_text() == f"process {holder.pid}"
        message = rf"another process uses this folder \(process {holder.pid}\)"
        with pytest.raises(InputError, match=message), exclusive(path, wait_s=0.3):
            pass
    finally:
        holder.kill()
        holder.wait()
    with exclusive(path, wait_s=5.0):
        pass
