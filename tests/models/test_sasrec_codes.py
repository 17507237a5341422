"""SASRecCodes: its vectors, scores and loss against plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import CODEBOOK_SIZES, N_ITEMS, NO_DROPOUT, first_batch, new_trainer
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError


@pytest.mark.parametrize("name", ["compose", "hybrid", "id"])
def test_the_loss_is_that_of_cosines(make_config: Callable[..., Any], name: str) -> None:
    """Cross-entropy with smoothing over items 1 to N, and over the codes of each level."""
    settings = {"temperature": 0.2, "label_smoothing": 0.3, "code_loss_weight": 0.7}
    config = make_config("SASRecCodes", item_representation=name, **settings, **NO_DROPOUT)
    trainer, loaded = new_trainer(config)
    model, batch = trainer.model, first_batch(loaded.train)
    matrix = model.item_matrix()
    if name != "id":
        codes = loaded.dataset.item_codes
        starts = [sum(CODEBOOK_SIZES[:level]) for level in range(len(CODEBOOK_SIZES))]
        table = model.items.table.weight
        summed = sum(table[codes[1:, level] + start] for level, start in enumerate(starts))
        own = model.items.rows if name == "hybrid" else 0.0
        torch.testing.assert_close(matrix[1:], summed + own)
    hidden = model(batch["item_id_list"], batch["item_length"], matrix)
    targets = batch["item_id"]

    def logits(rows: torch.Tensor) -> torch.Tensor:
        return F.cosine_similarity(hidden.unsqueeze(1), rows.unsqueeze(0), dim=2) / 0.2

    expected = F.cross_entropy(logits(matrix[1:]), targets - 1, label_smoothing=0.3)
    if name != "id":
        of_levels = [
            F.cross_entropy(logits(table[start : start + size]), codes[targets, level])
            for level, (start, size) in enumerate(zip(starts, CODEBOOK_SIZES, strict=True))
        ]
        expected = expected + 0.7 * sum(of_levels) / len(of_levels)
    torch.testing.assert_close(model.calculate_loss(batch), expected)
    model.eval()
    scores = model.full_sort_predict(batch)
    assert scores.shape == (len(targets), N_ITEMS + 1)
    torch.testing.assert_close(scores[:, 1:], logits(matrix[1:]))


def test_only_codes_need_semantic_ids(make_config: Callable[..., Any]) -> None:
    reads = [
        new_trainer(config)[0].model.reads_semantic_ids(config)
        for config in (
            make_config("SASRecCodes", item_representation=name) for name in ("hybrid", "id")
        )
    ]
    assert reads == [True, False]


@pytest.mark.parametrize("name", ["flatten", "word"])
def test_representations_that_it_does_not_have(make_config: Callable[..., Any], name: str) -> None:
    with pytest.raises(InputError, match="item_representation.* is none of compose, hybrid, id"):
        new_trainer(make_config("SASRecCodes", item_representation=name))
