"""Items held out of training, against a plain loop and in the splits of a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Tiny

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.cold import ColdSettings, ColdSplit, hold_out
from recbole_qbert.experiments.splits import Splits, load_splits

Sequences = dict[str, list[str]]


def _frame(seed: int = 0) -> pd.DataFrame:
    """60 users with 1 to 9 items of 25, popular ones more often, with equal times."""
    draw = np.random.default_rng(seed)
    rows = [
        (f"u{user}", f"i{int(25 * draw.random() ** 2)}", float(time // 2))
        for user in range(60)
        for time in range(draw.integers(1, 10))
    ]
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    return frame.sample(frac=1, random_state=seed)


def _split(frame: pd.DataFrame, **changes: Any) -> ColdSplit:
    settings = ColdSettings(0.2, 7, "test", False)._replace(**changes)
    return hold_out(frame["user"], frame["item"], frame["time"], settings)


def _sequences(frame: pd.DataFrame) -> Sequences:
    found: Sequences = {}
    for user, item in frame.sort_values("time", kind="stable")[["user", "item"]].to_numpy():
        found.setdefault(user, []).append(item)
    return found


def _without(sequences: Sequences, cold: set[str]) -> Sequences:
    """The rule, user by user: a last item stays; who has too few items left is left out."""
    found = {}
    for user, items in sequences.items():
        last = len(items) - 1 if len(items) >= 3 else -1
        left = [item for place, item in enumerate(items) if item not in cold or place == last]
        if len(left) >= min(3, len(items)):
            found[user] = left
    return found


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_against_a_loop(seed: int) -> None:
    frame = _frame(seed)
    split = _split(frame)
    cold = {*split.items}
    before = _sequences(frame)
    expected = _without(before, cold)
    assert _sequences(frame.iloc[split.rows]) == expected
    assert split.n_users == len(before) - len(expected)
    assert split.n_left_out == len(frame) - len(split.rows)
    assert len(cold) == 5 and cold <= {items[-1] for items in expected.values()}
    for items in expected.values():
        assert not cold & {*items[:-1]}


@pytest.mark.parametrize("seed", range(5))
def test_kept_interactions_test_the_same_users_on_the_same_items(seed: int) -> None:
    frame = _frame(seed)
    drop, keep = _split(frame), _split(frame, keeps=True)
    assert list(drop.items) == list(keep.items)
    left, kept = (_sequences(frame.iloc[split.rows]) for split in (drop, keep))
    # Users are in the same order, so that they have the same numbers.
    users = [frame.iloc[split.rows]["user"].unique().tolist() for split in (drop, keep)]
    assert users[0] == users[1]
    assert all(left[user][-1] == kept[user][-1] for user in left)
    assert {*sum(left.values(), [])} == {*sum(kept.values(), [])}
    assert sum(map(len, kept.values())) > sum(map(len, left.values()))


def test_the_draw_depends_on_neither_order_nor_on_test_targets_of_valid() -> None:
    frame = _frame()
    ordered = frame.sort_values("user", kind="stable")  # equal times keep their order
    assert list(_split(frame).items) == list(_split(ordered).items)
    other = _split(frame, seed=8)
    assert list(other.items) != list(_split(frame).items)
    # One step earlier: neither the last items nor the items held out for test are there.
    test, valid = _split(frame), _split(frame, targets="valid")
    left = _without(_sequences(frame), {*test.items})
    earlier = {user: items[:-1] if len(items) >= 3 else items for user, items in left.items()}
    assert _sequences(frame.iloc[valid.rows]) == _without(earlier, {*valid.items})
    assert not {*valid.items} & {*test.items}
    assert not {*frame.iloc[valid.rows]["item"]} & {*test.items}


def test_a_share_that_does_not_fit() -> None:
    for share in (0.001, 0.99):
        with pytest.raises(InputError, match="cold_items: .*; give a share that fits"):
            _split(_frame(), share=share)


def _tokens(splits: Splits, part: Any) -> list[str]:
    return list(splits.dataset.id2token("item_id", part))


@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec", "S3Rec"])
def test_no_model_trains_on_held_out_items(
    tiny: Tiny, make_config: Callable[..., Any], model: str
) -> None:
    splits = load_splits(make_config(model, cold_items=0.2, cold_seed=3))
    dataset = splits.dataset
    cold, mask = {*dataset.cold_items}, dataset.cold_mask()
    assert len(cold) == 6
    assert {*_tokens(splits, np.flatnonzero(mask))} == cold
    items, _ = splits.train._dataset.training_sequences()
    assert not cold & {*_tokens(splits, items)}
    for batch in splits.train:
        assert not mask[batch["item_id_list"].numpy()].any() and not mask[batch["item_id"]].any()
    assert not cold & {*_tokens(splits, splits.valid._dataset.inter_feat["item_id"])}
    tested = splits.test._dataset.inter_feat
    users = dataset.id2token("user_id", tested["user_id"])
    for user, item in zip(users, _tokens(splits, tested["item_id"]), strict=True):
        assert tiny.sequences[user][-1] == item
    assert cold == {*_tokens(splits, tested["item_id"])} & cold
    assert any("6 items held out of training" in note for note in dataset.notes)


def test_ready_made_splits_are_refused(make_config: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="cold_items: needs one .inter file"):
        make_config("SASRec", cold_items=0.2, benchmark_filename=["train", "valid", "test"])
