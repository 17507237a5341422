"""Item vectors kept between batches: the same scores, and made again where anything changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Tiny, new_trainer
from torch import nn

from recbole_qbert.models.layers.kept_items import KeepsItems

MODELS = {
    "SASRecContent": "item_matrix",
    "SASRecCodes": "item_matrix",
    "MISSRec": "adapted",
    "VQRec": "item_vectors",
    "QBERT4Rec": "item_matrix",
    "IDBERT4Rec": "item_matrix",
}


class Doubled(KeepsItems, nn.Module):
    """Its items are twice its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.shift = nn.BatchNorm1d(3, affine=False)
        self.n_made = 0

    def items(self) -> torch.Tensor:
        def make() -> torch.Tensor:
            self.n_made += 1
            return 2 * self.weight + self.shift.running_mean

        return self.kept_items(make)


def test_made_again_after_every_change() -> None:
    model = Doubled().eval()
    with torch.no_grad():
        assert model.items() is model.items() and model.n_made == 1
        model.weight.add_(1)
        assert model.items().tolist() == [4, 4, 4]
        model.load_state_dict({**model.state_dict(), "weight": torch.zeros(3)})
        assert model.items().tolist() == [0, 0, 0]
        model.shift.running_mean.fill_(5)
        assert model.items().tolist() == [5, 5, 5]
        assert model.double().items().dtype == torch.float64
        n_made = model.n_made
        model.train()
        model.items(), model.items()
        assert model.n_made == n_made + 2
    model.eval()
    assert model.items().requires_grad


@pytest.mark.parametrize("how", [{"fused": True}, {"foreach": True}, {"foreach": False}, None])
def test_after_a_step_of_any_optimizer(how: dict[str, bool] | None) -> None:
    """`eval` alone makes them anew; a fused optimizer and `.data` change weights unseen."""
    model = Doubled().eval()
    with torch.no_grad():
        model.items()
    model.train()
    assert model._kept is None
    if how is None:
        model.weight.data.copy_(torch.tensor([7.0, 8.0, 9.0]))
    else:
        model.items().sum().backward()
        torch.optim.AdamW(model.parameters(), lr=0.5, **how).step()
    model.eval()
    with torch.no_grad():
        assert torch.equal(model.items(), 2 * model.weight)


def test_in_mixed_precision_nothing_is_kept() -> None:
    model = Doubled().eval()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            model.items()
        assert model._kept is None and model.items().dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_scores_of_every_model(tiny: Tiny, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed once for two batches; equal to those without keeping, before and after a step."""
    trainer, loaded = new_trainer(tiny.make_config(name))
    model, made = trainer.model, []
    if hasattr(model, "begin_epoch"):
        model.begin_epoch(0)
    make = getattr(model, MODELS[name])

    def counted(*arguments: Any) -> Any:
        made.append(arguments)
        return make(*arguments)

    monkeypatch.setattr(model, MODELS[name], counted)
    interaction = next(iter(loaded.test))[0]
    for _ in range(2):
        model.eval()
        made.clear()
        with torch.no_grad():
            kept = [model.full_sort_predict(interaction) for _ in range(2)]
        assert len(made) == 1
        alone = model.full_sort_predict(interaction)  # with gradients, nothing is kept
        for found in kept:
            torch.testing.assert_close(found, alone.detach())
        model.train()
        model.calculate_loss(next(iter(loaded.train))).sum().backward()
        trainer.optimizer.step()
