"""The stage 1 that learns the next item: its loss, its training, and items it has not seen."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import assert_equal_weights
from torch import nn
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer.fusion import next_item_fit
from recbole_qbert.tokenizer.fusion.next_item import NextItemFusion, NextItemSettings, pooled
from recbole_qbert.tokenizer.fusion.next_item_fit import NextItemStage, fit_next_item
from recbole_qbert.tokenizer.fusion.sequences import TrainingSequences
from recbole_qbert.tokenizer.fusion.stage1 import load_stage1
from recbole_qbert.tokenizer.stages import read_settings
from recbole_qbert.training.resume import FitState

Parts = dict[str, tuple[np.ndarray, np.ndarray]]
N_ITEMS, N_USERS, N_KINDS = 30, 51, 5
SETTINGS = NextItemSettings(
    **{"hidden_size": 16, "n_heads": 2, "inner_size": 16, "max_depth": 3, "views": 2},
    **{"history": 6, "users_per_step": 20, "scored_items": 1000, "epochs": 25, "max_steps": 1000},
    **{"encoder_layers": 1, "encoder_dropout_prob": 0.1, "learning_rate": 1e-2},
)


def _parts(n_items: int = N_ITEMS, seed: int = 0) -> Parts:
    """Text in two parts and image in one, of five kinds; items 0, 1, 2 lack one or both."""
    chance = np.random.default_rng(seed)
    parts: Parts = {}
    for name, n_parts, width in (("text", 2, 7), ("image", 1, 6)):
        kinds = np.random.default_rng(width).normal(size=(N_KINDS, n_parts, width))
        vectors = kinds[np.arange(n_items) % N_KINDS]
        vectors = vectors + 0.3 * chance.normal(size=vectors.shape)
        present = np.ones((n_items, n_parts), dtype=bool)
        present[[0 if name == "text" else 1, 2]] = False
        vectors[~present] = 0
        parts[name] = vectors.astype(np.float32), present
    return parts


def _sequences(seed: int = 1) -> TrainingSequences:
    """Users who go through the kinds in turn; an item's successor is known up to its kind."""
    chance, rows = np.random.default_rng(seed), []
    for user in range(N_USERS):
        start = int(chance.integers(N_KINDS))
        for step in range(int(chance.integers(2, 10))):
            kind = (start + step) % N_KINDS
            item = kind + N_KINDS * int(chance.integers(N_ITEMS // N_KINDS))
            rows.append((f"u{user:02}", f"{item:02}"))
    pairs = pd.DataFrame(rows, columns=["user_id", "item_id"])
    return TrainingSequences.of(pairs, [f"{item:02}" for item in range(N_ITEMS)])


def _behavior(seed: int = 2) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(N_ITEMS, 4)).astype(np.float32)
    vectors[[4, 5]] = 0  # without co-occurrence
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _fit(seed: int = 3, parts: Parts | None = None, folder: Any = None, **changes: Any) -> Any:
    settings = SETTINGS.model_copy(update=changes)
    parts = _parts() if parts is None else parts
    return fit_next_item(parts, _behavior(), _sequences(), settings, seed=seed, folder=folder)


@pytest.fixture(scope="module")
def trained() -> NextItemStage:
    return _fit()


def test_the_loss_falls_below_that_of_the_popular_items(trained: NextItemStage) -> None:
    """Its next item is known up to a kind of six items, so the loss can pass that of all items."""
    names = {"next-item", "reconstruction-text", "reconstruction-image", "total"}
    assert [set(row) for row in trained.history] == [names] * SETTINGS.epochs
    for row in trained.history:
        total = sum(value for name, value in row.items() if name != "total")
        assert row["total"] == pytest.approx(total, rel=1e-5)
    assert trained.history[-1]["next-item"] < np.log(N_ITEMS) - 0.5
    first, last = (row["reconstruction-text"] for row in (trained.history[0], trained.history[-1]))
    assert last < first / 2


def test_the_loss_is_that_of_a_loop_over_places(trained: NextItemStage) -> None:
    stage, sequences = trained, _sequences()
    windows = sequences.windows(torch.arange(9), 7, torch.Generator().manual_seed(0))
    with torch.no_grad():
        inputs = stage.inputs(_parts(), slice(None))
        fused, shares = stage.model(torch.from_numpy(stage.behavior), inputs)
        terms = stage.model.loss(fused, inputs, *windows)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(N_ITEMS))
        losses, smoothing = [], SETTINGS.label_smoothing
        for row, length in zip(*windows, strict=True):
            for end in range(1, int(length)):
                # What comes later in the history must not matter: the encoder reads a prefix.
                read = stage.model.encoder(fused[row[:end]].unsqueeze(0))[0, -1]
                scores = F.cosine_similarity(read.unsqueeze(0), fused, dim=1) / SETTINGS.temperature
                log = scores.log_softmax(dim=0)
                losses.append(-(1 - smoothing) * log[row[end]] - smoothing * log.mean())
        torch.testing.assert_close(terms["next-item"], torch.stack(losses).mean())
        for name, (vectors, present) in _parts().items():
            distances = []
            for item in np.flatnonzero(present.any(axis=1)):
                unit = vectors[item] / np.linalg.norm(vectors[item], axis=1, keepdims=True)
                centered = unit - stage.centers[name]
                centered /= np.linalg.norm(centered, axis=1, keepdims=True)
                content = torch.from_numpy(centered.sum(axis=0))
                rebuilt = stage.model.decoders[name](fused[item])
                distances.append(1 - F.cosine_similarity(rebuilt, content, dim=0))
            expected = SETTINGS.reconstruction_weight * torch.stack(distances).mean()
            torch.testing.assert_close(terms[f"reconstruction-{name}"], expected)


def test_a_block_reads_as_the_attention_of_torch(trained: NextItemStage) -> None:
    """With the same weights, for items that lack some or all keys."""
    block, size = trained.model.blocks[1], SETTINGS.hidden_size
    twin = nn.MultiheadAttention(size, SETTINGS.n_heads, add_zero_attn=True, batch_first=True)
    layers = (block.query, block.key, block.value)
    twin.load_state_dict(
        {
            "in_proj_weight": torch.cat([layer.weight for layer in layers]),
            # The bias of keys is the same for all keys but that of zeros, and is left out here.
            "in_proj_bias": torch.cat([block.query.bias, torch.zeros(size), block.value.bias]),
            "out_proj.weight": block.output.weight,
            "out_proj.bias": block.output.bias,
        }
    )
    draw = torch.Generator().manual_seed(0)
    hidden, keys = (torch.randn(shape, generator=draw) for shape in ((5, size), (5, 6, size)))
    absent = torch.rand(5, 6, generator=draw) < 0.5
    absent[0] = True
    with torch.no_grad():
        found = block.output(block._read(hidden, keys, absent))
        expected, _ = twin(hidden.unsqueeze(1), keys, keys, key_padding_mask=absent)
    torch.testing.assert_close(found, expected[:, 0])


def test_what_an_item_lacks_plays_no_role(trained: NextItemStage) -> None:
    changed = _parts()
    for vectors, present in changed.values():
        vectors[~present] = 7.0
    np.testing.assert_array_equal(trained.fuse(changed)[0], trained.fuse(_parts())[0])
    assert np.isfinite(trained.fuse(_parts())[0]).all()  # item 2 has no content at all


def test_same_seed_same_weights_whatever_others_draw(trained: NextItemStage) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again = _fit()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert_equal_weights(again.model.state_dict(), trained.model.state_dict())
    other, name = _fit(seed=4, epochs=1).model, "query.weight"
    assert not torch.equal(other.get_parameter(name), again.model.get_parameter(name))


@pytest.mark.parametrize("killed_at", [1, 4, 17])
def test_a_killed_fit_goes_on_to_the_same_weights(
    trained: NextItemStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    """In the middle of an epoch (three steps) too."""
    keep, kept = FitState.keep, itertools.count(1)

    def keep_and_die(self: FitState, state: dict[str, Any]) -> None:
        self._written = -1e9  # write at every step
        keep(self, state)
        if next(kept) == killed_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(next_item_fit.FitState, "keep", keep_and_die)
    with pytest.raises(KeyboardInterrupt):
        _fit(folder=tmp_path)
    monkeypatch.setattr(next_item_fit.FitState, "keep", keep)
    again = _fit(folder=tmp_path)
    assert_equal_weights(again.model.state_dict(), trained.model.state_dict())
    assert again.history == trained.history


def test_the_state_comes_back_whole(trained: NextItemStage) -> None:
    again = load_stage1(trained.state())
    assert isinstance(again, NextItemStage)
    for left, right in zip(again.fuse(_parts()), trained.fuse(_parts()), strict=True):
        np.testing.assert_array_equal(left, right)


def test_depths_are_the_rounded_mean_of_the_shares(trained: NextItemStage) -> None:
    with torch.no_grad():
        inputs = trained.inputs(_parts(), slice(None))
        shares = trained.model(torch.from_numpy(trained.behavior), inputs).shares
    expected = (shares.numpy() * [1, 2, 3]).sum(axis=1).round()
    np.testing.assert_array_equal(trained.fuse(_parts())[1], expected)
    assert (_fit(epochs=1, gate="fixed").fuse(_parts())[1] == SETTINGS.max_depth).all()


def test_users_of_an_item_are_counted_once() -> None:
    sequences = _sequences()
    counts = [0] * N_ITEMS
    for start, length in zip(sequences.starts, sequences.lengths, strict=True):
        for item in set(sequences.items[start : start + length].tolist()):
            counts[item] += 1
    assert sequences.users_of(N_ITEMS).tolist() == counts


def test_a_sample_estimates_the_softmax_over_the_catalog() -> None:
    """The corrected sum over scored items is, in the mean over draws, that over all items."""
    settings = SETTINGS.model_copy(update={"scored_items": 6, "users_per_step": 3})
    training = next_item_fit._Fit(_parts(), _behavior(), _sequences(), settings, 0)
    weight = torch.rand(N_ITEMS, dtype=torch.float64)
    found = []
    for step in range(1500):
        torch.manual_seed(step)
        users = torch.randperm(N_USERS)[:3]
        places, _ = training.sequences.windows(users, 100, torch.default_generator)
        _, scored, chance = next_item_fit.sample_catalog(
            places + 1, 6, training.log_absence, torch.default_generator
        )
        found.append((weight[scored[1:] - 1] * (-chance[1:].double()).exp()).sum())
    sums = torch.stack(found)
    error = float(sums.std() / len(sums) ** 0.5)
    assert float(sums.mean()) == pytest.approx(float(weight.sum()), abs=4 * error)
    assert error < 0.03 * float(weight.sum())


def test_a_sampled_fit_learns_too() -> None:
    stage = _fit(scored_items=12, users_per_step=5, epochs=10)
    assert stage.history[-1]["next-item"] < stage.history[0]["next-item"] - 0.5


@pytest.mark.parametrize("how", ["neighbors", "mean"])
def test_a_new_item_gets_the_behavior_of_its_neighbors(trained: NextItemStage, how: str) -> None:
    new = _parts(12, seed=8)
    queries = trained.queries_for(new, how)
    mean = trained.behavior.mean(axis=0)
    if how == "mean":
        np.testing.assert_allclose(queries, np.tile(mean, (12, 1)))
        return
    known, found = trained.contents_of(_parts()), trained.contents_of(new)
    for item in range(12):
        near = np.argsort(-(known @ found[item]), kind="stable")[:10]
        expected = mean if item == 2 else trained.behavior[near].mean(axis=0)
        np.testing.assert_allclose(queries[item], expected, atol=1e-6)
    assert len(trained.fuse(new, queries)[0]) == 12


def test_elements_and_whole_behavior_vectors_are_dropped_in_training_alone() -> None:
    settings = SETTINGS.model_copy(update={"behavior_dropout": 0.5, "dropout_prob": 0.2})
    model, ones = NextItemFusion(50, {"text": 7}, settings), torch.ones(4000, 50)
    torch.manual_seed(0)
    dropped = model.train()._dropped(ones)
    gone = (dropped == 0).all(dim=1)
    assert float(gone.float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((dropped[~gone] == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert torch.equal(model.eval()._dropped(ones), ones)


def test_what_cannot_be_learned_from_is_refused() -> None:
    nothing: Parts = {"text": (np.zeros((N_ITEMS, 1, 3), np.float32), np.zeros((N_ITEMS, 1), bool))}
    with pytest.raises(InputError, match="no item has a vector"):
        _fit(parts=nothing)
    alone = TrainingSequences(*(torch.empty(0, dtype=torch.int64) for _ in range(3)))
    with pytest.raises(InputError, match="no user has two training interactions"):
        fit_next_item(_parts(), _behavior(), alone, SETTINGS, seed=0)
    with pytest.raises(InputError, match="the loss is not finite in step"):
        _fit(learning_rate=10.0, temperature=1e-39)


def test_contents_are_computed_on_one_thread(
    trained: NextItemStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounding of sums depends on the number of threads."""
    seen: list[int] = []

    def recorded(*args: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return pooled(*args)

    monkeypatch.setattr(next_item_fit, "pooled", recorded)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        trained.contents_of(_parts())
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_the_length_of_vectors_plays_no_role(trained: NextItemStage, factor: float) -> None:
    scaled = {name: (each * np.float32(factor), there) for name, (each, there) in _parts().items()}
    for name, (unit, _) in trained.inputs(_parts(), slice(None)).items():
        found = trained.inputs(scaled, slice(None))[name][0]
        torch.testing.assert_close(found, unit, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("key", ["dropout_prob", "behavior_dropout", "encoder_dropout_prob"])
def test_a_dropout_of_everything_is_refused(key: str) -> None:
    with pytest.raises(InputError, match=rf"next_item\.{key}: 1.0 is not a number in \[0, 1\)"):
        read_settings(NextItemSettings, "next_item", {key: 1.0})
