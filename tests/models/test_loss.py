"""Excluded items and the smoothed cross-entropy against plain Python floats."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from recbole_qbert.models.layers.loss import exclude_items, smoothed_cross_entropy

INF = math.inf
NOTHING = torch.empty(1, 0, dtype=torch.long)


def _excluded(logits: torch.Tensor, items: torch.Tensor) -> list[list[float]]:
    """What is left of logits, as plain numbers."""
    return exclude_items(logits.clone(), items).tolist()


def _by_hand(logits: list[list[float]], targets: list[int], smoothing: float) -> float:
    """Mean over rows of -sum q log p, q spread over the finite logits of the row."""
    losses = []
    for row, target in zip(logits, targets, strict=True):
        allowed = [i for i, value in enumerate(row) if value > -INF]
        total = math.fsum(math.exp(row[i]) for i in allowed)
        loss = 0.0
        for i in allowed:
            q = smoothing / len(allowed) + (1 - smoothing) * (i == target)
            loss -= q * (row[i] - math.log(total))
        losses.append(loss)
    return math.fsum(losses) / len(losses)


def test_exclude_items_by_hand() -> None:
    """Padding and the listed items, row by row; zeros only fill up."""
    scores = torch.arange(12.0).view(3, 4)
    found = exclude_items(scores, torch.tensor([[2, 0], [0, 0], [3, 1]]))
    assert found.tolist() == [[-INF, 1, -INF, 3], [-INF, 5, 6, 7], [-INF, -INF, 10, -INF]]


def test_exclude_items_against_a_loop() -> None:
    """Random ids with repeats, in place."""
    torch.manual_seed(0)
    scores, items = torch.randn(20, 30), torch.randint(0, 30, (20, 9))
    before = scores.clone()
    found = exclude_items(scores, items)
    for row in range(20):
        gone = {0, *items[row].tolist()}
        for item in range(30):
            wanted = -INF if item in gone else before[row, item].item()
            assert found[row, item].item() == wanted
    assert found is scores


def test_smoothing_with_the_numbers_written_out() -> None:
    """Logits 0 and log 3, one excluded: p = 1/4, 3/4."""
    logits = torch.tensor([[5.0, 0.0, 7.0, math.log(3.0)]])
    wanted = -(0.9 * math.log(0.75) + 0.05 * math.log(0.75) + 0.05 * math.log(0.25))
    found = smoothed_cross_entropy(logits, torch.tensor([3]), torch.tensor([[2]]), 0.1)
    assert found.item() == pytest.approx(wanted, rel=1e-6)
    assert logits.tolist() == [[-INF, 0.0, -INF, pytest.approx(math.log(3.0))]]


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.3, 0.9])
def test_smoothing_against_plain_floats(smoothing: float) -> None:
    """Random logits with a different number of excluded items in each row."""
    torch.manual_seed(1)
    targets = torch.randint(1, 15, (12,))
    visible = torch.randint(0, 15, (12, 6))
    visible = visible.masked_fill(visible == targets.unsqueeze(1), 0)
    logits = 3 * torch.randn(12, 15, dtype=torch.float64)
    wanted = _by_hand(_excluded(logits, visible), targets.tolist(), smoothing)
    found = smoothed_cross_entropy(logits, targets, visible, smoothing).item()
    assert found == pytest.approx(wanted, rel=1e-12)


def test_no_smoothing_is_cross_entropy() -> None:
    """Excluded items or not."""
    torch.manual_seed(2)
    logits, targets = torch.randn(8, 10), torch.randint(3, 10, (8,))
    for items in (NOTHING.expand(8, 0), torch.tensor([[1, 2]] * 8)):
        scores = logits.clone()
        found = smoothed_cross_entropy(scores, targets, items, 0.0)
        assert found.item() == pytest.approx(F.cross_entropy(scores, targets).item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_without_exclusions_it_is_pytorchs_smoothing(smoothing: float) -> None:
    """Over all columns but padding's, PyTorch's own option gives the same number."""
    torch.manual_seed(3)
    logits, targets = torch.randn(8, 10, dtype=torch.float64), torch.randint(1, 10, (8,))
    wanted = F.cross_entropy(logits[:, 1:], targets - 1, label_smoothing=smoothing)
    found = smoothed_cross_entropy(logits, targets, NOTHING.expand(8, 0), smoothing)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_minus_infinity_stays_out_of_loss_and_gradient(smoothing: float) -> None:
    """Finite loss and gradient, exactly zero on excluded columns; PyTorch's own is infinite."""
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(4)).requires_grad_()
    targets = torch.tensor([1, 2, 5])
    logits = scores * 1.0  # a leaf cannot be written to
    loss = smoothed_cross_entropy(
        logits, targets, torch.tensor([[2, 3], [4, 0], [1, 2]]), smoothing
    )
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert torch.equal(gradient == 0, logits.isinf())
    assert gradient.sum(dim=1).tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    if smoothing:
        assert F.cross_entropy(logits, targets, label_smoothing=smoothing).isinf()


def test_half_precision_is_worked_on_in_single() -> None:
    """Loss and gradient are those of the same numbers in single precision."""
    half = torch.randn(5, 300, generator=torch.Generator().manual_seed(6)).bfloat16()
    targets, items = torch.tensor([3, 9, 27, 81, 243]), torch.tensor([[1, 2]] * 5)
    found = []
    for scores in (half.requires_grad_(), half.detach().float().requires_grad_()):
        loss = smoothed_cross_entropy(scores * 1.0, targets, items, 0.1)
        (gradient,) = torch.autograd.grad(loss, scores)
        found.append((loss, gradient))
    (loss, gradient), (expected, slope) = found
    assert loss.dtype == torch.float32 and loss.item() == expected.item()
    assert gradient.dtype == torch.bfloat16 and torch.equal(gradient, slope.bfloat16())


def test_a_row_with_only_its_target_left_costs_nothing() -> None:
    """One allowed item has probability 1 at any smoothing."""
    items = torch.tensor([[1, 3]])
    assert smoothed_cross_entropy(torch.randn(1, 4), torch.tensor([2]), items, 0.3).item() == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.15])
def test_gradient_is_that_of_finite_differences(smoothing: float) -> None:
    """`gradcheck` in double precision, through the exclusion."""
    targets, visible = torch.tensor([3, 1, 4]), torch.tensor([[1, 2], [0, 0], [2, 5]])

    def loss(scores: torch.Tensor) -> torch.Tensor:
        return smoothed_cross_entropy(scores * 1.0, targets, visible, smoothing)

    chance = torch.Generator().manual_seed(5)
    scores = torch.randn(3, 6, dtype=torch.float64, generator=chance).requires_grad_()
    assert torch.autograd.gradcheck(loss, scores)
