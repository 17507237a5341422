"""Sweeps over a real Ray: processes, deaths of workers and drivers. One Ray for the module."""

from __future__ import annotations

import csv
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Tiny
from rich.console import Console
from tune_toy import toy_plan, without_ray, write_sweep
from waiting import until

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, write_json
from recbole_qbert.compat.ray import memory_costs_a_trial
from recbole_qbert.evaluation.results import read_results
from recbole_qbert.experiments.tune import sweep as sweep_module
from recbole_qbert.experiments.tune.sweep import sweep
from recbole_qbert.experiments.tune.trial import TrialJob
from recbole_qbert.experiments.tune.trial_log import TrialLog

ray = pytest.importorskip("ray")
from ray.air.execution._internal.actor_manager import RayActorManager  # noqa: E402

from recbole_qbert.experiments.tune import ray_adapter  # noqa: E402

REPORTED = {"trial", "evaluation", "epoch", "valid", "best_valid", "best_epoch", "seconds"}
pytestmark = pytest.mark.timeout(600)  # where the machine is busy, a process starts slowly


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Its address."""
    context = ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,  # in name: Ray only counts it
        include_dashboard=False,
        object_store_memory=100 << 20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The journal without what a clock says."""
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in TrialLog(folder / "reports.jsonl").lines()
    ]


def guarded(root: Path) -> Callable[..., None]:
    """`run_trial`, in whose process ranking test is an error and trial 2 once kills itself.

    Ray gets this function by value: it is none of a module.
    """

    def run(job: Any, number: int, report: Any) -> None:
        import os
        import signal
        import sys

        import torch

        from recbole_qbert.common.files import write_json
        from recbole_qbert.experiments import run as run_module
        from recbole_qbert.experiments.tune.trial import run_trial
        from recbole_qbert.training.trainer import ResumableTrainer

        n_starts = len(list(root.glob(f"seen-{number}-*.json")))
        tests: list[Any] = []
        load_splits, evaluate, train_epoch = (
            run_module.load_splits,
            ResumableTrainer.evaluate,
            ResumableTrainer._train_epoch,
        )

        def load_and_remember(config: Any) -> Any:
            splits = load_splits(config)
            tests.append(splits.test._dataset)
            return splits

        def evaluate_valid(self: Any, loader: Any, *rest: Any, **more: Any) -> Any:
            assert tests and loader._dataset is not tests[0], "test was ranked"
            return evaluate(self, loader, *rest, **more)

        def train_or_die(self: Any, loader: Any, epoch: int, *rest: Any, **more: Any) -> Any:
            seen = {
                "pid": os.getpid(),
                "argv": len(sys.argv),
                "threads": torch.get_num_threads(),
                "test": self.__dict__.get("test_data"),
            }
            write_json(root / f"seen-{number}-{n_starts}.json", seen)
            if number == 2 and epoch == 1 and n_starts == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return train_epoch(self, loader, epoch, *rest, **more)

        run_module.load_splits = load_and_remember
        ResumableTrainer.evaluate = evaluate_valid
        ResumableTrainer._train_epoch = train_or_die
        run_trial(job, number, report)

    return run


@pytest.mark.slow
def test_a_sweep_and_a_worker_that_is_killed(
    tiny: Tiny, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial sets the bar, ASHA stops some; the killed one goes on where it was."""
    monkeypatch.setattr(sweep_module, "run_trial", guarded(tiny.root))
    short = {"max_concurrent": 2, "baseline": True, "trials": 1, "cpus_per_trial": 1}
    plan = toy_plan(tiny, grace=2, **short)
    result = sweep(plan, Console(quiet=True))
    seen = {path.stem: read_json(path) for path in tiny.root.glob("seen-*.json")}
    assert sorted(seen) == ["seen-1-0", "seen-2-0", "seen-2-1", "seen-3-0"]
    assert len({each["pid"] for each in seen.values()}) == 4  # a fresh process each
    assert all((each["argv"], each["threads"]) == (1, 1) for each in seen.values())

    journal = lines_of(plan.folder)
    reports = [line for line in journal if "valid" in line]
    assert all(line.keys() == REPORTED - {"seconds"} for line in reports)
    for number in (1, 2, 3):
        mine = [line["evaluation"] for line in reports if line["trial"] == number]
        assert mine == list(range(1, len(mine) + 1))  # none twice, none missing
    states = list(csv.DictReader((plan.folder / "trials.csv").open()))
    assert {line["state"] for line in states} <= {"finished", "stopped"}
    assert result.valid["ndcg@10"] == max(line["valid"] for line in reports)
    assert len(read_results("saved/results.jsonl")) == 1


# A sweep in a process that kills itself after so many lines of its journal. With a file to note it
# in, trial 4 kills its process too, once.
KILLED_SWEEP = """
import os, sys
from pathlib import Path
from recbole_qbert.cli import main
from recbole_qbert.experiments.tune import sweep
from recbole_qbert.experiments.tune.trial_log import TrialLog
from recbole_qbert.experiments.tune.trial import run_trial

def run_or_die(job, number, report):
    def report_or_die(content):
        report(content)
        if number == victim and content["evaluation"] == 2 and not note.exists():
            note.touch()
            os.kill(os.getpid(), 9)
    run_trial(job, number, report_or_die)

if len(sys.argv) > 3:
    note, victim = Path(sys.argv[3]), int(sys.argv[4])
    sweep.run_trial = run_or_die

append, n_left = TrialLog.append, int(sys.argv[2])

def append_or_die(self, line):
    global n_left
    append(self, line)
    n_left -= 1
    if n_left <= 0 and (len(sys.argv) < 4 or note.exists()):
        os.kill(os.getpid(), 9)

TrialLog.append = append_or_die
main(["tune", "sweep.yaml", "--address=" + sys.argv[1]])
"""


@pytest.mark.slow
def test_a_killed_driver(tiny: Tiny, cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster that stays; the second trial goes on, the first one is not run again."""
    common: dict[str, Any] = {"space": {"n_layers": {"grid": [1, 2]}}, "trials": 1}
    with monkeypatch.context() as patch:
        without_ray(patch)
        unbroken_plan = toy_plan(tiny, name="unbroken", checkpoint_dir="elsewhere", **common)
        unbroken = sweep(unbroken_plan, Console(quiet=True))
    write_sweep(tiny, **common)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED_SWEEP, cluster, "7"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=300,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-2000:]
    plan = toy_plan(tiny, **common)
    assert len(lines_of(plan.folder)) == 7
    first = Path(plan.folder, "trials", "001", "QBERT4Rec.last.safetensors").stat().st_mtime_ns
    result = sweep(plan, Console(quiet=True), resume=True)
    assert lines_of(plan.folder) == lines_of(unbroken_plan.folder)
    assert (result.valid, result.test) == (unbroken.valid, unbroken.test)
    last = Path(plan.folder, "trials", "001", "QBERT4Rec.last.safetensors").stat().st_mtime_ns
    assert first == last


@pytest.mark.slow
def test_eight_trials_a_killed_worker_and_a_killed_driver(
    tiny: Tiny, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best trial and all reports are those of a sweep that nobody broke, whatever the Ray."""
    common: dict[str, Any] = {"space": {"learning_rate": {"loguniform": [1e-4, 3e-2]}}, "trials": 8}
    with monkeypatch.context() as patch:
        without_ray(patch)
        unbroken_plan = toy_plan(tiny, name="unbroken", checkpoint_dir="elsewhere", **common)
        unbroken = sweep(unbroken_plan, Console(quiet=True))
    write_sweep(tiny, **common)
    # A later trial that the scheduler does not stop before its second evaluation.
    reports = TrialLog(unbroken_plan.folder / "reports.jsonl").lines()
    victim = min(
        each["trial"] for each in reports if each.get("evaluation") == 2 and each["trial"] > 2
    )
    note = tiny.root / "killed"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED_SWEEP, cluster, "18", str(note), str(victim)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        timeout=500,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()[-2000:]
    assert note.exists()
    plan = toy_plan(tiny, **common)
    result = sweep(plan, Console(quiet=True), resume=True)
    assert lines_of(plan.folder) == lines_of(unbroken_plan.folder)
    assert (result.valid, result.test) == (unbroken.valid, unbroken.test)


class Events:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: dict[int, str] = {}

    def started(self, number: int) -> None:
        self.starts.append(number)

    def reported(self, number: int, report: dict[str, Any]) -> None:
        raise AssertionError("nothing was reported")

    def ended(self, number: int, stopped: bool) -> None:
        self.ends[number] = "stopped" if stopped else "ended"

    def failed(self, number: int, fault: str) -> None:
        self.ends[number] = fault


@pytest.mark.slow
def test_faults_and_gpus_of_processes(tmp_path: Path, cluster: str) -> None:
    """Each fault becomes one line, and the others run on; two share the GPU."""

    def train(number: int, report: Any) -> None:
        import os
        import signal

        from recbole_qbert.common.errors import InputError

        if number == 1:
            raise ValueError("two\nlines")
        if number == 2:
            raise InputError("machine7 does not see /data")
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        (tmp_path / str(number)).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        while not (tmp_path / str(9 - number)).exists():  # until the other one is here too
            time.sleep(0.05)

    events = Events()
    schedule = ray_adapter.Schedule(1, 0.5, None, 0, True, 1, 2, 4)
    ray_adapter.run_trials(train, [1, 2, 3, 4, 5], schedule, [], tmp_path / "ray", events)
    assert sorted(events.starts) == [1, 2, 3, 4, 5]
    died = events.ends.pop(3)
    assert "died" in died and "\n" not in died
    assert events.ends == {
        1: "ValueError: two lines",
        2: "machine7 does not see /data",
        4: "ended",
        5: "ended",
    }
    assert [(tmp_path / name).read_text() for name in "45"] == ["0", "0"]


# Trials in a Ray that sees too little memory at all times.
WITHOUT_MEMORY = """
import sys, time
from pathlib import Path
from recbole_qbert.experiments.tune import ray_adapter

class Events:
    def started(self, number): pass
    def reported(self, number, report): pass
    def ended(self, number, stopped): print(number, "ended")
    def failed(self, number, fault): print(number, fault)

def train(number, report):
    time.sleep(300)

schedule = ray_adapter.Schedule(1, 0, 1, 1, False, 1, 2, 4)
with ray_adapter.connected(None):
    ray_adapter.run_trials(train, [1, 2], schedule, [], Path(sys.argv[1]), Events())
"""


@pytest.mark.slow
def test_too_little_memory_costs_the_trials_and_not_the_sweep(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "RAY_memory_usage_threshold": "0.0",
        "RAY_memory_monitor_refresh_ms": "100",
        "RAY_task_oom_retries": "0",
    }
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(tmp_path / "ray")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines == [f"{number} {ray_adapter.OUT_OF_MEMORY}" for number in (1, 2)]


# Two trials that wait for each other, on two machines in name with a CPU each.
TWO_MACHINES = """
import sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
from recbole_qbert.experiments.tune import ray_adapter

class Events:
    def started(self, number): pass
    def reported(self, number, report): pass
    def ended(self, number, stopped): print(number, "ended")
    def failed(self, number, fault): print(number, fault)

def train(number, report):
    import ray

    (folder / str(number)).write_text(ray.get_runtime_context().get_node_id())
    while not (folder / str(3 - number)).exists():
        time.sleep(0.05)

folder = Path(sys.argv[1])
machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
machines.add_node(num_cpus=1)
schedule = ray_adapter.Schedule(1, 0, 2, 0, False, 1, 2, 4)
try:
    with ray_adapter.connected(machines.address):
        ray_adapter.run_trials(train, [1, 2], schedule, [], folder / "ray", Events())
finally:
    machines.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["disabled", "token"])
def test_two_machines(tmp_path: Path, mode: str) -> None:
    """With a token, and without; Ray 2.6.3 knows none."""
    command = [sys.executable, "-W", "ignore", "-c", TWO_MACHINES, str(tmp_path)]
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "7" * 32}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert {"1 ended", "2 ended"} <= set(done.stdout.splitlines())
    assert (tmp_path / "1").read_text() != (tmp_path / "2").read_text()


def test_memory_that_gives_out_in_training_counts_as_a_death() -> None:
    """Ray's own answer to it is to end the sweep."""
    told: list[tuple[str, Exception]] = []

    def teller(name: str) -> Callable[[Any, Exception], None]:
        return lambda actor, error: told.append((name, error))

    actor = SimpleNamespace(actor_id=7, _on_error=teller("actor"))
    task: Any = SimpleNamespace(_tracked_actor=actor, _on_error=teller("task"))
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda **actor: None)
    fault = ray.exceptions.OutOfMemoryError("Task was killed: the node running low on memory.")
    with pytest.raises(RuntimeError, match="unexpected"):
        RayActorManager._actor_task_failed(manager, task, fault)
    with memory_costs_a_trial():
        RayActorManager._actor_task_failed(manager, task, fault)
    assert [name for name, _ in told] == ["actor", "task"]
    assert manager._failed_actor_ids == {7}
    assert all(isinstance(error, ray.exceptions.RayActorError) for _, error in told)
    assert {str(error) for _, error in told} == {str(fault)}


@pytest.mark.slow
def test_machines_are_looked_at_first(tmp_path: Path, cluster: str) -> None:
    folder = tmp_path / "experiment"
    write_json(folder / "experiment.json", {"identity": "mine"})
    ray_adapter.check_machines(TrialJob(str(folder), "mine", str(tmp_path), 1, False))
    for job, message in (
        (
            TrialJob(str(folder), "theirs", str(tmp_path), 1, False),
            "all machines of the cluster share",
        ),
        (
            TrialJob(str(folder), "mine", "/no/such", 1, False),
            "cannot access /no/such: data_path must",
        ),
    ):
        with pytest.raises(InputError, match=message):
            ray_adapter.check_machines(job)


@pytest.mark.slow
def test_resources(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ray_adapter.resources(1, None, False) == (1.0, "")
    assert ray_adapter.resources(1, 0.25, False) == (0.25, "")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    assert ray_adapter.resources(1, None, False) == (0.0, "")
    assert ray_adapter.resources(1, 0.5, False) == (0.0, "no GPU found: trials run on CPUs")
    assert ray_adapter.resources(64, 0.5, True) == (0.5, "")  # a cluster may grow
    with pytest.raises(InputError, match="cpus_per_trial: 3 is more than the 2 CPUs"):
        ray_adapter.resources(3, None, False)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 130)])
def test_a_command_killed_from_outside(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    """With a Ray of its own, which dies with it; `--resume` at once, while its last trial ends."""
    with monkeypatch.context() as patch:
        without_ray(patch)
        unbroken_plan = toy_plan(tiny, name="unbroken", checkpoint_dir="elsewhere")
        unbroken = sweep(unbroken_plan, Console(quiet=True))
    plan = toy_plan(tiny)
    command = [sys.executable, "-W", "ignore", "-m", "recbole_qbert", "tune", "sweep.yaml"]
    options: dict[str, Any] = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    driver = subprocess.Popen(command, **options)
    journal = plan.folder / "reports.jsonl"
    until(lambda: journal.is_file() and len(journal.read_bytes().splitlines()) >= 6, 300)
    assert driver.poll() is None
    driver.send_signal(number)
    output, _ = driver.communicate()
    assert driver.returncode == status
    if number == signal.SIGTERM:
        assert output.decode().splitlines()[-1] == (
            "recbole-qbert: stopped; add --resume=True to go on"
        )
        assert "SIGTERM" not in output.decode()
    run = subprocess.run([*command, "--resume"], **options, timeout=300)
    assert run.returncode == 0, run.stdout.decode()[-2000:]
    assert lines_of(plan.folder) == lines_of(unbroken_plan.folder)
    (result,) = read_results("saved/results.jsonl")
    assert (result.valid, result.test) == (unbroken.valid, unbroken.test)
