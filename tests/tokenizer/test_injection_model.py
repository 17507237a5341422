"""Equations 3 and 4 of stage 1: numbers worked by hand, and plain loops with its weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_qbert.tokenizer.fusion.model import (
    CrossModalInjection,
    InjectionBlock,
    InjectionSettings,
    first_stop,
    halting,
    masked_softmax,
)

Parts = dict[str, tuple[Tensor, Tensor]]
DIMENSIONS = {"text": 6, "image": 5}


def _model(n_items: int = 9, **changes: Any) -> CrossModalInjection:
    shape: dict[str, Any] = {"hidden_size": 8, "n_heads": 2, "inner_size": 12, "max_depth": 4}
    torch.manual_seed(0)
    return CrossModalInjection(n_items, DIMENSIONS, InjectionSettings(**{**shape, **changes}))


def _parts(n_items: int = 9, n_parts: int = 3) -> Parts:
    """Every item lacks some part; item 0 has no text, item 1 no image, item 2 neither."""
    chance = torch.Generator().manual_seed(1)
    parts: Parts = {}
    for name, size in DIMENSIONS.items():
        present = torch.rand(n_items, n_parts, generator=chance) < 0.6
        present[:, 0] = True
        parts[name] = torch.randn(n_items, n_parts, size, generator=chance), present
    parts["text"][1][[0, 2]] = False
    parts["image"][1][[1, 2]] = False
    return parts


def _plane(temperature: float) -> CrossModalInjection:
    """One modality, of two dimensions that the projection leaves as they are."""
    settings = InjectionSettings(
        hidden_size=2, n_heads=1, inner_size=2, max_depth=1, temperature=temperature
    )
    model = CrossModalInjection(1, {"text": 2}, settings)
    with torch.no_grad():
        model.projections["text"].weight.copy_(torch.eye(2))
        model.projections["text"].bias.zero_()
        model.missing["text"].copy_(torch.tensor([7.0, 8.0]))
    return model


def _states(model: CrossModalInjection, query: Tensor, parts: Parts) -> list[Tensor]:
    """The output of each block, one after another."""
    aligned = [model.align(name, query, *parts[name]) for name in model.projections]
    modalities = torch.stack(aligned, dim=1) * model.settings.hidden_size**0.5
    states = [query]
    for block in model.blocks:
        states.append(block(states[-1], modalities))
    return states[1:]


def _set_gates(model: CrossModalInjection, *logits: float) -> None:
    """Each gate says the same for every item."""
    with torch.no_grad():
        for gate, logit in zip(model.gates, logits, strict=True):
            gate[-1].weight.zero_()
            gate[-1].bias.fill_(logit)


def test_alignment_by_hand() -> None:
    # Cosines 1, 0 and -1 over a temperature of 1 / ln 3: exponentials 3, 1 and 1/3, weights 9/13,
    # 3/13 and 1/13; without the third part 3/4 and 1/4.
    model = _plane(1 / math.log(3))
    vectors = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-0.5, 0.0]]).repeat(3, 1, 1)
    present = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    with torch.no_grad():
        aligned = model.align("text", torch.tensor([[2.0, 0.0]]).repeat(3, 1), vectors, present)
    expected = torch.tensor([[8 / 13, 3 / 13], [3 / 4, 1 / 4], [7.0, 8.0]])
    torch.testing.assert_close(aligned, expected)


def test_softmax_gives_absent_parts_nothing() -> None:
    scores = torch.tensor([[math.log(3), 0.0, -math.log(3)], [0.0, 500.0, 9e9], [1.0, 2.0, 3.0]])
    present = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    expected = torch.tensor([[9 / 13, 3 / 13, 1 / 13], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    weights = masked_softmax(scores, present)
    torch.testing.assert_close(weights, expected)
    assert weights[1, 2] == 0.0


def test_one_part_is_passed_on_whatever_the_query() -> None:
    model, parts = _model(), _parts(n_parts=1)
    vectors, present = parts["text"]
    present[:] = True
    with torch.no_grad():
        projected = torch.nn.functional.normalize(model.projections["text"](vectors[:, 0]), dim=1)
        for query in (model.query, -3 * model.query, 0 * model.query):
            torch.testing.assert_close(model.align("text", query, vectors, present), projected)


def test_alignment_is_a_plain_loop_over_items_and_parts() -> None:
    model, parts = _model(temperature=0.3), _parts()
    for name, (vectors, present) in parts.items():
        layer = model.projections[name]
        weight, bias = (array.detach().double().numpy() for array in (layer.weight, layer.bias))
        aligned = model.align(name, model.query, vectors, present).detach().numpy()
        for item, query in enumerate(model.query.detach().double().numpy()):
            there = np.flatnonzero(present[item])
            units = []
            for part in there:
                projected = weight @ vectors[item, part].double().numpy() + bias
                units.append(projected / np.linalg.norm(projected))
            scores = [math.exp(unit @ query / np.linalg.norm(query) / 0.3) for unit in units]
            expected = np.dot(scores, units) / sum(scores) if units else None
            if expected is None:
                expected = model.missing[name].detach().numpy()
            np.testing.assert_allclose(aligned[item], expected, atol=1e-6)


def test_gradients_stay_finite_without_parts_and_for_a_zero_query() -> None:
    model, parts = _model(), _parts()
    with torch.no_grad():
        model.query[4] = 0  # as an item without co-occurrence starts
    injected = model(model.query, parts)
    (injected.fused.sum() + sum(each.sum() for each in injected.aligned.values())).backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), name
    assert model.query.grad is not None
    assert model.query.grad[4].abs().max() < 1000
    assert all(model.missing[name].grad.abs().sum() > 0 for name in DIMENSIONS)


def _layer_norm(vector: np.ndarray, layer: torch.nn.LayerNorm) -> np.ndarray:
    scaled = (vector - vector.mean()) / math.sqrt(vector.var() + layer.eps)
    weight, bias = (array.detach().double().numpy() for array in (layer.weight, layer.bias))
    return scaled * weight + bias


def test_a_block_is_a_plain_loop_over_heads() -> None:
    size, n_heads = 8, 2
    torch.manual_seed(2)
    block = InjectionBlock(size, n_heads, inner_size=12)
    with torch.no_grad():  # norms and biases that do something
        for value in block.parameters():
            value.add_(torch.randn_like(value) * 0.3)
    hidden, modalities = torch.randn(5, size), torch.randn(5, 2, size)
    found = block(hidden, modalities).detach().numpy()

    weights = {name: value.detach().double().numpy() for name, value in block.named_parameters()}
    projections = np.split(weights["attention.in_proj_weight"], 3)
    biases = np.split(weights["attention.in_proj_bias"], 3)
    for item in range(5):
        query = hidden[item].double().numpy()
        keys = modalities[item].double().numpy()
        read = []
        for head in range(n_heads):
            rows = slice(head * size // n_heads, (head + 1) * size // n_heads)
            asks = projections[0][rows] @ query + biases[0][rows]
            scores = [
                math.exp(asks @ (projections[1][rows] @ key + biases[1][rows]) / math.sqrt(4))
                for key in keys
            ]
            values = [projections[2][rows] @ key + biases[2][rows] for key in keys]
            read.append(np.dot(scores, values) / sum(scores))
        attended = weights["attention.out_proj.weight"] @ np.concatenate(read)
        attended += weights["attention.out_proj.bias"]
        normed = _layer_norm(query + attended, block.attention_norm)
        inner = weights["feed_forward.0.weight"] @ normed + weights["feed_forward.0.bias"]
        inner = np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in inner])
        outer = weights["feed_forward.2.weight"] @ inner + weights["feed_forward.2.bias"]
        expected = _layer_norm(normed + outer, block.feed_forward_norm)
        np.testing.assert_allclose(found[item], expected, atol=1e-5)


def test_halting_by_hand() -> None:
    stop = torch.tensor([[0.5, 0.5, 1.0], [1.0, 0.3, 1.0], [0.0, 0.0, 1.0], [0.2, 0.75, 1.0]])
    expected = [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.2, 0.6, 0.2]]
    torch.testing.assert_close(halting(stop), torch.tensor(expected))


def test_first_stop_is_above_one_half() -> None:
    stop = torch.tensor([[0.5, 0.6, 1.0], [0.51, 0.9, 1.0], [0.1, 0.5, 1.0]])
    assert first_stop(stop).tolist() == [1, 0, 2]


def test_soft_output_mixes_the_depths() -> None:
    model, parts = _model(), _parts()
    _set_gates(model, 0.0, math.log(3), -math.log(3))  # stop 1/2, then 3/4, then 1/4
    with torch.no_grad():
        injected = model(model.query, parts)
        states = _states(model, model.query, parts)
    shares = [1 / 2, 3 / 8, 1 / 32, 3 / 32]
    torch.testing.assert_close(injected.depth_probability, torch.tensor([shares]).repeat(9, 1))
    mixed = sum(share * state for share, state in zip(shares, states, strict=True))
    torch.testing.assert_close(injected.fused, mixed)


@pytest.mark.parametrize(
    ("logits", "depth"), [((3.0, 3.0, 3.0), 1), ((-1.0, 0.1, 9.0), 2), ((-1.0, -9.0, 0.0), 4)]
)
def test_hard_output_stops_at_the_first_open_gate(
    logits: tuple[float, float, float], depth: int
) -> None:
    model, parts = _model(), _parts()
    _set_gates(model, *logits)
    with torch.no_grad():
        injected = model(model.query, parts, hard=True)
        expected = _states(model, model.query, parts)[depth - 1]
    assert (injected.depth_probability.argmax(dim=1) + 1).tolist() == [depth] * 9
    torch.testing.assert_close(injected.fused, expected)


def test_items_of_a_batch_stop_at_depths_of_their_own() -> None:
    model, parts = _model(), _parts()
    with torch.no_grad():
        states = _states(model, model.query, parts)
        for gate, state in zip(model.gates, states[:-1], strict=True):
            gate[-1].bias -= gate(state).flatten().sort().values[3:5].mean()  # about half stop
        gated = zip(model.gates, states[:-1], strict=True)
        logits = torch.cat([gate(state) for gate, state in gated], dim=1)
        injected = model(model.query, parts, hard=True)
    depths = []
    for item, row in enumerate(logits.tolist()):
        open_gates = [depth for depth, logit in enumerate(row) if logit > 0]
        depths.append(open_gates[0] if open_gates else 3)
        torch.testing.assert_close(injected.fused[item], states[depths[-1]][item])
    assert injected.depth_probability.argmax(dim=1).tolist() == depths
    assert len(set(depths)) > 2


def test_a_fixed_gate_goes_all_the_way() -> None:
    model, parts = _model(gate="fixed"), _parts()
    assert len(model.gates) == 0
    with torch.no_grad():
        last = _states(model, model.query, parts)[-1]
        for hard in (False, True):
            injected = model(model.query, parts, hard=hard)
            torch.testing.assert_close(injected.fused, last)
            assert injected.depth_probability.tolist() == [[0.0, 0.0, 0.0, 1.0]] * 9


def test_a_single_block_has_nothing_to_decide() -> None:
    model, parts = _model(max_depth=1), _parts()
    with torch.no_grad():
        injected = model(model.query, parts)
        torch.testing.assert_close(injected.fused, _states(model, model.query, parts)[0])
    assert injected.depth_probability.tolist() == [[1.0]] * 9
