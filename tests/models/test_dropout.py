"""The cheap masks against the definition of dropout and against PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from recbole_qbert.models.layers.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_rate_and_scale(p: float) -> None:
    """Kept elements are exactly x / (1 - p); the share of zeros is p within six deviations."""
    torch.manual_seed(1)
    x = torch.rand(400, 251) + 0.5
    y = Dropout(p)(x)
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / (1 - p))
    deviation = (p * (1 - p) / x.numel()) ** 0.5
    assert abs((~kept).float().mean().item() - p) < 6 * deviation
    assert y.mean().item() == pytest.approx(x.mean().item(), rel=0.03)


def test_every_draw_of_a_word_is_fair_and_independent() -> None:
    """The four draws that share a 64-bit word have the same rate and no correlation."""
    torch.manual_seed(2)
    kept = (Dropout(0.5)(torch.ones(50_000, 4)) != 0).double()
    assert torch.allclose(kept.mean(dim=0), torch.tensor(0.5).double(), atol=0.015)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max().item() < 0.03


def test_gradient_passes_the_same_mask() -> None:
    """d sum(dropout(x)) / dx is the mask over (1 - p)."""
    x = torch.ones(7, 5, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_seed_and_mode() -> None:
    """The same seed gives the same mask; evaluation, p = 0 and p = 1 are PyTorch's."""
    layer, x = Dropout(0.4), torch.ones(3, 11)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x))
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros_like(x))
    assert Dropout(0.4)(torch.ones(0, 3)).shape == (0, 3)
