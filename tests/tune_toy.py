"""A sweep of the toy data, and a stand-in for Ray that runs trials one after another here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from conftest import Tiny

from recbole_qbert.experiments.tune import ray_adapter
from recbole_qbert.experiments.tune.settings import SweepPlan, make_plan, read_request

SETTINGS = {
    "n_heads": 2,
    "hidden_size": 16,
    "inner_size": 32,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 16,
    "eval_batch_size": 32,
}
SWEEP: dict[str, Any] = {
    "model": "QBERT4Rec",
    "dataset": "toy",
    "data_path": ".",
    "name": "s",
    "trials": 2,
    "scheduler": "asha",
    "reduction": 2,
    "max_epochs": 4,
    "max_concurrent": 1,
    "gpus_per_trial": 0,
    "space": {"n_layers": {"grid": [1, 2]}, "learning_rate": {"loguniform": [1e-4, 3e-2]}},
    "settings": SETTINGS,
}


def write_sweep(tiny: Tiny, **changes: Any) -> Path:
    """A tune file in the working directory; the space, if given, replaces the toy's."""
    path = tiny.root / "sweep.yaml"
    path.write_text(yaml.safe_dump({**SWEEP, **changes}))
    return path


def toy_plan(tiny: Tiny, given: dict[str, Any] | None = None, **changes: Any) -> SweepPlan:
    return make_plan(read_request(write_sweep(tiny, **changes), given or {}))


class Stopped(Exception):
    """What ends a trial that the scheduler stops."""


def run_here(
    train: Callable[..., None],
    numbers: list[int],
    schedule: Any,
    scheduler: Any,
    scratch: Path,
    listener: Any,
) -> None:
    """In place of Ray: one trial after another, in this process."""
    asha = scheduler if schedule.asha else None
    for number in numbers:
        if asha is not None:
            asha.add(number)
        listener.started(number)

        def report(content: dict[str, Any], number: int = number) -> None:
            listener.reported(number, dict(content))
            if asha and asha.decide(number, content["evaluation"], content["valid"]) == "STOP":
                raise Stopped

        with contextlib.suppress(Stopped):
            train(number, report)
        listener.ended(number, asha is not None and number in asha.stopped)


def without_ray(monkeypatch: Any) -> None:
    """Let sweeps of this test run their trials here."""

    @contextlib.contextmanager
    def connected(address: str | None) -> Iterator[None]:
        yield

    monkeypatch.setattr(ray_adapter, "connected", connected)
    monkeypatch.setattr(ray_adapter, "resources", lambda *_: (0.0, ""))
    monkeypatch.setattr(ray_adapter, "check_machines", lambda job: None)
    monkeypatch.setattr(ray_adapter, "_fit", run_here)
