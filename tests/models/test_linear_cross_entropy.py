"""The sparing cross-entropy against PyTorch's on all scores at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recbole_qbert.models.layers import loss as module
from recbole_qbert.models.layers.loss import linear_cross_entropy


@settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    items=st.integers(2, 30),
    at_once=st.integers(1, 100),
    with_bias=st.booleans(),
    seed=st.integers(0, 99),
)
def test_value_and_gradients(
    rows: int, items: int, at_once: int, with_bias: bool, seed: int
) -> None:
    """For parts of one row, of all, and a rest; for shares that differ; scaled by what follows."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 4, generator=draw, dtype=torch.float64)
    weight = torch.randn(items, 4, generator=draw, dtype=torch.float64)
    bias = torch.randn(items, generator=draw, dtype=torch.float64) if with_bias else None
    targets = torch.randint(items, (rows,), generator=draw)
    shares = torch.rand(rows, generator=draw, dtype=torch.float64)
    leaves = [each.requires_grad_() for each in (hidden, weight, bias) if each is not None]
    scores = hidden @ weight.T + (0 if bias is None else bias)
    expected = F.cross_entropy(scores, targets, reduction="none") @ shares
    wanted = torch.autograd.grad(3 * expected, leaves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SCORES_AT_ONCE", at_once)
        found = linear_cross_entropy(hidden, weight, bias, targets, shares)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(torch.autograd.grad(3 * found, leaves), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_large_scores_do_not_overflow() -> None:
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]])
    found = linear_cross_entropy(hidden, weight, None, torch.tensor([0, 0]), torch.ones(2))
    assert found.item() == 2000.0
    found.backward()
    assert hidden.grad is not None and hidden.grad.tolist() == [[0.0], [-2.0]]
