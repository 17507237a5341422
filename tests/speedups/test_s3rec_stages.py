"""S3Rec's first stage goes on after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.experiments.first_stage import run_first_stage
from recbole_qbert.training.checkpoint import load_checkpoint
from recbole_qbert.training.trainer import ResumableTrainer

EPOCHS = 3


class Killed(Exception):
    """Stands for a kill at the moment it is raised."""


def pretrain(tiny: Tiny, name: str) -> dict[str, torch.Tensor]:
    """The first stage in a folder of its own; its weights."""
    folder = tiny.root / name
    config = tiny.make_config(
        "S3Rec",
        pretrain_epochs=EPOCHS,
        checkpoint_dir=str(folder),
        hidden_dropout_prob=0.3,
        resume=True,
    )
    path = run_first_stage(config, Console(quiet=True))
    assert Path(path).parent == folder / "pretrain"
    weights: dict[str, torch.Tensor] = load_checkpoint(path, torch.device("cpu"))["state_dict"]
    return weights


def test_a_killed_first_stage_ends_as_the_unbroken_one(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = pretrain(tiny, "unbroken")
    epochs: list[int] = []
    train_epoch = ResumableTrainer._train_epoch

    def count(self: Any, data: Any, epoch: int, *rest: Any, **more: Any) -> Any:
        if epoch == 2 and 2 not in epochs:
            epochs.append(epoch)
            raise Killed
        epochs.append(epoch)
        return train_epoch(self, data, epoch, *rest, **more)

    monkeypatch.setattr(ResumableTrainer, "_train_epoch", count)
    with pytest.raises(Killed):
        pretrain(tiny, "killed")
    resumed = pretrain(tiny, "killed")
    assert epochs == [0, 1, 2, 2]
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)
    assert all(
        torch.equal(again, unbroken[name]) for name, again in pretrain(tiny, "killed").items()
    )
    assert epochs == [0, 1, 2, 2]  # finished: nothing is trained


@pytest.mark.parametrize(("given", "expected"), [(None, 16), (7, 7)])
def test_sequences_a_step(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, given: int | None, expected: int
) -> None:
    """All sequences in batches of their own size; the second stage keeps its own."""
    config = tiny.make_config(
        "S3Rec",
        pretrain_epochs=1,
        checkpoint_dir=str(tiny.root / f"by-{expected}"),
        pretrain_batch_size=given,
    )
    sizes: list[int] = []
    fit = ResumableTrainer.fit

    def look(self: Any, data: Any, *rest: Any, **more: Any) -> Any:
        sizes.extend(len(batch) for batch in data)
        return fit(self, data, *rest, **more)

    monkeypatch.setattr(ResumableTrainer, "fit", look)
    run_first_stage(config, Console(quiet=True))
    full, rest = divmod(len(tiny.sequences), expected)
    assert sizes == [expected] * full + [rest] * bool(rest)
    assert config["train_batch_size"] == 16


@pytest.mark.parametrize("given", [0, 2.5, "many"])
def test_no_size(tiny: Tiny, given: Any) -> None:
    with pytest.raises(InputError, match=f"^pretrain_batch_size: {given!r} is not a whole number"):
        tiny.make_config("S3Rec", pretrain_epochs=1, pretrain_batch_size=given)
