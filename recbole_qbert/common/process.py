"""The current process: numeric settings, peak memory, cores and library versions."""

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
    """Flush denormal numbers to zero, because they make CPU training several times slower."""
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # NumPy probes denormals once, and would warn if it did so afterwards
    torch.set_flush_denormal(True)


def quiet_recbole() -> None:
    """Silence RecBole's log messages below WARNING.

    RecBole logs to the root logger, with a handler of its own that prints.
    """
    logging.getLogger().setLevel(logging.WARNING)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a GPU computes in bfloat16 itself. PyTorch emulates it, slowly, on others."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def reset_peak_memory() -> None:
    """Reset the peak-memory counter of this process. Only Linux can; elsewhere nothing happens."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Return the largest resident size of this process in MB.

    On Linux this counts since `reset_peak_memory`, elsewhere since the process started.
    """
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / 1024**2)
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) / 1024
    import resource

    # This counter cannot be reset, and a child process inherits its parent's peak.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform != "darwin" else peak / 1024**2


def n_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> str:
    """Describe the machine, as recorded beside measured times."""
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"


def versions() -> dict[str, str]:
    """Return the versions of all software that can change a result, by name."""
    return {
        "recbole_qbert": __version__,
        "recbole": recbole.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
