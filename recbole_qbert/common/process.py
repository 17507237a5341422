"""The process that a run is in: how it computes, what it runs on, how large it gets."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import platform
import re
import sys
from pathlib import Path

import numpy as np
import psutil
import recbole
import torch

from recbole_qbert._version import __version__


def flush_denormals() -> None:
    """Denormal numbers make CPU training several times slower."""
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # NumPy measures them once, and warns if that comes afterwards
    torch.set_flush_denormal(True)


def quiet_recbole() -> None:
    """RecBole logs to the root logger, which prints through a handler of its own making."""
    logging.getLogger().setLevel(logging.WARNING)


def reset_peak_memory() -> None:
    """Forget how large this process was in earlier runs; Linux alone can."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Largest resident size of this process since `reset_peak_memory`, in MB."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / 1024**2)
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) / 1024
    import resource

    # Where nothing can be reset, and a process has at least what the one had that started it.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """What a time was measured on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def versions() -> dict[str, str]:
    """Of everything that can move a number."""
    return {
        "recbole_qbert": __version__,
        "recbole": recbole.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
