"""SASRec over item vectors: whitening, the adapter, and what the scores depend on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    N_ITEMS,
    Row,
    Tiny,
    fitted,
    loss_and_gradients,
    new_trainer,
    scores,
    timed_rows,
)
from recbole.data.interaction import Interaction
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.models.layers.content import ExpertAdapter, Whitening

L = 8
CALM: dict[str, Any] = {
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "adapter_dropout_prob": 0.0,
}


def build(tiny: Tiny, **settings: Any) -> tuple[Any, Any]:
    trainer, loaded = new_trainer(tiny.make_config("SASRecContent", **{**CALM, **settings}))
    return trainer.model.eval(), loaded


def batch_of(*histories: list[int]) -> Interaction:
    padded = [history + [0] * (L - len(history)) for history in histories]
    lengths = torch.tensor([len(history) for history in histories])
    items = torch.arange(1, len(histories) + 1)
    return Interaction(
        {"item_id_list": torch.tensor(padded), "item_length": lengths, "item_id": items}
    )


BATCH = batch_of([1, 2, 3], [5], [10, 11, 12, 13, 14, 15, 16, 17], [7, 8])


# Whitening ---------------------------------------------------------------------------------------


def correlated(n: int, width: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(n)
    mixed = torch.randn(width, width, generator=chance)
    return torch.randn(n, width, generator=chance) @ mixed + 3


def whiten(vectors: torch.Tensor, rows: torch.Tensor, n_components: int) -> torch.Tensor:
    return Whitening().fit(vectors[rows], n_components)(vectors)


def test_whitened_training_items_have_the_identity_as_covariance() -> None:
    """Of the rows that it is fitted on, and not of the others."""
    vectors, rows = correlated(40, 5), torch.arange(3, 30)
    found = whiten(vectors, rows, 9)
    assert found.shape == (40, 5)
    fitted_rows = found[rows].double()
    torch.testing.assert_close(fitted_rows.mean(dim=0), torch.zeros(5).double(), atol=1e-5, rtol=0)
    covariance = fitted_rows.T @ fitted_rows / len(rows)
    torch.testing.assert_close(covariance, torch.eye(5).double(), atol=1e-4, rtol=0)
    assert not torch.allclose(torch.cov(found.T, correction=0), torch.eye(5), atol=0.05)


def test_whitening_keeps_the_components_of_largest_variance() -> None:
    vectors = torch.tensor([[4.0, 1.0], [-4.0, 1.0], [4.0, -1.0], [-4.0, -1.0]])
    found = whiten(vectors, torch.arange(4), 1)
    assert found.abs().tolist() == [[1.0]] * 4
    assert torch.equal(found.sign(), vectors[:, :1].sign() * found[0].sign())


def test_components_that_do_not_vary_are_zero() -> None:
    """Three rows of dimension 5 span a plane; equal rows span nothing."""
    vectors = correlated(20, 5)
    found = whiten(vectors, torch.tensor([4, 7, 9]), 5)
    assert found.isfinite().all()
    assert (found.abs().sum(dim=0) > 0).tolist() == [True, True, False, False, False]
    assert whiten(torch.ones(6, 3), torch.arange(6), 3).abs().sum() == 0


def write(path: Path, vectors: np.ndarray) -> str:
    items = tuple(f"i{number}" for number in range(N_ITEMS))
    mask = np.ones((N_ITEMS, 1), bool)
    write_embeddings(path, EmbeddingTable(items, vectors[:, None].astype(np.float32), mask, {}))
    return str(path)


def test_the_models_whitening_is_fitted_on_training_items(tiny: Tiny) -> None:
    """The vector of an item that is a target alone moves nobody else's."""
    cold: Row = ("u0", "i29", 10.0**6)
    rows = [row for row in tiny.rows if row[1] != "i29"]
    tiny.write_inter([*rows, cold])
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, 4))
    contents = []
    for shift in (0, 50):
        moved = vectors + shift * (np.arange(N_ITEMS) == 29)[:, None]
        path = write(tiny.root / f"{shift}.npz", moved)
        model, loaded = build(tiny, item_vectors={"text": path})
        contents.append(model.content.vectors)
    number = loaded.dataset.token2id("item_id", "i29")
    items = loaded.train._dataset.training_sequences()[0].unique()
    assert number not in items and len(items) == N_ITEMS - 1
    changed = (contents[0] != contents[1]).any(dim=1)
    assert changed.nonzero().tolist() == [[number]]
    known = contents[0][items].double()
    covariance = known.T @ known / len(items)
    torch.testing.assert_close(covariance, torch.eye(4).double(), atol=1e-4, rtol=0)


def test_tables_stand_side_by_side(tiny: Tiny) -> None:
    """Each whitened by itself, or as they are; padding has zeros."""
    files = tiny.item_vectors()
    for kept, width in ((0, 11), (3, 6), (100, 11)):
        model, loaded = build(tiny, whitening_dims=kept)
        content = model.content.vectors
        assert content.shape == (N_ITEMS + 1, width)
        assert not content[0].any() and content[1:].any(dim=1).all()
        if not kept:
            tables = [loaded.dataset.item_feat[name] for name in sorted(files)]
            assert torch.equal(content[1:], torch.cat(tables, dim=1)[1:])


# The adapter -------------------------------------------------------------------------------------


def adapter() -> ExpertAdapter:
    torch.manual_seed(3)
    built = ExpertAdapter(4, 3, 2, 0.0, 0.5)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


@torch.no_grad()
def test_the_adapter_against_its_equations() -> None:
    built, content = adapter().eval(), torch.randn(5, 4)
    for vector, found in zip(content, built(content), strict=True):
        shares = torch.softmax(vector @ built.gate, dim=0)
        experts = [(vector - built.shift[e]) @ built.weight[e] for e in range(2)]
        torch.testing.assert_close(found, shares[0] * experts[0] + shares[1] * experts[1])


@torch.no_grad()
def test_the_noise_of_the_gates() -> None:
    """In training: normal, with standard deviation softplus(x S) + 0.01."""
    built, content = adapter().double().train(), torch.tensor([[0.3, -0.2, 0.1, 0.4]]).double()
    built.shift.zero_()
    # Both experts copy the input, the second one as 0: the output is the first one's share of it.
    switch = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    built.weight.copy_(torch.eye(4, 3).repeat(2, 1, 1) * switch)
    share = built(content.expand(20_000, -1))[:, 0] / content[0, 0]
    difference = torch.logit(share)  # of the two noisy gates
    gates, spread = content @ built.gate, F.softplus(content @ built.noise) + 0.01
    assert difference.mean().item() == pytest.approx(-gates.diff().item(), abs=0.05)
    assert difference.std().item() == pytest.approx(spread.norm().item(), rel=0.03)


# The model ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_scores_are_cosines_of_the_item_vectors(tiny: Tiny) -> None:
    model, _ = build(tiny, use_ids=True, temperature=0.5)
    torch.nn.init.normal_(model.item_embedding.weight)
    matrix = model.content.adapter(model.content.vectors) + model.item_embedding.weight
    found = model.full_sort_predict(BATCH)
    for row, length in enumerate(BATCH["item_length"].tolist()):
        items = BATCH["item_id_list"][row, :length].unsqueeze(0)
        vectors = matrix[items] + model.position_embedding.weight[:length]
        hidden = model.trm_encoder(model.LayerNorm(vectors), model.get_attention_mask(items))
        cosines = F.cosine_similarity(hidden[-1][:, -1], matrix)
        torch.testing.assert_close(found[row], cosines / 0.5, rtol=1e-4, atol=1e-5)
    loss = F.cross_entropy(found[:, 1:], BATCH["item_id"] - 1)
    torch.testing.assert_close(model.calculate_loss(BATCH), loss)


@pytest.mark.parametrize("use_ids", [True, False])
@torch.no_grad()
def test_padding_and_other_rows_change_nothing(tiny: Tiny, use_ids: bool) -> None:
    model, _ = build(tiny, use_ids=use_ids)
    whole = model.full_sort_predict(BATCH)
    for row in range(4):
        n = int(BATCH["item_length"][row])
        alone = Interaction({key: value[row : row + 1] for key, value in BATCH.interaction.items()})
        alone.interaction["item_id_list"] = alone["item_id_list"][:, :n]
        torch.testing.assert_close(
            model.full_sort_predict(alone)[0], whole[row], rtol=1e-4, atol=1e-5
        )
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        model.full_sort_predict(BATCH[order]), whole[order], rtol=1e-4, atol=1e-5
    )
    matrix, items = model.item_matrix(), (BATCH["item_id_list"], BATCH["item_length"])
    torch.testing.assert_close(model._encode(*items, matrix), model(*items, matrix))


def test_without_ids_items_of_equal_content_are_one(tiny: Tiny) -> None:
    """The model has no parameter of an item; with IDs they are told apart."""
    vectors = np.random.default_rng(1).normal(size=(N_ITEMS, 4))
    vectors[9] = vectors[4]
    path = write(tiny.root / "v.npz", vectors)
    for use_ids in (False, True):
        given: dict[str, Any] = {"item_vectors": {"text": path}, "use_ids": use_ids}
        trainer, loaded = fitted(tiny.make_config("SASRecContent", **given))
        found = scores(trainer.model, loaded.test)
        same = [loaded.dataset.token2id("item_id", token) - 1 for token in ("i4", "i9")]
        assert torch.equal(found[:, same[0]], found[:, same[1]]) is not use_ids
        sizes = [len(each) for each in trainer.model.parameters()]
        assert (N_ITEMS + 1 in sizes) is use_ids


def test_it_learns_from_content_alone(tiny: Tiny) -> None:
    """Walks around a ring whose places are the vectors; by chance the score is 1 / 6."""
    angle = 2 * np.pi * np.arange(N_ITEMS) / N_ITEMS
    path = write(tiny.root / "v.npz", np.stack([np.cos(angle), np.sin(angle)], axis=1))
    given: dict[str, Any] = {"use_ids": False, "item_vectors": {"text": path}, "epochs": 30}
    given |= {"hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1, "learning_rate": 0.01}
    trainer, loaded = fitted(tiny.make_config("SASRecContent", **given))
    assert trainer.evaluate(loaded.test)["hit@5"] > 0.7


@pytest.mark.parametrize("softmax_items", ["all", "trained"])
@pytest.mark.parametrize("use_ids", [True, False])
def test_a_sample_of_all_items_is_the_whole_softmax(
    tiny: Tiny, use_ids: bool, softmax_items: str
) -> None:
    model, loaded = build(tiny, use_ids=use_ids, softmax_items=softmax_items)
    items = loaded.dataset.training_sequences()[0].unique()
    batch = batch_of([int(items[0]), int(items[3])], [int(items[1])], [int(items[2])] * 3)
    batch.interaction["item_id"] = items[:3]
    assert model.softmax_samples == 0  # 30 items are few
    whole, expected = loss_and_gradients(model.calculate_loss(batch), model)
    model.softmax_samples = model.n_items
    sampled, found = loss_and_gradients(model._sampled_loss(batch), model)
    assert sampled == pytest.approx(whole, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_sample_reads_the_vectors_of_its_own_items_alone(tiny: Tiny) -> None:
    model, _ = build(tiny, use_ids=True, softmax_samples=5)
    read: list[int] = []
    model.content.adapter.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    loss, gradients = loss_and_gradients(model.calculate_loss(BATCH), model)
    in_batch = {0, *BATCH["item_id_list"].flatten().tolist(), *BATCH["item_id"].tolist()}
    assert len(in_batch) <= read[0] <= len(in_batch) + 5
    assert np.isfinite(loss)
    rows = gradients["item_embedding.weight"].abs().sum(dim=1)
    assert len(rows.nonzero()) <= read[0] < model.n_items


@pytest.mark.parametrize("use_ids", [True, False])
@pytest.mark.parametrize("kept", [0, 4])
def test_another_data_set_starts_from_its_network_adapter_and_whitening(
    tiny: Tiny, use_ids: bool, kept: int
) -> None:
    """Its rows of items, and its catalog, are its own."""
    same: dict[str, Any] = {"whitening_dims": kept, "epochs": 1}
    first, source = fitted(tiny.make_config("SASRecContent", use_ids=False, **same))
    tiny.write_inter(timed_rows({user: tiny.sequences[user] for user in ("u1", "u2", "u3")}))
    given = {"pre_model_path": first.saved_model_file, "use_ids": use_ids, **same}
    model, loaded = build(tiny, **given)
    assert 1 < model.n_items < N_ITEMS and (model.item_embedding is not None) is use_ids
    known = first.model.state_dict()
    names = [name for name, _ in model.named_parameters() if name != "item_embedding.weight"]
    assert {name.partition(".")[0] for name in names} >= {"content", "trm_encoder"}
    for name in names:
        assert torch.equal(model.state_dict()[name], known[name]), name
    # An item has the vector that it has in the other data set, where all 30 are whitened.
    tokens = loaded.dataset.field2id_token["item_id"][1:]
    there = source.dataset.token2id("item_id", tokens)
    torch.testing.assert_close(model.content.vectors[1:], known["content.vectors"][there])
    fresh, _ = build(tiny, use_ids=use_ids, **same)
    assert torch.equal(fresh.content.vectors, model.content.vectors) is (kept == 0)
    for other, said in (
        ({"whitening_dims": 3 if kept else 11}, "content.* here; use the same sizes"),
        ({"whitening_dims": 0 if kept else 3}, "pre_model_path: .*; use the same sizes"),
        ({"n_experts": 3}, "content.adapter.shift is .* there and .* here; use the same sizes"),
    ):
        with pytest.raises(InputError, match=said):
            build(tiny, **{**given, **other})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"item_vectors": {}}, "item_vectors: SASRecContent needs at least one table"),
        ({"item_vectors": {"text": "no.npz"}}, "no.npz: no such file"),
        ({"loss_type": "BPR"}, "loss_type: 'BPR': SASRecContent supports only CE"),
        ({"n_experts": 0}, "n_experts: 0 is not a whole number from 1"),
        ({"temperature": 0}, "temperature: 0 is not a number in"),
        ({"use_ids": 1}, "use_ids: 1 is not True or False"),
    ],
)
def test_bad_settings(tiny: Tiny, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(tiny, **settings)
