"""MISSRec: fusion by hand, missing modalities, interests, the decoder, resume and first stage."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import (
    N_ITEMS,
    Tiny,
    assert_equal_weights,
    fitted,
    loss_and_gradients,
    new_trainer,
    scores,
    timed_rows,
)
from recbole.data.interaction import Interaction
from rich.console import Console
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.experiments.run import run_models
from recbole_qbert.experiments.splits import load_splits
from recbole_qbert.models.missrec import drop_items, find_interests, fuse, unique_interests
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.training.checkpoint import load_checkpoint


def build(tiny: Tiny, epoch: int | None = 0, **settings: Any) -> tuple[Any, Any]:
    """A model that was not trained, with the interests of an epoch, and its data."""
    trainer, loaded = new_trainer(tiny.make_config("MISSRec", **settings))
    if epoch is not None:
        trainer.model.begin_epoch(epoch)
    return trainer.model.eval(), loaded


def histories(*rows: list[int], width: int = 8) -> Interaction:
    padded = [row + [0] * (width - len(row)) for row in rows]
    lengths = [len(row) for row in rows]
    return Interaction(
        {
            "item_id_list": torch.tensor(padded),
            "item_length": torch.tensor(lengths),
            "item_id": torch.tensor(lengths) + 1,
        }
    )


def spoil(model: Any, modality: str) -> None:
    """Change everything that a modality's vectors pass through, its bias too."""
    with torch.no_grad():
        for each in model.adaptors[modality].parameters():
            each += torch.randn_like(each)


# Fusion ------------------------------------------------------------------------------------------


def test_fusion_weights_by_hand() -> None:
    """One user, three items: both modalities, text alone, none."""
    cosines = torch.tensor([[[0.6, 0.4, 0.9]], [[0.2, 0.7, 0.9]]])
    present = torch.tensor([[True, True, False], [True, False, False]])
    mean = fuse(cosines, present, torch.zeros(1))
    torch.testing.assert_close(mean, torch.tensor([[0.4, 0.4, 0.0]]))
    # Factor 5: exp(3) / (exp(3) + exp(1)) = .880797, so .880797 * .6 + .119203 * .2 = .552319.
    torch.testing.assert_close(
        fuse(cosines, present, torch.tensor([5.0])), torch.tensor([[0.552319, 0.4, 0.0]])
    )
    # A factor for each item: the first as at 0, the others have nothing to weigh.
    torch.testing.assert_close(fuse(cosines, present, torch.tensor([0.0, 5.0, 5.0])), mean)


def test_fusion_has_gradients_where_nothing_is_there() -> None:
    cosines = torch.zeros(2, 3, 4, requires_grad=True)
    factor = torch.zeros(1, requires_grad=True)
    fuse(cosines, torch.zeros(2, 4, dtype=torch.bool), factor).sum().backward()
    assert cosines.grad is not None and not cosines.grad.any()
    assert factor.grad is not None and not factor.grad.any()


@torch.no_grad()
@pytest.mark.parametrize("use_ids", [True, False])
def test_scores_by_a_loop(tiny: Tiny, use_ids: bool) -> None:
    """Per item: mean of own and modalities' cosines, the latter weighed by their softmax."""
    model, _ = build(tiny, use_ids=use_ids)
    model.fusion_factor.fill_(3.0)
    batch = histories([4, 5, 6], [9])
    found = model.full_sort_predict(batch)
    adapted = model.adapted()
    users, _ = model.forward(batch["item_id_list"], batch["item_length"], adapted)
    n_absent = 0
    for row, user in enumerate(users):
        for item in range(1, N_ITEMS + 1):
            each = [
                F.cosine_similarity(user, model.adaptors[name](vectors[item]), dim=0).item()
                for name, vectors in (("image", model.vectors_image), ("text", model.vectors_text))
                if vectors[item].any()
            ]
            n_absent += 2 - len(each)
            weights = np.exp(3.0 * np.array(each))
            fused = float((weights * each).sum() / weights.sum()) if each else 0.0
            if use_ids:
                own = F.cosine_similarity(user, model.ids.weight[item], dim=0).item()
                fused = (own + len(each) * fused) / (len(each) + 1)
            assert found[row, item].item() == pytest.approx(fused / 0.07, rel=1e-4, abs=1e-4)
    assert n_absent == 2 * 4  # of two users


# Missing modalities ------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("use_ids", [True, False])
def test_an_item_without_image_is_as_if_there_were_no_images(tiny: Tiny, use_ids: bool) -> None:
    """As candidate and in a history, whatever the image branch makes of zeros."""
    model, loaded = build(tiny, use_ids=use_ids)
    lone, both = (loaded.dataset.token2id("item_id", token) for token in ("i5", "i6"))
    assert not model.vectors_image[lone].any() and model.vectors_text[lone].any()
    batch = histories([lone])
    before = model.full_sort_predict(batch)
    assert (model.clusters[:, lone] > 0).tolist() == [False, True]  # image, text
    spoil(model, "image")
    after = model.full_sort_predict(batch)
    assert torch.equal(after[:, lone], before[:, lone])
    assert not torch.allclose(after[:, both], before[:, both])

    # A model without images at all, with the same weights.
    vectors = {"text": tiny.settings("MISSRec")["item_vectors"]["text"]}
    alone, _ = build(tiny, use_ids=use_ids, item_vectors=vectors)
    weights = {k: v for k, v in model.state_dict().items() if k in alone.state_dict()}
    sized = {k: v for k, v in weights.items() if k not in ("centers", "clusters")}
    alone.load_state_dict({**alone.state_dict(), **sized})
    # The one interest of the history is the same.
    alone.centers[1] = model.centers[model.clusters[1, lone]]
    alone.clusters[0, lone] = 1
    torch.testing.assert_close(
        alone.full_sort_predict(batch)[:, lone], after[:, lone], rtol=1e-5, atol=1e-5
    )


def test_an_item_without_any_modality(tiny: Tiny) -> None:
    """It is ranked by its own vector, or with a score of 0; gradients are finite and small."""
    for use_ids in (True, False):
        model, loaded = build(tiny, use_ids=use_ids)
        bare = loaded.dataset.token2id("item_id", "i3")
        assert not model.present[:, bare].any()
        batch = histories([bare, bare], [], [bare, 7])
        found = model.full_sort_predict(batch)
        assert found[:, 1:].isfinite().all()
        assert use_ids or not found[:, bare].any()
        model.train().calculate_loss(batch).backward()
        for name, each in model.named_parameters():
            assert each.grad is None or each.grad.isfinite().all(), name
            assert each.grad is None or each.grad.abs().max() < 1e3, name


@pytest.mark.parametrize("settings", [{}, {"use_ids": False}, {"fusion": "item"}])
def test_a_sample_of_all_items_is_the_whole_softmax(tiny: Tiny, settings: dict[str, Any]) -> None:
    model, _ = build(tiny, None, **settings)
    batch = histories([1, 2, 3], [4], [5, 6])
    targets, samples = torch.tensor([4, 9, 4]), (0, model.n_items)

    def loss(n_samples: int) -> torch.Tensor:
        model.softmax_samples = n_samples
        adapted = model.adapted()
        users, _ = model(batch[model.ITEM_SEQ], batch[model.ITEM_SEQ_LEN], adapted)
        over = model._sampled_loss if n_samples else model._next_item_loss
        found: torch.Tensor = over(users, adapted, targets)
        return found

    (whole, expected), (sampled, found) = (loss_and_gradients(loss(n), model) for n in samples)
    assert sampled == pytest.approx(whole, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    few, _ = loss_and_gradients(loss(5), model)
    assert few == pytest.approx(whole, rel=0.5) and few != whole


def test_missing_vectors_are_said_and_their_file_checked(tiny: Tiny) -> None:
    _, loaded = build(tiny, None)
    assert "partial.image.npz: 3 of 30 items have no image (i3, i5, i21)" in [
        ", ".join(sorted(note.split("; "))) for note in map(in_order, loaded.dataset.notes)
    ]
    path = tiny.root / "other.npz"
    np.savez(path, items=["x1", "x2"], vectors=np.ones((2, 3), dtype=np.float32))
    with pytest.raises(InputError, match="30 of 30 items of the data set have no text"):
        build(tiny, item_vectors={"text": str(path)})
    with pytest.raises(InputError, match="1 of 30 items of the data set have no text"):
        load_splits(
            tiny.make_config("SASRec", item_vectors={"text": str(tiny.root / "partial.text.npz")})
        )


def in_order(note: str) -> str:
    """The items of a note in the order of their numbers."""
    head, _, items = note.rstrip(")").partition("(")
    return f"{head}({', '.join(sorted(items.split(', '), key=lambda item: int(item[1:])))})"


# Interests ---------------------------------------------------------------------------------------


def test_interests_are_of_visible_vectors_alone() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(200, 5)).astype(np.float32)
    visible = draw.random(200) < 0.7
    centers, nearest = find_interests(vectors, visible, 20, 5, seed=3)
    assert centers.shape == (20, 5) and centers.dtype == np.float32
    distances = ((vectors[:, None] - centers) ** 2).sum(axis=2)
    assert (nearest == distances.argmin(axis=1)).all()  # of the invisible ones too
    moved = vectors.copy()
    moved[~visible] += 9
    same, _ = find_interests(moved, visible, 20, 5, seed=3)
    assert (same == centers).all()
    other, _ = find_interests(vectors, visible, 20, 5, seed=4)
    assert (other != centers).any()
    few, _ = find_interests(vectors, np.arange(200) < 3, 20, 5, seed=3)
    np.testing.assert_allclose(np.sort(few, axis=0), np.sort(vectors[:3], axis=0), rtol=1e-5)
    none, nowhere = find_interests(vectors, np.zeros(200, dtype=bool), 20, 5, seed=3)
    assert none.shape == (0, 5) and (nowhere == -1).all()


def test_vectors_of_items_that_are_targets_alone_move_no_interest(tiny: Tiny) -> None:
    """Nor do the global generators; the seed and the epoch do."""
    hidden = tiny.sequences["u0"][-1]
    rows = [row for row in tiny.rows if row[1] != hidden] + [("u0", hidden, 1e6)]
    tiny.write_inter(rows)
    found, own = [], []
    for shift in (0.0, 5.0):
        paths = tiny.item_vectors(partial=True)
        with np.load(paths["text"]) as file:
            items, vectors = file["items"], file["vectors"]
        vectors[items == hidden] += shift
        paths["text"] = str(tiny.root / f"moved{shift}.npz")
        np.savez(paths["text"], items=items, vectors=vectors)
        model, loaded = build(tiny, 2, item_vectors=paths)
        number = loaded.dataset.token2id("item_id", hidden)
        assert not model.visible[number] and model.visible.sum() == N_ITEMS - 1
        found.append(model.centers.clone())
        own.append(model.vectors_text[number].clone())
    assert torch.equal(*found) and not torch.equal(*own)
    torch.rand(3), np.random.rand(3)
    state = torch.get_rng_state()
    model.begin_epoch(2)
    assert torch.equal(model.centers, found[1]) and torch.equal(torch.get_rng_state(), state)
    model.begin_epoch(3)
    assert not torch.equal(model.centers, found[1])
    model.seed += 1
    model.begin_epoch(2)
    assert not torch.equal(model.centers, found[1])


def test_unique_interests() -> None:
    rows = torch.tensor([[3, 0, 5, 3, 3, 0], [2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0]])
    assert unique_interests(rows).tolist() == [[5, 3], [2, 0], [0, 0]]
    assert unique_interests(rows[2:]).tolist() == [[0]]


# The network -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_network_against_pytorchs_transformer(tiny: Tiny, n_layers: int) -> None:
    """Each row alone, without padding, through PyTorch's own encoder and decoder."""
    model, _ = build(tiny, n_layers=n_layers)
    rows = [[4, 5, 6, 7, 8, 9, 10, 11], [5], [12, 13], [20, 19, 18]]
    batch, adapted = histories(*rows), model.adapted()
    found, overlap = model.forward(batch["item_id_list"], batch["item_length"], adapted)
    net, table = model.transformer, adapted.sum(dim=0) + model.ids.weight
    for number, items in enumerate(rows):
        interests = sorted({i for i in model.clusters[:, items].flatten().tolist() if i})
        memory = net.encoder(model.centers[interests].unsqueeze(0))
        places = net.position_embedding.weight[: len(items)]
        hidden = net.decoder(net.input_norm(table[items] + places).unsqueeze(0), memory)
        hidden = net.output_norm(hidden[0, -1])
        torch.testing.assert_close(found[number], hidden / hidden.norm(), rtol=1e-4, atol=1e-5)
        products = memory[0] @ memory[0].T / memory.size(2)
        assert overlap[number].item() == pytest.approx(products.mean().item(), rel=1e-4)


@torch.no_grad()
def test_padding_and_order_of_the_batch_do_not_matter(tiny: Tiny) -> None:
    """Nor does the split of a batch: the loss is a mean over rows."""
    model, _ = build(tiny)
    rows = [[4, 5, 6, 7, 8, 9, 10, 11], [5], [12, 13], [20, 19, 18], [7, 7, 7]]
    together = model.full_sort_predict(histories(*rows))
    turned = model.full_sort_predict(histories(*rows[::-1])).flip(0)
    torch.testing.assert_close(turned, together, rtol=1e-5, atol=1e-5)
    losses = []
    for number, row in enumerate(rows):
        alone = model.full_sort_predict(histories(row, width=len(row)))
        torch.testing.assert_close(alone[0], together[number], rtol=1e-5, atol=1e-5)
        losses.append(model.calculate_loss(histories(row)))
    whole = model.calculate_loss(histories(*rows))
    torch.testing.assert_close(whole, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)


def test_the_device_does_not_choose_the_numbers(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without groups of rows of like length, as on a GPU."""
    model, _ = build(tiny)
    batch = histories([4, 5, 6, 7, 8, 9, 10, 11], [5], [12, 13])
    with torch.no_grad():
        expected = model.full_sort_predict(batch)
        net = type(model.transformer)
        monkeypatch.setattr(net, "forward", net._decode)
        torch.testing.assert_close(model.full_sort_predict(batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tiny: Tiny, dtype: torch.dtype) -> None:
    """Losses and gradients under autocast are finite and near those of single precision."""
    model, loaded = build(tiny)
    batch = next(iter(loaded.train))
    expected = model.calculate_loss(batch).item()
    with torch.autocast("cpu", dtype=dtype):
        loss = model.calculate_loss(batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=0.05)
    for name, each in model.named_parameters():
        assert each.grad is None or each.grad.isfinite().all(), name


def test_every_weight_is_trained(tiny: Tiny) -> None:
    model, loaded = build(tiny, fusion="item")
    bare = loaded.dataset.token2id("item_id", "i3")
    for batch in (next(iter(loaded.train)), histories([bare])):
        model.train().calculate_loss(batch).backward()
    for name, each in model.named_parameters():
        assert each.grad is not None and each.grad.any(), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"item_vectors": {}}, "item_vectors: MISSRec needs at least one table"),
        ({"interest_ratio": 0.0}, "interest_ratio: 0.0 is not a number in"),
        ({"fusion": "sum"}, "fusion: 'sum' is none of shared, item, mean"),
        ({"hidden_act": "swish"}, "hidden_act: 'swish' is none of gelu, relu"),
        ({"n_heads": 3}, "hidden_size 16 is not a multiple of n_heads 3"),
        ({"loss_type": "BPR"}, "loss_type: 'BPR': MISSRec supports only CE"),
    ],
)
def test_bad_settings(tiny: Tiny, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build(tiny, **settings)
    assert "\n" not in str(caught.value)


# Training ----------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a kill at the moment it is raised."""


def killed_in(trainer: Any, epoch: int) -> None:
    """Let the trainer fail in the first step of an epoch, after its interests were found."""
    begin, steps = trainer.model.begin_epoch, []

    def begin_epoch(number: int) -> None:
        begin(number)
        steps.append(number)

    def fail(*_: Any) -> None:
        if steps[-1] == epoch:
            raise Killed

    trainer.model.begin_epoch = begin_epoch
    trainer.optimizer.register_step_pre_hook(fail)


def test_a_killed_run_ends_as_the_unbroken_one(tiny: Tiny) -> None:
    """Bit for bit, the interests too, which belong to the checkpoint of their epoch."""
    unbroken, loaded = fitted(
        tiny.make_config("MISSRec", epochs=4, checkpoint_dir=str(tiny.root / "unbroken"))
    )
    broken, loaded = new_trainer(tiny.make_config("MISSRec", epochs=4))
    killed_in(broken, 2)
    with pytest.raises(Killed):
        broken.fit(loaded.train, loaded.valid, verbose=False)
    trainer, loaded = new_trainer(tiny.make_config("MISSRec", epochs=4, resume=True))
    assert trainer.start_epoch == 2
    trainer.fit(loaded.train, loaded.valid, verbose=False)
    assert_equal_weights(trainer.model.state_dict(), unbroken.model.state_dict())
    assert trainer.train_loss_dict == unbroken.train_loss_dict
    for name in ("saved_model_file", "last_state_file"):
        left, right = (load_checkpoint(getattr(each, name)) for each in (trainer, unbroken))
        assert left["epoch"] == right["epoch"]
        assert left["state_dict"]["clusters"].any()
        assert_equal_weights(left["state_dict"], right["state_dict"])


@pytest.mark.slow
def test_it_learns_the_ring(tiny: Tiny) -> None:
    """The next item is most often the neighbor; guessing has a hit@1 of 1/30."""
    settings = {"epochs": 12, "hidden_dropout_prob": 0.1, "learning_rate": 0.01}
    trainer, loaded = fitted(tiny.make_config("MISSRec", **settings))
    assert trainer.evaluate(loaded.test)["hit@5"] > 0.4


# First stage -------------------------------------------------------------------------------------


def test_drop_items() -> None:
    items = torch.arange(1, 9).repeat(500, 1)
    lengths = torch.randint(1, 9, (500,))
    items[torch.arange(8) >= lengths.unsqueeze(1)] = 0
    found, left = drop_items(items, lengths, 0.4)
    assert left.min() >= 1 and (left <= lengths).all()
    assert (found > 0).sum(dim=1).tolist() == left.tolist()
    for row, n in zip(found.tolist(), left.tolist(), strict=True):
        assert row[n:] == [0] * (8 - n)
        assert row[:n] == sorted(set(row[:n]))
    assert (left.sum() / lengths.sum()).item() == pytest.approx(0.63, abs=0.06)
    same, lengths_again = drop_items(items, lengths, 0.0)
    assert torch.equal(same, items) and torch.equal(lengths_again, lengths)


def test_the_loss_of_the_first_stage_by_hand(tiny: Tiny) -> None:
    """Users against the targets of the batch, each once, and against their own second views."""
    model, _ = build(
        tiny,
        train_stage="pretrain",
        item_drop_prob=0.0,
        sequence_loss_weight=0.5,
        orthogonality_weight=0.3,
        pretrain_interest_ratio=0.2,
    )
    assert model.ids is None and model.centers.size(0) == 1 + 12  # of 56 vectors
    batch = histories([4, 5], [9], [8, 9])
    targets = batch["item_id"]
    assert targets.tolist() == [3, 2, 3]
    with torch.no_grad():
        found = model.calculate_loss(batch)
        adapted = model.adapted()
        users, overlap = model.forward(batch["item_id_list"], batch["item_length"], adapted)
        logits = model.full_sort_predict(batch)[:, [2, 3]]
        expected = F.cross_entropy(logits, targets - 2)
        expected += 0.5 * F.cross_entropy(users @ users.T / 0.07, torch.arange(3))
        expected += 0.3 * 2 * overlap.mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_run_of_two_stages(tiny: Tiny) -> None:
    """The second stage starts from the first one's content branch, and has a bundle."""
    console = Console(file=io.StringIO(), width=200)
    settings = tiny.settings("MISSRec", pretrain_epochs=2, epochs=1)
    (result,) = run_models(["MISSRec"], "toy", settings=settings, console=console)
    assert "MISSRec pretraining, 2 epochs" in console.file.getvalue()  # type: ignore[attr-defined]
    first = load_checkpoint(Path(result.folder) / "pretrain" / "MISSRec.safetensors")
    assert first["config"]["keys"]["train_stage"] == "pretrain"
    assert "ids.weight" not in first["state_dict"]
    assert len(Recommender.load(result.bundle).recommend([["i1", "i2"]])[0]) == 10

    path = str(Path(result.folder) / "pretrain" / "MISSRec.safetensors")
    started, _ = build(tiny, None, pre_model_path=path)
    scratch, _ = build(tiny, None)
    for name, each in started.named_parameters():
        from_first = name != "ids.weight"
        assert torch.equal(each, first["state_dict"].get(name, each)), name
        assert torch.equal(each, dict(scratch.named_parameters())[name]) != from_first, name
    renamed = {"item_vectors": {"other": str(tiny.root / "partial.text.npz")}}
    for other in ({"inner_size": 8}, renamed):
        with pytest.raises(InputError, match="pre_model_path: .* is .* there and .* here; give a"):
            build(tiny, None, pre_model_path=path, **other)


def test_a_first_stage_of_another_catalog(tiny: Tiny) -> None:
    """As of several domains in one data set: nothing of it depends on the items."""
    config = tiny.make_config("MISSRec", train_stage="pretrain", epochs=1)
    first, _ = fitted(config)
    assert first.model.ids is None
    few = {user: tiny.sequences[user] for user in ("u1", "u2", "u3")}
    tiny.write_inter(timed_rows(few))
    for fusion in ("shared", "item", "mean"):
        model, _ = build(tiny, None, pre_model_path=first.saved_model_file, fusion=fusion)
        assert 1 < model.n_items < N_ITEMS
        known = first.model.state_dict()
        for name, each in model.named_parameters():
            if name not in ("ids.weight", "fusion_factor"):
                assert torch.equal(each, known[name]), name


# Scores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"use_ids": False}, {"fusion": "item"}, {"fusion": "mean"}])
def test_variants_save_and_reload(tiny: Tiny, settings: dict[str, Any]) -> None:
    config = tiny.make_config("MISSRec", epochs=1, **settings)
    trainer, loaded = fitted(config)
    live = scores(trainer.model, loaded.test)
    assert live.isfinite().all() and live.std() > 0
    again, other = new_trainer(config)
    again._load_weights(trainer.saved_model_file)
    assert torch.equal(scores(again.model, other.test), live)
