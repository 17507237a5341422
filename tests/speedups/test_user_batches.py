"""Batches of whole users against RecBole's batches of rows."""

from __future__ import annotations

import pytest
import torch
from conftest import Tiny

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.dataset import TARGET_POSITION_FIELD
from recbole_qbert.experiments.splits import load_splits

FIELDS = ("user_id", TARGET_POSITION_FIELD, "item_length")


def epoch(loader: object) -> list[tuple[int, int, int]]:
    """User, row and length of history of each training row, in the order of an epoch."""
    batches = list(loader)  # type: ignore[call-overload]
    assert all(len(batch) == 16 for batch in batches[:-1])
    columns = [torch.cat([batch[name] for batch in batches]) for name in FIELDS]
    return [(user, row, length) for user, row, length in torch.stack(columns, dim=1).tolist()]


def test_whole_histories_of_a_user_stand_together(tiny: Tiny) -> None:
    settings = {"MAX_ITEM_LIST_LENGTH": 5, "batch_by": "user"}
    by_row = load_splits(tiny.make_config("SASRec", MAX_ITEM_LIST_LENGTH=5)).train
    by_user = load_splits(tiny.make_config("SASRec", **settings)).train
    assert len(by_user) == len(by_row)
    first, second = epoch(by_user), epoch(by_user)
    assert sorted(first) == sorted(second) == sorted(epoch(by_row))
    orders = []
    for rows in (first, second):
        whole = [(user, row) for user, row, length in rows if length < 5]
        users = [user for user, _ in whole]
        assert 0 < len(whole) < len(rows)
        changes = sum(one != two for one, two in zip(users, users[1:], strict=False))
        assert changes == len(set(users)) - 1
        for user in set(users):  # histories from the shortest on, with nothing between them
            own = [row for each, row in whole if each == user]
            begin = next(at for at, (_, row, _) in enumerate(rows) if row == own[0])
            assert [row for _, row, _ in rows[begin : begin + len(own)]] == sorted(own)
        cut = [user for user, _, length in rows if length == 5]
        alone = sum(one != two for one, two in zip(cut, cut[1:], strict=False))
        assert alone > 1.5 * len(set(cut))  # not in users' blocks
        orders.append(list(dict.fromkeys(users)))
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])
    assert epoch(load_splits(tiny.make_config("SASRec", **settings)).train) == first
    assert epoch(load_splits(tiny.make_config("SASRec", **settings, seed=3)).train) != first


def test_without_shuffling_rows_keep_their_order(tiny: Tiny) -> None:
    loader = load_splits(tiny.make_config("SASRec", batch_by="user", shuffle=False)).train
    assert [row for _, row, _ in epoch(loader)] == loader._dataset.inter_feat[
        TARGET_POSITION_FIELD
    ].tolist()


def test_an_unknown_way_is_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="batch_by: 'users' is none of row, user"):
        tiny.make_config("SASRec", batch_by="users")
