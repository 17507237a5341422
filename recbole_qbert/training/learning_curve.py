"""A learning curve: one row an evaluation on valid, as the trainer writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console


def best_evaluation(curve: Sequence[Mapping[str, float]], metric: str) -> tuple[float, int]:
    """The best value of a metric and its epoch; of equal epochs RecBole keeps the last one."""
    return max((row[metric], int(row["epoch"])) for row in curve)


def epoch_line(
    curve: Sequence[Mapping[str, float]], metric: str, n_epochs: int, n_before: int = 0
) -> str:
    """One line a valid evaluation: loss, metric, `*` where it is the best yet, time left.

    The first `n_before` evaluations were made before a resume, perhaps on another machine; the time
    left is told from those after it.
    """
    last, done = curve[-1], int(curve[-1]["epoch"]) + 1
    best = "*" if last[metric] >= max(row[metric] for row in curve) else " "
    begun = curve[n_before - 1] if n_before else {"seconds": 0.0, "epoch": -1.0}
    an_epoch = (last["seconds"] - begun["seconds"]) / (last["epoch"] - begun["epoch"])
    left = an_epoch * (n_epochs - done)
    return (
        f"  epoch {done:>3}/{n_epochs}  loss {last['train_loss']:.4f}  "
        f"valid {metric} {last[metric]:.4f}{best}  "
        f"{last['seconds']:.0f} s, at most {left:.0f} s left"
    )


def epoch_printer(trainer: Any, console: Console) -> Callable[[int, float], None]:
    """What a trainer calls after each evaluation on valid, to print it."""

    def report(epoch: int, score: float) -> None:
        n_epochs, n_before = trainer.config["epochs"], trainer.n_before
        console.print(epoch_line(trainer.curve, trainer.valid_metric, n_epochs, n_before))

    return report
