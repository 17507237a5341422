"""Nothing of a sweep's own Ray outlives the sweep, however that ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import until

SLEEPER = "import time; time.sleep(600)"
DRIVER = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("leftovers", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
with module.ended_with_this_process(sys.argv[2]):
    if sys.argv[3] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""
PROGRAM = Path(__file__).parents[2] / "recbole_qbert" / "experiments" / "tune" / "ray_leftovers.py"


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """In place of Ray's agent: of this session; of another; and who reads this one's logs."""
    session = f"{tmp_path}/session_mine"
    words = [f"--session-dir={session}", f"--session-dir={session}2", f"{session}/logs"]
    found = [subprocess.Popen([sys.executable, "-c", SLEEPER, each]) for each in words]
    yield found
    for each in found:
        each.kill()
        each.wait()


@pytest.mark.parametrize("ending", ["killed", "well"])
def test_a_session_ends_with_its_driver(
    tmp_path: Path, sleepers: list[subprocess.Popen[bytes]], ending: str
) -> None:
    mine, *others = sleepers
    session = str(tmp_path / "session_mine")
    driver = subprocess.run(
        [sys.executable, "-c", DRIVER, str(PROGRAM), session, ending], timeout=100
    )
    assert driver.returncode == (-9 if ending == "killed" else 0)
    until(lambda: mine.poll() is not None, 60)
    assert mine.returncode == -9
    assert [each.poll() for each in others] == [None, None]
