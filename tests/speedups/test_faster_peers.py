"""What RecBole's models do faster here, against RecBole's own code: the same values."""

from __future__ import annotations

import random

import pytest
import torch
from conftest import Tiny, loss_and_gradients, new_trainer, with_columns
from recbole.model.layers import FeatureSeqEmbLayer, FeedForward
from recbole.model.sequential_recommender import BERT4Rec, S3Rec

from recbole_qbert.experiments.splits import load_splits
from recbole_qbert.speedups.s3rec_pretraining import (
    attributes_of,
    draw_masks_and_segments,
    first_stage_loss,
    one_hot,
)
from recbole_qbert.speedups.trimmed_forward import (
    PooledOnce,
    apply_speedups,
    mark_all_ends,
    trimmed_loss,
    trimmed_scores,
)


@pytest.mark.parametrize("length", [8, 50])
@pytest.mark.parametrize("attribute", ["class", "semantic_id", "kind"])
def test_draws_and_targets_equal_the_originals(tiny: Tiny, attribute: str, length: int) -> None:
    """For attributes of several words and of one, short histories and long padding."""
    config = tiny.make_config(
        "S3Rec",
        item_attribute=attribute,
        load_col=with_columns(tiny),
        MAX_ITEM_LIST_LENGTH=length,
    )
    loaded = load_splits(config)
    model = S3Rec(config, loaded.train._dataset)
    before = dict(vars(model))
    for number, batch in enumerate(loaded.train):
        items, lengths = batch["item_id_list"], batch["item_length"]
        random.seed(number)
        hot, *expected = model.reconstruct_pretrain_data(items, lengths)
        state = random.getstate()
        random.seed(number)
        drawn = draw_masks_and_segments(model, items, lengths)
        assert random.getstate() == state
        for left, right in zip(expected, drawn, strict=True):
            assert left.dtype == right.dtype
            assert torch.equal(left, right)
        own = one_hot(attributes_of(model, drawn[1]), model.n_features, hot.dtype)
        assert torch.equal(own, hot)
        assert hot.sum() >= lengths.sum()  # every item has an attribute
    assert vars(model) == before


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("attribute", ["class", "semantic_id", "kind"])
def test_first_stage_of_s3rec(tiny: Tiny, attribute: str, cut: bool) -> None:
    """Loss and gradients against the original's, each loss with a weight of its own."""
    config = tiny.make_config(
        "S3Rec",
        item_attribute=attribute,
        load_col=with_columns(tiny),
        MAX_ITEM_LIST_LENGTH=12,
        mask_ratio=0.4,
        aap_weight=0.3,
        mip_weight=7.0,
        map_weight=1.1,
        sp_weight=5.0,
    )
    trainer, loaded = new_trainer(config)
    model = trainer.model.eval()  # no dropout
    for number, batch in enumerate(loaded.train):
        found = []
        for own in (False, True):
            random.seed(number)
            if own:
                loss = first_stage_loss(model, batch, cut)
            else:
                drawn = model.reconstruct_pretrain_data(batch["item_id_list"], batch["item_length"])
                loss = model.pretrain(*drawn)
            found.append(loss_and_gradients(loss, model))
        (expected, gradients), (value, ours) = found
        assert value == pytest.approx(expected, rel=1.3e-6, abs=1e-5)  # assert_close's own
        assert ours.keys() == gradients.keys() == dict(model.named_parameters()).keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4, msg=name)
            assert name.startswith("trm_encoder") or gradient.abs().sum() > 0
    assert "position_embedding" not in vars(model)


def test_first_stage_encodes_no_padding(tiny: Tiny) -> None:
    """And its first stage is trained by that loss."""
    config = tiny.make_config("S3Rec", MAX_ITEM_LIST_LENGTH=50)
    trainer, loaded = new_trainer(config)
    batch = next(iter(loaded.train))
    widths: list[int] = []
    model = trainer.model
    hook = model.LayerNorm.register_forward_pre_hook(lambda _, x: widths.append(x[0].size(1)))
    trimmed_loss(model, config)(batch)
    hook.remove()
    assert max(widths) == batch["item_length"].max()
    assert min(widths) < max(widths)
    config["trim_padding"] = False
    assert trimmed_loss(model, config) == model.calculate_loss


@pytest.mark.parametrize("pooling", ["mean", "sum", "max"])
@pytest.mark.parametrize("model", ["FDSA", "SASRecF"])
def test_features_pooled_once(tiny: Tiny, model: str, pooling: str) -> None:
    """Loss and gradients of a step, with features of several words and of one."""
    config = tiny.make_config(
        model,
        load_col=with_columns(tiny),
        selected_features=["kind", "price", "semantic_id", "class"],
        numerical_features=["price"],
        pooling_mode=pooling,
    )
    trainer, loaded = new_trainer(config)
    trainer.model.eval()
    batch = next(iter(loaded.train))
    found = []
    for own in (False, True):
        if own:
            apply_speedups(trainer.model, config)
            pools = [each for each in trainer.model.modules() if type(each) is PooledOnce]
            assert len(pools) == 1
        trainer.model.zero_grad()
        loss = trainer.model.calculate_loss(batch)
        loss.backward()
        found.append((loss, {n: p.grad for n, p in trainer.model.named_parameters()}))
    (expected, gradients), (loss, ours) = found
    torch.testing.assert_close(loss, expected)
    assert any("feature_embed_layer" in name for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_ends_marked_at_once(tiny: Tiny) -> None:
    config = tiny.make_config("BERT4Rec", MAX_ITEM_LIST_LENGTH=6)
    model = new_trainer(config)[0].model
    lengths = torch.tensor([1, 6, 3, 5])
    items = torch.arange(1, 25).view(4, 6) * (torch.arange(6) < lengths.unsqueeze(1))
    before = items.clone()
    expected = model.reconstruct_test_data(items.clone(), lengths)
    apply_speedups(model, config)
    assert model.reconstruct_test_data.__func__ is mark_all_ends
    assert torch.equal(model.reconstruct_test_data(items, lengths), expected)
    assert torch.equal(items, before)
    assert (expected == model.mask_token).sum() == 4


def test_gelu_in_one_operation(tiny: Tiny) -> None:
    config = tiny.make_config("SASRec")
    model = new_trainer(config)[0].model
    layers = [each for each in model.modules() if isinstance(each, FeedForward)]
    values = torch.linspace(-6, 6, 101)
    expected = layers[0].intermediate_act_fn(values)
    apply_speedups(model, config)
    assert all(each.intermediate_act_fn is torch.nn.functional.gelu for each in layers)
    torch.testing.assert_close(layers[0].intermediate_act_fn(values), expected)
    other = tiny.make_config("SASRec", hidden_act="swish")
    model = new_trainer(other)[0].model
    apply_speedups(model, other)
    layer = next(each for each in model.modules() if isinstance(each, FeedForward))
    assert layer.intermediate_act_fn == layer.swish


@pytest.mark.parametrize("model", ["FDSA", "SASRec", "BERT4Rec", "S3Rec"])
def test_without_trimming_all_is_recboles(tiny: Tiny, model: str) -> None:
    """Classes and methods of RecBole's, and its very loss and scores, bit for bit."""
    config = tiny.make_config(model, trim_padding=False)
    trainer, loaded = new_trainer(config)
    kinds = [type(each) for each in trainer.model.modules()]
    before = dict(vars(trainer.model))
    assert trimmed_loss(trainer.model, config) == trainer.model.calculate_loss
    assert trimmed_scores(trainer.model, config) == trainer.model.full_sort_predict
    assert [type(each) for each in trainer.model.modules()] == kinds
    assert vars(trainer.model) == before
    assert all(kind.__module__.startswith(("recbole.", "torch.")) for kind in kinds)
    for owner, name in (
        (S3Rec, "reconstruct_pretrain_data"),
        (FeatureSeqEmbLayer, "forward"),
        (BERT4Rec, "reconstruct_test_data"),
        (FeedForward, "gelu"),
    ):
        assert getattr(owner, name).__module__.startswith("recbole.")
        assert not hasattr(getattr(owner, name), "__wrapped__")
