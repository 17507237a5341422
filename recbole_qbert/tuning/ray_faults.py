"""What ended a trial on Ray Tune 2.6.3, in a line, and how the sweep outlives it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

from recbole_qbert.errors import InputError

DIED = "its process died"
SHORT = "running low on memory"  # in what Ray says then
OUT_OF_MEMORY = (
    "the machine was short of memory and Ray ended its process; run fewer trials at a time "
    "(max_concurrent), or smaller ones"
)


def fault_of(trial: Any) -> str:
    """What ended a trial of Ray's. It pickles exceptions only, not the death of a process."""
    try:
        last = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]
        if SHORT in last:
            return OUT_OF_MEMORY
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return DIED
    if not last.rstrip().endswith(str(error).rstrip()):  # of an earlier failure
        return DIED
    return in_a_line(getattr(error, "cause", None) or error)


def in_a_line(error: BaseException) -> str:
    """An exception as a line of at most 300 characters."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:300]


class _EndedForMemory(RayActorError):
    """The death of a process that Ray ended."""

    def __init__(self, fault: OutOfMemoryError) -> None:
        super().__init__()
        self.error_msg = str(fault)


@contextlib.contextmanager
def memory_costs_a_trial() -> Iterator[None]:
    """In the block a process that Ray ends for want of memory counts as one that died.

    Ray Tune 2.6 does not know this fault of its own Ray in a trial that trains, and would end the
    sweep.
    """
    manager: Any = RayActorManager
    original = manager._actor_task_failed

    def failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = _EndedForMemory(exception)
        original(self, tracked_actor_task, exception)

    manager._actor_task_failed = failed
    try:
        yield
    finally:
        manager._actor_task_failed = original
