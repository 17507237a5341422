"""Equations 6 to 9 worked by hand, gradients past the quantizer, moving means, Sinkhorn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from recbole_qbert.tokenizer.quantizers.rqvae import (
    RQVAE,
    MovingCodebooks,
    RQVAEQuantizer,
    RQVAESettings,
    choose,
    pass_gradient,
    sinkhorn,
)

H = torch.tensor([[3.0, 2.0]])


def _losses(**changes: Any) -> RQVAESettings:
    """Eqs. 7 to 9 as they stand in the paper, with MQL4GRec's beta."""
    plain = {"beta": 0.25, "norm": "sum", "rq_reduce": "sum", "gradient": "ste"}
    return RQVAESettings(**{"n_levels": 2, "codebook_size": 2, **plain, **changes})


def _identity_network() -> RQVAE:
    """Encoder and decoder that change nothing, two levels of two codewords."""
    network = RQVAE(2, [], 2, [2, 2], torch.Generator())
    with torch.no_grad():
        for mlp in (network.encoder, network.decoder):
            mlp[0].weight.copy_(torch.eye(2))
        network.codebooks[0].copy_(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
        network.codebooks[1].copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    return network


# By hand, for h = z = r_0 = (3, 2):
# (6) |r_0 - (2,0)|^2 = 1 + 4 = 5,  |r_0 - (0,4)|^2 = 9 + 4 = 13   -> code 0, r_1 = (1, 2)
#     |r_1 - (1,0)|^2 = 0 + 4 = 4,  |r_1 - (0,1)|^2 = 1 + 1 = 2    -> code 1, r_2 = (1, 1)
#     z^ = (2,0) + (0,1) = (2, 1)
# (7) |h - z^|^2 = 1 + 1 = 2
# (8) (5 + beta 5) + (2 + beta 2) = 7 (1 + beta) = 8.75 with beta 0.25
# (9) 2 + 8.75 = 10.75
def test_equations_by_hand() -> None:
    losses = _identity_network().losses(H, _losses(beta=0.25))
    assert losses.codes.tolist() == [[0, 1]]
    assert [residual.tolist() for residual in losses.residuals] == [[[3.0, 2.0]], [[1.0, 2.0]]]
    assert losses.reconstruction.item() == pytest.approx(2.0)
    assert losses.quantization.item() == pytest.approx(8.75)


def test_means_over_levels_dimensions_and_items() -> None:
    network = _identity_network()
    by_level = network.losses(H, _losses(rq_reduce="mean"))
    assert by_level.quantization.item() == pytest.approx(8.75 / 2)
    by_dimension = network.losses(H, _losses(norm="mean"))
    assert by_dimension.reconstruction.item() == pytest.approx(2.0 / 2)
    assert by_dimension.quantization.item() == pytest.approx(8.75 / 2)
    # A second item on its codewords, (2, 0) + (1, 0) = (3, 0), loses only |(1,0)|^2 at level 0.
    two = network.losses(torch.tensor([[3.0, 2.0], [3.0, 0.0]]), _losses())
    assert two.codes.tolist() == [[0, 1], [0, 0]]
    assert two.reconstruction.item() == pytest.approx((2.0 + 0.0) / 2)
    assert two.quantization.item() == pytest.approx((8.75 + 1.25) / 2)


def test_gradients_by_hand() -> None:
    network = _identity_network()
    losses = network.losses(H, _losses(beta=0.25))
    losses.quantization.backward(retain_graph=True)
    # Codewords: 2 (e - r). The latent: 2 beta ((r_0 - e_0) + (r_1 - e_1)) = .5 ((1,2) + (1,1)).
    assert network.codebooks[0].grad.tolist() == [[-2.0, -4.0], [0.0, 0.0]]
    assert network.codebooks[1].grad.tolist() == [[0.0, 0.0], [-2.0, -2.0]]
    latent_gradient = network.encoder[0].bias.grad.clone()
    assert latent_gradient.tolist() == pytest.approx([1.0, 1.5])
    losses.reconstruction.backward()
    # 2 (z^ - h) = (-2, -2) passes straight through, and does not touch the codewords.
    passed = network.encoder[0].bias.grad - latent_gradient
    assert passed.tolist() == pytest.approx([-2.0, -2.0])
    assert network.codebooks[0].grad.tolist() == [[-2.0, -4.0], [0.0, 0.0]]


def test_straight_through_copies_the_gradient() -> None:
    latent = torch.tensor([[2.0, 0.0]], requires_grad=True)
    out = pass_gradient(latent, torch.tensor([[0.0, 3.0]]), "ste")
    assert out.tolist() == [[0.0, 3.0]]
    out.backward(torch.tensor([[1.0, 5.0]]))
    assert latent.grad is not None
    assert latent.grad.tolist() == [[1.0, 5.0]]


def test_rotation_turns_the_gradient_as_it_turns_the_latent() -> None:
    # (2, 0) -> (0, 3) is a quarter turn R = [[0, -1], [1, 0]] and a stretch by 1.5. The gradient g
    # of the output becomes 1.5 R^T g: 1.5 (g_2, -g_1).
    latent = torch.tensor([[2.0, 0.0]], requires_grad=True)
    out = pass_gradient(latent, torch.tensor([[0.0, 3.0]]), "rotation")
    assert out[0].tolist() == pytest.approx([0.0, 3.0], abs=1e-6)
    out.backward(torch.tensor([[1.0, 5.0]]))
    assert latent.grad is not None
    assert latent.grad[0].tolist() == pytest.approx([7.5, -1.5], abs=1e-6)


def test_rotation_in_many_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(20, 6, generator=generator, requires_grad=True)
    quantized = torch.randn(20, 6, generator=generator)
    out = pass_gradient(latent, quantized, "rotation")
    torch.testing.assert_close(out, quantized, atol=1e-5, rtol=1e-4)
    # A turn keeps angles: gradients along the output come back along the latent, stretched.
    out.backward(quantized)
    stretch = quantized.norm(dim=1, keepdim=True) / latent.norm(dim=1, keepdim=True)
    length = quantized.norm(dim=1, keepdim=True) * stretch
    wanted = length * latent.detach() / latent.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(latent.grad, wanted, atol=1e-4, rtol=1e-4)


def test_rotation_of_zero_is_finite() -> None:
    latent = torch.zeros(1, 3, requires_grad=True)
    pass_gradient(latent, torch.ones(1, 3), "rotation").sum().backward()
    assert latent.grad is not None
    assert torch.isfinite(latent.grad).all()


def test_moving_means_by_hand() -> None:
    book = torch.tensor([[0.0], [10.0]])
    moving = MovingCodebooks([book], decay=0.5, smoothing=0.1)
    moving.update(torch.tensor([[0], [0], [1]]), [torch.tensor([[2.0], [4.0], [12.0]])])
    # Counts: .5 + .5 * 2 = 1.5 and .5 + .5 * 1 = 1. Sums: .5 * 6 = 3 and .5 * 10 + .5 * 12 = 11.
    assert moving.counts[0].tolist() == pytest.approx([1.5, 1.0])
    assert moving.sums[0].flatten().tolist() == pytest.approx([3.0, 11.0])
    # Smoothed counts: 2.5 * 1.6 / 2.7 = 1.48148 and 2.5 * 1.1 / 2.7 = 1.01852.
    assert book.flatten().tolist() == pytest.approx([3 / 1.481481, 11 / 1.018519], rel=1e-5)
    moving.restart(0, torch.tensor([1]), torch.tensor([[7.0]]))
    assert moving.counts[0].tolist() == pytest.approx([1.5, 1.0])
    assert moving.sums[0].flatten().tolist() == pytest.approx([3.0, 7.0])


def test_sinkhorn_against_a_plain_loop() -> None:
    distances = torch.rand(12, 5, generator=torch.Generator().manual_seed(1)) * 40
    plan = sinkhorn(distances, epsilon=0.1)
    rows = distances.double().tolist()
    middle = (distances.max().item() + distances.min().item()) / 2
    top = distances.max().item() - middle + 1e-5
    kernel = [[math.exp(-(value - middle) / top / 0.1) for value in row] for row in rows]
    for _ in range(50):
        kernel = [[value / sum(row) / 12 for value in row] for row in kernel]
        totals = [sum(row[column] for row in kernel) for column in range(5)]
        kernel = [[v / t / 5 for v, t in zip(row, totals, strict=True)] for row in kernel]
    wanted = torch.tensor(kernel, dtype=torch.float64)
    torch.testing.assert_close(plan, wanted, rtol=1e-4, atol=1e-9)


def test_sinkhorn_shares() -> None:
    distances = torch.rand(64, 8, generator=torch.Generator().manual_seed(2))
    plan = sinkhorn(distances, epsilon=0.2)
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(dim=0), torch.full((8,), 1 / 8, dtype=torch.float64))
    shares = torch.full((64,), 1 / 64, dtype=torch.float64)
    torch.testing.assert_close(plan.sum(dim=1), shares, rtol=1e-4, atol=0)
    sharp = sinkhorn(1e4 * distances**8, epsilon=0.001)  # most entries underflow
    assert torch.isfinite(sharp).all()


def test_sinkhorn_gives_away_where_it_costs_least() -> None:
    # All four are nearest to codeword 0; the two that lose least by it move to codeword 1.
    residual = torch.tensor([[0.1], [0.2], [0.3], [0.4]])
    codebook = torch.tensor([[0.0], [1.0]])
    assert choose(residual, codebook).tolist() == [0, 0, 0, 0]
    assert choose(residual, codebook, epsilon=0.05).tolist() == [0, 0, 1, 1]


def test_sinkhorn_concerns_the_last_level_only() -> None:
    network = _identity_network()
    rows = torch.tensor([[3.0, 0.0], [2.9, 0.0], [2.8, 0.0], [2.7, 0.0]])
    free = network.losses(rows, _losses()).codes
    shared = network.losses(rows, _losses(sinkhorn_epsilon=0.05)).codes
    assert free.tolist() == [[0, 0]] * 4
    assert shared[:, 0].tolist() == [0] * 4
    assert sorted(shared[:, 1].tolist()) == [0, 0, 1, 1]


def test_the_affine_map_is_undone_by_the_decoder() -> None:
    network = _identity_network()
    network.shift.copy_(torch.tensor([1.0, -2.0]))
    network.scale.copy_(torch.tensor([0.5, 2.0]))
    # h = (7, -1) is (3, 2) to the network: codes (0, 1), z^ = (2, 1), h^ = (2/.5 + 1, 1/2 - 2).
    quantizer = RQVAEQuantizer(network)
    vectors = torch.tensor([[7.0, -1.0]]).numpy()
    assert quantizer.encode(vectors).tolist() == [[0, 1]]
    assert quantizer.distances(vectors).tolist() == [[[5.0, 13.0], [4.0, 2.0]]]
    assert quantizer.reconstruct(quantizer.encode(vectors)).tolist() == [[5.0, -1.5]]


def test_layers_mirror_each_other() -> None:
    network = RQVAE(10, [8, 4], 3, [5, 6], torch.Generator().manual_seed(1))
    shapes = [tuple(layer.weight.shape) for layer in network.encoder if hasattr(layer, "weight")]
    assert shapes == [(8, 10), (4, 8), (3, 4)]
    mirrored = [tuple(layer.weight.shape) for layer in network.decoder if hasattr(layer, "weight")]
    assert mirrored == [(4, 3), (8, 4), (10, 8)]
    assert isinstance(network.encoder[1], torch.nn.ReLU)
    assert isinstance(network.encoder[-1], torch.nn.Linear)
    assert [tuple(book.shape) for book in network.codebooks] == [(5, 3), (6, 3)]
