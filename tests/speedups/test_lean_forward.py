"""Losses and scores without needless work against RecBole's own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from conftest import Tiny, loss_and_gradients, new_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction

from recbole_qbert.common.ragged import merge_prefixes
from recbole_qbert.speedups.trimmed_forward import (
    CAUSAL,
    MODELS,
    masked_loss,
    trimmed_loss,
    trimmed_scores,
)

PAIRWISE = {
    "loss_type": "BPR",
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
}
PLAIN = {
    "SASRecF": {"selected_features": ["semantic_id"]},
    "BERT4RecFixed": {"ft_ratio": 1.0},  # nothing to draw
}


@contextmanager
def places_of(model: Any) -> Iterator[list[int]]:
    """How many places each call of the item embedding is for, except those of targets."""
    seen: list[int] = []

    def watch(_: Any, inputs: Any) -> None:
        if inputs[0].dim() == 2:
            seen.append(inputs[0].numel())

    hook = model.item_embedding.register_forward_pre_hook(watch)
    yield seen
    hook.remove()


@pytest.mark.parametrize(("batch_by", "trim"), [("row", True), ("user", True), ("user", False)])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        *((model, {}) for model in sorted(MODELS)),
        ("SASRec", PAIRWISE),
        ("GRU4Rec", PAIRWISE),
        ("BERT4Rec", PAIRWISE),
    ],
)
def test_same_loss_and_gradients(
    tiny: Tiny, model: str, settings: dict[str, Any], batch_by: str, trim: bool
) -> None:
    """Without dropout, as it draws otherwise for other shapes. Histories of 5 items, so that some
    are windows and not beginnings. Without trimming, a batch is what a GPU works on."""
    settings = {**PLAIN.get(model, {}), **settings, "batch_by": batch_by, "trim_padding": trim}
    config = tiny.make_config(model, MAX_ITEM_LIST_LENGTH=5, train_batch_size=64, **settings)
    trainer, loaded = new_trainer(config)
    if model == "S3Rec":  # its second stage, but from scratch
        config["train_stage"] = trainer.model.train_stage = "finetune"
        trainer.model.loss_fct = torch.nn.CrossEntropyLoss()
    own, original = trimmed_loss(trainer.model, config), trainer.model.calculate_loss
    if not trim and model not in CAUSAL:
        assert own == original
        return
    for module in trainer.model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    computed = {"all": 0, "own": 0}
    for batch, _ in zip(loaded.train, range(3), strict=False):
        with places_of(trainer.model) as seen:
            loss, gradients = loss_and_gradients(original(batch), trainer.model)
            computed["all"] += sum(seen)
            seen.clear()
            own_loss, without = loss_and_gradients(own(batch), trainer.model)
            computed["own"] += sum(seen)
        assert own_loss == pytest.approx(loss, rel=1e-5)
        assert without.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(without[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert "forward" not in vars(trainer.model) and "gather_indexes" not in vars(trainer.model)
    share = 0.6 if batch_by == "user" and model in CAUSAL else 0.95
    assert computed["own"] < share * computed["all"]  # or nothing was tested


@pytest.mark.parametrize("model", ["SASRecContent", "SASRecCodes", "VQRec"])
def test_models_over_item_matrices_encode_no_prefix_alone(tiny: Tiny, model: str) -> None:
    """Same loss and gradients as row by row, from fewer encoded positions; without dropout."""
    config = tiny.make_config(model, MAX_ITEM_LIST_LENGTH=5, train_batch_size=64, batch_by="user")
    trainer, loaded = new_trainer(config)
    net = trainer.model.train()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    encoded: list[int] = []
    net.trm_encoder.register_forward_pre_hook(lambda _, given: encoded.append(given[0].numel()))
    for batch, _ in zip(loaded.train, range(3), strict=False):
        found = []
        for net.shares_prefixes in (False, True):
            encoded.clear()
            torch.manual_seed(0)  # of the gates' noise, and of codes and rows that are left out
            found.append((*loss_and_gradients(net.calculate_loss(batch), net), sum(encoded)))
        (alone, gradients, n_all), (shared, without, n_shared) = found
        assert shared == pytest.approx(alone, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(without[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
        assert n_shared < 0.7 * n_all


@pytest.mark.parametrize("model", sorted(MODELS))
@torch.no_grad()
def test_same_scores(tiny: Tiny, model: str) -> None:
    config = tiny.make_config(model, MAX_ITEM_LIST_LENGTH=20, **PLAIN.get(model, {}))
    trainer, loaded = new_trainer(config)
    config["train_stage"] = "finetune"  # for S3Rec
    trainer.model.eval()
    own = trimmed_scores(trainer.model, config)
    assert own != trainer.model.full_sort_predict
    for batch, *_ in loaded.valid:
        with places_of(trainer.model) as seen:
            expected = trainer.model.full_sort_predict(batch)
            whole = sum(seen)
            seen.clear()
            torch.testing.assert_close(own(batch), expected, rtol=1e-4, atol=1e-6)
            assert sum(seen) < whole and len(seen) > 1  # or nothing was tested


def test_only_where_it_is_allowed(tiny: Tiny) -> None:
    for model, changes in (
        ("SASRec", {"trim_padding": False}),
        ("SASRec", {"device": torch.device("cuda")}),
        ("STAMP", {"batch_by": "user"}),  # counts the padding
        ("QBERT4Rec", {"batch_by": "user"}),
        ("BERT4Rec", {"batch_by": "user", "trim_padding": False}),  # a place knows what follows
    ):
        device = changes.pop("device", None)
        config = tiny.make_config(model, **changes)
        trainer, _ = new_trainer(config)
        config["device"] = device or config["device"]
        assert trimmed_loss(trainer.model, config) == trainer.model.calculate_loss
        assert trimmed_scores(trainer.model, config) == trainer.model.full_sort_predict


@pytest.mark.parametrize("model", ["SASRec", "S3Rec", "BERT4Rec", "FDSA"])
def test_the_model_itself_stays_as_it_is(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """While a lean loss is computed, another thread, hook or compiled code sees RecBole's model."""
    config = tiny.make_config(model, batch_by="user", MAX_ITEM_LIST_LENGTH=5)
    trainer, loaded = new_trainer(config)
    if model == "S3Rec":
        config["train_stage"] = trainer.model.train_stage = "finetune"
        trainer.model.loss_fct = torch.nn.CrossEntropyLoss()
    own = trimmed_loss(trainer.model, config)
    before = dict(vars(trainer.model))
    seen: list[bool] = []

    def look(*_: Any) -> None:
        seen.append(vars(trainer.model) == before)

    trainer.model.item_embedding.register_forward_pre_hook(look)
    own(next(iter(loaded.train))).backward()
    assert len(seen) > 1 and all(seen)
    assert vars(trainer.model) == before


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec"])
def test_threads_share_a_model(tiny: Tiny, model: str) -> None:
    """Losses that are computed at once are those that are computed in turn."""
    config = tiny.make_config(model, batch_by="user", MAX_ITEM_LIST_LENGTH=5)
    trainer, loaded = new_trainer(config)
    for module in trainer.model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    own = trimmed_loss(trainer.model, config)
    batches = list(loaded.train) * 5
    in_turn = [own(batch).item() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda batch: own(batch).item(), batches))
    assert at_once == in_turn


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 3), max_size=6), min_size=1, max_size=30))
def test_beginnings_against_a_loop(sequences: list[list[int]]) -> None:
    items = torch.tensor([row + [0] * (6 - len(row)) for row in sequences])
    whole, place = merge_prefixes(items)
    kept = [[item for item in row if item] for row in whole.tolist()]
    for row, number in zip(sequences, place.tolist(), strict=True):
        assert kept[number][: len(row)] == row
    distinct = {tuple(row) for row in sequences}
    expected = [
        row for row in distinct if not any(o[: len(row)] == row for o in distinct if o != row)
    ]
    assert sorted(map(tuple, kept)) == sorted(expected)


def test_a_batch_without_masked_places_is_left_to_the_model() -> None:
    class Model:
        def calculate_loss(self, batch: Interaction) -> torch.Tensor:
            return batch["item_id_list"].sum() / (batch["MASK_INDEX"] > 0).sum()

    batch = Interaction(
        {"item_id_list": torch.ones(3, 4), "MASK_INDEX": torch.zeros(3, 2, dtype=torch.long)}
    )
    assert masked_loss(Model(), batch).isinf()
