"""Execution of several runs, sequentially in this process or in parallel in child processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import torch
from recbole.config import Config
from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import system_faults
from recbole_qbert.common.output import plain_output
from recbole_qbert.common.process import n_cores
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.experiments.run import run_model
from recbole_qbert.training.run_identity import finished_run, run_folder


class Job(NamedTuple):
    """A run to be made."""

    label: str  # printed name
    config: Config  # settings of the run
    files: Sequence[str]  # names of the user's YAML files that the settings are from


Answer = RunResult | InputError


def run_parallel(
    jobs: Sequence[Job],
    max_concurrent: int,
    console: Console,
    finished: Callable[[Config], RunResult | None] = finished_run,
) -> list[Answer]:
    """Make all runs that have no result yet. A job that fails does not stop the others.

    Args:
        jobs: runs; jobs with the same settings are run once.
        max_concurrent: maximum number of runs at a time. With 1, the runs use this process and its
            threads. Otherwise each run has its own process, with an equal share of the cores as
            PyTorch threads (`OMP_NUM_THREADS` overrides it). These processes prefix their lines
            with the labels, show no progress bars, and end when this process ends, even if it is
            killed.
        console: console to print on.
        finished: returns the result of a run that is finished, or None.

    Returns:
        Result or error of each job.

    Raises:
        InputError: a process was killed; the other processes are ended too.
    """
    folders = [run_folder(job.config) for job in jobs]
    answers: dict[Path, Answer] = {}
    left: dict[Path, Job] = {}
    for job, folder in zip(jobs, folders, strict=True):
        if result := finished(job.config):
            answers[folder] = result
            _print(console, job, "already finished")
        else:
            left.setdefault(folder, job)
    run = (
        _in_this_process(left, console)
        if max_concurrent == 1
        else _in_processes(left, max_concurrent, console)
    )
    for folder, answer in run:
        answers[folder] = answer
        if isinstance(answer, InputError):
            _print(console, left[folder], f"failed: {answer}")
    return [answers[folder] for folder in folders]


def _print(console: Console, job: Job, text: str) -> None:
    console.print(f"{job.label}: {text}", markup=False, highlight=False)


def _in_this_process(jobs: Mapping[Path, Job], console: Console) -> Iterator[tuple[Path, Answer]]:
    for folder, job in jobs.items():
        _print(console, job, "started")
        yield folder, _answer(job, console)


def _in_processes(
    jobs: Mapping[Path, Job], max_concurrent: int, console: Console
) -> Iterator[tuple[Path, Answer]]:
    known = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    # Imports are done once. Optimizers import the second module.
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    n_threads = max(1, n_cores() // max_concurrent)
    waiting = list(jobs.items())
    running: dict[Any, tuple[Path, Job, Any, float]] = {}  # by the pipe of the answer
    try:
        while waiting or running:
            while waiting and len(running) < max_concurrent:
                folder, job = waiting.pop(0)
                _print(console, job, "started")
                receiver, sender = context.Pipe(duplex=False)
                arguments = (job, n_threads, console.width, sender)
                process = context.Process(target=_work, args=arguments)
                process.start()
                sender.close()  # so that the pipe is closed when the process dies
                running[receiver] = (folder, job, process, perf_counter())
            for receiver in wait(list(running)):
                folder, job, process, started = running.pop(receiver)
                answer = _received(job, process, receiver)
                if isinstance(answer, RunResult):
                    _print(console, job, f"done, {perf_counter() - started:.0f} s")
                yield folder, answer
    finally:
        for _, _, process, _ in running.values():
            process.kill()


def _received(job: Job, process: Any, receiver: Any) -> Answer:
    """Receive the answer of a process."""
    try:
        answer: Answer | None = receiver.recv()
    except EOFError:
        answer = None
    process.join()
    if answer is not None:
        return answer
    if process.exitcode >= 0:
        raise RuntimeError(f"{job.label}: failed, see above")
    raise InputError(
        f"{job.label}: its process was killed by signal {-process.exitcode}, possibly because "
        "memory ran out; repeat the command to resume, with a smaller max_concurrent if necessary"
    )


def _answer(job: Job, console: Console) -> Answer:
    try:
        with system_faults():
            return run_model(job.config, console, job.files)
    except InputError as error:
        return error


def _work(job: Job, n_threads: int, width: int, sender: Connection) -> None:
    """Run a job in its child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process on Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(n_threads)
    job.config["show_progress"] = False
    console = Console(file=_PrefixedOutput(f"{job.label}: "), width=width, markup=False)  # type: ignore[arg-type]
    with plain_output():
        sender.send(_answer(job, console))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _PrefixedOutput:
    """Standard output that writes whole lines with a prefix, so that processes can share it."""

    def __init__(self, head: str) -> None:
        self._head = head
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        sys.stdout.write("".join(f"{self._head}{line.strip()}\n" for line in lines))
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()
