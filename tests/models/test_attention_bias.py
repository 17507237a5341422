"""Attention reweighted by codes: bins by hand, the plain model at zero, gradients, invariance."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_model import ToyDataset, batch_of, shipped_settings, small_settings, toy_histories

from recbole_qbert.common.errors import InputError
from recbole_qbert.models.bbqrec import BBQRec
from recbole_qbert.models.layers.attention_bias import (
    UNKNOWN,
    CodeAttentionBias,
    similarity_bins,
)
from recbole_qbert.models.qbert4rec import QBERT4Rec

REPRESENTATIONS = ("compose", "hybrid", "word", "flatten", "id")
# With a dropout of attention weights, PyTorch takes one kernel with and without a learned mask.
DROPOUT = {"attn_dropout_prob": 0.1, "hidden_dropout_prob": 0.2}


def _model(bias: str = "codes", **changes: Any) -> QBERT4Rec:
    torch.manual_seed(0)
    return QBERT4Rec(small_settings(attention_bias=bias, **changes), ToyDataset())


def _learned(**changes: Any) -> QBERT4Rec:
    """A model whose biases are far from zero."""
    model = _model(**changes)
    with torch.no_grad():
        model.encoder.attention_bias.table.normal_(std=2.0)
    return model


def _batch(rows: int) -> Any:
    histories = toy_histories(27)[2 : 2 + rows]
    return batch_of(histories, [1 + row % 20 for row in range(len(histories))])


def _scores(model: QBERT4Rec, batch: Any) -> Tensor:
    with torch.no_grad():
        return model.eval().full_sort_predict(batch)


def test_bins_by_hand() -> None:
    codes = torch.tensor([[[0, 4, 9], [0, 5, 9], [1, 5, 8], [UNKNOWN] * 3]])
    expected = [[3, 2, 0, 4], [2, 3, 1, 4], [0, 1, 3, 4], [4, 4, 4, 4]]
    assert similarity_bins(codes).tolist() == [expected]


def test_a_bias_multiplies_the_weight_of_a_pair() -> None:
    """One head, two items with one equal code of two: the softmax by hand."""
    bias = CodeAttentionBias(1, 1, 2)
    with torch.no_grad():
        bias.table[0, 0] = torch.tensor([0.0, math.log(3.0), 0.0, 0.0])
    bins = similarity_bins(torch.tensor([[[0, 2], [0, 3], [0, 0]]]))
    mask = bias(0, bins, torch.tensor([[False, False, True]]))
    weights = torch.softmax(torch.zeros(1, 3, 3) + mask, dim=2)
    assert torch.allclose(weights[0, :2], torch.tensor([[0.25, 0.75, 0.0], [0.75, 0.25, 0.0]]))


@pytest.mark.parametrize("changes", [{"item_representation": each} for each in REPRESENTATIONS])
@pytest.mark.parametrize("rows", [5, 25])
def test_it_starts_as_the_plain_model_bit_for_bit(rows: int, changes: dict[str, Any]) -> None:
    """Scores, loss and gradients of all other weights, in small and grouped batches."""
    batch = _batch(rows)
    found = []
    for bias in ("none", "codes"):
        model = _model(bias, mask_context="previous", **DROPOUT, **changes)
        scores = _scores(model, batch)
        torch.manual_seed(1)
        loss = model.train().calculate_loss(batch)
        loss.backward()
        found.append((scores, loss, {n: p.grad for n, p in model.named_parameters()}))
    (scores, loss, gradients), (ours, our_loss, our_gradients) = found
    assert torch.equal(scores, ours) and torch.equal(loss, our_loss)
    assert our_gradients.keys() - gradients.keys() == {"encoder.attention_bias.table"}
    for name, gradient in gradients.items():
        assert torch.equal(gradient, our_gradients[name]), name


def test_a_training_step_moves_every_bias() -> None:
    """Of all blocks, heads and numbers of equal codes that occur."""
    model = _model(**DROPOUT, mask_context="previous")
    before = _scores(model, _batch(25))
    optimizer = torch.optim.Adam(model.encoder.attention_bias.parameters(), lr=0.1)
    model.train().calculate_loss(_batch(25)).backward()
    optimizer.step()
    table = model.encoder.attention_bias.table
    assert table.shape == (2, 2, 5)
    assert (table != 0).all()
    assert not torch.equal(_scores(model, _batch(25)), before)


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_neither_padding_nor_order_nor_company_matters(
    representation: str, layer_norm: str
) -> None:
    model = _learned(item_representation=representation, layer_norm=layer_norm)
    batch = _batch(25)
    scores = _scores(model, batch)
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(3))
    assert torch.allclose(_scores(model, batch[order]), scores[order], atol=1e-5)
    for row in range(0, len(scores), 6):
        alone = _scores(model, batch[row : row + 1])
        assert torch.allclose(alone[0], scores[row], atol=1e-5)


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
def test_evaluation_computes_what_training_does(layer_norm: str) -> None:
    """Without dropout; PyTorch's inference kernels would read the biases as booleans."""
    model = _learned(layer_norm=layer_norm)
    batch = _batch(25)
    expected = model.train().full_sort_predict(batch).detach()
    assert torch.allclose(_scores(model, batch), expected, atol=1e-5)


def test_equal_codes_are_all_that_counts() -> None:
    """Items renamed within the codes: the same similarities, the same biases."""
    model = _learned(item_representation="id")
    first = _scores(model, _batch(5))
    model.compared_codes = torch.where(model.compared_codes >= 0, model.compared_codes + 7, -1)
    assert torch.equal(_scores(model, _batch(5)), first)
    model.compared_codes = model.compared_codes.roll(5, dims=0)
    assert not torch.allclose(_scores(model, _batch(5)), first, atol=1e-3)


@pytest.mark.parametrize("context", ["none", "previous"])
def test_the_code_of_a_masked_item_is_hidden(context: str) -> None:
    model = _learned(mask_context=context).eval()
    lengths, mask = torch.tensor([5]), torch.tensor([[False, True, False, False, True]])
    items = torch.tensor([[1, 2, 3, 4, 5]])
    other = torch.where(mask, items + 9, items)
    hidden = [model.forward(each, lengths, mask, model.items()) for each in (items, other)]
    assert torch.equal(*hidden)


def test_a_sampled_catalog_has_the_codes_of_its_items() -> None:
    model = _learned(code_dropout_prob=0.0)
    items, lengths = torch.tensor([[3, 9, 4, 6]]), torch.tensor([4])
    mask = torch.tensor([[False, False, False, True]])
    rows = torch.tensor([0, 3, 4, 6, 9, 12])
    numbers = torch.tensor([[1, 4, 2, 3]])
    whole = model.eval().forward(items, lengths, mask, model.items())
    part = model.forward(numbers, lengths, mask, model.items(rows), rows)
    assert torch.allclose(whole, part, atol=1e-6)


def test_it_is_trained_under_autocast() -> None:
    model = _learned(**DROPOUT).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.calculate_loss(_batch(25))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(model.encoder.attention_bias.table.grad).all()


def test_without_codes_it_says_so() -> None:
    dataset = ToyDataset()
    dataset.item_codes = None
    settings = small_settings("IDBERT4Rec", attention_bias="codes", item_representation="id")
    with pytest.raises(InputError, match=r"^attention_bias codes needs semantic IDs and toy has"):
        QBERT4Rec(settings, dataset)


def test_bbqrec_is_qbert4rec_with_the_bias() -> None:
    assert shipped_settings("QBERT4Rec")["attention_bias"] == "none"
    ours, base = shipped_settings("BBQRec"), shipped_settings("QBERT4Rec")
    assert {key for key in ours if ours[key] != base[key]} == {"attention_bias"}
    torch.manual_seed(0)
    model = BBQRec(small_settings("BBQRec"), ToyDataset())
    assert model.encoder.attention_bias is not None
    for key, reads in (("codes", True), ("none", False)):
        config = {"item_representation": "id", "attention_bias": key}
        assert QBERT4Rec.reads_semantic_ids(config) is reads
