"""Each workaround of RecBole's configs against the upstream fact it answers."""

from __future__ import annotations

import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from processes import PACKAGE
from recbole.config import Config
from recbole.utils import argument_list
from workarounds import VISIBLE, apply_workarounds, build  # noqa: F401

from recbole_qbert import compat
from recbole_qbert.compat import recbole


def test_applying_twice_changes_nothing() -> None:
    before = (Config._init_device, Config._init_parameters_category, list(warnings.filters))
    compat.apply()
    after = (Config._init_device, Config._init_parameters_category, list(warnings.filters))
    assert set(after[2]) == set(before[2])
    assert len(after[2]) == len(before[2])
    assert after[:2] == before[:2]


def test_every_workaround_states_its_fact() -> None:
    assert all(workaround.__doc__ for workaround in compat.WORKAROUNDS)


def test_argv_is_isolated_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    leaking = ["program", "--learning_rate=0.5", "--cov=src"]
    monkeypatch.setattr(sys, "argv", leaking)
    assert build()["learning_rate"] == 0.001
    with recbole.isolated_argv(["--learning_rate=0.25"]):
        assert Config("BPR", "ml-100k")["learning_rate"] == 0.25
    with pytest.raises(KeyError), recbole.isolated_argv():
        raise KeyError
    assert sys.argv is leaking


def test_argv_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    assert build()["model"] == "BPR"


def test_one_config_does_not_change_the_lists_of_the_next() -> None:
    before = list(argument_list.dataset_arguments)
    first = build().parameters["Dataset"]
    assert set(first) > set(before)  # RecBole adds the keys of its ml-100k.yaml
    assert argument_list.dataset_arguments == before
    first.append("a_key_of_the_first")
    assert "a_key_of_the_first" not in build().parameters["Dataset"]


def test_a_data_path_counts_for_ml_100k_too() -> None:
    """Without one, it is the sample inside RecBole, as upstream."""
    assert build(data_path="mine")["data_path"] == os.path.join("mine", "ml-100k")
    assert Path(build()["data_path"]).resolve().parts[-3:] == (
        "recbole",
        "dataset_example",
        "ml-100k",
    )


def show_gpus(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let PyTorch find GPUs, of which a program assigned these; None: no program did."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if visible is None:
        monkeypatch.delenv(VISIBLE)
    else:
        monkeypatch.setenv(VISIBLE, visible)


@pytest.mark.parametrize("visible", [None, "3"])
def test_use_gpu_false_means_cpu_for_this_config_only(
    visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    show_gpus(visible, monkeypatch)
    assert build(use_gpu=False, gpu_id="1")["device"] == torch.device("cpu")
    assert os.environ.get(VISIBLE) == visible
    assert build()["device"] == torch.device("cuda")


@pytest.mark.parametrize(
    ("visible", "settings", "expected"),
    [
        (None, {}, "0"),  # RecBole's default
        ("3", {}, "3"),  # what Ray or SLURM assigned
        ("3", {"gpu_id": 1}, "1"),  # what the user asked for
        ("GPU-5a", {}, "GPU-5a"),
        (None, {"gpu_id": "0,1"}, "0,1"),
    ],
)
def test_assigned_gpu_is_kept_unless_the_user_chose(
    visible: str | None,
    settings: dict[str, Any],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    show_gpus(visible, monkeypatch)
    config = build(**settings)
    assert (config["gpu_id"], os.environ[VISIBLE]) == (expected, expected)
    assert config["device"] == torch.device("cuda")


@pytest.mark.parametrize(
    ("visible", "settings", "expected"),
    [(None, {}, "0,1,2"), ("4,5,6", {}, "4,5,6"), (None, {"gpu_id": "1,3,5"}, "1,3,5")],
)
def test_processes_of_torchrun_see_a_gpu_each(
    visible: str | None,
    settings: dict[str, Any],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    test_assigned_gpu_is_kept_unless_the_user_chose(visible, settings, expected, monkeypatch)


def test_an_assignment_of_no_gpu_means_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    show_gpus("", monkeypatch)  # what Ray gives a trial that asked for no GPU
    assert build()["device"] == torch.device("cpu")


@pytest.mark.parametrize(
    ("program", "read"),
    [
        ("/x/bin/pytest", False),
        ("/x/pytest/__main__.py", False),
        ("/x/ray/_private/workers/default_worker.py", False),
        ("/x/train.py", True),
    ],
)
def test_flags_of_other_programs_are_no_settings(
    monkeypatch: pytest.MonkeyPatch, program: str, read: bool
) -> None:
    """`--worker=...` of a Ray worker stays out; a script's own `--epochs=3` counts."""
    compat.apply()
    monkeypatch.setattr(sys, "argv", [program, "--epochs=3", "--worker=1"])
    config = Config(model="SASRec", dataset="ml-100k", config_dict={"train_neg_sample_args": None})
    assert (config["epochs"] == 3) is read
    assert (config["worker"] == 1) is read


RECEIVED = """
import pickle, sys
import recbole_qbert
from recbole_qbert.experiments.splits import load_splits
with open(sys.argv.pop(), "rb") as file:
    dataset = load_splits(pickle.load(file)).dataset
print(dataset.item_feat["size"].sum().item())
"""


def test_a_process_that_receives_a_config_reads_numbers_in_sequence(tiny: Tiny) -> None:
    """As in a parallel benchmark. The first item has no row, so that RecBole fills it."""
    items = sorted({item for sequence in tiny.sequences.values() for item in sequence})
    lines = [f"{item}\t1 2.5" for item in items[1:]]
    path = tiny.folder / "toy.item"
    path.write_text("\n".join(["item_id:token\tsize:float_seq", *lines, ""]), encoding="utf-8")
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "size"]}
    config = tiny.make_config("SASRec", load_col=columns)
    Path("config.pickle").write_bytes(pickle.dumps(config))
    done = PACKAGE.run(RECEIVED, "config.pickle")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == 3.5 * len(lines)
