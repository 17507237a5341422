"""Which run is which."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Tiny
from toy_results import add_run

from recbole_qbert.inputs import inputs_of
from recbole_qbert.run_identity import finished_run, run_folder


def test_a_run_is_found_however_its_folder_is_written(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tune` writes its winner's folder absolute; a benchmark with `saved` looks for it."""
    monkeypatch.chdir(tmp_path)
    config = tiny.make_config(checkpoint_dir="saved")
    folder = run_folder(config)
    assert not folder.is_absolute() and finished_run(config) is None
    for written in (folder.absolute(), folder):
        keys = {"absolute": written.is_absolute()}  # two runs by hand have two folders
        add_run(
            Path("saved"),
            [1, 2, 3, 4],
            keys=keys,
            folder=str(written),
            data_sha256=inputs_of(config),
        )
        found = finished_run(config)
        assert found is not None and found.folder == str(written)
    assert finished_run(tiny.make_config(checkpoint_dir="saved", seed=1)) is None
