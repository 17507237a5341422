"""No valid or test item reaches the training: change them all and the weights stay, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import N_ITEMS, Row, Tiny, assert_equal_weights, fitted

from recbole_qbert.training.checkpoint import load_checkpoint

LARGE_BATCHES = {"train_batch_size": 64}  # where each prefix of a sequence is a row


def rows_with_targets(tiny: Tiny, shift: int) -> list[Row]:
    """All training rows first, so that internal ids do not hang on the targets; then the targets,
    every one moved by `shift` items.
    """
    training: list[Row] = []
    targets: list[Row] = []
    for user, sequence in tiny.sequences.items():
        training += [(user, item, float(place)) for place, item in enumerate(sequence[:-2])]
        for place, item in enumerate(sequence[-2:], start=len(sequence) - 2):
            moved = f"i{(int(item[1:]) + shift) % N_ITEMS}"
            targets.append((user, moved, float(place)))
    assert len({item for _, item, _ in training}) == N_ITEMS
    return training + targets


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("QBERT4Rec", {}),
        ("QBERT4Rec", {"item_representation": "word"}),
        ("QBERT4Rec", {"softmax_items": "trained"}),
        ("ContentKNN", {}),
        ("IDBERT4Rec", {}),
        ("BBQRec", {}),
        ("BERT4RecFixed", {}),
        ("ESASRec", {"n_negatives": 4, "negative_power": 0.5}),
        ("GSASRec", {}),
        ("SASRecContent", {}),
        ("SASRecContent", {"use_ids": False}),
        ("SASRec", {}),
        ("FDSA", {}),
        ("Popularity", {}),
        ("BigramChain", {}),
        ("TIGER", {}),
        ("TIGER", {"user_tokens": 3}),
        ("MQL4GRec", LARGE_BATCHES),
        ("P5CID", LARGE_BATCHES),
        ("P5CID", {"leaf_tokens": "item"} | LARGE_BATCHES),
        ("VIP5", LARGE_BATCHES),
        ("VQRec", {}),
        ("VQRec", {"train_stage": "pretrain"}),
        ("MISSRec", {}),
        ("MISSRec", {"use_ids": False}),
    ],
)
def test_targets_do_not_reach_the_training(
    tiny: Tiny, model: str, settings: dict[str, Any]
) -> None:
    runs = []
    for shift in (0, 11):
        tiny.write_inter(rows_with_targets(tiny, shift))
        folder = str(tiny.root / f"saved{shift}")
        trainer, loaded = fitted(tiny.make_config(model, checkpoint_dir=folder, **settings))
        tokens = loaded.dataset.field2id_token["item_id"].tolist()
        targets = [batch[0]["item_id"].tolist() for batch in loaded.test]
        runs.append((trainer, tokens, targets, load_checkpoint(trainer.last_state_file)))
    (left, left_tokens, left_targets, left_last), (right, tokens, targets, last) = runs
    assert left_tokens == tokens
    assert all(
        a != b
        for x, y in zip(left_targets, targets, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert_equal_weights(left.model.state_dict(), right.model.state_dict())
    assert left.train_loss_dict == right.train_loss_dict
    assert (left_last["epoch"], last["epoch"]) == (left.epochs - 1, left.epochs - 1)


def test_the_comparison_would_notice(tiny: Tiny) -> None:
    """One changed training item changes the weights."""
    weights = []
    for place in (None, 0):
        if place is not None:
            user = next(iter(tiny.sequences))
            items = tiny.sequences[user]
            items[place] = f"i{(int(items[place][1:]) + 17) % N_ITEMS}"
        tiny.write_inter(rows_with_targets(tiny, 0))
        trainer, _ = fitted(tiny.make_config())
        weights.append(trainer.model.state_dict())
    with pytest.raises(AssertionError):
        assert_equal_weights(*weights)
