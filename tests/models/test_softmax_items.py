"""`softmax_items: trained`: items that do not occur in training are no negatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import PLAIN_LOSS, loss_and_gradients, new_trainer
from torch.nn import functional as F

SETTINGS: dict[str, Any] = {"cold_items": 0.2, **PLAIN_LOSS}


@pytest.mark.parametrize("samples", [0, 12])
@pytest.mark.parametrize("which", ["all", "trained"])
def test_rows_of_cold_items_get_no_gradient(
    make_config: Callable[..., Any], which: str, samples: int
) -> None:
    config = make_config(softmax_items=which, softmax_samples=samples, **SETTINGS)
    trainer, loaded = new_trainer(config)
    cold = torch.from_numpy(loaded.dataset.cold_mask()[1:])
    moved = torch.zeros(len(cold), dtype=torch.bool)
    for batch in loaded.train:
        _, gradients = loss_and_gradients(trainer.model.calculate_loss(batch), trainer.model)
        moved |= gradients["items.rows"].any(dim=1)
    assert cold.any() and moved[cold].any().item() == (which == "all")
    assert moved[~cold].any()


def test_the_loss_is_that_of_the_trained_items_alone(make_config: Callable[..., Any]) -> None:
    """Against a cross-entropy over the columns of those items."""
    config = make_config(softmax_items="trained", **SETTINGS)
    trainer, loaded = new_trainer(config)
    model, cold = trainer.model, torch.from_numpy(loaded.dataset.cold_mask())
    batch = next(iter(loaded.train))
    torch.manual_seed(3)
    drawn = model.draw_batch(batch)
    loss = model.batch_loss(drawn)
    assert drawn.rows is not None
    items = drawn.rows[drawn.items]
    with torch.no_grad():
        hidden = model(items, drawn.lengths, drawn.mask, model.items())
        logits = hidden @ model.items().T
    logits[:, 0] = -torch.inf
    logits[:, cold] = -torch.inf
    torch.testing.assert_close(loss.detach(), F.cross_entropy(logits, items[drawn.mask]))


@pytest.mark.parametrize("which", ["all", "trained"])
def test_content_alone(make_config: Callable[..., Any], which: str) -> None:
    """SASRecContent without IDs: the loss depends on the vectors of cold items, or not."""
    config = make_config(
        "SASRecContent", use_ids=False, softmax_items=which, cold_items=0.2, whitening_dims=0
    )
    trainer, loaded = new_trainer(config)
    model, cold = trainer.model.eval(), torch.from_numpy(loaded.dataset.cold_mask())
    batch = next(iter(loaded.train))
    before = model.calculate_loss(batch).item()
    model.content.vectors[cold] += 1.0
    after = model.calculate_loss(batch).item()
    assert (before == after) == (which == "trained")
