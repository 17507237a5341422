"""The learning rate of each step."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_qbert.training.trainer import build_schedule


def rates(n_steps: int, warmup_ratio: float, decay: str) -> list[float]:
    """The learning rate of each step at a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(optimizer, n_steps=n_steps, warmup_ratio=warmup_ratio, decay=decay)
    found = []
    for _ in range(n_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("n_steps", "warmup_ratio", "decay", "expected"),
    [
        (4, 0.0, "none", [1, 1, 1, 1]),
        (6, 0.5, "none", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        (4, 0.0, "linear", [1, 0.75, 0.5, 0.25]),
        (6, 1 / 3, "linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        (4, 0.0, "cosine", [1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        (5, 0.2, "cosine", [1, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
        (3, 0.1, "linear", [1, 2 / 3, 1 / 3]),  # less than half a step of warm-up is none
    ],
)
def test_schedule_against_numbers_by_hand(
    n_steps: int, warmup_ratio: float, decay: str, expected: list[float]
) -> None:
    assert rates(n_steps, warmup_ratio, decay) == pytest.approx(expected)
