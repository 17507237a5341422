"""Execution of several runs, sequentially in this process or in parallel in child processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import perf_counter
from typing import Any

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


@dataclass(frozen=True)
class Job:
    """A run to be made.

    Attributes:
        label: printed name.
        config: settings of the run.
        files: names of the user's YAML files that the settings are from.
    """

    label: str
    config: Config
    files: Sequence[str]


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
        result = finished(job.config)
        if result:
            answers[folder] = result
            console.print(f"{job.label}: there already", markup=False, highlight=False)
        else:
            left.setdefault(folder, job)
    run = (
        _one_by_one(left, console)
        if max_concurrent == 1
        else _at_once(left, max_concurrent, console)
    )
    for folder, answer in run:
        answers[folder] = answer
        if isinstance(answer, InputError):
            console.print(f"{left[folder].label}: failed: {answer}", markup=False, highlight=False)
    return [answers[folder] for folder in folders]


def _one_by_one(jobs: Mapping[Path, Job], console: Console) -> Iterator[tuple[Path, Answer]]:
    for folder, job in jobs.items():
        console.print(job.label, markup=False, highlight=False)
        yield folder, _answer(job, console)


def _at_once(
    jobs: Mapping[Path, Job], max_concurrent: int, console: Console
) -> Iterator[tuple[Path, Answer]]:
    known = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
    context.set_forkserver_preload([__name__])  # so that imports are done once
    n_threads = max(1, n_cores() // max_concurrent)
    waiting = deque(jobs.items())
    running: dict[Connection, _Running] = {}
    try:
        while waiting or running:
            while waiting and len(running) < max_concurrent:
                folder, job = waiting.popleft()
                console.print(f"{job.label}: begun", markup=False, highlight=False)
                one = _Running.start(context, folder, job, n_threads, console.width)
                running[one.receiver] = one
            for receiver in [each for each in wait(list(running)) if isinstance(each, Connection)]:
                one = running.pop(receiver)
                answer = one.answer()
                if isinstance(answer, RunResult):
                    seconds = perf_counter() - one.started
                    console.print(
                        f"{one.job.label}: done, {seconds:.0f} s", markup=False, highlight=False
                    )
                yield one.folder, answer
    finally:
        for one in running.values():
            one.process.kill()


def _answer(job: Job, console: Console) -> Answer:
    try:
        with system_faults():
            return run_model(job.config, console, job.files)
    except InputError as error:
        return error


@dataclass(frozen=True)
class _Running:
    """A job in a child process, which sends one answer and ends."""

    folder: Path
    job: Job
    process: Any
    receiver: Connection
    started: float

    @classmethod
    def start(cls, context: Any, folder: Path, job: Job, n_threads: int, width: int) -> _Running:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, n_threads, width, sender))
        process.start()
        sender.close()  # so that the pipe is closed when the process dies
        return cls(folder, job, process, receiver, perf_counter())

    def answer(self) -> Answer:
        """Receive the answer of the process.

        Raises:
            InputError: the process was killed before it answered.
            RuntimeError: the process failed with an internal error, which it has printed.
        """
        try:
            answer: Answer = self.receiver.recv()
        except EOFError:
            self.process.join()
            status = self.process.exitcode
            if status >= 0:
                raise RuntimeError(f"{self.job.label}: failed, see above") from None
            raise InputError(
                f"{self.job.label}: its process was killed by signal {-status}, perhaps for want "
                "of memory; repeat the command to go on, with a smaller max_concurrent if need be"
            ) from None
        self.process.join()
        return answer


def _work(job: Job, n_threads: int, width: int, sender: Connection) -> None:
    """Run a job in its child process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process on Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(n_threads)
    job.config["show_progress"] = False
    console = Console(file=_PrefixedOutput(f"{job.label}: "), width=width)  # type: ignore[arg-type]
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
