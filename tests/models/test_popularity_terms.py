"""Terms of QBERT4Rec's scores that depend on the number of training interactions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import N_ITEMS, PLAIN_LOSS, Tiny, new_trainer, scores
from torch.nn import functional as F


def training_counts(tiny: Tiny, loaded: Any) -> torch.Tensor:
    """Training interactions of each item, by a loop over the sequences; padding first."""
    ids, counts = loaded.dataset.field2token_id["item_id"], torch.zeros(N_ITEMS + 1)
    for sequence in tiny.sequences.values():
        for item in sequence[:-2]:
            counts[ids[item]] += 1
    return counts


def test_a_bonus_for_new_items(make_config: Callable[..., Any]) -> None:
    """Their scores are higher by the bonus, before visible items are excluded."""
    plain, loaded = new_trainer(make_config(cold_items=0.2))
    given, _ = new_trainer(make_config(cold_items=0.2, new_item_bonus=0.75))
    cold = torch.from_numpy(loaded.dataset.cold_mask()[1:])
    before, after = (scores(trainer.model, loaded.test) for trainer in (plain, given))
    torch.testing.assert_close(after[:, cold], before[:, cold] + 0.75)
    assert torch.equal(after[:, ~cold], before[:, ~cold])


def test_a_discount_for_popular_items(tiny: Tiny) -> None:
    plain, loaded = new_trainer(tiny.make_config())
    given, _ = new_trainer(tiny.make_config(popularity_discount=0.3))
    before, after = (scores(trainer.model, loaded.test) for trainer in (plain, given))
    expected = before - 0.3 * training_counts(tiny, loaded)[1:].log1p()
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("samples", [0, 12])
def test_the_adjustment_is_in_the_training_logits_alone(tiny: Tiny, samples: int) -> None:
    """Against a cross-entropy over adjusted columns; scores at ranking are those without it."""
    config = tiny.make_config(logit_adjustment=0.8, softmax_samples=samples, **PLAIN_LOSS)
    trainer, loaded = new_trainer(config)
    model = trainer.model
    torch.manual_seed(3)
    drawn = model.draw_batch(next(iter(loaded.train)))
    loss = model.batch_loss(drawn)
    rows = torch.arange(N_ITEMS + 1) if drawn.rows is None else drawn.rows
    with torch.no_grad():
        hidden = model(rows[drawn.items], drawn.lengths, drawn.mask, model.items())
        logits = hidden @ model.items()[rows].T
        logits += 0.8 * training_counts(tiny, loaded)[rows].log1p()
        if drawn.log_chance is not None:
            own = drawn.items[drawn.mask.nonzero()[:, 0]]
            logits -= drawn.log_chance.repeat(len(logits), 1).scatter(1, own, 0.0)
    logits[:, 0] = -torch.inf
    targets = drawn.items[drawn.mask]
    torch.testing.assert_close(loss.detach(), F.cross_entropy(logits, targets))
    plain, _ = new_trainer(tiny.make_config(softmax_samples=samples, **PLAIN_LOSS))
    assert torch.equal(scores(model, loaded.test), scores(plain.model, loaded.test))
    assert model.item_index().terms is None
