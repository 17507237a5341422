"""`recbole-qbert doctor`: checks the installation and names a remedy for each failure."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

from recbole_qbert import compat
from recbole_qbert.common.output import new_console
from recbole_qbert.compat import recbole

DISTRIBUTION = "recbole-qbert"
PYTHON_VERSIONS = ((3, 10), (3, 11), (3, 12), (3, 13))
SWEEPS_ONLY = "ray"  # without it, everything except sweeps works
MIN_FREE_BYTES = 1 << 30
RAY_TIMEOUT_SECONDS = 120.0

_CONSTRAINTS = f"constraints/python{sys.version_info[0]}.{sys.version_info[1]}.txt"
_REINSTALL = f"make a new virtual environment and install with -c {_CONSTRAINTS}"

# Runs in a separate process, so that it can be killed if the start of Ray hangs.
_RAY_SCRIPT = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
         logging_level="ERROR")

@ray.remote
def version():
    import recbole_qbert
    from recbole_qbert._version import __version__
    return __version__

print("worker imported recbole_qbert", ray.get(version.remote()))
ray.shutdown()
"""


class Check(NamedTuple):
    """One row of the report; `remedy` is empty if `ok`."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check_python() -> list[Check]:
    """Check that all dependencies have builds for the Python version."""
    found = "{}.{}.{}".format(*sys.version_info[:3])
    if sys.version_info[:2] in PYTHON_VERSIONS:
        return [Check("python", True, found)]
    return [Check("python", False, found, "use Python 3.10, 3.11, 3.12 or 3.13")]


def check_dependencies() -> list[Check]:
    """Check that all base dependencies are installed in versions that `setup.cfg` allows."""
    try:
        lines = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        remedy = f"in the project's folder: pip install -c {_CONSTRAINTS} -e ."
        return [Check(DISTRIBUTION, False, "not installed", remedy)]
    requirements = [Requirement(line) for line in lines]
    return [
        _check_requirement(requirement)
        for requirement in requirements
        if requirement.name == "recbole"  # needed on all Pythons, though pip may not install it
        or requirement.marker is None
        or requirement.marker.evaluate({"extra": ""})
    ]


def _check_requirement(requirement: Requirement) -> Check:
    allowed = str(requirement.specifier)
    wanted = str(requirement).partition(";")[0].strip()
    remedy = f"pip install -c {_CONSTRAINTS} '{wanted}'"
    if requirement.name == "recbole":
        remedy = recbole.INSTALL
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        if requirement.name == SWEEPS_ONLY:
            return Check(requirement.name, True, f"not installed; only sweeps need it: {remedy}")
        return Check(requirement.name, False, "not installed", remedy)
    if requirement.specifier.contains(found, prereleases=True):
        return Check(requirement.name, True, found)
    return Check(requirement.name, False, f"{found}, but {allowed} is needed", remedy)


def check_device() -> list[Check]:
    """Report the device on which training would run."""
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return [Check("device", True, f"{count} x {torch.cuda.get_device_name(0)}")]
    return [Check("device", True, f"CPU, {torch.get_num_threads()} threads")]


def check_recbole() -> list[Check]:
    """Check that RecBole can be imported with our workarounds and builds a Config."""
    if recbole.missing():
        return [Check("recbole config", False, "not installed", recbole.INSTALL)]
    compat.apply()
    from recbole.config import Config

    with recbole.isolated_argv():
        config = Config("BPR", "ml-100k", config_dict={"use_gpu": False})
    return [Check("recbole config", True, f"built for {config['model']}")]


def check_ray() -> list[Check]:
    """Check that a Ray worker starts and can import the package."""
    try:
        importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return [Check("ray worker", True, "ray is not installed; only sweeps need it")]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    remedy = f"only sweeps need this; free memory and ports, or {_REINSTALL}"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _RAY_SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=RAY_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        detail = f"no answer within {RAY_TIMEOUT_SECONDS:g} s"
        return [Check("ray worker", False, detail, remedy)]
    if process.returncode != 0:
        return [Check("ray worker", False, _last_line(errors, "it failed to start"), remedy)]
    return [Check("ray worker", True, _last_line(output, "started"))]


def check_folders() -> list[Check]:
    """Check that checkpoints and temporary files can be written."""
    saved = Path("saved")
    checkpoints = saved if saved.is_dir() else Path.cwd()
    return [
        _check_writable(
            "checkpoint folder", checkpoints, "run from a folder you own, or set checkpoint_dir"
        ),
        _check_writable(
            "temporary folder",
            Path(tempfile.gettempdir()),
            "set TMPDIR to a folder you may write to",
        ),
    ]


def _check_writable(name: str, folder: Path, remedy: str) -> Check:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check(name, True, str(folder.resolve()))
    except OSError as error:
        return Check(name, False, f"{folder.resolve()}: {error.strerror}", remedy)


def check_disk() -> list[Check]:
    """Check the free disk space for checkpoints and logs."""
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / (1 << 30):.1f} GiB free"
    if free >= MIN_FREE_BYTES:
        return [Check("disk", True, detail)]
    return [Check("disk", False, detail, "free at least 1 GiB, or run from another disk")]


# Printed name, check, and remedy if the check itself raises an error.
CHECKS: tuple[tuple[str, Callable[[], list[Check]], str], ...] = (
    ("python", check_python, _REINSTALL),
    ("dependencies", check_dependencies, _REINSTALL),
    ("device", check_device, f"{_REINSTALL}; for a GPU its driver must fit the torch build"),
    ("recbole config", check_recbole, _REINSTALL),
    ("ray worker", check_ray, _REINSTALL),
    ("folders", check_folders, "run from a folder that exists and that you may write to"),
    ("disk", check_disk, "run from a folder that exists"),
)


def run_checks() -> list[Check]:
    """Run all checks. An error in a check becomes a failed row and does not stop the others."""
    results: list[Check] = []
    for name, check, remedy in CHECKS:
        try:
            results += check()
        except Exception as error:
            detail = _last_line(str(error), "no message")
            results.append(Check(name, False, f"{type(error).__name__}: {detail}", remedy))
    return results


def main() -> int:
    """Print the report; return 1 if a check failed, otherwise 0."""
    results = run_checks()
    table = Table(title="recbole-qbert doctor")
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for check in results:
        mark = Text("ok", "green") if check.ok else Text("FAIL", "bold red")
        table.add_row(Text(check.name), mark, Text(check.detail), Text(check.remedy))
    new_console().print(table)
    return 0 if all(check.ok for check in results) else 1


def _last_line(text: str, otherwise: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else otherwise
