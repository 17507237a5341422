"""A learning curve: one row an evaluation on valid, as the trainer writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console


def best_evaluation(curve: Sequence[Mapping[str, float]], metric: str) -> tuple[float, int]:
    """The best value of a metric and its epoch; of equal epochs RecBole keeps the last one."""
    return max((row[metric], int(row["epoch"])) for row in curve)


def epoch_line(curve: Sequence[Mapping[str, float]], metric: str, n_epochs: int) -> str:
    """One line a valid evaluation: loss, metric, `*` where it is the best yet, time left."""
    last, done = curve[-1], int(curve[-1]["epoch"]) + 1
    best = "*" if last[metric] >= max(row[metric] for row in curve) else " "
    left = last["seconds"] / done * (n_epochs - done)
    return (
        f"  epoch {done:>3}/{n_epochs}  loss {last['train_loss']:.4f}  "
        f"valid {metric} {last[metric]:.4f}{best}  "
        f"{last['seconds']:.0f} s, at most {left:.0f} s left"
    )


def epoch_printer(trainer: Any, console: Console) -> Callable[[int, float], None]:
    """What a trainer calls after each evaluation on valid, to print it."""

    def report(epoch: int, score: float) -> None:
        console.print(epoch_line(trainer.curve, trainer.valid_metric, trainer.config["epochs"]))

    return report
