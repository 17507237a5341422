"""The doctor names what is wrong and what to do, and never breaks itself."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recbole_qbert.commands import doctor
from recbole_qbert.commands.doctor import Check

GIB = 1 << 30
CONSTRAINTS = "constraints/python{}.{}.txt".format(*sys.version_info)


def with_distributions(
    monkeypatch: pytest.MonkeyPatch, requires: list[str], installed: dict[str, str]
) -> None:
    """Pretend that the package requires and the environment has these."""

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requires)
    monkeypatch.setattr(importlib.metadata, "version", version)


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave just these checks in the table."""
    monkeypatch.setattr(doctor, "CHECKS", tuple(c for c in doctor.CHECKS if c[0] in names))


def test_quick_checks_pass_here() -> None:
    checks = doctor.check_python() + doctor.check_device() + doctor.check_recbole()
    assert [check for check in checks if not check.ok] == []


def test_python_outside_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14, 1, "final", 0))
    (check,) = doctor.check_python()
    assert (check.ok, check.detail) == (False, "3.14.1")
    assert "3.12 or 3.13" in check.remedy


def test_dependencies_missing_wrong_and_right(monkeypatch: pytest.MonkeyPatch) -> None:
    with_distributions(
        monkeypatch,
        ["numpy<2,>=1.23.5", "rich>=13", "torch>=2.4", "ray[tune]==2.6.3", 'ruff; extra == "dev"'],
        {"numpy": "2.1.0", "torch": "2.13.0+cpu"},
    )
    assert doctor.check_dependencies() == [
        Check(
            "numpy",
            False,
            "2.1.0, but <2,>=1.23.5 is needed",
            f"pip install -c {CONSTRAINTS} 'numpy<2,>=1.23.5'",
        ),
        Check("rich", False, "not installed", f"pip install -c {CONSTRAINTS} 'rich>=13'"),
        Check("torch", True, "2.13.0+cpu"),
        Check(
            "ray",
            True,
            f"not installed; only sweeps need it: pip install -c {CONSTRAINTS} 'ray[tune]==2.6.3'",
        ),
    ]


def test_a_missing_package_that_ray_is_not_alone_to_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` reads tables with pyarrow, and Python 3.12 has no distutils but setuptools'."""
    with_distributions(monkeypatch, ["pyarrow>=17", "setuptools>=65"], {})
    assert [(check.ok, check.detail) for check in doctor.check_dependencies()] == [
        (False, "not installed")
    ] * 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # `import pyarrow` now raises ImportError
    for name in ("recbole_qbert.datasets.delimited", "recbole_qbert.datasets.table_source"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(ImportError):
            importlib.import_module(name)


def test_recbole_is_asked_for_whatever_the_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with_distributions(monkeypatch, ['recbole==1.2.1; python_version < "3"'], {})
    remedy = "pip install --no-deps recbole==1.2.1"
    assert doctor.check_dependencies() == [Check("recbole", False, "not installed", remedy)]


def test_package_itself_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    (check,) = doctor.check_dependencies()
    assert not check.ok
    assert "pip install" in check.remedy


def test_ray_missing_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    with_distributions(monkeypatch, [], {})
    (check,) = doctor.check_ray()
    assert check.ok
    assert "only sweeps" in check.detail


@pytest.mark.parametrize(
    ("script", "timeout", "detail"),
    [
        ("import time; time.sleep(60)", 0.5, "no answer within 0.5 s"),
        ("raise ValueError('no raylet')", 60.0, "ValueError: no raylet"),
    ],
)
def test_ray_that_hangs_or_fails(
    script: str, timeout: float, detail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_distributions(monkeypatch, [], {"ray": "2.6.3"})
    monkeypatch.setattr(doctor, "_RAY_SCRIPT", script)
    monkeypatch.setattr(doctor, "RAY_TIMEOUT_SECONDS", timeout)
    (check,) = doctor.check_ray()
    assert (check.ok, check.detail) == (False, detail)
    assert check.remedy


@pytest.mark.slow
def test_ray_worker_starts() -> None:
    (check,) = doctor.check_ray()
    assert check.ok, check


def test_failing_import_becomes_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "device", "disk")
    monkeypatch.setitem(sys.modules, "torch", None)  # `import torch` now raises ImportError
    device, disk = doctor.run_checks()
    assert (device.name, device.ok, disk.ok) == ("device", False, True)
    assert device.detail.startswith("ModuleNotFoundError: ")
    assert CONSTRAINTS in device.remedy


def test_full_disk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only(monkeypatch, "disk")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=GIB // 2))
    assert doctor.main() == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown
    assert "0.5 GiB free" in shown
    assert "free at least 1 GiB" in " ".join(shown.split())


def test_all_well_exits_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only(monkeypatch, "python", "disk")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=2 * GIB))
    assert doctor.main() == 0
    assert "FAIL" not in capsys.readouterr().out


def test_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    monkeypatch.chdir(tmp_path)

    real = doctor.tempfile.TemporaryFile

    def temporary_file(dir: Path) -> Any:
        if dir == Path("saved"):
            raise PermissionError(13, "Permission denied")
        return real(dir=dir)

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", temporary_file)
    checkpoints, temporary = doctor.check_folders()
    assert not checkpoints.ok
    assert checkpoints.detail.endswith("Permission denied")
    assert "checkpoint_dir" in checkpoints.remedy
    assert temporary.ok
