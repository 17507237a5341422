"""Several runs at a time: the same results as one by one, and no process outlives its benchmark."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Tiny
from rich.console import Console
from toy_plan import DIVERGING, SETTINGS, lines_of, write_plan
from waiting import until

from recbole_qbert.cli import main
from recbole_qbert.config.build import build_config
from recbole_qbert.experiments.parallel import Job, run_parallel

LONG = ["--epochs=100000", "--eval_step=1", "--stopping_step=100000"]


def runs_of(folder: str) -> list[dict[str, Any]]:
    """They end in any order."""
    return sorted(lines_of(folder), key=lambda run: (run["model"], run["seed"]))


def begun(folder: str) -> list[Path]:
    """Runs that have finished an epoch."""
    return sorted(Path(folder).glob("toy/*/*.last.safetensors"))


@pytest.mark.slow
def test_two_at_a_time_give_what_one_at_a_time_gives(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = str(write_plan(tiny, seeds=[1, 2]))
    assert main(["benchmark", path, "--checkpoint_dir=one"]) == 0
    capfd.readouterr()
    assert main(["benchmark", path, "--checkpoint_dir=two", "--max_concurrent=2"]) == 0
    for left, right in zip(runs_of("one"), runs_of("two"), strict=True):
        for key in ("model", "seed", "valid", "test", "best_epoch", "n_parameters", "threads"):
            assert left[key] == right[key]
    tables = [Path(name, "benchmark", "table.csv").read_text() for name in ("one", "two")]
    assert tables[0] == tables[1]
    out = capfd.readouterr().out
    for label in ("[1/4] QBERT4Rec on toy, seed 1: ", "[4/4] SASRec on toy, seed 2: "):
        for line in ("started", "epoch   2/2", "done, "):
            assert f"{label}{line}" in out
        assert f"{label}settings from base.yaml" in out
    for line in out.splitlines():  # a line names its run once
        assert line.count(" on toy") < 2

    assert main(["benchmark", path, "--checkpoint_dir=two", "--max_concurrent=2"]) == 0
    assert len(lines_of("two")) == 4
    assert capfd.readouterr().out.count("already finished") == 4


def test_a_failed_run_stops_no_other_and_equal_runs_are_made_once(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = {"name": "twin", "model": "SASRec"}
    broken = {"name": "broken", "model": "QBERT4Rec", "settings": DIVERGING}
    models = [broken, "SASRec", twin]
    path = str(write_plan(tiny, models=models, reference="SASRec"))
    assert main(["benchmark", path, "--max_concurrent=2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recbole-qbert: broken on toy, seed 1: QBERT4Rec: the training loss is")
    assert [run["model"] for run in lines_of("saved")] == ["SASRec"]
    assert "twin" in Path("saved/benchmark/table.md").read_text()


def test_a_killed_process_is_one_line_and_the_benchmark_goes_on_when_repeated(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(write_plan(tiny))

    def kill() -> None:
        until(lambda: len(begun("saved")) == 2)
        victim = multiprocessing.active_children()[0]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert main(["benchmark", path, "--max_concurrent=2", *LONG]) == 2
    killer.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert "on toy, seed 1: its process was killed by signal 9" in line
    assert "repeat the command to resume" in line
    until(lambda: not multiprocessing.active_children())
    assert not Path("saved/results.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 130)]
)
def test_no_process_outlives_a_benchmark(tiny: Tiny, number: signal.Signals, status: int) -> None:
    command = [sys.executable, "-m", "recbole_qbert", "benchmark", str(write_plan(tiny))]
    with open("log", "wb") as log:
        parent = subprocess.Popen(
            [*command, "--max_concurrent=2", *LONG],
            stdout=log,
            stderr=subprocess.STDOUT,
            # What runs in the background of a shell script ignores Ctrl-C, and so do its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        until(lambda: len(begun("saved")) == 2)
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 3  # two runs and their server
        parent.send_signal(number)
        assert parent.wait(60) == status
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive
    finally:
        parent.kill()
    assert "Traceback" not in Path("log").read_text()


def test_an_error_that_is_nobodys_input_is_not_hidden(tiny: Tiny) -> None:
    given = SETTINGS | {"data_path": "."}
    configs = [build_config("SASRec", "toy", (), given | {"seed": seed}) for seed in (1, 2)]
    names: list[Any] = [None]  # no name of a file: a fault of whoever calls
    jobs = [Job("seed 1", configs[0], names), Job("seed 2", configs[1], [])]
    with pytest.raises(RuntimeError, match="seed 1: failed, see above"):
        run_parallel(jobs, 2, Console(quiet=True))


@pytest.mark.parametrize("value", ["0", "x", "True"])
def test_not_a_number(tiny: Tiny, capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert main(["benchmark", str(write_plan(tiny)), f"--max_concurrent={value}"]) == 2
    assert "max_concurrent: " in capsys.readouterr().err
