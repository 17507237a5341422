"""Several processes: the arithmetic of shares in this one, whole runs in two."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import Tiny, assert_equal_weights, loss_and_gradients, new_trainer
from processes import run_command
from recbole.data.interaction import Interaction

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.process_group import world
from recbole_qbert.evaluation.results import RunResult, read_results
from recbole_qbert.speedups.trimmed_forward import trimmed_loss
from recbole_qbert.training.checkpoint import load_checkpoint
from recbole_qbert.training.distributed import (
    PartialLoss,
    first_error_only,
    number_of_processes,
    own_randomness,
)

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
# 40 training rows in batches of 13: the last batch has one row, and the second process none.
SMALL = [
    "--dataset=toy",
    "--data_path=.",
    "--use_gpu=False",
    "--show_progress=False",
    "--epochs=4",
    "--train_batch_size=13",
    "--eval_batch_size=7",
    "--MAX_ITEM_LIST_LENGTH=8",
]
TINY_MODEL = ["--hidden_size=16", "--n_layers=1", "--n_heads=2", "--inner_size=32"]
# The second process dies in the middle of the third epoch, as if the system had killed it.
KILLED_RUN = """
import os, sys
from recbole_qbert.cli import main
from recbole_qbert.training.distributed import ParallelLoss
from recbole_qbert.speedups.trimmed_forward import trimmed_loss

call = ParallelLoss.__call__

def die(self, interaction):
    if self._part.step == 10 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), 9)
    return call(self, interaction)

ParallelLoss.__call__ = die
sys.exit(main(sys.argv[1:]))
"""


def finished(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command run to its end in the test's folder; it must not hang."""
    return subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )


def in_two(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`recbole-qbert run --nproc=2`."""
    command = [sys.executable, "-m", "recbole_qbert", "run", *SMALL, "--nproc=2"]
    return finished([*command, *arguments])


def state(result: RunResult, kind: str = ".last") -> dict[str, Any]:
    return load_checkpoint(Path(result.folder) / f"{result.model}{kind}.safetensors")


def names_in(folder: str) -> list[str]:
    """Every path, those below `tensorboard`, whose names hold the time, as that folder."""
    paths = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*"))
    return sorted("tensorboard" if path.startswith("tensorboard") else path for path in paths)


def ranks(result: RunResult) -> dict[str, np.ndarray]:
    with np.load(Path(result.folder) / "test_ranks.npz") as file:
        return dict(file)


# Shares ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rows", [1, 2, 13])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("model", "samples"),
    [("QBERT4Rec", 0), ("QBERT4Rec", 5), ("BBQRec", 5), ("SASRec", 0), ("BERT4Rec", 0)],
)
def test_the_mean_of_the_parts_is_the_batch(
    tiny: Tiny, model: str, samples: int, size: int, n_rows: int
) -> None:
    """Loss, gradients, and what is left of the random numbers, also where some have no row."""
    settings = {**NO_DROPOUT, "train_batch_size": n_rows}
    if model == "QBERT4Rec":
        settings |= {"code_loss_weight": 0.5, "code_dropout_prob": 0.2, "label_smoothing": 0.1}
        settings |= {"item_representation": "hybrid", "softmax_samples": samples}
    config = tiny.make_config(model, **settings)
    trainer, loaded = new_trainer(config)
    trainer.model.train()
    batch = next(iter(loaded.train))
    before = torch.get_rng_state()
    loss, gradients = loss_and_gradients(trainer.model.calculate_loss(batch), trainer.model)
    after = torch.get_rng_state()
    total, summed = 0.0, {name: torch.zeros_like(each) for name, each in gradients.items()}
    for rank in range(size):
        torch.set_rng_state(before)
        part = PartialLoss(trainer.model, trimmed_loss(trainer.model, config), 2026, rank, size)
        value, own = loss_and_gradients(part(batch), trainer.model)
        assert torch.equal(torch.get_rng_state(), after)
        total += value / size
        for name, gradient in own.items():
            summed[name] += gradient / size
        assert (value == 0) == (rank >= n_rows)
    assert total == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_weights_against_a_loop() -> None:
    """Each row's loss is its own number; masked positions count, where there are any."""

    class Rows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = torch.nn.Parameter(torch.ones(()))

        def sum_of_rows(self, batch: Interaction) -> Any:
            return self.one * batch["x"].sum()

        def calculate_loss(self, batch: Interaction) -> Any:
            if "MASK_INDEX" in batch:
                masked = batch["MASK_INDEX"] > 0
                return self.one * (batch["x"].unsqueeze(1) * masked).sum() / masked.sum()
            mean = self.one * batch["x"].mean()
            return mean, 2 * mean  # RecBole adds up what stands in a tuple

    values = [3.0, 5.0, 11.0, 2.0, 7.0]
    masks = [[1, 0], [2, 1], [1, 2], [0, 3], [2, 0]]
    rows = Interaction({"x": torch.tensor(values)})
    masked = Interaction({"x": torch.tensor(values), "MASK_INDEX": torch.tensor(masks)})
    terms = [x for x, row in zip(values, masks, strict=True) for place in row if place > 0]
    model = Rows()
    for batch, expected in ((rows, 3 * sum(values) / 5), (masked, sum(terms) / len(terms))):
        for size in (1, 2, 3, 5, 8):
            parts = [
                PartialLoss(model, model.calculate_loss, 0, rank, size)(batch).item()
                for rank in range(size)
            ]
            assert sum(parts) / size == pytest.approx(expected)
    for size in (1, 2, 3, 5, 8):
        parts = [
            PartialLoss(model, model.sum_of_rows, 0, rank, size, sums=True)(rows).item()
            for rank in range(size)
        ]
        assert sum(parts) / size == pytest.approx(sum(values))


def test_own_randomness_leaves_no_trace() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    device = torch.device("cpu")
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    drawn = []
    for entropy in ((5, 1, 0), (5, 1, 1), (5, 2, 0), (5, 1, 0)):
        with own_randomness(device, *entropy):
            drawn.append(draw())
    assert draw() == expected
    assert drawn[0] == drawn[3]
    assert len(set(drawn)) == 3


# Faults ------------------------------------------------------------------------------------------


def test_number_of_processes() -> None:
    assert [number_of_processes(each) for each in (None, "", 1, "4")] == [1, 1, 1, 4]
    for bad in ("two", "0", 0, -1, 1.5, True):
        with pytest.raises(InputError, match="nproc: .* is not a whole number"):
            number_of_processes(bad)
    assert world() == (0, 1)


def test_the_first_to_fail_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is left to be told; the others only take over its exit status."""
    store = dist.HashStore()
    for name, value in (("WORLD_SIZE", "3"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)

    def fail(rank: int, error: BaseException) -> None:
        monkeypatch.setattr(dist, "rendezvous", lambda _: iter([(store, rank, 3)]))
        with first_error_only():
            raise error

    with pytest.raises(InputError, match="the fault"):
        fail(1, InputError("the fault"))
    for rank, error in ((0, RuntimeError("connection lost")), (2, InputError("the fault"))):
        with pytest.raises(SystemExit) as caught:
            fail(rank, error)
        assert caught.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--nproc=two"], "nproc: 'two' is not"), (["--nproc=2", "--learning_rat=1"], "did you mean")],
)
def test_a_fault_is_one_line_and_status_2(tiny: Tiny, arguments: list[str], message: str) -> None:
    done = run_command("run", "--model=SASRec", *SMALL, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not Path("saved").exists()


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_end_as_one(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """Started by torchrun; one line, folder and bundle as ever, numbers equal without dropout."""
    models = ["QBERT4Rec", "SASRec", "TIGER", "MQL4GRec", "P5CID", "VIP5", "BigramChain"]
    sizes = {"hidden_size": 16, "n_layers": 1, "n_heads": 2, "inner_size": 32, **NO_DROPOUT}
    sections = {"QBERT4Rec": {**sizes, "code_dropout_prob": 0.1}, "SASRec": sizes}
    tiger = {"hidden_size": 16, "n_layers": 1, "n_decoder_layers": 1, "n_heads": 2, "head_size": 8}
    sections["TIGER"] = {**tiger, "inner_size": 32, "dropout_prob": 0.0}
    sections["MQL4GRec"] = {**sections["TIGER"], "text_levels": 2, "image_levels": 1}
    sections["P5CID"] = {**sections["TIGER"], "n_clusters": 3, "max_leaf": 4}
    sections["VIP5"] = {**sections["TIGER"], "item_vectors": tiny.item_vectors(partial=True)}
    Path("small.yaml").write_text(json.dumps({"per_model": sections}))
    flags = ["run", *SMALL, f"--model={','.join(models)}", "--config_files=small.yaml"]
    assert main([*flags, "--checkpoint_dir=one"]) == 0
    n_events = len(list(Path("one").rglob("events*")))
    command = [*TORCHRUN, "-m", "recbole_qbert", *flags, "--checkpoint_dir=two"]
    done = finished(command)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "recbole" not in done.stderr, done.stderr
    assert done.stdout.count("the whole catalog ranked") == 1
    assert done.stdout.count("epoch   1/4") == 7
    assert len(list(Path("two").rglob("events*"))) == n_events == 14  # of steps and of settings

    ones, twos = read_results("one/results.jsonl"), read_results("two/results.jsonl")
    assert [result.model for result in twos] == models
    for one, two in zip(ones, twos, strict=True):
        assert (one.n_processes, two.n_processes) == (1, 2)
        assert Path(one.folder).name == Path(two.folder).name
        assert one.best_epoch == two.best_epoch
        for split in ("valid", "test"):
            assert getattr(two, split) == pytest.approx(getattr(one, split), abs=1e-6)
        for name, values in ranks(one).items():
            np.testing.assert_array_equal(ranks(two)[name], values)
        left, right = state(one), state(two)
        for name, weights in left["state_dict"].items():
            torch.testing.assert_close(right["state_dict"][name], weights, rtol=0, atol=1e-4)
        losses = left["resume"]["train_loss_dict"]
        assert right["resume"]["train_loss_dict"] == pytest.approx(losses, rel=1e-5)
        assert torch.equal(left["resume"]["torch"], right["resume"]["torch"])
        assert names_in(two.folder) == names_in(one.folder)
    assert len(list(Path("two").rglob("bundle"))) == len(models)


@pytest.mark.slow
def test_two_processes_transfer_as_one(tiny: Tiny) -> None:
    """VQRec: a contrast with the whole batch, then codes that are reassigned and handed over."""
    sizes = ["--hidden_size=16", "--n_layers=1", "--n_heads=2", "--inner_size=32"]
    dropouts = [f"--{key}={value}" for key, value in NO_DROPOUT.items()]
    flags = ["run", *SMALL, "--model=VQRec", *sizes, *dropouts, "--pretrain_epochs=2"]
    flags += ["--reassign=learned", "--reassign_epochs=2"]
    assert main([*flags, "--checkpoint_dir=one"]) == 0
    done = finished([*TORCHRUN, "-m", "recbole_qbert", *flags, "--checkpoint_dir=two"])
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    ((one,), (two,)) = (read_results(f"{folder}/results.jsonl") for folder in ("one", "two"))
    left, right = state(one), state(two)
    assert left["state_dict"]["frozen_steps"] == right["state_dict"]["frozen_steps"] == 0
    for name, weights in left["state_dict"].items():
        torch.testing.assert_close(right["state_dict"][name], weights, rtol=0, atol=1e-3)
    losses = left["resume"]["train_loss_dict"]
    assert right["resume"]["train_loss_dict"] == pytest.approx(losses, rel=1e-4)


@pytest.mark.slow
def test_interests_of_two_processes_are_those_of_one(tiny: Tiny) -> None:
    """What a model does before an epoch is done once; without dropout the rest follows."""
    vectors = json.dumps(tiny.settings("MISSRec")["item_vectors"])
    flags = ["--model=MISSRec", *TINY_MODEL, f"--item_vectors={vectors}"]
    flags += [f"--{key}={value}" for key, value in NO_DROPOUT.items()]
    assert main(["run", *SMALL, *flags, "--checkpoint_dir=one"]) == 0
    done = in_two(*flags, "--checkpoint_dir=two")
    assert done.returncode == 0, done.stderr
    one, two = (read_results(f"{name}/results.jsonl")[0] for name in ("one", "two"))
    assert two.n_processes == 2
    assert two.valid == pytest.approx(one.valid, abs=1e-6)
    left, right = state(one), state(two)
    losses = left["resume"]["train_loss_dict"]
    assert right["resume"]["train_loss_dict"] == pytest.approx(losses, rel=1e-4)
    assert torch.equal(left["state_dict"]["clusters"], right["state_dict"]["clusters"])
    for name, weights in left["state_dict"].items():
        pair = [right["state_dict"][name], weights]
        if name.endswith("in_proj_bias"):
            # No score depends on the biases of keys, so that their gradient is rounding alone.
            pair = [torch.stack(each.chunk(3))[[0, 2]] for each in pair]
        torch.testing.assert_close(*pair, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_killed_run_ends_as_the_unbroken_one(tiny: Tiny) -> None:
    """With dropout; started by `--nproc=2`, and the peer of a killed process does not hang."""
    flags = ["--model=QBERT4Rec", *TINY_MODEL, "--code_dropout_prob=0.1"]
    done = in_two(*flags, "--checkpoint_dir=unbroken")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr and "recbole" not in done.stderr, done.stderr
    Path("killed.py").write_text(KILLED_RUN)
    flags.append("--checkpoint_dir=broken")
    killed = finished([*TORCHRUN, "killed.py", "run", *SMALL, *flags])
    assert killed.returncode != 0
    assert "epoch   2/4" in killed.stdout and "epoch   3/4" not in killed.stdout
    done = in_two(*flags, "--resume=True")
    assert done.returncode == 0, done.stderr
    assert "epoch   3/4" in done.stdout and "epoch   2/4" not in done.stdout

    (unbroken,) = read_results("unbroken/results.jsonl")
    (resumed,) = read_results("broken/results.jsonl")
    assert (resumed.valid, resumed.test) == (unbroken.valid, unbroken.test)
    assert resumed.n_processes == 2
    assert resumed.threads == 1
    for kind in ("", ".last"):
        assert_equal_weights(
            state(resumed, kind)["state_dict"], state(unbroken, kind)["state_dict"]
        )
    found = ranks(resumed)
    assert len(found["raw"]) == len(found["users"]) == unbroken.counts["test rows"] == 40
    assert sorted(found["users"]) == list(range(1, 41))
    hits = (found["raw"] <= 10).mean()
    assert math.isclose(hits, resumed.test["hit@10"])
