"""`ResumableTrainer`: exact resume, the learning curve, and RecBole's own evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Tiny, assert_equal_weights, fitted, new_trainer
from processes import PACKAGE
from recbole.trainer import Trainer

from recbole_qbert.common.errors import InputError
from recbole_qbert.experiments.splits import load_splits
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint
from recbole_qbert.training.trainer import ResumableTrainer

# Trains the toy data and kills its own process in the middle of a training step.
KILLED_RUN = """
import json, os, sys
import torch
torch.set_num_threads(1)
torch.set_flush_denormal(True)
from recbole.data import data_preparation
from recbole.utils import init_seed
from recbole_qbert.config.build import build_config
from recbole_qbert.registry import model_entry

name, settings, n_steps = json.loads(sys.argv[1])
config = build_config(name, "toy", settings=settings)
entry = model_entry(name)
init_seed(config["seed"], True)
train, valid, _ = data_preparation(config, entry.dataset(config))
init_seed(config["seed"], True)
model = entry.model(config, train._dataset)
original, steps = model.calculate_loss, 0

def calculate_loss(batch):
    global steps
    steps += 1
    if steps > n_steps:
        os.kill(os.getpid(), 9)
    return original(batch)

model.calculate_loss = calculate_loss
entry.trainer(config, model).fit(train, valid, verbose=False)
"""
EPOCHS = 4


@pytest.fixture
def flushed() -> None:
    """Denormal numbers are flushed here as in the killed process."""
    torch.set_flush_denormal(True)


class Killed(Exception):
    """Stands for a kill at the moment it is raised."""


def die_after(trainer: Any, n_steps: int) -> None:
    """Let the trainer fail instead of taking a later step."""
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps > n_steps:
            raise Killed

    trainer.optimizer.register_step_pre_hook(count)


def no_training(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training step is an error."""

    def refuse(batch: Any) -> Any:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(trainer.model, "calculate_loss", refuse)


def without_seconds(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in curve]


def resumed(tiny: Tiny, model: str, **settings: Any) -> tuple[Any, tuple[float, Any]]:
    """A new trainer on the same folder, with `resume`, fitted to the end."""
    trainer, loaded = new_trainer(tiny.make_config(model, **settings, resume=True))
    return trainer, trainer.fit(loaded.train, loaded.valid, verbose=False)


def assert_same_run(left: Any, right: Any) -> None:
    """Weights, optimizer, curve, best score and best checkpoint are equal, bit for bit."""
    assert_equal_weights(left.model.state_dict(), right.model.state_dict())
    assert without_seconds(left.curve) == without_seconds(right.curve)
    assert left.best_valid_score == right.best_valid_score
    assert left.best_valid_result == right.best_valid_result
    assert left.train_loss_dict == right.train_loss_dict
    for name in ("saved_model_file", "last_state_file"):
        first, second = (load_checkpoint(getattr(trainer, name)) for trainer in (left, right))
        assert first["epoch"] == second["epoch"], name
        assert_equal_weights(first["state_dict"], second["state_dict"])
        left_states, right_states = first["optimizer"]["state"], second["optimizer"]["state"]
        for number, state in left_states.items():
            assert_equal_weights(state, right_states[number])


# Resume ------------------------------------------------------------------------------------------


def test_a_killed_run_ends_as_the_unbroken_one(tiny: Tiny, flushed: None) -> None:
    """SIGKILL in the middle of the third epoch, then `resume=True`."""
    model = "QBERT4Rec"
    settings = {"epochs": EPOCHS, "lr_decay": "cosine", "warmup_ratio": 0.4, "train_batch_size": 8}
    unbroken, loaded = fitted(
        tiny.make_config(model, **settings, checkpoint_dir=str(tiny.root / "unbroken"))
    )
    n_batches = len(loaded.train)
    assert n_batches >= 3
    given = [model, tiny.settings(model, **settings), 2 * n_batches + 2]
    run = PACKAGE.run(KILLED_RUN, json.dumps(given))
    assert run.returncode == -9, run.stderr
    left = load_checkpoint(tiny.root / "saved" / f"{model}.last.safetensors")
    assert left["epoch"] == 1
    trainer, result = resumed(tiny, model, **settings)
    assert_same_run(trainer, unbroken)
    assert result == (unbroken.best_valid_score, unbroken.best_valid_result)
    assert trainer.curve[-1]["seconds"] > trainer.curve[1]["seconds"]


@pytest.mark.parametrize(
    "model",
    [
        "QBERT4Rec",
        "BBQRec",
        "SASRec",
        "BigramChain",
        "ESASRec",
        "GSASRec",
        "SASRecContent",
        "TIGER",
        "MQL4GRec",
        "P5CID",
        "VIP5",
    ],
)
def test_a_run_that_dies_in_any_epoch_ends_as_the_unbroken_one(tiny: Tiny, model: str) -> None:
    settings = {"epochs": EPOCHS, "lr_decay": "linear", "warmup_ratio": 0.2}
    n_rows = len(load_splits(tiny.make_config(model)).train.dataset)
    settings["train_batch_size"] = -(-n_rows // 3)
    unbroken, _ = fitted(
        tiny.make_config(model, **settings, checkpoint_dir=str(tiny.root / "unbroken"))
    )
    for epoch in (0, 1, EPOCHS - 1):
        settings["checkpoint_dir"] = str(tiny.root / f"dies in epoch {epoch}")
        broken, loaded = new_trainer(tiny.make_config(model, **settings))
        assert len(loaded.train) == 3
        die_after(broken, epoch * 3 + 1)
        with pytest.raises(Killed):
            broken.fit(loaded.train, loaded.valid, verbose=False)
        trainer, _ = resumed(tiny, model, **settings)
        assert trainer.start_epoch == epoch
        assert_same_run(trainer, unbroken)


def test_dying_twice(tiny: Tiny) -> None:
    unbroken, _ = fitted(
        tiny.make_config(epochs=EPOCHS, checkpoint_dir=str(tiny.root / "unbroken"))
    )
    for n_steps in (4, 4):
        trainer, loaded = new_trainer(tiny.make_config(epochs=EPOCHS, resume=True))
        die_after(trainer, n_steps)
        with pytest.raises(Killed):
            trainer.fit(loaded.train, loaded.valid, verbose=False)
    trainer, _ = resumed(tiny, "QBERT4Rec", epochs=EPOCHS)
    assert trainer.start_epoch == 2
    assert_same_run(trainer, unbroken)


def test_a_finished_run_resumes_to_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step, the same scores, and the best epoch's checkpoint stays the best epoch's."""
    values = iter([0.3, 0.1])
    real = ResumableTrainer.evaluate

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        return {**real(self, *args, **kwargs), "ndcg@10": next(values)}

    monkeypatch.setattr(ResumableTrainer, "evaluate", evaluate)
    first, _ = fitted(tiny.make_config())
    best, last = Path(first.saved_model_file), first.last_state_file
    before = best.read_bytes(), last.read_bytes(), first.curve_file.read_bytes()
    assert (load_checkpoint(best)["epoch"], load_checkpoint(last)["epoch"]) == (0, 1)
    trainer, loaded = new_trainer(tiny.make_config(resume=True))
    no_training(trainer, monkeypatch)
    result = trainer.fit(loaded.train, loaded.valid, verbose=False)
    assert result == (first.best_valid_score, first.best_valid_result)
    assert trainer.curve == first.curve
    assert (best.read_bytes(), last.read_bytes(), first.curve_file.read_bytes()) == before


def test_a_run_that_stopped_early_resumes_to_nothing(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5, 0.4, 0.3, 0.2])
    real = ResumableTrainer.evaluate

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        return {**real(self, *args, **kwargs), "ndcg@10": next(values)}

    monkeypatch.setattr(ResumableTrainer, "evaluate", evaluate)
    settings = {"epochs": 20, "stopping_step": 1}
    first, _ = fitted(tiny.make_config(**settings))
    assert len(first.curve) == 3
    trainer, loaded = new_trainer(tiny.make_config(**settings, resume=True))
    no_training(trainer, monkeypatch)
    result = trainer.fit(loaded.train, loaded.valid, verbose=False)
    assert result == (0.5, first.best_valid_result)
    assert trainer.curve == first.curve
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 0.5}, "learning_rate"),
        ({"epochs": 9}, "epochs, stopping_step"),
        ({"mask_mix": {"span": 0.5}}, "mask_mix"),
        ({"seed": 3, "train_batch_size": 7}, "learning_rate, seed, train_batch_size"),
        ({"augmentation": "prefix"}, "augmentation"),
    ],
)
def test_other_settings_are_refused(tiny: Tiny, settings: dict[str, Any], named: str) -> None:
    fitted(tiny.make_config())
    config = tiny.make_config(**settings, resume=True)
    with pytest.raises(InputError, match=rf"other settings \({named}\)"):
        new_trainer(config)


def test_settings_without_influence_may_change(tiny: Tiny) -> None:
    """Also the place of the data and the order in which a dict's keys are given."""
    fitted(tiny.make_config(mask_mix={"span": 1.0, "tail": 0.5}))
    moved = tiny.root / "elsewhere"
    moved.mkdir()
    (tiny.root / "toy").rename(moved / "toy")
    trainer, _ = new_trainer(
        tiny.make_config(
            mask_mix={"tail": 0.5, "span": 1.0},
            resume=True,
            eval_batch_size=7,
            data_path=str(moved),
        )
    )
    assert trainer.start_epoch == 2


def test_another_models_state_or_weights_alone_are_refused(tiny: Tiny) -> None:
    first, _ = fitted(tiny.make_config("SASRec"))
    trainer, _ = new_trainer(tiny.make_config("IDBERT4Rec"))
    with pytest.raises(InputError, match="other settings"):
        trainer.resume_checkpoint(str(first.last_state_file))
    with pytest.raises(InputError, match=r"resume from \*\.last\.safetensors"):
        trainer.resume_checkpoint(first.saved_model_file)


def test_a_state_of_another_version_is_refused(tiny: Tiny) -> None:
    """Its weights have other names, as after a change of the model's code."""
    first, _ = fitted(tiny.make_config("SASRec"))
    state = load_checkpoint(first.last_state_file)
    weights = state["state_dict"]
    weights["renamed"] = weights.pop("item_embedding.weight")
    save_checkpoint(first.last_state_file, state)
    with pytest.raises(InputError, match="was made by another version of SASRec; start"):
        new_trainer(tiny.make_config("SASRec", resume=True))


@pytest.mark.parametrize(
    ("capability", "scaler", "expected"),
    [((7, 5), False, False), ((7, 5), True, True), ((8, 0), False, True), ((9, 0), True, True)],
)
def test_mixed_precision_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], scaler: bool, expected: bool
) -> None:
    """bfloat16 where the GPU computes in it; else float16, but not without a scaler."""
    chosen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch, "set_autocast_dtype", lambda *given: chosen.append(given))
    trainer: Any = SimpleNamespace(
        device=torch.device("cuda"), enable_amp=True, enable_scaler=scaler, clip_grad_norm=None
    )
    ResumableTrainer._choose_precision(trainer)
    assert trainer.enable_amp is expected
    assert chosen == ([("cuda", torch.bfloat16)] if capability >= (8, 0) else [])
    assert trainer.enable_scaler is (scaler and capability < (8, 0))


def test_resume_without_a_state_starts_anew(tiny: Tiny) -> None:
    trainer, _ = new_trainer(tiny.make_config(resume=True))
    assert trainer.start_epoch == 0


def test_without_resume_a_run_starts_anew(tiny: Tiny) -> None:
    first, _ = fitted(tiny.make_config())
    again, _ = fitted(tiny.make_config())
    assert_same_run(first, again)
    assert len(again.curve) == 2


def test_every_step_of_a_run_has_its_rate(tiny: Tiny) -> None:
    """The trainer steps the schedule once a batch, and as before after a resume."""
    settings = {"epochs": 3, "learning_rate": 0.01, "warmup_ratio": 0.4, "lr_decay": "linear"}

    def watch(trainer: Any) -> list[float]:
        seen: list[float] = []
        trainer.optimizer.register_step_pre_hook(
            lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
        )
        return seen

    config = tiny.make_config(**settings)
    trainer, loaded = new_trainer(config)
    seen = watch(trainer)
    die_after(trainer, 4)
    with pytest.raises(Killed):
        trainer.fit(loaded.train, loaded.valid, verbose=False)
    assert len(loaded.train) == 3
    trainer, loaded = new_trainer(tiny.make_config(**settings, resume=True))
    seen = seen[:3]
    later = watch(trainer)
    trainer.fit(loaded.train, loaded.valid, verbose=False)
    expected = [0.01 * factor for factor in (1 / 4, 2 / 4, 3 / 4, 1, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5)]
    assert seen + later == pytest.approx(expected)


# Curve, choice and evaluation --------------------------------------------------------------------


def test_learning_curve_file(tiny: Tiny) -> None:
    trainer, loaded = fitted(tiny.make_config(epochs=4, eval_step=2))
    content = json.loads((tiny.root / "saved" / "QBERT4Rec.curve.json").read_text())
    assert content["valid_metric"] == "ndcg@10"
    assert content["curve"] == trainer.curve
    assert [row["epoch"] for row in trainer.curve] == [1, 3]
    names = {f"{column}{m}@{k}" for column in ("", "unseen_") for m in ("hit", "ndcg")
             for k in (1, 5, 10)}  # fmt: skip
    for row in trainer.curve:
        assert row.keys() == {"epoch", "train_loss", "seconds"} | names
        mean = trainer.train_loss_dict[row["epoch"]] / len(loaded.train)
        assert row["train_loss"] == pytest.approx(mean)
    assert trainer.curve[0]["seconds"] < trainer.curve[1]["seconds"]


def test_the_unseen_column_can_choose_the_epoch(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen, seen = iter([0.2, 0.6, 0.4]), iter([0.9, 0.1, 0.5])
    real = ResumableTrainer.evaluate

    def evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        return {**result, "unseen_ndcg@10": next(unseen), "ndcg@10": next(seen)}

    monkeypatch.setattr(ResumableTrainer, "evaluate", evaluate)
    trainer, _ = fitted(tiny.make_config("SASRec", epochs=3, valid_metric="unseen_NDCG@10"))
    assert trainer.best_valid_score == 0.6
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == 1


@pytest.mark.parametrize("model", ["QBERT4Rec", "BBQRec", "SASRec", "BigramChain"])
def test_evaluation_equals_recboles(tiny: Tiny, model: str) -> None:
    """Every metric that a rank decides, to RecBole's four decimals."""
    metrics = ["Hit", "NDCG", "Recall", "MRR", "Precision", "MAP"]
    config = tiny.make_config(model, metrics=metrics, topk=[1, 3, 10], epochs=5)
    trainer, loaded = fitted(config)
    theirs = Trainer(config, trainer.model)
    for loader in (loaded.valid, loaded.test):
        expected = theirs.evaluate(loader, load_best_model=False)
        ours = trainer.evaluate(loader, load_best_model=False)
        assert len(expected) == 18
        if model != "BigramChain":  # has ties, which RecBole decides by position
            assert {name: round(ours[name], 4) for name in expected} == dict(expected)
        else:
            assert all(ours[name] <= value + 1e-4 for name, value in expected.items())
        assert len(trainer.ranks.raw) == 40


def test_the_best_epoch_is_what_is_tested(tiny: Tiny) -> None:
    trainer, loaded = fitted(tiny.make_config("SASRec", epochs=4))
    best = max(trainer.curve, key=lambda row: (row["ndcg@10"], row["epoch"]))
    assert load_checkpoint(trainer.saved_model_file)["epoch"] == best["epoch"]
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    assert trainer.evaluate(loaded.valid)["ndcg@10"] == best["ndcg@10"]


def test_a_model_that_diverged_is_named(
    tiny: Tiny, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, loaded = new_trainer(make_config("SASRec"))
    with torch.no_grad():
        trainer.model.item_embedding.weight.fill_(math.nan)
    with pytest.raises(InputError, match="diverged"):
        trainer.evaluate(loaded.valid, load_best_model=False)
    with pytest.raises(InputError, match="SASRec: the training loss is nan; lower learning_rate"):
        trainer.fit(loaded.train, loaded.valid, verbose=False)


@pytest.mark.parametrize(("epochs", "evaluated"), [(5, [1, 3, 4]), (4, [1, 3]), (3, [1, 2])])
def test_the_last_epoch_is_evaluated(tiny: Tiny, epochs: int, evaluated: list[int]) -> None:
    """Also where `eval_step` does not divide the epochs: they would be trained in vain."""
    config = tiny.make_config("SASRec", epochs=epochs, eval_step=2)
    trainer, _ = fitted(config)
    assert [point["epoch"] for point in trainer.curve] == evaluated
