"""The encoder's batches against single rows without padding, and its size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_qbert.models.layers import encoder as encoder_module
from recbole_qbert.models.layers.encoder import CPU_GROUPED, SequenceEncoder

WIDTH, DEPTH = 11, 16


def _encoder(max_positions: int = WIDTH, **changes: Any) -> SequenceEncoder:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "n_layers": 2,
        "n_heads": 4,
        "hidden_size": DEPTH,
        "inner_size": 24,
        "hidden_dropout_prob": 0.0,
        "attn_dropout_prob": 0.0,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "layer_norm": "post",
    }
    return SequenceEncoder({**settings, **changes}, max_positions)


def _batch(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, shuffled lengths from 1 to WIDTH, and position numbers that differ by row."""
    chance = torch.Generator().manual_seed(rows)
    vectors = torch.randn(rows, WIDTH, DEPTH, generator=chance)
    lengths = torch.randint(1, WIDTH + 1, (rows,), generator=chance)
    lengths[0], lengths[1] = WIDTH, 1
    position_ids = torch.stack([torch.randperm(WIDTH, generator=chance) for _ in range(rows)])
    return vectors, lengths, position_ids


def _encode(
    encoder: SequenceEncoder, vectors: Tensor, lengths: Tensor, position_ids: Tensor
) -> Tensor:
    """What every position of a row became, [B, L, D]; zero behind its end."""
    real = torch.arange(vectors.size(1)) < lengths.unsqueeze(1)
    found = torch.zeros_like(vectors)
    found[real] = encoder(vectors[real], lengths, position_ids[real], real)
    return found


def _assert_rows_alone(encoder: SequenceEncoder, rows: int) -> None:
    vectors, lengths, position_ids = _batch(rows)
    hidden = _encode(encoder, vectors, lengths, position_ids)
    for row, length in enumerate(lengths.tolist()):
        alone = _encode(
            encoder,
            vectors[row : row + 1, :length],
            lengths[row : row + 1],
            position_ids[row : row + 1, :length],
        )
        assert torch.allclose(hidden[row, :length], alone[0], atol=1e-5), row


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("rows", [5, CPU_GROUPED, CPU_GROUPED + 1, 40])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_is_its_rows_alone(rows: int, norm_first: bool, training: bool) -> None:
    """Small and grouped batches, with and without PyTorch's inference path."""
    encoder = _encoder(layer_norm="pre" if norm_first else "post").train(training)
    with torch.set_grad_enabled(training):
        _assert_rows_alone(encoder, rows)


def test_grouping_changes_nothing_but_the_number_of_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Outputs and input gradients with and without groups; the hook shows both paths ran."""
    encoder = _encoder()
    passes: list[int] = []
    first = encoder.blocks.layers[0]
    first.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    vectors, lengths, position_ids = _batch(50)
    real = torch.arange(WIDTH) < lengths.unsqueeze(1)
    weights = torch.randn(50, WIDTH, DEPTH) * real.unsqueeze(2)
    results = []
    for fewest in (CPU_GROUPED, 1000):
        monkeypatch.setattr(encoder_module, "CPU_GROUPED", fewest)
        given = vectors.clone().requires_grad_()
        hidden = _encode(encoder, given, lengths, position_ids)
        (gradient,) = torch.autograd.grad((hidden * weights).sum(), given)
        results.append((hidden[real], gradient))
    lengths_of_groups = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16))
    sizes = [int(((lengths >= low) & (lengths <= high)).sum()) for low, high in lengths_of_groups]
    assert passes == [*sizes, 50]
    assert torch.allclose(results[0][0], results[1][0], atol=1e-5)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("rows", [5, 40])
@pytest.mark.parametrize("training", [True, False])
def test_some_positions_are_what_pytorchs_own_blocks_make_of_them(
    rows: int, norm_first: bool, training: bool
) -> None:
    """Values and gradients of a few positions a row, against all blocks on all positions."""
    encoder = _encoder(layer_norm="pre" if norm_first else "post").train(training)
    vectors, lengths, position_ids = _batch(rows)
    real = torch.arange(WIDTH) < lengths.unsqueeze(1)
    wanted = real & (torch.rand(rows, WIDTH) < 0.3)
    wanted[:, 0] = True
    assert 1 < int(wanted.sum(dim=1).max()) < WIDTH
    embedded = encoder.input_norm(vectors + encoder.position_embedding(position_ids))
    whole = encoder.blocks(embedded, src_key_padding_mask=~real)[wanted]
    found = encoder(vectors[real], lengths, position_ids[real], wanted)
    assert torch.allclose(found, whole, atol=1e-5)
    parameters = list(encoder.parameters())
    for one, two in zip(
        torch.autograd.grad(whole.square().sum(), parameters),
        torch.autograd.grad(found.square().sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(one, two, atol=1e-3, rtol=1e-4)


def test_order_matters_through_positions_only() -> None:
    """Without position vectors the encoder is permutation-equivariant, with them it is not."""
    encoder = _encoder().eval()
    vectors = torch.randn(1, 6, DEPTH)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    lengths, numbers = torch.tensor([6]), torch.arange(6).unsqueeze(0)
    first = _encode(encoder, vectors, lengths, numbers)
    second = _encode(encoder, vectors[:, order], lengths, numbers)
    assert not torch.allclose(first[:, order], second, atol=1e-2)
    moved = _encode(encoder, vectors[:, order], lengths, numbers[:, order])
    assert torch.allclose(first[:, order], moved, atol=1e-5)


def test_parameter_count_of_the_paper() -> None:
    """Four blocks, counted by hand: attention, feed-forward and two LayerNorms each."""
    encoder = _encoder(n_layers=4, hidden_size=256, inner_size=512, max_positions=50)
    attention = 4 * (256 * 256 + 256)
    feed_forward = 256 * 512 + 512 + 512 * 256 + 256
    by_hand = 4 * (attention + feed_forward + 2 * 2 * 256)
    assert sum(parameter.numel() for parameter in encoder.blocks.parameters()) == by_hand
    assert by_hand == 2_108_416
    everything = by_hand + 50 * 256 + 2 * 256
    assert sum(parameter.numel() for parameter in encoder.parameters()) == everything


def test_dropout_rates_reach_their_layers() -> None:
    """Attention and hidden dropout are two settings; both are off in evaluation."""
    encoder = _encoder(hidden_dropout_prob=0.25, attn_dropout_prob=0.5)
    assert encoder.dropout.p == 0.25
    for block in encoder.blocks.layers:
        assert block.self_attn.dropout == 0.5
        assert (block.dropout.p, block.dropout1.p, block.dropout2.p) == (0.25, 0.25, 0.25)
    batch = _batch(20)
    assert not torch.equal(_encode(encoder, *batch), _encode(encoder, *batch))
    encoder.eval()
    assert torch.equal(_encode(encoder, *batch), _encode(encoder, *batch))
