"""Batches of whole users against RecBole's batches of rows."""

from __future__ import annotations

import pytest
import torch
from conftest import Tiny

from recbole_qbert.data.splits import load_splits
from recbole_qbert.errors import InputError

ROW = "row_in_sequences"


def epoch(loader: object) -> list[tuple[int, int]]:
    """User and row of each training row, in the order of an epoch."""
    batches = list(loader)  # type: ignore[call-overload]
    assert all(len(batch) == 16 for batch in batches[:-1])
    rows = torch.cat([torch.stack([batch["user_id"], batch[ROW]], dim=1) for batch in batches])
    return [(user, row) for user, row in rows.tolist()]


def test_users_are_shuffled_and_stay_together(tiny: Tiny) -> None:
    by_row = load_splits(tiny.make_config("SASRec")).train
    by_user = load_splits(tiny.make_config("SASRec", batch_by="user")).train
    assert len(by_user) == len(by_row)
    first, second = epoch(by_user), epoch(by_user)
    assert sorted(first) == sorted(second) == sorted(epoch(by_row))
    orders = []
    for rows in (first, second):
        users = [user for user, _ in rows]
        changes = sum(one != two for one, two in zip(users, users[1:], strict=False))
        assert changes == len(set(users)) - 1
        for user in set(users):  # histories from the shortest on
            own = [row for each, row in rows if each == user]
            assert own == sorted(own)
        orders.append(list(dict.fromkeys(users)))
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    again = load_splits(tiny.make_config("SASRec", batch_by="user")).train
    assert epoch(again) == first
    other = load_splits(tiny.make_config("SASRec", batch_by="user", seed=3)).train
    assert epoch(other) != first


def test_without_shuffling_rows_keep_their_order(tiny: Tiny) -> None:
    loader = load_splits(tiny.make_config("SASRec", batch_by="user", shuffle=False)).train
    assert [row for _, row in epoch(loader)] == loader._dataset.inter_feat[ROW].tolist()


def test_an_unknown_way_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="batch_by: 'users' is none of row, user"):
        load_splits(tiny.make_config("SASRec", batch_by="users"))
