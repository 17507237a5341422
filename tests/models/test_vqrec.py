"""VQ-Rec: its vectors and losses against loops, and what each stage of a transfer changes."""

from __future__ import annotations

import io
import math
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CODEBOOK_SIZES, Tiny, assert_equal_weights, fitted, new_trainer, scores
from recbole.data.interaction import Interaction
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F
from toy_model import (
    HOST_KEYS,
    MAX_LENGTH,
    SIZES,
    ToyDataset,
    batch_of,
    shipped_settings,
    toy_histories,
)
from two_domains import Toys, make_toys, write_ids  # noqa: F401

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.merge import merge
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.experiments.run import run_models
from recbole_qbert.models import vqrec
from recbole_qbert.models.layers.reassignment import CodeReassignment
from recbole_qbert.models.vqrec import VQRec
from recbole_qbert.registry import build_model
from recbole_qbert.serving.bundle import save_bundle
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.training.checkpoint import load_checkpoint

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "inner_size": 24,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "initializer_range": 0.3,
    "train_batch_size": 20,
    "epochs": 3,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
FIRST = {"train_stage": "pretrain", "epochs": 1}


def small_model(sizes: tuple[int, ...] = SIZES, **changes: Any) -> VQRec:
    """A model of the toy data set, the same at every call."""
    torch.manual_seed(0)
    settings = {**shipped_settings("VQRec"), **HOST_KEYS, **SMALL, **changes}
    return VQRec(settings, ToyDataset(sizes=sizes))


def toy_batch() -> Interaction:
    """Histories of 1 to MAX_LENGTH items; several rows have the same target."""
    histories = [history for history in toy_histories() if history]
    return batch_of(histories, [1 + row % 5 for row in range(len(histories))])


def looped_vector(model: VQRec, codes: list[int]) -> Tensor:
    """The mean of the vectors of codes, each counted within its level."""
    total, first = torch.zeros(model.table.embedding_dim), 0
    for code, size in zip(codes, model.codebook_sizes, strict=True):
        total = total + model.table.weight[first + code]
        first += size
    return total / len(codes)


# Vectors and losses ------------------------------------------------------------------------------


@torch.no_grad()
def test_item_vectors_against_a_loop() -> None:
    """The padding's is zero; those of some items are rows of all."""
    model, codes = small_model(), ToyDataset().item_codes
    assert codes is not None
    found = model.item_vectors()
    assert found.shape == (len(codes), 16) and not found[0].any()
    for item in range(1, len(codes)):
        torch.testing.assert_close(found[item], looped_vector(model, codes[item].tolist()))
    rows = torch.tensor([0, 4, 9, 20])
    torch.testing.assert_close(model.item_vectors(rows), found[rows])


@torch.no_grad()
def test_scores_are_cosines_and_the_loss_their_cross_entropy() -> None:
    """Divided by the temperature in the loss, with padding in neither."""
    model, batch = small_model().eval(), toy_batch()
    found, items = model.full_sort_predict(batch), model.item_vectors()
    hidden = model.forward(batch["item_id_list"], batch["item_length"], items)
    total = 0.0
    for row, target in enumerate(batch["item_id"].tolist()):
        own = [F.cosine_similarity(hidden[row], each, dim=0).item() for each in items[1:]]
        assert found[row, 1:].tolist() == pytest.approx(own, abs=1e-5)
        total -= (torch.tensor(own) / 0.07).log_softmax(dim=0)[target - 1].item()
    assert model.calculate_loss(batch).item() == pytest.approx(total / len(hidden), rel=1e-4)


def looped_contrast(model: VQRec, batch: Interaction, synthetic: Tensor) -> float:
    """The mean over rows of -log of the target's share among other targets and one more item."""
    items = model.item_vectors()
    hidden = model.forward(batch["item_id_list"], batch["item_length"], items)
    targets, total = batch["item_id"].tolist(), 0.0
    for row, target in enumerate(targets):

        def weight(vector: Tensor, of: Tensor = hidden[row]) -> float:
            return math.exp(F.cosine_similarity(of, vector, dim=0).item() / 0.07)

        own = weight(items[target])
        others = sum(weight(items[other]) for other in targets if other != target)
        total -= math.log(own / (own + others + weight(synthetic[row])))
    return total / len(targets)


@torch.no_grad()
@pytest.mark.parametrize("full", [True, False])
def test_the_contrast_against_a_loop(full: bool) -> None:
    """Also where no row has padding, so that item 0 is not in the batch; and in parts."""
    model = small_model(train_stage="pretrain").eval()
    batch = toy_batch()
    if full:
        rows = torch.randint(1, 21, (12, MAX_LENGTH), generator=torch.Generator().manual_seed(1))
        batch = batch_of(rows.tolist(), [1 + row % 5 for row in range(12)])
    drawn = model.draw_batch(batch)
    assert drawn.synthetic is not None
    expected = looped_contrast(model, batch, drawn.synthetic)
    assert model.batch_loss(drawn).item() == pytest.approx(expected, rel=1e-4)
    parts = [drawn.part(slice(0, 5)), drawn.part(slice(5, len(batch)))]
    total = sum(model.batch_loss(part).item() * part.n_terms for part in parts)
    assert total / drawn.n_terms == pytest.approx(expected, rel=1e-4)


def test_synthetic_codes_stay_in_their_level() -> None:
    """Of 4 codes, a quarter of the draws is the code itself."""
    model = small_model(train_stage="pretrain", code_replace_prob=0.5)
    items = torch.full((4000,), 7)
    codes = model._replaced(items)
    first = 0
    for level, size in enumerate(model.codebook_sizes):
        column = codes[:, level] - first
        assert set(column.tolist()) == set(range(size))
        same = (codes[:, level] == model.item_codes[7, level]).float().mean().item()
        assert same == pytest.approx(0.5 + 0.5 / size, abs=0.03)
        first += size
    model.code_replace_prob = 0.0
    assert torch.equal(model._replaced(items), model.item_codes[items])


@torch.no_grad()
def test_padding_and_the_order_of_rows_change_nothing() -> None:
    model, batch = small_model().eval(), toy_batch()
    found = model.full_sort_predict(batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model.full_sort_predict(batch[order]), found[order])
    for row, length in enumerate(batch["item_length"].tolist()):
        alone = batch_of([batch["item_id_list"][row, :length].tolist()], [1])
        torch.testing.assert_close(model.full_sort_predict(alone)[0], found[row])
        alone["item_id_list"] = alone["item_id_list"][:, :length]
        torch.testing.assert_close(model.full_sort_predict(alone)[0], found[row])


# Reassignment ------------------------------------------------------------------------------------


def reassignment(how: str, levels: int = 2, size: int = 6) -> CodeReassignment:
    torch.manual_seed(3)
    return CodeReassignment(levels, size, how, iterations=3, temperature=0.7, init=0.3)


def test_straight_through_takes_the_permutation_and_the_gradient_of_sinkhorn() -> None:
    module, table, weight = reassignment("learned"), torch.randn(12, 4), torch.randn(12, 4)
    found = module(table)
    soft = module.logits / 0.7
    for _ in range(3):
        soft = soft - soft.logsumexp(dim=2, keepdim=True)
        soft = soft - soft.logsumexp(dim=1, keepdim=True)
    smooth = (soft.exp() @ table.view(2, 6, 4)).view(12, 4)
    expected = torch.autograd.grad((smooth * weight).sum(), module.logits)[0]
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), module.logits)[0], expected
    )
    for level, rows in zip(sources(found, table, 6), soft.exp(), strict=True):
        assert sorted(level) == list(range(6))
        best = max(
            sum(rows[i, j].item() for i, j in enumerate(order)) for order in permutations(range(6))
        )
        assert sum(rows[i, j].item() for i, j in enumerate(level)) == pytest.approx(best)


def sources(found: Tensor, table: Tensor, size: int) -> list[list[int]]:
    """For each code of each level, which code's vector of that level it has."""
    levels = zip(found.detach().split(size), table.detach().split(size), strict=True)
    result = []
    for new, old in levels:
        same = torch.isclose(new.unsqueeze(1), old, atol=1e-6).all(dim=2)
        assert (same.sum(dim=1) == 1).all()
        result.append(same.int().argmax(dim=1).tolist())
    return result


def test_a_hidden_permutation_is_learned() -> None:
    """In as many steps as five epochs of a small data set have, at the default rate."""
    module, table = reassignment("learned", 2, 16), torch.randn(32, 8)
    goal = table[torch.cat([torch.randperm(16), 16 + torch.randperm(16)])]
    module.logits.data.mul_(0.02 / 0.3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.001)
    for _ in range(200):
        optimizer.zero_grad()
        F.mse_loss(module(table), goal).backward()
        optimizer.step()
    assert F.mse_loss(module(table), goal).item() < 1e-6


def first_stage(tiny: Tiny, **settings: Any) -> str:
    """A checkpoint of a contrastive training."""
    folder = str(tiny.root / "first")
    trainer, _ = fitted(tiny.make_config("VQRec", checkpoint_dir=folder, **FIRST, **settings))
    return str(trainer.saved_model_file)


def transfer(tiny: Tiny, how: str, path: str, **settings: Any) -> Any:
    """Config of a fine-tuning in which two epochs of three reassign codes."""
    given = {"epochs": 3, "reassign_epochs": 2, "learning_rate": 0.01, **NO_DROPOUT, **settings}
    folder = str(tiny.root / f"second-{how}")
    return tiny.make_config(
        "VQRec", reassign=how, pre_model_path=path, checkpoint_dir=folder, **given
    )


@pytest.mark.parametrize("how", ["learned", "random"])
def test_what_each_phase_changes(tiny: Tiny, how: str) -> None:
    """Frozen phase: the logits if they are learned, nothing if they are random. At its end the code
    vectors are reassigned: `learned` permutes each level, `random` takes some vectors twice. Then
    code vectors and LayerNorm are trained, and encoder and positions never."""
    path = first_stage(tiny)
    before = load_checkpoint(path)["state_dict"]
    trainer, loaded = new_trainer(transfer(tiny, how, path))
    model, started, seen = trainer.model, {}, []

    def keep(epoch: int, _: float) -> None:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})

    started.update({name: value.clone() for name, value in model.state_dict().items()})
    trainer.fit(loaded.train, loaded.valid, verbose=False, callback_fn=keep)
    frozen, end = seen[1], seen[2]
    assert frozen["frozen_steps"] == 1 and end["frozen_steps"] == 0
    for name in before.keys() - {"frozen_steps"}:
        assert torch.equal(started[name], before[name]), name
        assert torch.equal(frozen[name], before[name]), name
    assert torch.equal(frozen["reassignment.logits"], started["reassignment.logits"]) == (
        how == "random"
    )

    trained = {"table.weight", "LayerNorm.weight", "LayerNorm.bias"}
    for name in before.keys() - {"frozen_steps"}:
        assert torch.equal(end[name], before[name]) == (name not in trained), name
    assert torch.equal(end["reassignment.logits"], frozen["reassignment.logits"])

    again, _ = new_trainer(transfer(tiny, how, path), loaded)
    again.model.load_state_dict(frozen)
    (batch, *_), *_ = ([each] for each in loaded.train)
    again.model.train().draw_batch(batch)
    columns = sources(again.model.table.weight, before["table.weight"], 8)
    assert all(sorted(column) == list(range(8)) for column in columns) == (how == "learned")


def test_the_encoder_is_trained_if_it_is_not_to_be_frozen(tiny: Tiny) -> None:
    path = first_stage(tiny)
    before = load_checkpoint(path)["state_dict"]
    config = transfer(tiny, "none", path, epochs=1, freeze_encoder=False)
    trainer, _ = fitted(config)
    after = trainer.model.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert same == {"item_codes", "vocabulary", "frozen_steps"}


@pytest.mark.parametrize("how", ["learned", "random"])
@pytest.mark.parametrize("broken_after", [0, 1])
def test_a_resumed_transfer_equals_an_unbroken_one(tiny: Tiny, how: str, broken_after: int) -> None:
    """Broken within the frozen phase, and at its end."""
    path = first_stage(tiny)
    changes: dict[str, Any] = {"hidden_dropout_prob": 0.3}
    whole, _ = fitted(transfer(tiny, how, path, **changes))

    class Killed(Exception):
        pass

    def kill(epoch: int, _: float) -> None:
        if epoch == broken_after:
            raise Killed

    config = transfer(tiny, how, path, **changes)
    config["checkpoint_dir"] = str(tiny.root / "broken")
    trainer, loaded = new_trainer(config)
    with pytest.raises(Killed):
        trainer.fit(loaded.train, loaded.valid, verbose=False, callback_fn=kill)
    config["resume"] = True
    trainer, loaded = new_trainer(config)
    assert trainer.start_epoch == broken_after + 1
    trainer.fit(loaded.train, loaded.valid, verbose=False)
    assert_equal_weights(trainer.model.state_dict(), whole.model.state_dict())
    assert trainer.train_loss_dict == whole.train_loss_dict


@pytest.mark.parametrize("how", ["learned", "random"])
def test_a_bundle_of_the_frozen_phase(tiny: Tiny, how: str) -> None:
    """If the best epoch is one of it, a bundle ranks by the reassigned vectors."""
    config = transfer(tiny, how, first_stage(tiny))
    trainer, loaded = new_trainer(config)
    assert trainer.model.frozen_steps > 0
    live = scores(trainer.model, loaded.test)
    assert torch.equal(scores(trainer.model, loaded.test), live)
    save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
    again = Recommender.load(tiny.root / "bundle").model
    torch.testing.assert_close(scores(again, loaded.test), live)
    with torch.no_grad():
        trainer.model.frozen_steps.zero_()
    assert not torch.allclose(scores(trainer.model, loaded.test), live)


@pytest.mark.parametrize("stage", ["scratch", "pretrain", "learned", "random"])
def test_mixed_precision(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, with the loss that a GPU takes: finite gradients, and vectors not rounded."""

    def loss_of_gpu(hidden: Tensor, weight: Tensor, _: None, targets: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(hidden, weight), targets)

    monkeypatch.setattr(vqrec, "linear_cross_entropy", loss_of_gpu)
    how = stage if stage in ("learned", "random") else "none"
    sizes = {"train_stage": "pretrain" if stage == "pretrain" else "finetune", "reassign": how}
    source = small_model(sizes=(4, 4, 4))
    model = small_model(sizes=(4, 4, 4), pre_model_path="x", reassign_epochs=1, **sizes)
    if how != "none":
        model.load_first_stage(source.state_dict())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.calculate_loss(toy_batch()).backward()
        gradients = [each.grad for each in model.parameters() if each.grad is not None]
        assert gradients and all(each.isfinite().all() for each in gradients)
        while model.frozen_steps > 0:
            model.draw_batch(toy_batch())
    if how != "none":
        old = source.table.weight.unsqueeze(1)
        assert (old == model.table.weight).all(dim=2).any(dim=0).all()


# Runs --------------------------------------------------------------------------------------------


def test_a_first_stage_within_a_run(tiny: Tiny) -> None:
    """By `pretrain_epochs`, on the same data and codes; the encoder is that of the first stage."""
    console = Console(file=io.StringIO(), width=200)
    settings = tiny.settings("VQRec", epochs=1, pretrain_epochs=2)
    (result,) = run_models(["VQRec"], "toy", settings=settings, console=console)
    assert "VQRec pretraining, 2 epochs" in console.file.getvalue()  # type: ignore[attr-defined]
    assert result.pretrained_on == []
    first, second = (
        load_checkpoint(Path(result.folder) / name)["state_dict"]
        for name in ("pretrain/VQRec.safetensors", "VQRec.safetensors")
    )
    name = "position_embedding.weight"
    assert torch.equal(first[name], second[name])
    assert not torch.equal(first["table.weight"], second["table.weight"])
    assert len(Recommender.load(result.bundle).recommend([["i1", "i2"]])[0]) == 10


def unused_codes(codes: np.ndarray, n: int) -> np.ndarray:
    """The first n tuples that no row of `codes` has."""
    tuples = np.array(list(product(*map(range, CODEBOOK_SIZES))))
    taken = (tuples[:, None] == codes).all(axis=2).any(axis=1)
    return tuples[~taken][:n]


def test_from_several_domains_to_one(tiny: Tiny, toys: Toys) -> None:
    """The negatives of a merged data set are of all its domains. Codes of one vocabulary need no
    reassignment, codes of another one do."""
    domains = [DatasetPaths(name, toys.root / name) for name in "AB"]
    own = SemanticIDTable(
        toys.tables["B"].items,
        unused_codes(toys.tables["A"].codes, len(toys.tables["B"].items)),
        CODEBOOK_SIZES,
        vocabulary="shared",
    )
    write_semantic_ids(domains[1].file("semid"), own, {"made_by": "a test"})
    merge(domains, DatasetPaths("AB", toys.root / "AB"))
    settings = tiny.settings("VQRec", epochs=1, train_stage="pretrain")
    console = Console(quiet=True)
    (source,) = run_models(["VQRec"], "AB", settings=settings, console=console)
    trainer, loaded = new_trainer(tiny.make_config("VQRec", "AB", **FIRST))
    batch = next(iter(loaded.train))
    tokens = loaded.dataset.field2id_token["item_id"][batch["item_id"].numpy()]
    assert {token.partition("/")[0] for token in tokens} == {"A", "B"}

    path = str(Path(source.folder) / "VQRec.safetensors")
    settings = tiny.settings("VQRec", pre_model_path=path)
    (result,) = run_models(["VQRec"], "B", settings=settings, console=console)
    assert result.pretrained_on == ["AB"]
    assert "pre_model_path/VQRec.safetensors" in result.data_sha256

    write_ids(toys.root, "B", "another")
    with pytest.raises(InputError, match="^reassign: none: the codes of pre_model_path are those"):
        run_models(["VQRec"], "B", settings=settings, console=console)
    settings |= {"reassign": "learned", "reassign_epochs": 1}
    (result,) = run_models(["VQRec"], "B", settings=settings, console=console)
    assert result.pretrained_on == ["AB"] and result.bundle


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reassign": "guess"}, "reassign: 'guess' is none of none, learned, random"),
        ({"code_replace_prob": 1.5}, "code_replace_prob: 1.5 is not a number in"),
        ({"loss_type": "BPR"}, "loss_type: 'BPR': VQRec supports only CE"),
        ({"reassign": "learned"}, "reassign: learned: only pretrained code vectors can be"),
        ({"reassign": "random", "path": True, "epochs": 5}, "reassign_epochs: 5 of 5 epochs leave"),
        (
            {"path": True, "hidden_size": 8},
            r"pre_model_path: \S+ is \[.*16.*\] there and \[.*8.*\]",
        ),
        ({"pre_model_path": "nowhere"}, "nowhere: no such checkpoint file"),
        ({"pre_model_path": "other"}, "is a SASRec; give a checkpoint of VQRec"),
    ],
)
def test_refusals(tiny: Tiny, settings: dict[str, Any], message: str) -> None:
    if settings.pop("path", False):
        settings["pre_model_path"] = first_stage(tiny)
    if settings.get("pre_model_path") == "other":
        trainer, _ = fitted(tiny.make_config("SASRec", epochs=1))
        settings["pre_model_path"] = str(trainer.saved_model_file)
    with pytest.raises(InputError, match=message) as caught:
        new_trainer(tiny.make_config("VQRec", **settings))
    assert "\n" not in str(caught.value)


def test_without_semantic_ids(tiny: Tiny) -> None:
    (tiny.folder / "toy.semid").unlink()
    config = tiny.make_config("VQRec")
    loaded = new_trainer(tiny.make_config("SASRec"))[1]
    with pytest.raises(InputError, match="VQRec needs semantic IDs and toy has none"):
        build_model(config, loaded.train._dataset)


def test_levels_of_several_sizes_are_not_reassigned() -> None:
    with pytest.raises(InputError, match=r"different numbers of codes \(3, 4, 3\)"):
        small_model(reassign="learned", pre_model_path="somewhere")
