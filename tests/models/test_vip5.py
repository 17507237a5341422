"""VIP5: what images change, adapters, and what stays frozen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Tiny, fitted, new_trainer

from recbole_qbert.models.vip5 import Adapter, VisualTokens


def built(tiny: Tiny, **settings: Any) -> tuple[Any, Any]:
    """A model of images alone with new weights in evaluation mode, and the data."""
    images = {"image": tiny.item_vectors(partial=True)["image"]}
    trainer, loaded = new_trainer(tiny.make_config("VIP5", item_vectors=images, **settings))
    return trainer.model.eval(), loaded


def history(loaded: Any, *tokens: str) -> Any:
    """One row whose history has these items."""
    batch = next(iter(loaded.valid))[0][[0]]
    items = torch.zeros_like(batch["item_id_list"])
    items[0, : len(tokens)] = torch.tensor(
        [loaded.dataset.token2id("item_id", token) for token in tokens]
    )
    batch.interaction["item_id_list"] = items
    batch.interaction["item_length"] = torch.tensor([len(tokens)])
    return batch


@torch.no_grad()
def test_an_item_without_an_image_is_as_without_visual_tokens(tiny: Tiny) -> None:
    """Whatever the visual network makes of zeros; other items depend on it."""
    model, loaded = built(tiny)
    cases = [history(loaded, "i5", "i3"), history(loaded, "i5", "i6")]
    before = [model.full_sort_predict(batch) for batch in cases]
    rows = torch.zeros(1, dtype=torch.long)
    n_tokens = [int(model.forward(batch, rows).real.sum()) for batch in cases]
    assert n_tokens[1] - n_tokens[0] == 2
    for weight in model.visual.parameters():
        weight += torch.randn_like(weight)
    after = [model.full_sort_predict(batch) for batch in cases]
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])


def test_several_tables_are_joined(tiny: Tiny) -> None:
    """An item with one of both has visual tokens."""
    trainer, loaded = new_trainer(tiny.make_config("VIP5"))
    vectors = trainer.model.vectors
    assert vectors.size(1) == 5 + 6
    lone, none = (loaded.dataset.token2id("item_id", token) for token in ("i5", "i3"))
    assert not vectors[lone, :5].any() and vectors[lone, 5:].any() and not vectors[none].any()


@torch.no_grad()
def test_visual_tokens_by_hand() -> None:
    network = VisualTokens(5, 2, 4)
    vectors = torch.randn(3, 5)
    found = network(vectors)
    assert found.shape == (6, 4)
    for number, vector in enumerate(vectors):
        wide = network.second.weight @ torch.tanh(
            network.first.weight @ vector + network.first.bias
        )
        wide = wide + network.second.bias
        wide = wide / (wide.pow(2).mean() + 1e-6).sqrt()
        torch.testing.assert_close(found[2 * number : 2 * number + 2].flatten(), wide)


@torch.no_grad()
def test_new_adapters_change_nothing(tiny: Tiny) -> None:
    """Every attention and feed-forward layer has one; with other weights it counts."""
    model, loaded = built(tiny)
    plain, _ = built(tiny, adapter_reduction=0)
    adapters = [module for module in model.modules() if isinstance(module, Adapter)]
    assert len(adapters) == 2 + 3  # of one block of the encoder and one of the decoder
    weights = {
        name.replace(".layer.weight", ".weight"): w for name, w in model.state_dict().items()
    }
    weights = {
        name.replace("DenseReluDense.layer.", "DenseReluDense."): w for name, w in weights.items()
    }
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    batch = next(iter(loaded.valid))[0]
    expected = plain.full_sort_predict(batch)
    assert torch.equal(model.full_sort_predict(batch), expected)
    for adapter in adapters:
        adapter.up.bias += 0.5
        assert not torch.allclose(model.full_sort_predict(batch), expected)
        adapter.up.bias -= 0.5


@pytest.mark.parametrize("frozen", ["none", "tables", "backbone"])
def test_what_is_frozen_keeps_its_start(tiny: Tiny, frozen: str) -> None:
    """After two epochs; the scores have changed in any case."""
    config = tiny.make_config("VIP5", frozen=frozen)
    start = {
        name: weight.clone() for name, weight in new_trainer(config)[0].model.named_parameters()
    }
    trainer, _ = fitted(config)
    changed = {n for n, w in trainer.model.named_parameters() if not torch.equal(w, start[n])}
    tables = {"prompt.words.weight", "category.weight"}
    assert tables < start.keys()
    if frozen == "none":
        assert changed == start.keys()
    if frozen == "tables":
        assert changed == start.keys() - tables
    if frozen == "backbone":
        assert changed == {n for n in start if "norm" in n or "adapter" in n or "visual." in n}
        assert {"visual.first.weight", "generator.t5.encoder.final_layer_norm.weight"} < changed
