"""Equation 5 of stage 1: numbers worked by hand, and plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_qbert.tokenizer.fusion.model import (
    CrossModalInjection,
    InjectionSettings,
    expected_depth,
    info_nce,
)

Parts = dict[str, tuple[Tensor, Tensor]]
DIMENSIONS = {"text": 6, "image": 5}
N_ITEMS = 8
WITHOUT = {"text": [0, 2, 5], "image": [1, 2]}
BOTH = [3, 4, 6, 7]


def _model(names: tuple[str, ...] = ("text", "image"), **changes: Any) -> CrossModalInjection:
    shape: dict[str, Any] = {"hidden_size": 8, "n_heads": 2, "inner_size": 12, "max_depth": 3}
    shape["ponder_weight"] = 0.0
    torch.manual_seed(0)
    dimensions = {name: DIMENSIONS[name] for name in names}
    return CrossModalInjection(N_ITEMS, dimensions, InjectionSettings(**{**shape, **changes}))


def _parts(names: tuple[str, ...] = ("text", "image"), seed: int = 1) -> Parts:
    """Two parts each; the items of `WITHOUT` lack the modality."""
    chance = torch.Generator().manual_seed(seed)
    parts: Parts = {}
    for name in names:
        present = torch.ones(N_ITEMS, 2, dtype=torch.bool)
        present[WITHOUT[name]] = False
        parts[name] = torch.randn(N_ITEMS, 2, DIMENSIONS[name], generator=chance), present
    return parts


def _info_nce_loop(left: Tensor, right: Tensor, temperature: float) -> float:
    """Each row has to find its partner among the rows of the other side; both ways."""
    rows = [[row / np.linalg.norm(row) for row in side.detach().double().numpy()]
            for side in (left, right)]  # fmt: skip
    total = 0.0
    for these, those in (rows, rows[::-1]):
        for place, this in enumerate(these):
            scores = [math.exp(this @ that / temperature) for that in those]
            total -= math.log(scores[place] / sum(scores))
    return total / (2 * len(left))


def test_info_nce_of_two_items_by_hand() -> None:
    axes, tau = torch.eye(2), 1 / math.log(3)
    # Cosine 1 counts 3 and cosine 0 counts 1: each row finds its partner with 3/4.
    assert info_nce(5 * axes, axes, tau).item() == pytest.approx(math.log(4 / 3))
    # Both partners alike: from the left 1/2 and 1/2; from the right 3/4 for item 0, 1/4 for 1.
    alike = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    expected = (math.log(2) + (math.log(4 / 3) + math.log(4)) / 2) / 2
    assert info_nce(axes, alike, tau).item() == pytest.approx(expected)
    assert info_nce(alike, axes, tau).item() == pytest.approx(expected)


@pytest.mark.parametrize("n_rows", [2, 3, 11])
def test_info_nce_is_a_plain_loop_and_symmetric(n_rows: int) -> None:
    chance = torch.Generator().manual_seed(n_rows)
    left, right = (torch.randn(n_rows, 6, generator=chance) for _ in range(2))
    found = info_nce(left, right, 0.2)
    assert found.item() == pytest.approx(_info_nce_loop(left, right, 0.2), rel=1e-5)
    torch.testing.assert_close(info_nce(right, left, 0.2), found)


@pytest.mark.parametrize("n_rows", [0, 1])
def test_info_nce_without_a_second_item_is_zero(n_rows: int) -> None:
    left = torch.ones(n_rows, 3, requires_grad=True)
    loss = info_nce(left, torch.ones(n_rows, 3), 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert left.grad is not None and not left.grad.any()


def test_every_term_is_a_plain_loop_over_the_items_that_have_what_it_compares() -> None:
    model, parts = _model(temperature=0.2, consistency_weight=0.4), _parts()
    terms = model.loss(model.query, parts)
    injected = model(model.query, parts)
    assert list(terms) == ["fused-text", "fused-image", "text-image", "consistency"]
    for name in DIMENSIONS:
        rows = [row for row in range(N_ITEMS) if row not in WITHOUT[name]]
        expected = _info_nce_loop(injected.fused[rows], injected.aligned[name][rows], 0.2)
        assert terms[f"fused-{name}"].item() == pytest.approx(expected, rel=1e-4), name
    text, image = (injected.aligned[name][BOTH] for name in DIMENSIONS)
    assert terms["text-image"].item() == pytest.approx(_info_nce_loop(text, image, 0.2), rel=1e-4)
    fused, query = (each.flatten().tolist() for each in (injected.fused, model.query))
    squares = [(h - q) ** 2 for h, q in zip(fused, query, strict=True)]
    assert terms["consistency"].item() == pytest.approx(0.4 * sum(squares) / len(squares), rel=1e-4)


def test_what_an_absent_part_holds_changes_nothing() -> None:
    model, parts = _model(), _parts()
    before = model.loss(model.query, parts)
    for name, (vectors, present) in _parts(seed=2).items():
        parts[name] = torch.where(present.unsqueeze(2), parts[name][0], 50 * vectors), present
    after = model.loss(model.query, parts)
    assert {name: term.item() for name, term in after.items()} == {
        name: term.item() for name, term in before.items()
    }


@pytest.mark.parametrize("name", ["text", "image"])
def test_one_modality_has_just_its_terms(name: str) -> None:
    model, parts = _model((name,)), _parts((name,))
    terms = model.loss(model.query, parts)
    assert list(terms) == [f"fused-{name}", "consistency"]
    rows = [row for row in range(N_ITEMS) if row not in WITHOUT[name]]
    injected = model(model.query, parts)
    expected = _info_nce_loop(injected.fused[rows], injected.aligned[name][rows], 0.07)
    assert terms[f"fused-{name}"].item() == pytest.approx(expected, rel=1e-4)


def test_the_consistency_term_pulls_at_the_query_through_h_alone() -> None:
    model, parts = _model(consistency_weight=0.5), _parts()
    (found,) = torch.autograd.grad(model.loss(model.query, parts)["consistency"], model.query)

    anchor = model.query.detach().clone()
    fused = model(model.query, parts).fused
    (through_h,) = torch.autograd.grad(0.5 * ((fused - anchor) ** 2).mean(), model.query)
    torch.testing.assert_close(found, through_h)

    fused = model(model.query, parts).fused
    (without_sg,) = torch.autograd.grad(0.5 * ((fused - model.query) ** 2).mean(), model.query)
    assert not torch.allclose(found, without_sg, rtol=0.1)


def test_a_weight_of_zero_switches_consistency_off() -> None:
    model, parts = _model(consistency_weight=0.0), _parts()
    assert model.loss(model.query, parts)["consistency"].item() == 0.0


def test_expected_depth_by_hand() -> None:
    # 1/2 + 2/4 + 3/4 blocks for the first item, 3 for the second.
    probability = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    assert expected_depth(probability).item() == pytest.approx(2.375)


def test_ponder_weighs_the_expected_depth() -> None:
    model, parts = _model(ponder_weight=0.2), _parts()
    probability = model(model.query, parts).depth_probability.tolist()
    depths = [sum((place + 1) * share for place, share in enumerate(row)) for row in probability]
    found = model.loss(model.query, parts)["ponder"].item()
    assert found == pytest.approx(0.2 * sum(depths) / len(depths), rel=1e-5)
    for changes in ({"ponder_weight": 0.0}, {"ponder_weight": 0.2, "gate": "fixed"}):
        assert "ponder" not in _model(**changes).loss(model.query, parts)
