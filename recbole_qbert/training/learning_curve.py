"""Learning curves, with one row per evaluation on valid, as the trainer writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from recbole_qbert.common.output import duration, time_left
from recbole_qbert.evaluation.results import metric_title


def best_evaluation(curve: Sequence[Mapping[str, float]], metric: str) -> tuple[float, int]:
    """Return the best value of a metric and its epoch; the last one of equals, as in RecBole."""
    return max((row[metric], int(row["epoch"])) for row in curve)


def epoch_line(
    curve: Sequence[Mapping[str, float]], metric: str, n_epochs: int, n_before: int = 0
) -> str:
    """Format the last evaluation: loss, metric, `*` if it is the best so far, time left.

    `n_before` evaluations before a resume may be from another machine, so the time left is
    estimated from the later ones.
    """
    last, done = curve[-1], int(curve[-1]["epoch"]) + 1
    best = "*" if last[metric] >= max(row[metric] for row in curve) else " "
    start = curve[n_before - 1] if n_before else {"seconds": 0.0, "epoch": -1.0}
    per_epoch = (last["seconds"] - start["seconds"]) / (last["epoch"] - start["epoch"])
    return (
        f"  epoch {done:>3}/{n_epochs}  loss {last['train_loss']:.4f}  "
        f"valid {metric_title(metric)} {last[metric]:.4f}{best}  "
        f"{duration(last['seconds'])}{time_left(per_epoch * (n_epochs - done))}"
    )


def epoch_printer(trainer: Any, console: Console) -> Callable[[int, float], None]:
    """Return a trainer callback that prints a line after each evaluation on valid."""
    return lambda epoch, score: console.print(
        epoch_line(trainer.curve, trainer.valid_metric, trainer.config["epochs"], trainer.n_before)
    )
