"""eSASRec and gSASRec: against RecBole's SASRec, the full softmax and plain equations."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import Tiny, assert_equal_weights, fitted, loss_and_gradients, new_trainer, scores
from recbole.data.interaction import Interaction
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.experiments.run import run_models
from recbole_qbert.models.layers.ligr import LiGRBlock
from recbole_qbert.speedups.trimmed_forward import trimmed_loss, trimmed_scores

PLAIN: dict[str, Any] = {"layers": "sasrec", "loss": "ce"}
CALM: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
L = 8


def rows(*histories: list[int], targets: list[int]) -> Interaction:
    padded = [history + [0] * (L - len(history)) for history in histories]
    return Interaction(
        {
            "item_id_list": torch.tensor(padded),
            "item_length": torch.tensor([len(history) for history in histories]),
            "item_id": torch.tensor(targets),
        }
    )


BATCH = rows([1, 2, 3], [5], [10, 11, 12, 13, 14, 15, 16, 17], [7, 8], targets=[4, 6, 18, 9])


def build(tiny: Tiny, name: str = "ESASRec", **settings: Any) -> Any:
    return new_trainer(tiny.make_config(name, **{**CALM, **settings}))[0].model


# RecBole's SASRec --------------------------------------------------------------------------------


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("batch_by", ["row", "user"])
def test_plain_layers_and_loss_are_recboles_sasrec(tiny: Tiny, trim: bool, batch_by: str) -> None:
    """Bit for bit, dropout included: losses, weights, scores and metrics of a training."""
    given: dict[str, Any] = {"trim_padding": trim, "batch_by": batch_by, "hidden_dropout_prob": 0.4}
    given |= {"attn_dropout_prob": 0.3, "hidden_act": "gelu", "inner_size": 32}
    stock, loaded = fitted(tiny.make_config("SASRec", **given))
    ours, _ = fitted(tiny.make_config("ESASRec", **PLAIN, **given))
    assert ours.train_loss_dict == stock.train_loss_dict
    assert_equal_weights(ours.model.state_dict(), stock.model.state_dict())
    assert torch.equal(scores(ours.model, loaded.test), scores(stock.model, loaded.test))
    assert ours.evaluate(loaded.test) == stock.evaluate(loaded.test)


# Losses ------------------------------------------------------------------------------------------


def test_all_negatives_give_the_full_softmax(tiny: Tiny) -> None:
    """Over the items, padding left out; the correction has nothing to correct."""
    for corrected in (True, False):
        model = build(tiny, n_negatives=10**6, logq_correction=corrected).train()
        hidden = model(BATCH["item_id_list"], BATCH["item_length"])
        logits = hidden @ model.item_embedding.weight[1:].T
        whole = loss_and_gradients(F.cross_entropy(logits, BATCH["item_id"] - 1), model)
        found = loss_and_gradients(model.calculate_loss(BATCH), model)
        assert found[0] == pytest.approx(whole[0], rel=1e-6)
        for name, gradient in whole[1].items():
            torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "sampled_softmax", "logq_correction": True},
        {"loss": "sampled_softmax", "logq_correction": False},
        {"loss": "gbce", "gbce_t": 0.75},
        {"loss": "gbce", "gbce_t": 0.75, "gbce_offset": False},
        {"loss": "gbce", "gbce_t": 0.0, "negative_power": 1.0},
        {"loss": "gbce", "gbce_t": 0.3, "n_negatives": 99},
    ],
)
@torch.no_grad()
def test_the_loss_against_a_loop(tiny: Tiny, settings: dict[str, Any]) -> None:
    """Of the negatives that were drawn; one that is the target does not count."""
    model = build(tiny, **{"n_negatives": 7, "negative_power": 0.5, **settings}).train()
    n = model.n_negatives
    assert n == min(settings.get("n_negatives", 7), 29)
    torch.manual_seed(4)
    found = model.calculate_loss(BATCH).item()
    torch.manual_seed(4)
    whole = n == 29
    drawn = torch.arange(1, 31).expand(4, 30) if whole else model.sampler(4, n)
    hidden = model(BATCH["item_id_list"], BATCH["item_length"])
    beta = (n / 29) * (settings.get("gbce_t", 0) * (1 - 29 / n) + 29 / n)
    total, hits = 0.0, 0
    for row, target in enumerate(BATCH["item_id"].tolist()):
        offset = 0.0 if model.offset is None else model.offset.item()
        score = (model.item_embedding.weight @ hidden[row] + offset).tolist()
        others = [item for item in drawn[row].tolist() if item != target]
        hits += len(drawn[row]) - len(others)
        if settings["loss"] == "gbce":
            terms = [beta * math.log(1 + math.exp(-score[target]))]
            terms += [math.log(1 + math.exp(score[item])) for item in others]
            total += sum(terms) / (n + 1)
        else:
            chance = model.sampler.log_chance.exp().tolist()
            weight = {item: 1 / (n * chance[item]) for item in others}
            if not settings["logq_correction"]:
                weight = dict.fromkeys(others, 1.0)
            mass = sum(weight[item] * math.exp(score[item]) for item in others)
            total += math.log(math.exp(score[target]) + mass) - score[target]
    assert found == pytest.approx(total / 4, rel=1e-5)
    assert hits or not whole


def test_gsasrec_is_sasrec_with_gbce(tiny: Tiny) -> None:
    config = tiny.make_config("GSASRec")
    assert (config["layers"], config["loss"], config["gbce_t"]) == ("sasrec", "gbce", 0.75)
    torch.manual_seed(0)
    model = build(tiny, "GSASRec")
    torch.manual_seed(0)
    other = build(tiny, layers="sasrec", loss="gbce")
    assert_equal_weights(model.state_dict(), other.state_dict())
    losses = []
    for each in (model, other):
        torch.manual_seed(3)
        losses.append(each.calculate_loss(BATCH).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("model", "loss"), [("ESASRec", "sampled_softmax"), ("GSASRec", "gbce"), ("SASRec", "CE")]
)
def test_results_name_the_loss(tiny: Tiny, model: str, loss: str) -> None:
    (result,) = run_models([model], "toy", settings=tiny.settings(model, epochs=1))
    assert result.loss == loss


def test_negatives_depend_on_the_seed(tiny: Tiny) -> None:
    losses = [
        fitted(tiny.make_config("ESASRec", loss="sampled_softmax", n_negatives=5, seed=seed))[0]
        for seed in (1, 1, 2)
    ]
    assert losses[0].train_loss_dict == losses[1].train_loss_dict != losses[2].train_loss_dict


@pytest.mark.parametrize("layers", ["ligr", "sasrec"])
@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce"])
def test_it_learns_the_ring(tiny: Tiny, layers: str, loss: str) -> None:
    """By chance the score is 1 / 6."""
    given: dict[str, Any] = {"layers": layers, "loss": loss, "n_negatives": 8, "epochs": 20}
    given |= {"hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1, "learning_rate": 0.01}
    trainer, loaded = fitted(tiny.make_config("ESASRec", **given, eval_step=20))
    assert trainer.evaluate(loaded.test)["hit@5"] > 0.6


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_the_offset_balances_target_and_negatives(tiny: Tiny, t: float) -> None:
    """Where all scores are 0, and without it the negatives' gradient is larger; no score has it."""
    sums = []
    for offset in (True, False):
        model = build(tiny, "GSASRec", gbce_t=t, gbce_offset=offset, n_negatives=20).train()
        torch.nn.init.zeros_(model.item_embedding.weight)
        hidden = model(BATCH["item_id_list"], BATCH["item_length"]).sum(dim=0)
        model.calculate_loss(BATCH).backward()
        gradient = model.item_embedding.weight.grad @ hidden
        sums.append(gradient.sum().item())
        assert model.full_sort_predict(BATCH).count_nonzero() == 0
    assert abs(sums[0]) < 0.1 * abs(sums[1])


# Layers ------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_ligr_block_against_plain_equations() -> None:
    """x + s(G x) * attention(norm x), then y + s(H y) * W (silu(U norm y) * V norm y), 2 heads."""
    torch.manual_seed(2)
    width, inner, n = 6, 5, 4
    config = {"hidden_size": width, "inner_size": inner, "n_heads": 2, "layer_norm_eps": 1e-12}
    block = LiGRBlock({**config, **CALM}).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, n, width, dtype=torch.float64)
    mask = torch.full((n, n), -10000.0).triu(1).view(1, 1, n, n)
    found = block(x, mask)[0]

    def affine(layer: Any, vector: torch.Tensor) -> torch.Tensor:
        return layer.weight @ vector + (0 if layer.bias is None else layer.bias)

    def norm(layer: Any, vector: torch.Tensor) -> torch.Tensor:
        centered = vector - vector.mean()
        return layer.weight * centered / (centered**2).mean().sqrt() + layer.bias

    for place in range(n):
        parts = [affine(block.query_key_value, norm(block.attention_norm, v)) for v in x[0]]
        seen = []
        for head in (slice(0, 3), slice(3, 6)):
            query = parts[place][:6][head]
            keys = torch.stack([part[6:12][head] for part in parts[: place + 1]])
            values = torch.stack([part[12:][head] for part in parts[: place + 1]])
            seen.append(torch.softmax(keys @ query / 3**0.5, dim=0) @ values)
        own = x[0, place]
        y = own + torch.sigmoid(affine(block.attention_gate, own)) * affine(
            block.output, torch.cat(seen)
        )
        up = affine(block.inner_up, norm(block.inner_norm, y))
        switched = up[:inner] * torch.sigmoid(up[:inner]) * up[inner:]
        gate = torch.sigmoid(affine(block.inner_gate, y))
        expected = y + gate * affine(block.inner_down, switched)
        torch.testing.assert_close(found[place], expected)


@torch.no_grad()
def test_padding_and_other_rows_change_nothing(tiny: Tiny) -> None:
    model = build(tiny, n_layers=2).eval()
    whole = model.full_sort_predict(BATCH)
    for row in range(4):
        n = int(BATCH["item_length"][row])
        alone = Interaction({key: value[row : row + 1] for key, value in BATCH.interaction.items()})
        alone.interaction["item_id_list"] = alone["item_id_list"][:, :n]
        torch.testing.assert_close(model.full_sort_predict(alone)[0], whole[row])
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model.full_sort_predict(BATCH[order]), whole[order])


@pytest.mark.parametrize("batch_by", ["row", "user"])
@pytest.mark.parametrize("loss", ["ce", "sampled_softmax", "gbce"])
def test_trimmed_losses_and_scores_are_the_models_own(tiny: Tiny, batch_by: str, loss: str) -> None:
    config = tiny.make_config("ESASRec", batch_by=batch_by, loss=loss, n_negatives=6, **CALM)
    trainer, loaded = new_trainer(config)
    model = trainer.model.train()
    for batch in loaded.train:
        found = []
        for function in (model.calculate_loss, trimmed_loss(model, config)):
            torch.manual_seed(9)
            found.append(loss_and_gradients(function(batch), model))
        assert found[1][0] == pytest.approx(found[0][0], rel=1e-5)
        for name, gradient in found[0][1].items():
            torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-3, atol=1e-6)
    model.eval()
    with torch.no_grad():
        expected = model.full_sort_predict(BATCH)
        torch.testing.assert_close(trimmed_scores(model, config)(BATCH), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "bce"}, "loss: 'bce' is none of ce, sampled_softmax, gbce"),
        ({"layers": "hstu"}, "layers: 'hstu' is none of ligr, sasrec"),
        ({"gbce_t": 1.5}, r"gbce_t: 1.5 is not a number in \[0, 1\]"),
        ({"n_negatives": 0}, "n_negatives: 0 is not a whole number from 1"),
        ({"loss_type": "BPR"}, "loss_type: 'BPR': ESASRec supports only CE"),
        ({"n_heads": 3}, "hidden_size 16 is not a multiple of n_heads 3"),
    ],
)
def test_bad_settings(tiny: Tiny, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(tiny, **settings)
