"""Ranks by codes: equal to those of all scores, from `full_sort_predict`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Tiny, new_trainer
from torch import Tensor

from recbole_qbert.evaluation import indexed_ranks
from recbole_qbert.evaluation.ranking import best_items, target_ranks
from recbole_qbert.topk import index

pytest.importorskip("numba")


@pytest.mark.parametrize("form", ["compose", "hybrid", "flatten"])
@pytest.mark.parametrize("exclude_visible", [True, False])
@pytest.mark.parametrize("score", ["cosine", "dot"])
@pytest.mark.parametrize("discount", [0.0, 0.4])
def test_ranks_are_those_of_all_scores(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    exclude_visible: bool,
    score: str,
    discount: float,
) -> None:
    """Both columns and both lists, for every row; targets are also items of the history."""
    given: dict[str, Any] = {"item_representation": form, "score": score}
    given["popularity_discount"] = discount
    config = tiny.make_config("QBERT4Rec", **given, exclude_visible=exclude_visible)
    trainer, loaded = new_trainer(config)
    model = trainer.model.eval()
    with torch.no_grad():  # weights with few equal scores
        for each in model.parameters():
            each.normal_(std=0.5)
    assert indexed_ranks.ranks_by_codes(model) is None  # a small catalog
    monkeypatch.setattr(indexed_ranks, "FEWEST", 1)
    monkeypatch.setattr(index, "FEWEST", 1)
    monkeypatch.setattr(index, "MATRIX", 1)
    by_codes = indexed_ranks.ranks_by_codes(model)
    assert by_codes is not None
    n_hidden = 0
    for interaction, _, _, targets in loaded.test:
        for wanted in (targets, interaction[model.ITEM_SEQ][:, 0]):
            seen = loaded.test._dataset.seen_items(interaction)
            with torch.no_grad():
                scores = model.full_sort_predict(interaction)
                found = by_codes(interaction, wanted, seen, 5)
                assert torch.equal(
                    torch.stack(found[:2]), torch.stack(by_codes(interaction, wanted, seen, 0))
                )
            own: list[Tensor] = [*target_ranks(scores, wanted, seen)]
            own += best_items(scores, wanted, seen, 5)
            for left, right in zip(found, own, strict=True):
                assert torch.equal(left, right)
            n_hidden += int((scores.gather(1, wanted.unsqueeze(1)) == -torch.inf).sum())
    assert bool(n_hidden) == exclude_visible


def test_a_run_and_its_bundle_rank_by_codes(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's evaluation gives the metrics that it gives from all scores."""
    trainer, loaded = new_trainer(tiny.make_config("QBERT4Rec"))
    whole = trainer.evaluate(loaded.test, load_best_model=False)
    for module, name in ((indexed_ranks, "FEWEST"), (index, "FEWEST"), (index, "MATRIX")):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(trainer.model, "full_sort_predict", None)
    assert trainer.evaluate(loaded.test, load_best_model=False) == whole


def test_evaluation_is_without_dropout(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation follows a training epoch; the index of the items' content is made without it."""
    given = {"use_content": True, "item_vectors": tiny.item_vectors(), "adapter_dropout_prob": 0.5}
    trainer, loaded = new_trainer(tiny.make_config("QBERT4Rec", **given))
    whole = trainer.evaluate(loaded.test, load_best_model=False)
    for module, name in ((indexed_ranks, "FEWEST"), (index, "FEWEST"), (index, "MATRIX")):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(trainer.model, "full_sort_predict", None)
    for _ in range(2):
        trainer.model.train()
        state = torch.get_rng_state()
        found = trainer.evaluate(loaded.test, load_best_model=False)
        assert found == pytest.approx(whole)
        assert torch.equal(torch.get_rng_state(), state)
