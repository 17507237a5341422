"""Settings that depend on the size of the data: numbers in place of `auto`.

Training length is set in optimizer steps, not in epochs: an epoch of 200 users is seven steps, one
of 40,000 users eighty. Smaller data sets need smaller batches, a lower learning rate and more
dropout. The numbers depend only on the data, so that a data set always gives the same settings.
They were chosen on validation (results/defaults.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

AUTO = "auto"
SMALLEST_BATCH, LARGEST_BATCH = 32, 512
BATCHES_PER_EPOCH = 32  # at least, within the bounds of the batch size
STEPS_PER_ROOT = 16  # optimizer steps = this * sqrt(number of training rows)
FEWEST_STEPS, MOST_STEPS = 1000, 2000
EVALUATIONS = 12  # on valid, during a training run
LARGEST_RATE = 0.003  # Adam's, at LARGEST_BATCH targets per step
MOST_DROPOUT, LEAST_DROPOUT = 0.4, 0.1
FEW_INTERACTIONS, MANY_INTERACTIONS = 14_000, 140_000  # training; at most and least dropout
LONG_SEQUENCE = 20  # mean number of training items; longer sequences use random masks
# In short sequences one target per row is enough, and predicting the last item is the task of
# ranking. In long ones a single target would leave most of the sequence unused.
MASKS_OF_SHORT = {"random": 0.0, "span": 1.0, "tail": 1.0, "multi_region": 1.0, "next_item": 7.0}
MASKS_OF_LONG = {"random": 1.0, "span": 0.0, "tail": 0.0, "multi_region": 0.0, "next_item": 0.0}
LARGE_CATALOG = 8192  # items; larger catalogs use a sampled softmax
SOFTMAX_SAMPLES = 2048


class DataSize(NamedTuple):
    """Data sizes that the `auto` settings depend on."""

    sequences: int  # users with training items
    rows: int  # training rows
    interactions: int  # training interactions
    items: int  # N, padding included


def eval_step(epochs: int) -> int:
    """Return the number of epochs between evaluations on valid."""
    return max(1, epochs // EVALUATIONS)


def resolve_auto(config: Any, data: DataSize) -> None:
    """Replace `auto` values in a config by numbers.

    Args:
        config: a RecBole `Config` or a mapping, changed in place; other values stay.
        data: size of the data set.
    """
    is_long = data.interactions / data.sequences > LONG_SEQUENCE

    def batch_size() -> int:
        """The largest power of two that gives BATCHES_PER_EPOCH batches, within the bounds."""
        size = 2 ** max(0, (data.rows // BATCHES_PER_EPOCH).bit_length() - 1)
        return min(max(size, SMALLEST_BATCH), LARGEST_BATCH)

    def epochs() -> int:
        steps = min(max(STEPS_PER_ROOT * math.sqrt(data.rows), FEWEST_STEPS), MOST_STEPS)
        return max(1, round(steps / math.ceil(data.rows / config["train_batch_size"])))

    def learning_rate() -> float:
        """Proportional to the root of the batch size; rows of long sequences have many targets."""
        share = 1.0 if is_long else math.sqrt(config["train_batch_size"] / LARGEST_BATCH)
        return float(f"{LARGEST_RATE * share:.2g}")

    def dropout() -> float:
        """Linear in the logarithm of the number of training interactions."""
        n = min(max(data.interactions, FEW_INTERACTIONS), MANY_INTERACTIONS)
        share = math.log(n / FEW_INTERACTIONS) / math.log(MANY_INTERACTIONS / FEW_INTERACTIONS)
        return round(MOST_DROPOUT + share * (LEAST_DROPOUT - MOST_DROPOUT), 2)

    # The order matters: epochs and rate depend on the batch size, eval_step and stopping_step on
    # the epochs.
    rules: dict[str, Callable[[], Any]] = {
        "train_batch_size": batch_size,
        "epochs": epochs,
        "eval_step": lambda: eval_step(config["epochs"]),
        # No early stopping: the valid metric rises until the learning rate has decayed to zero.
        "stopping_step": lambda: config["epochs"],
        "learning_rate": learning_rate,
        "hidden_dropout_prob": dropout,
        "mask_mix": lambda: dict(MASKS_OF_LONG if is_long else MASKS_OF_SHORT),
        "softmax_samples": lambda: SOFTMAX_SAMPLES if data.items - 1 > LARGE_CATALOG else 0,
    }
    for key, rule in rules.items():
        if key in config and config[key] == AUTO:
            config[key] = rule()
