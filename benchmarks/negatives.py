"""Scores of sampled negatives: sampled softmax forward and backward, on made-up vectors.

`plain` gathers the vectors of all drawn items and multiplies them with those of the rows, as in the
release of gSASRec; `shipped` is what ESASRec and GSASRec do. `loss` must be the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.harness import Benchmark, Measure, Reading, of_quantities, timed

STEPS = 10


def _side(shipped: bool) -> Callable[[argparse.Namespace], Measure]:
    def side(options: argparse.Namespace) -> Measure:
        import torch
        from torch.nn import functional as F

        from recbole_qbert.models.layers.sampled_loss import sampled_softmax, scores_of_drawn

        torch.set_num_threads(options.threads)
        torch.manual_seed(2026)
        table = torch.randn(options.items, options.dimension, requires_grad=True)
        hidden = torch.randn(options.rows, options.dimension, requires_grad=True)
        drawn = torch.randint(1, options.items, (options.rows, options.negatives))
        positive = torch.zeros(options.rows)
        losses: list[float] = []

        def step() -> None:
            if shipped:
                scores = scores_of_drawn(hidden, table, drawn)
            else:
                scores = (F.embedding(drawn, table) @ hidden.unsqueeze(2)).squeeze(2)
            loss = sampled_softmax(positive, scores)
            loss.backward()
            losses[:] = [loss.item()]

        def measure(number: int) -> Reading:
            seconds, cpu_seconds = timed(lambda: [step() for _ in range(STEPS)])
            return {
                "ms a step": 1000 * seconds / STEPS,
                "CPU ms a step": 1000 * cpu_seconds / STEPS,
                "loss": losses[0],
            }

        return measure

    return side


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--negatives", type=int, default=256, help="of each row")
    parser.add_argument("--dimension", type=int, default=64)


BENCHMARKS = {
    "negatives": Benchmark(
        sides={"plain": _side(False), "shipped": _side(True)},
        pairs=[("shipped", "plain")],
        ratios=of_quantities("ms a step", "CPU ms a step", "loss"),
        add_options=_add_options,
    )
}
