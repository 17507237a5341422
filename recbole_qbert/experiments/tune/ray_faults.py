"""One-line error messages of failed trials on Ray Tune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import cloudpickle

from recbole_qbert.common.errors import InputError

DIED = "its process died"
SHORT = "running low on memory"  # part of Ray's message
OUT_OF_MEMORY = (
    "the machine was short of memory and Ray ended its process; run fewer trials at a time "
    "(max_concurrent), or smaller ones"
)


def fault_of(trial: Any) -> str:
    """Error message of a Ray trial. Ray stores exceptions, but not the death of a process."""
    try:
        last = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]
        if SHORT in last:
            return OUT_OF_MEMORY
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except (OSError, TypeError):
        return DIED
    if not last.rstrip().endswith(str(error).rstrip()):  # the error is of an earlier failure
        return DIED
    return in_a_line(getattr(error, "cause", None) or error)


def in_a_line(error: BaseException) -> str:
    """Format an exception as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
    return f"{kind}{text}"[:300]
