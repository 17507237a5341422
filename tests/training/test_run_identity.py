"""Which run is which."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tiny, fitted, new_trainer
from rich.console import Console
from toy_results import add_run
from waiting import until

from recbole_qbert.cli import main
from recbole_qbert.common.files import exclusive
from recbole_qbert.config.build import build_config
from recbole_qbert.evaluation.results import UNSTORED_KEYS
from recbole_qbert.experiments.run import run_model
from recbole_qbert.training.checkpoint import load_checkpoint
from recbole_qbert.training.inputs import inputs_of
from recbole_qbert.training.learning_curve import epoch_line
from recbole_qbert.training.run_identity import finished_run, run_folder
from recbole_qbert.training.trainer import ResumableTrainer


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


# Two processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "pretrain"])
def test_a_folder_that_another_process_writes_is_left_alone(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Whoever comes second gets one line, and what is there stays as it was."""
    flags = ["--data_path=.", "--use_gpu=False", "--epochs=1"]
    arguments = {
        "run": ["run", "--model=BigramChain", "--dataset=toy", *flags],
        "pretrain": ["pretrain", "--datasets=toy", "--hidden_size=16", "--n_heads=2", *flags],
    }[command]
    assert main(arguments) == 0
    (lock,) = Path("saved").rglob("lock")
    before = {path: path.read_bytes() for path in Path("saved").rglob("*") if path.is_file()}
    del before[lock]
    capsys.readouterr()
    with exclusive(lock):
        assert main(arguments) == 2
    assert "another process uses this folder" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before
    assert main(arguments) == 0  # it has ended


@pytest.mark.slow
def test_a_killed_run_leaves_no_lock(tiny: Tiny) -> None:
    """While it runs a second one is refused; once it is killed the next one goes on."""
    flags = ["--model=SASRec", "--dataset=toy", "--data_path=.", "--use_gpu=False"]
    flags += ["--epochs=100000", "--eval_step=1", "--stopping_step=100000"]

    def begin(*more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "recbole_qbert", "run", *flags, *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def stamps() -> list[int]:
        return [path.stat().st_mtime_ns for path in Path("saved").glob("toy/*/*.last.*")]

    first = begin()
    try:
        until(stamps, seconds=200)
        second = begin()
        _, error = second.communicate(timeout=200)
        assert second.returncode == 2 and b"another process uses this folder" in error
    finally:
        first.kill()
        first.communicate()
    before = stamps()
    third = begin("--resume=True")
    try:
        until(lambda: stamps() != before, seconds=200)
    finally:
        third.kill()
        third.communicate()


# What is stored ----------------------------------------------------------------------------------


def test_a_resumed_run_leaves_the_bytes_of_an_undisturbed_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle, the best weights' settings, the result: how a run was called is not in them."""
    given = tiny.settings("QBERT4Rec", epochs=2, checkpoint_dir="saved")
    whole = run_model(build_config("QBERT4Rec", "toy", settings=given), Console(quiet=True))
    shutil.move("saved", "whole")
    keep = ResumableTrainer._save_last_state

    def killed(self: ResumableTrainer, epoch: int) -> None:
        keep(self, epoch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ResumableTrainer, "_save_last_state", killed)
        run_model(build_config("QBERT4Rec", "toy", settings=given), Console(quiet=True))
    given |= {"resume": True, "show_progress": True}
    again = run_model(build_config("QBERT4Rec", "toy", settings=given), Console(quiet=True))
    assert again.config == whole.config and again.test == whole.test
    assert not UNSTORED_KEYS & set(again.config["keys"])
    folders = [Path(base, *Path(whole.folder).parts[1:]) for base in ("whole", "saved")]
    for name in ("model.safetensors", "config.json", "manifest.json", "items.json"):
        left, right = ((folder / "bundle" / name).read_bytes() for folder in folders)
        assert left == right, name
    left, right = (load_checkpoint(folder / "QBERT4Rec.safetensors") for folder in folders)
    assert left["config"] == right["config"]


# RecBole's own door ------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["QBERT4Rec", "BigramChain"])
def test_runs_of_recboles_own_do_not_overwrite_each_other(tiny: Tiny, model: str) -> None:
    """All of them write into one folder; `resume` goes on with the latest of the same settings."""
    from recbole.quick_start import load_data_and_model, run_recbole

    given = tiny.settings(model, epochs=1)
    run_recbole(model, "toy", config_dict=dict(given))
    run_recbole(model, "toy", config_dict=dict(given))
    run_recbole(model, "toy", config_dict=given | {"seed": 3})

    def best() -> list[Path]:
        found = Path("saved").glob("*.safetensors")
        return sorted(path for path in found if ".last." not in path.name)

    assert len(best()) == 3
    assert len(list(Path("saved").glob("*.last.safetensors"))) == 3
    assert len(list(Path("saved").glob("*.curve.json"))) == 3
    for path in best():
        load_data_and_model(str(path))
    run_recbole(model, "toy", config_dict=given | {"resume": True})
    assert len(best()) == 3
    run_recbole(model, "toy", config_dict=given | {"resume": True, "seed": 4})  # none is there
    assert len(best()) == 4


# Time left ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "n_before", "left"),
    [
        ([10.0], 0, 90),  # 10 s an epoch, nine epochs
        ([10.0, 20.0], 0, 80),
        ([100.0, 200.0, 201.0], 2, 7),  # 1 s an epoch since the resume, seven epochs
        ([100.0, 200.0, 201.0, 205.0], 2, 15),  # 5 s for two epochs, six epochs
    ],
)
def test_time_left_is_told_from_the_epochs_since_the_resume(
    seconds: list[float], n_before: int, left: int
) -> None:
    curve = [
        {"epoch": epoch, "train_loss": 1.0, "m": 0.1, "seconds": each}
        for epoch, each in enumerate(seconds)
    ]
    assert f"at most {left} s left" in epoch_line(curve, "m", 10, n_before)


def test_a_resumed_trainer_knows_what_was_before_it(tiny: Tiny) -> None:
    fitted(tiny.make_config("BigramChain", epochs=1))
    trainer, _ = new_trainer(tiny.make_config("BigramChain", epochs=1, resume=True))
    assert (trainer.n_before, len(trainer.curve)) == (1, 1)
