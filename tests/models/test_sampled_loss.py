"""Losses over sampled negatives, against sums over the catalog and numbers worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from recbole_qbert.models.layers.sampled_loss import (
    NegativeSampler,
    draw_items,
    gbce,
    gbce_power,
    sampled_softmax,
    scores_of_drawn,
)

ITEMS = torch.tensor([1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3])  # 4, 9 and 1 times; item 4 never


def test_the_correction_by_hand() -> None:
    """Two of three negatives drawn, of chances 1/2 and 1/4: they stand for e^n / (2 q) each."""
    positive, negative = torch.tensor([1.0]), torch.tensor([[2.0, 0.5]])
    expected = torch.tensor([[2 * 0.5, 2 * 0.25]]).log()
    found = sampled_softmax(positive, negative, expected)
    total = math.e + math.exp(2) / 1.0 + math.exp(0.5) / 0.5
    assert found.item() == pytest.approx(math.log(total) - 1, rel=1e-6)
    plain = math.log(math.e + math.exp(2) + math.exp(0.5)) - 1
    assert sampled_softmax(positive, negative).item() == pytest.approx(plain, rel=1e-6)


def test_the_corrected_sum_is_unbiased() -> None:
    """Over all pairs of draws, weighted by their chances, the mean of the sum is the whole sum.

    The target, item 2, is among the draws and does not count there.
    """
    sampler = NegativeSampler(ITEMS, 5, 1.0)
    scores, target, n = torch.tensor([9.0, 0.3, 1.1, -0.7, 0.2]), 2, 2
    chance = sampler.log_chance.exp()
    assert chance.tolist() == pytest.approx([0, 4 / 15, 9 / 15, 1 / 15, 1 / 15])
    mean = 0.0
    for pair in torch.cartesian_prod(torch.arange(1, 5), torch.arange(1, 5)):
        negative = scores[pair].masked_fill(pair == target, -math.inf).unsqueeze(0)
        expected = sampler.log_chance[pair].unsqueeze(0) + math.log(n)
        loss = sampled_softmax(scores[target : target + 1], negative, expected)
        mean += (chance[pair].prod() * (loss + scores[target]).exp()).item()
    assert mean == pytest.approx(scores[1:].exp().sum().item(), rel=1e-5)


def test_every_item_once_is_the_full_softmax() -> None:
    torch.manual_seed(0)
    scores, targets = torch.randn(6, 9, requires_grad=True), torch.arange(6)
    whole = F.cross_entropy(scores, targets)
    own = torch.eye(6, 9, dtype=torch.bool)
    found = sampled_softmax(scores.diagonal(), scores.masked_fill(own, -math.inf))
    torch.testing.assert_close(found, whole)
    gradients = [torch.autograd.grad(loss, scores)[0] for loss in (whole, found)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("n_items", "n_negatives"), [(30, 4), (300, 3)])  # all scored; drawn only
def test_scores_of_drawn_items_are_dot_products(n_items: int, n_negatives: int) -> None:
    """Values and gradients equal those of one product for each pair, with items drawn twice."""
    torch.manual_seed(0)
    hidden = torch.randn(130, 8, dtype=torch.float64, requires_grad=True)
    table = torch.randn(n_items, 8, dtype=torch.float64, requires_grad=True)
    drawn = torch.randint(1, n_items, (130, n_negatives))
    drawn[:, 1] = drawn[:, 0]
    weights = torch.randn(drawn.shape, dtype=torch.float64)
    found = scores_of_drawn(hidden, table, drawn)
    plain = torch.stack([(hidden * table[items]).sum(dim=1) for items in drawn.T], dim=1)
    torch.testing.assert_close(found, plain)
    gradients = [
        torch.autograd.grad((scores * weights).sum(), [hidden, table]) for scores in (found, plain)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_draws_follow_the_chances(power: float) -> None:
    """All items but padding are drawn, as often as their probabilities say."""
    torch.manual_seed(0)
    sampler = NegativeSampler(ITEMS, 5, power)
    share = torch.bincount(sampler(4000, 10).flatten(), minlength=5) / 40_000
    torch.testing.assert_close(share, sampler.log_chance.exp(), atol=0.01, rtol=0)


def test_a_shared_sample_is_unbiased() -> None:
    """Over all pairs of items, the mean of the corrected sum is the whole sum."""
    scores, target, pool = torch.tensor([9.0, 0.3, 1.1, -0.7, 0.2]), 2, torch.arange(1, 5)
    seen, mean = set(), 0.0
    torch.manual_seed(0)
    while len(seen) < 12:
        drawn = draw_items(pool, 2)
        if tuple(drawn.tolist()) in seen:
            continue
        seen.add(tuple(drawn.tolist()))
        negative = scores[drawn].masked_fill(drawn == target, -math.inf).unsqueeze(0)
        loss = sampled_softmax(scores[target : target + 1], negative, math.log(2 / 4))
        mean += (loss + scores[target]).exp().item() / 12
    assert all(a != b and {a, b} <= {1, 2, 3, 4} for a, b in seen)
    assert mean == pytest.approx(scores[1:].exp().sum().item(), rel=1e-5)


def test_the_exponent_by_hand() -> None:
    """10 negatives of 100 others: the share is 0.1, and t = 0.75 gives 0.1 * (0.75 * -9 + 10)."""
    assert gbce_power(10, 100, 0.75) == pytest.approx(0.325)
    assert gbce_power(10, 100, 0.0) == pytest.approx(1.0)
    assert gbce_power(10, 100, 1.0) == pytest.approx(0.1)
    assert gbce_power(100, 100, 0.4) == pytest.approx(1.0)


def test_gbce_without_calibration_is_bce() -> None:
    torch.manual_seed(0)
    positive, negative = torch.randn(7), torch.randn(7, 5)
    scores = torch.cat([positive.unsqueeze(1), negative], dim=1)
    labels = F.one_hot(torch.zeros(7, dtype=torch.long), 6).float()
    expected = F.binary_cross_entropy_with_logits(scores, labels)
    found = gbce(positive, negative, 5, gbce_power(5, 40, 0.0))
    torch.testing.assert_close(found, expected)


def test_gbce_by_hand() -> None:
    """-(beta log s(p) + log(1 - s(n))) / 2, where s(log 3) is 3/4; a negative of -inf is none."""
    positive = torch.tensor([math.log(3)], requires_grad=True)
    negative = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    loss = gbce(positive, negative, 1, 0.5)
    expected = -(0.5 * math.log(0.75) + math.log(0.5)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert positive.grad is not None and positive.grad.item() == pytest.approx(-0.5 * 0.25 / 2)
    assert negative.grad is not None and negative.grad.tolist() == [[0.25, 0.0]]


@pytest.mark.parametrize(
    ("power", "weights"), [(0.0, [0, 1, 1, 1, 1]), (0.5, [0, 2, 3, 1, 1]), (1.0, [0, 4, 9, 1, 1])]
)
def test_items_are_drawn_by_their_chances(power: float, weights: list[int]) -> None:
    """Never padding, and items without an interaction as if they had one."""
    torch.manual_seed(1)
    drawn = NegativeSampler(ITEMS, 5, power)(400, 100)
    shares = torch.bincount(drawn.flatten(), minlength=5) / drawn.numel()
    expected = torch.tensor(weights) / sum(weights)
    torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
    torch.manual_seed(1)
    assert torch.equal(NegativeSampler(ITEMS, 5, power)(400, 100), drawn)


def test_the_ends_of_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 gives the first item, not padding; nothing is behind the last item."""
    sampler = NegativeSampler(ITEMS, 5, 0.3)
    ends = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: ends)
    assert sampler(1, 2).tolist() == [[1, 4]]
    sampler.cumulative.mul_(1 - 1e-9)
    assert sampler(1, 2).tolist() == [[1, 4]]
