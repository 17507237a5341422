"""S3Rec's pretraining batches, made by one scatter, against RecBole's own loop."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from conftest import Tiny, load
from recbole.model.sequential_recommender import S3Rec

# The method that the workaround wraps.
ORIGINAL = S3Rec.reconstruct_pretrain_data.__wrapped__


def both(model: Any, items: torch.Tensor, lengths: torch.Tensor, seed: int) -> list[Any]:
    """Results of the original and of ours from the same random state, and the state afterwards."""
    results = []
    for method in (ORIGINAL, S3Rec.reconstruct_pretrain_data):
        random.seed(seed)
        results.append((method(model, items, lengths), random.getstate()))
    return results


@pytest.mark.parametrize("length", [8, 50])
@pytest.mark.parametrize("attribute", ["class", "semantic_id", "kind"])
def test_every_tensor_equals_the_originals(tiny: Tiny, attribute: str, length: int) -> None:
    """For attributes of several words and of one, short histories and long padding."""
    path = tiny.folder / "toy.item"
    header, *lines = path.read_text().splitlines()
    rows = [f"{line}\tk{number % 4}" for number, line in enumerate(lines)]
    path.write_text("\n".join([f"{header}\tkind:token", *rows, ""]))
    columns = {
        "inter": ["user_id", "item_id", "timestamp"],
        "item": ["item_id", "class", "kind"],
    }
    config = tiny.make_config(
        "S3Rec", item_attribute=attribute, load_col=columns, MAX_ITEM_LIST_LENGTH=length
    )
    loaded = load(config)
    model = S3Rec(config, loaded.train._dataset)
    table, n_features = model.item_feat, model.n_features
    for number, batch in enumerate(loaded.train):
        items, lengths = batch["item_id_list"], batch["item_length"]
        (expected, state), (found, after) = both(model, items, lengths, number)
        assert len(expected) == len(found) == 7
        for left, right in zip(expected, found, strict=True):
            assert left.dtype == right.dtype
            assert torch.equal(left, right)
        assert state == after
        assert expected[0].sum() >= lengths.sum()  # every item has an attribute
    assert model.item_feat is table
    assert model.n_features == n_features


def test_the_model_is_whole_again_after_an_error(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.make_config("S3Rec")
    loaded = load(config)
    model = S3Rec(config, loaded.train._dataset)
    table, n_features = model.item_feat, model.n_features

    def fail(instance: Any) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(model, "_padding_zero_at_left", fail)
    batch = next(iter(loaded.train))
    with pytest.raises(ZeroDivisionError):
        model.reconstruct_pretrain_data(batch["item_id_list"], batch["item_length"])
    assert model.item_feat is table
    assert model.n_features == n_features
