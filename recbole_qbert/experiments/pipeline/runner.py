"""Run the steps of a pipeline that are not done yet, each as a command of its own.

A step is done when it ended well with the very same command line, version, shipped settings and
inputs, and its outputs are still as it left them. What a step leaves with the bytes it had before
makes no later step run again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.console import Console

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import exclusive, name_holder
from recbole_qbert.common.signals import ended_by_sigterm
from recbole_qbert.experiments.pipeline.known import REPOSITORY, RESUMABLE
from recbole_qbert.experiments.pipeline.plan import Pipeline, Step
from recbole_qbert.experiments.pipeline.state import State, key_of, matches

# What a step's record is made of, in the order in which a difference is reported.
FACTS = ("version", "line", "settings", "inputs", "outputs")


class Verdict(NamedTuple):
    """Whether a step runs, and why, in the user's words."""

    runs: bool
    why: str


def dry_run(pipeline: Pipeline, console: Console) -> int:
    """Print what each step would do and why; returns how many would run. Nothing is written."""
    state = State(pipeline.state)
    pending: list[Step] = []
    for step in pipeline.steps:
        verdict = judge(step, state)
        makers, missing = _makers(step, pending), _missing(step, pending)
        if missing:
            verdict = Verdict(True, f"cannot run yet, missing: {preview(missing, 3)}")
        elif makers and not verdict.runs:
            verdict = Verdict(True, f"if {preview(makers, 3)} changes what it reads")
        if verdict.runs:
            pending.append(step)
        _say(console, "run " if verdict.runs else "skip", step.name, verdict.why)
        console.print(
            f"       {' '.join(step.line)}", soft_wrap=True, highlight=False, markup=False
        )
    for name in pipeline.left_out:
        _say(console, "out ", name, "its `when` does not hold")
    console.print(f"{len(pending)} of {len(pipeline.steps)} steps would run")
    return len(pending)


def run(pipeline: Pipeline, console: Console) -> int:
    """Run what is not done; returns how many steps ran.

    Raises:
        InputError: an input that no step makes is missing (before anything runs), a step failed,
            or it left an output out.
    """
    _check_inputs(pipeline)
    ran = 0
    with exclusive(f"{pipeline.state}.lock", wait_s=0) as lock, ended_by_sigterm():
        state = State(pipeline.state)
        for step in pipeline.steps:
            verdict = judge(step, state)
            _say(console, "run " if verdict.runs else "skip", step.name, verdict.why)
            if verdict.runs:
                _run_step(step, state, lock, console)
                ran += 1
        state.write()
    console.print(
        f"{ran} of {len(pipeline.steps)} steps ran" if ran else "nothing to do: all steps are done"
    )
    return ran


def judge(step: Step, state: State) -> Verdict:
    """Whether a step is done."""
    record = state.steps.get(step.name, {})
    facts = _facts(step, state)
    done = record.get("done")
    if done is None or done["key"] != _key(facts):
        if record.get("begun") == _key(facts):
            return Verdict(True, "was stopped here, goes on")
        return Verdict(True, _difference(done, facts) if done else "has not run yet")
    outputs = state.digests(step.files.outputs)
    for path, digest in done["outputs"].items():
        if outputs.get(path) != digest:
            lost = "is gone" if outputs.get(path) is None else "changed since"
            return Verdict(True, f"its output {path} {lost}")
    return Verdict(False, "done; settings, inputs and outputs are unchanged")


def _facts(step: Step, state: State) -> dict[str, Any]:
    """All that a step depends on."""
    optional = {
        path: digest for path, digest in state.digests(step.files.optional).items() if digest
    }
    return {
        "version": __version__,
        "line": list(step.line),
        "settings": step.files.settings,
        "inputs": state.digests(step.files.inputs) | optional,
        "outputs": list(step.files.outputs),
    }


def _key(facts: Mapping[str, Any]) -> str:
    return key_of([facts[name] for name in FACTS])


def _difference(done: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The first thing that is not as it was."""
    if done["version"] != facts["version"]:
        return f"was made by version {done['version']}"
    if done["line"] != facts["line"]:
        new = [flag for flag in facts["line"] if flag not in done["line"]]
        old = [flag for flag in done["line"] if flag not in facts["line"]]
        return f"settings changed: {' '.join(new) or 'none'}, was {' '.join(old) or 'none'}"
    before, now = done["inputs"], facts["inputs"]
    for path in sorted({*before, *now}):
        if path not in before:
            return f"new input {path}"
        if path not in now:
            return f"no longer reads {path}"
        if before[path] != now[path]:
            return f"its input {path} changed"
    return "shipped settings changed"


def _run_step(step: Step, state: State, lock: IO[str], console: Console) -> None:
    """Run one step and record it."""
    facts = _facts(step, state)
    key = _key(facts)
    record = state.steps.setdefault(step.name, {})
    line = list(step.line)
    # A checkpoint of the same settings but of other data must not be gone on from.
    if record.get("begun") == key and not step.is_script and step.command[0] in RESUMABLE:
        line.append(RESUMABLE[step.command[0]])
    record["begun"] = key
    state.write()
    program = [sys.executable] if step.is_script else [sys.executable, "-m", "recbole_qbert"]
    console.print(f"       {' '.join(line)}", soft_wrap=True, highlight=False, markup=False)
    started = time.monotonic()
    status = _call([*program, *line], lock)
    if status:
        how = f"status {status}" if status > 0 else f"signal {-status}"
        raise InputError(f"step '{step.name}' failed ({how}); mend it and repeat the command")
    outputs = state.digests(step.files.outputs)
    lacking = [path for path, digest in outputs.items() if digest is None]
    if lacking:
        raise InputError(f"step '{step.name}' ended without writing {preview(lacking, 3)}")
    seconds = round(time.monotonic() - started, 1)
    record["done"] = facts | {"key": key, "outputs": outputs, "seconds": seconds}
    state.write()
    console.print(f"       {seconds:.1f} s", highlight=False)


def _call(line: Sequence[str], lock: IO[str]) -> int:
    """Run a command that also holds the lock; end it when this process is told to end."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}  # scripts must find this very package
    with subprocess.Popen(line, env=environment, pass_fds=(lock.fileno(),)) as process:
        name_holder(lock, process.pid)
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _check_inputs(pipeline: Pipeline) -> None:
    """What no step makes must be there before the first one runs."""
    for number, step in enumerate(pipeline.steps):
        missing = _missing(step, pipeline.steps[:number])
        if missing:
            raise InputError(
                f"{pipeline.source}: step '{step.name}': missing: {preview(missing, 3)}; put it "
                "there, or correct the step or a variable"
            )


def _missing(step: Step, earlier: Sequence[Step]) -> list[str]:
    """Inputs that neither exist nor are made by an earlier step."""
    made = [output for each in earlier for output in each.files.outputs]
    return [
        path
        for path in step.files.inputs
        if not any(os.path.exists(each) for each in matches(path))
        and not any(_touch(path, output) for output in made)
    ]


def _makers(step: Step, earlier: Sequence[Step]) -> list[str]:
    """Names of earlier steps that write something this one reads."""
    read = [*step.files.inputs, *step.files.optional]
    return [
        each.name
        for each in earlier
        if any(_touch(path, output) for path in read for output in each.files.outputs)
    ]


def _touch(one: str, other: str) -> bool:
    """Whether two paths are the same, or one lies below the other."""
    left, right = Path(one), Path(other)
    return left == right or left in right.parents or right in left.parents


def _say(console: Console, action: str, name: str, why: str) -> None:
    console.print(f"{action}  {name}: {why}", soft_wrap=True, highlight=False, markup=False)
