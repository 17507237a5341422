"""The state that a killed fit leaves, and who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_qbert.training import resume
from recbole_qbert.training.checkpoint import save_checkpoint
from recbole_qbert.training.resume import FitState

STATE: dict[str, Any] = {"epoch": 3, "history": [{"loss": 0.1}], "weights": torch.arange(4.0)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a state lies that belongs to "mine"."""
    path = tmp_path / "work" / "fit.safetensors"
    FitState(path, "mine", interval_s=0.0).keep(STATE)
    return path


def test_the_same_fit_finds_its_state(path: Path) -> None:
    found = FitState(path, "mine").load()
    assert found is not None
    assert torch.equal(found.pop("weights"), STATE["weights"])
    assert found == {key: value for key, value in STATE.items() if key != "weights"}


def test_another_fit_does_not_and_replaces_it(path: Path) -> None:
    other = FitState(path, "another", interval_s=0.0)
    assert other.load() is None
    other.keep({"epoch": 1})
    assert other.load() == {"epoch": 1}
    assert FitState(path, "mine").load() is None


@pytest.mark.parametrize("n_bytes", [0, 5, 100])
def test_a_broken_file_counts_as_none(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:n_bytes])
    kept = FitState(path, "mine", interval_s=0.0)
    assert kept.load() is None
    kept.keep(STATE)
    assert kept.load() is not None


def test_a_file_of_another_kind_counts_as_none(path: Path) -> None:
    save_checkpoint(path, {"epoch": 1})
    assert FitState(path, "mine").load() is None


def test_no_file_and_no_path(tmp_path: Path, path: Path) -> None:
    assert FitState(tmp_path / "absent", "mine").load() is None
    nowhere = FitState(None, "mine", interval_s=0.0)
    nowhere.keep(STATE)
    assert nowhere.load() is None
    nowhere.clear()
    assert path.is_file()


def test_clear_removes_the_file(path: Path) -> None:
    kept = FitState(path, "mine")
    kept.clear()
    assert not list(path.parent.iterdir())
    kept.clear()  # again, of what is not there


def test_a_state_is_written_when_the_last_one_is_old_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(resume.time, "monotonic", lambda: now)
    kept = FitState(tmp_path / "x", "mine", interval_s=15.0)
    epochs = []
    for epoch, now in enumerate([1010.0, 1015.0, 1020.0, 1029.9, 1030.0]):  # noqa: B007
        kept.keep({"epoch": epoch})
        found = kept.load()
        epochs.append(found and found["epoch"])
    assert epochs == [None, 1, 1, 1, 4]
