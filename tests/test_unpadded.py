"""Losses and scores without padding against RecBole's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Tiny, new_trainer
from hypothesis import given
from hypothesis import strategies as st
from recbole.data.interaction import Interaction

from recbole_qbert.unpadded import MODELS, UnpaddedLoss, row_loss, row_scores, unpadded


def loss_and_gradients(loss: Any, model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss.backward()
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return loss.item(), {name: gradient.clone() for name, gradient in found.items()}


PAIRWISE = {
    "loss_type": "BPR",
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
}


@pytest.mark.parametrize(
    ("model", "settings"),
    [*((model, {}) for model in sorted(MODELS)), ("SASRec", PAIRWISE), ("GRU4Rec", PAIRWISE)],
)
def test_same_loss_and_gradients(tiny: Tiny, model: str, settings: dict[str, Any]) -> None:
    """Dropout off, as it draws otherwise for other shapes."""
    if model == "SASRecF":
        settings = {"selected_features": ["semantic_id"]}
    if model == "BERT4RecFixed":
        settings = {"ft_ratio": 1.0}  # nothing to draw
    config = tiny.make_config(model, MAX_ITEM_LIST_LENGTH=20, train_batch_size=64, **settings)
    trainer, loaded = new_trainer(config)
    if model == "S3Rec":  # its second stage, but from scratch
        config["train_stage"] = trainer.model.train_stage = "finetune"
        trainer.model.loss_fct = torch.nn.CrossEntropyLoss()
    own = row_loss(trainer.model, config)
    assert isinstance(own, UnpaddedLoss)
    trainer.model.eval()
    seen = []
    original = trainer.model.calculate_loss
    for batch, _ in zip(loaded.train, range(3), strict=False):
        loss, gradients = loss_and_gradients(original(batch), trainer.model)
        parts = unpadded(batch, config["LIST_SUFFIX"])
        seen += [part["item_id_list"].size(1) for _, part in parts]
        unpadded_loss, without = loss_and_gradients(own(batch), trainer.model)
        assert unpadded_loss == pytest.approx(loss, rel=1e-5)
        assert without.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(without[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert max(seen) < 20 and len(set(seen)) > 2  # or nothing was tested


@pytest.mark.parametrize("model", sorted(MODELS))
@torch.no_grad()
def test_same_scores(tiny: Tiny, model: str) -> None:
    settings = {"selected_features": ["semantic_id"]} if model == "SASRecF" else {}
    config = tiny.make_config(model, MAX_ITEM_LIST_LENGTH=20, **settings)
    trainer, loaded = new_trainer(config)
    config["train_stage"] = "finetune"  # for S3Rec
    trainer.model.eval()
    own = row_scores(trainer.model, config)
    assert own != trainer.model.full_sort_predict
    for batch, *_ in loaded.valid:
        expected = trainer.model.full_sort_predict(batch).view(len(batch), -1)
        torch.testing.assert_close(own(batch), expected, rtol=1e-4, atol=1e-6)
        assert len(unpadded(batch, config["LIST_SUFFIX"])) > 1  # or nothing was tested


def test_only_where_it_is_allowed(tiny: Tiny) -> None:
    for model, settings in (
        ("SASRec", {"trim_padding": False}),
        ("SASRec", {"device": torch.device("cuda")}),
        ("S3Rec", {"train_stage": "pretrain"}),
        ("STAMP", {}),  # counts the padding
        ("QBERT4Rec", {}),
    ):
        device = settings.pop("device", None)
        config = tiny.make_config(model, **settings)
        trainer, _ = new_trainer(config)
        config["device"] = device or config["device"]
        assert row_loss(trainer.model, config) == trainer.model.calculate_loss
        assert row_scores(trainer.model, config) == trainer.model.full_sort_predict


@given(st.lists(st.lists(st.integers(1, 9), max_size=20), min_size=1, max_size=30))
def test_parts_against_a_loop(sequences: list[list[int]]) -> None:
    n_columns = 20
    padded = [row + [0] * (n_columns - len(row)) for row in sequences]
    batch = Interaction(
        {
            "item_id_list": torch.tensor(padded),
            "codes_list": torch.tensor(padded).unsqueeze(2).repeat(1, 1, 3),
            "row": torch.arange(len(sequences)),
            "other": torch.arange(len(sequences) * n_columns).view(-1, n_columns),
        }
    )
    parts = unpadded(batch, "_list")
    rows = [row for _, part in parts for row in part["row"].tolist()]
    assert sorted(rows) == list(range(len(sequences)))
    for numbers, part in parts:
        assert torch.equal(numbers, part["row"])
        lengths = [len(sequences[row]) for row in part["row"].tolist()]
        longest = max(1, *lengths) if len(lengths) > 1 else max(1, lengths[0])
        assert part["item_id_list"].shape == (len(lengths), longest)
        assert part["codes_list"].shape == (len(lengths), longest, 3)
        assert torch.equal(part["other"], batch["other"][part["row"]])
        assert longest <= 2 * max(1, min(lengths))
        for place, row in enumerate(part["row"].tolist()):
            assert part["item_id_list"][place].tolist() == padded[row][:longest]


def test_a_batch_without_masked_positions_is_left_to_the_model() -> None:
    class Model:
        def calculate_loss(self, batch: Interaction) -> torch.Tensor:
            return batch["item_id_list"].sum() / (batch["MASK_INDEX"] > 0).sum()

    batch = Interaction(
        {"item_id_list": torch.ones(3, 4), "MASK_INDEX": torch.zeros(3, 2, dtype=torch.long)}
    )
    assert UnpaddedLoss(Model(), "_list")(batch).isinf()
