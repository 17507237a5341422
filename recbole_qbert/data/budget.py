"""Settings that follow the size of the data: numbers in place of `auto`.

A training is a number of optimizer steps, not of epochs: an epoch of 200 users is seven steps, one
of 40,000 users eighty. Fewer data need smaller batches, a lower learning rate and more dropout. The
numbers depend on the data alone, so that the same data always give the same run. They were chosen
on validation (results/defaults.md).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

AUTO = "auto"
SMALLEST_BATCH, LARGEST_BATCH = 32, 512
BATCHES_PER_EPOCH = 32  # at least so many, within the bounds of a batch
STEPS_PER_ROOT = 16  # optimizer steps of a training for each square root of a training row
FEWEST_STEPS, MOST_STEPS = 1000, 2000
EVALUATIONS = 12  # on valid during a training
LARGEST_RATE = 0.003  # of Adam, with LARGEST_BATCH targets a step
MOST_DROPOUT, LEAST_DROPOUT = 0.4, 0.1
FEW_INTERACTIONS, MANY_INTERACTIONS = 14_000, 140_000  # of training, for most and least dropout
LONG_SEQUENCE = 20  # training items on average; the masks of longer ones are drawn over all places
# One target a row is enough for short sequences, and asks what ranking asks; of a long one it would
# waste nearly all.
MASKS_OF_SHORT = {"random": 0.0, "span": 1.0, "tail": 1.0, "multi_region": 1.0, "next_item": 7.0}
MASKS_OF_LONG = {"random": 1.0, "span": 0.0, "tail": 0.0, "multi_region": 0.0, "next_item": 0.0}
LARGE_CATALOG = 8192  # items; the softmax over more of them is sampled
SOFTMAX_SAMPLES = 2048


class DataSize(NamedTuple):
    """What the numbers depend on."""

    sequences: int  # users with training items
    rows: int  # of training
    interactions: int  # of training
    items: int  # N, padding included


def batch_size(n_rows: int) -> int:
    """The largest power of two that leaves `BATCHES_PER_EPOCH` batches an epoch, within bounds."""
    size = 2 ** max(0, (n_rows // BATCHES_PER_EPOCH).bit_length() - 1)
    return min(max(size, SMALLEST_BATCH), LARGEST_BATCH)


def n_epochs(n_rows: int, size: int) -> int:
    """Epochs of a whole training in batches of `size` rows."""
    steps = min(max(STEPS_PER_ROOT * math.sqrt(n_rows), FEWEST_STEPS), MOST_STEPS)
    return max(1, round(steps / math.ceil(n_rows / size)))


def eval_step(epochs: int) -> int:
    """Epochs between evaluations on valid."""
    return max(1, epochs // EVALUATIONS)


def learning_rate(size: int, length: float) -> float:
    """In proportion to the root of the batch size; long sequences have many targets a row."""
    if length > LONG_SEQUENCE:
        return LARGEST_RATE
    return float(f"{LARGEST_RATE * math.sqrt(size / LARGEST_BATCH):.2g}")


def dropout(n_interactions: int) -> float:
    """From most to least, linear in the logarithm of the number of training interactions."""
    n = min(max(n_interactions, FEW_INTERACTIONS), MANY_INTERACTIONS)
    share = math.log(n / FEW_INTERACTIONS) / math.log(MANY_INTERACTIONS / FEW_INTERACTIONS)
    return round(MOST_DROPOUT + share * (LEAST_DROPOUT - MOST_DROPOUT), 2)


def mask_mix(length: float) -> dict[str, float]:
    """Weights of the masking schemes for sequences of `length` items on average."""
    return dict(MASKS_OF_LONG if length > LONG_SEQUENCE else MASKS_OF_SHORT)


def resolve_auto(config: Any, data: DataSize) -> None:
    """Put numbers in place of `auto` in a config.

    Args:
        config: a RecBole `Config` or a mapping; values other than `auto` stay.
        data: its size.
    """
    # In this order: epochs and rate follow the batch size, what counts evaluations the epochs.
    length = data.interactions / data.sequences
    rules = {
        "train_batch_size": lambda: batch_size(data.rows),
        "epochs": lambda: n_epochs(data.rows, config["train_batch_size"]),
        "eval_step": lambda: eval_step(config["epochs"]),
        # The valid metric rises until the learning rate has fallen to zero.
        "stopping_step": lambda: config["epochs"],
        "learning_rate": lambda: learning_rate(config["train_batch_size"], length),
        "hidden_dropout_prob": lambda: dropout(data.interactions),
        "mask_mix": lambda: mask_mix(length),
        "softmax_samples": lambda: SOFTMAX_SAMPLES if data.items > LARGE_CATALOG else 0,
    }
    for key, value in rules.items():
        if key in config and config[key] == AUTO:
            config[key] = value()
