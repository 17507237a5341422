"""What `auto` stands for at each size of the data."""

from __future__ import annotations

import pytest
from conftest import Tiny

from recbole_qbert.data.budget import AUTO, DataSize, resolve_auto
from recbole_qbert.experiments.splits import load_splits

KEYS = (
    "train_batch_size",
    "epochs",
    "eval_step",
    "stopping_step",
    "learning_rate",
    "hidden_dropout_prob",
    "softmax_samples",
)
SHORT = {"random": 0.0, "span": 1.0, "tail": 1.0, "multi_region": 1.0, "next_item": 7.0}
LONG = {"random": 1.0, "span": 0.0, "tail": 0.0, "multi_region": 0.0, "next_item": 0.0}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # By hand: 7 batches of 32 an epoch, 1,000 steps; a quarter of .003.
        (DataSize(190, 199, 2_168, 152), (32, 143, 11, 143, 0.00075, 0.4, 0)),
        # 1,000 / 32 = 31.25 rows, rounded down to 16 and up to the smallest batch; 32 batches.
        (DataSize(1_000, 1_000, 6_539, 4_858), (32, 31, 2, 31, 0.00075, 0.4, 0)),
        # 2,928 / 32 = 91.5 rows, 64 of them in a batch, 46 batches; .003 / sqrt(8).
        (DataSize(2_928, 2_928, 13_856, 1_586), (64, 22, 1, 22, 0.0011, 0.4, 0)),
        # 535 rows in 32 batches, 512 of them in a batch, 34 batches; 1,000 < 2,093 > 2,000 steps.
        # log10(102,002 / 14,000) = .862; .4 - .3 x .862 = .141.
        (DataSize(17_112, 17_137, 102_002, 6_251), (512, 59, 4, 59, 0.003, 0.14, 0)),
        (DataSize(22_363, 22_507, 153_776, 12_102), (512, 45, 3, 45, 0.003, 0.1, 2048)),
        (DataSize(42_259, 42_763, 288_996, 13_840), (512, 24, 2, 24, 0.003, 0.1, 2048)),
        # An epoch of more steps than the training has.
        (DataSize(5_000_000, 5_000_000, 50_000_000, 1_000_001), (512, 1, 1, 1, 0.003, 0.1, 2048)),
        (DataSize(1, 1, 2, 3), (32, 1000, 83, 1000, 0.00075, 0.4, 0)),
    ],
)
def test_settings_by_hand(data: DataSize, expected: tuple[float, ...]) -> None:
    config = dict.fromkeys(KEYS, AUTO)
    resolve_auto(config, data)
    assert tuple(config[key] for key in KEYS) == expected


@pytest.mark.parametrize(("items", "samples"), [(8_192, 0), (8_193, 2048)])
def test_a_large_catalog_has_more_than_8192_items(items: int, samples: int) -> None:
    config = {"softmax_samples": AUTO}
    resolve_auto(config, DataSize(1_000, 1_000, 5_000, items + 1))  # and the padding
    assert config["softmax_samples"] == samples


def test_numbers_stay_and_others_follow_them() -> None:
    config = {**dict.fromkeys(KEYS, AUTO), "train_batch_size": 128, "softmax_samples": 7}
    resolve_auto(config, DataSize(10_000, 5_000, 140_000, 20_000))
    assert config["train_batch_size"] == 128 and config["softmax_samples"] == 7
    assert config["epochs"] == 28  # 16 x 70.7 = 1,131 steps, 40 an epoch
    assert config["eval_step"] == 2 and config["stopping_step"] == 28
    assert config["learning_rate"] == 0.0015  # half of .003 for a quarter of the rows


@pytest.mark.parametrize(
    ("interactions", "masks", "rate"), [(2_000, SHORT, 0.00075), (2_001, LONG, 0.003)]
)
def test_masks_and_rate_follow_the_length_of_sequences(
    interactions: int, masks: dict[str, float], rate: float
) -> None:
    config = {"mask_mix": AUTO, "learning_rate": AUTO, "train_batch_size": 32}
    resolve_auto(config, DataSize(100, 100, interactions, 50))
    assert (config["mask_mix"], config["learning_rate"]) == (masks, rate)


def test_a_data_set_resolves_the_config_of_its_run(tiny: Tiny) -> None:
    splits = load_splits(tiny.make_config(**dict.fromkeys(KEYS, AUTO)))
    train = splits.train._dataset
    expected = dict.fromkeys(KEYS, AUTO)
    lengths = train.training_sequences()[1].diff()
    size = DataSize(
        int((lengths > 0).sum()), len(train), int(lengths.sum()), splits.dataset.item_num
    )
    resolve_auto(expected, size)
    assert {key: splits.dataset.config[key] for key in KEYS} == expected
    assert len(splits.train) == -(-len(train) // 32)
