"""Stage 1 on toy items: its training, going on after a kill, and the frozen stage."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer.fusion import fit
from recbole_qbert.tokenizer.fusion.fit import (
    Injector,
    contents_of,
    fit_injector,
    to_tensors,
)
from recbole_qbert.tokenizer.fusion.model import CrossModalInjection, InjectionSettings
from recbole_qbert.tokenizer.stages import read_settings
from recbole_qbert.training.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from recbole_qbert.training.resume import FitState

Parts = dict[str, tuple[np.ndarray, np.ndarray]]
N_ITEMS = 40
SETTINGS = InjectionSettings(
    **{"hidden_size": 8, "n_heads": 2, "inner_size": 12, "max_depth": 3, "ponder_weight": 0.0},
    **{"epochs": 8, "batch_size": 16, "learning_rate": 1e-2},
)


def _parts(n_items: int = N_ITEMS, seed: int = 0) -> Parts:
    """Text and image that tell of the same two numbers; items 0, 1 and 2 lack one or both."""
    chance = np.random.default_rng(seed)
    meaning = chance.normal(size=(n_items, 2))
    parts: Parts = {}
    for name, n_parts, size in (("text", 3, 6), ("image", 2, 5)):
        looks = np.random.default_rng(size).normal(size=(2, n_parts * size))
        vectors = (meaning @ looks).reshape(n_items, n_parts, size)
        vectors = (vectors + 0.1 * chance.normal(size=vectors.shape)).astype(np.float32)
        present = chance.random((n_items, n_parts)) < 0.8
        present[:, 0] = True
        present[[0 if name == "text" else 1, 2]] = False
        parts[name] = np.where(present[:, :, None], vectors, np.float32(0)), present
    return parts


def _changed(**changes: Any) -> InjectionSettings:
    return SETTINGS.model_copy(update=changes)


def _fit(settings: InjectionSettings = SETTINGS, seed: int = 3, **given: Any) -> Injector:
    return fit_injector(_parts(), settings, seed=seed, **given)


def _bytes(injector: Injector, folder: Path) -> list[str | bytes]:
    """What its file holds; the bytes of the file itself hang on a hash map's order."""
    save_checkpoint(folder / "state", injector.state())
    with safetensors.safe_open(folder / "state", framework="np") as handle:
        tensors = [handle.get_tensor(name).tobytes() for name in sorted(handle.keys())]
        return [handle.metadata()[FORMAT], *tensors]


@pytest.fixture(scope="module")
def trained() -> Injector:
    return _fit()


def test_the_loss_falls_and_is_the_sum_of_its_terms(trained: Injector) -> None:
    assert [set(row) for row in trained.history] == [
        {"fused-text", "fused-image", "text-image", "consistency", "total"}
    ] * SETTINGS.epochs
    for row in trained.history:
        terms = sum(value for name, value in row.items() if name != "total")
        assert row["total"] == pytest.approx(terms, rel=1e-5)
    assert trained.history[-1]["total"] < 0.8 * trained.history[0]["total"]


def test_same_seed_same_bytes(trained: Injector, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    torch.manual_seed(99)  # what others draw must not matter
    assert _bytes(_fit(), tmp_path) == _bytes(trained, tmp_path)
    torch.random.set_rng_state(before)
    again = _fit(seed=3, settings=_changed(epochs=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    other = _fit(seed=4, settings=_changed(epochs=1))
    assert _bytes(again, tmp_path) != _bytes(other, tmp_path)


def test_an_epoch_takes_every_item_once_in_batches_of_about_one_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[list[int]] = []
    take = fit.take

    def spy(parts: Any, rows: Any) -> Any:
        batches.append(rows.tolist())
        return take(parts, rows)

    monkeypatch.setattr(fit, "take", spy)
    still = _changed(epochs=2, batch_size=12, learning_rate=0.0)
    injector = _fit(still)
    assert [len(rows) for rows in batches] == [14, 13, 13] * 2  # not 12, 12, 12 and 4
    first, second = sum(batches[:3], []), sum(batches[3:], [])
    assert sorted(first) == sorted(second) == list(range(N_ITEMS))
    assert first != second

    # What an epoch reports is a mean over the items, whatever their batch's size.
    tensors, model = to_tensors(_parts(), injector.centers), injector.model
    loss = 0.0
    for rows in batches[:3]:
        terms = model.loss(model.query[rows], take(tensors, rows))
        loss += sum(term.item() for term in terms.values()) * len(rows) / N_ITEMS
    assert injector.history[0]["total"] == pytest.approx(loss, rel=1e-5)


def test_a_state_comes_back_whole(trained: Injector, tmp_path: Path) -> None:
    written = _bytes(trained, tmp_path)
    back = Injector.from_state(load_checkpoint(tmp_path / "state"))
    assert _bytes(back, tmp_path) == written
    assert back.history == trained.history
    for here, there in zip(back.fuse(_parts()), trained.fuse(_parts()), strict=True):
        assert here.tobytes() == there.tobytes()
    new = _parts(5, seed=8)
    assert (
        back.queries_for(new, "neighbors").tobytes()
        == trained.queries_for(new, "neighbors").tobytes()
    )


def test_reading_a_state_draws_nothing(trained: Injector) -> None:
    before = torch.random.get_rng_state()
    Injector.from_state(trained.state())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_number_of_threads_changes_no_bit() -> None:
    """Of sizes at which PyTorch would divide the work."""
    parts = _parts(3000)
    settings = _changed(epochs=1, hidden_size=64, inner_size=256, batch_size=1000)
    found = []
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        injector = fit_injector(parts, settings, seed=3)
        found.append([each.tobytes() for each in (*injector.fuse(parts), injector.contents)])
        assert torch.get_num_threads() == n_threads
    assert found[0] == found[1]


@pytest.mark.parametrize("finished", [1, 5])
def test_a_killed_fit_goes_on_to_the_same_bytes(
    trained: Injector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    monkeypatch.setattr(fit, "FitState", functools.partial(FitState, interval_s=0.0))
    train_epoch, calls = fit._train_epoch, []

    def killed(*args: Any) -> dict[str, float]:
        if len(calls) == finished:
            raise KeyboardInterrupt
        calls.append(None)
        return train_epoch(*args)

    folder = tmp_path / "work"
    monkeypatch.setattr(fit, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        _fit(folder=folder)
    assert len(list(folder.iterdir())) == 1

    def counted(*args: Any) -> dict[str, float]:
        calls.append(None)
        return train_epoch(*args)

    monkeypatch.setattr(fit, "_train_epoch", counted)
    resumed = _fit(folder=folder)
    assert len(calls) == SETTINGS.epochs  # none was run a second time
    assert _bytes(resumed, tmp_path) == _bytes(trained, tmp_path)


def test_another_fit_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "FitState", functools.partial(FitState, interval_s=0.0))
    short = _changed(epochs=2)
    _fit(short, folder=tmp_path)
    path = tmp_path / "stage1.training.safetensors"
    queries = np.ones((N_ITEMS, 8), np.float32)
    changes: list[dict[str, Any]] = [
        {"seed": 4},
        {"settings": _changed(epochs=2, learning_rate=2e-2)},
        {"queries": queries},
        {"queries": queries.reshape(80, 4)[:N_ITEMS]},
    ]
    monkeypatch.setattr(fit, "_train_epoch", _interrupt)
    for change in changes:
        with pytest.raises(KeyboardInterrupt):  # training begins, although two epochs are kept
            _fit(**{"settings": short, "folder": tmp_path, **change})
    assert path.is_file()
    assert len(_fit(short, folder=tmp_path).history) == 2  # the very same fit has nothing to do


def _interrupt(*args: Any) -> dict[str, float]:
    raise KeyboardInterrupt


def test_given_queries_are_the_start() -> None:
    queries = np.random.default_rng(1).normal(size=(N_ITEMS, 5)).astype(np.float32)
    untrained = _fit(_changed(epochs=0), queries=queries).model.query.detach().numpy()
    np.testing.assert_array_equal(untrained, np.pad(queries, ((0, 0), (0, 3))))
    moved = _fit(_changed(epochs=1), queries=queries).model.query.detach().numpy()
    assert 0 < np.abs(moved - untrained).max() < 0.1


def test_an_item_whose_query_starts_at_zero_still_learns() -> None:
    queries = np.random.default_rng(1).normal(size=(N_ITEMS, 8)).astype(np.float32)
    queries[7] = 0
    moved = [
        np.abs(_fit(_changed(epochs=epochs), queries=queries).model.query[7].tolist())
        for epochs in (2, 12)
    ]
    assert moved[1].mean() > 2 * moved[0].mean() > 0


def test_vectors_are_of_length_one_less_the_mean_of_those_present() -> None:
    parts = _parts()
    injector = _fit(_changed(epochs=0))
    tensors = to_tensors(parts, injector.centers)
    for name, (vectors, present) in parts.items():
        units = [
            vector / np.linalg.norm(vector)
            for item, row in zip(vectors.astype(float), present, strict=True)
            for vector, there in zip(item, row, strict=True)
            if there
        ]
        center = sum(units) / len(units)
        np.testing.assert_allclose(injector.centers[name], center, atol=1e-6)
        found = tensors[name][0].numpy()[present]
        np.testing.assert_allclose(found, np.array(units) - center, atol=1e-6)


def test_fuse_is_the_hard_forward_of_each_item_alone(
    trained: Injector, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = _parts()
    monkeypatch.setattr(fit, "_BLOCK", 7)
    fused, depths = trained.fuse(parts)
    assert (fused.shape, fused.dtype) == ((N_ITEMS, 8), np.float32)
    assert (depths.shape, depths.dtype) == ((N_ITEMS,), np.int64)
    tensors = to_tensors(parts, trained.centers)
    for item in range(N_ITEMS):
        rows = slice(item, item + 1)
        with torch.no_grad():
            alone = trained.model(trained.model.query[rows], fit.take(tensors, rows), hard=True)
        np.testing.assert_allclose(fused[item], alone.fused[0].numpy(), atol=1e-5)
        assert alone.depth_probability[0, depths[item] - 1] == 1


def test_fuse_with_other_queries(trained: Injector) -> None:
    parts, own = _parts(), trained.model.query.detach().numpy()
    some = {name: (vectors[5:9], present[5:9]) for name, (vectors, present) in parts.items()}
    fused, _ = trained.fuse(some, own[5:9])
    np.testing.assert_allclose(fused, trained.fuse(parts)[0][5:9], atol=1e-5)
    other, _ = trained.fuse(some, own[9:13])
    assert np.abs(other - fused).max() > 0.01


def test_contents_are_projected_sums_side_by_side(trained: Injector) -> None:
    tensors = to_tensors(_parts(), trained.centers)
    np.testing.assert_array_equal(trained.contents, contents_of(trained.model, tensors))
    assert trained.contents.shape == (N_ITEMS, 2 * 8)
    for item in range(N_ITEMS):
        for place, (name, (vectors, present)) in enumerate(tensors.items()):
            layer = trained.model.projections[name]
            total = np.zeros(8)
            for vector, there in zip(vectors[item], present[item], strict=True):
                total += layer(vector).detach().numpy() if there else 0
            expected = total / (np.linalg.norm(total) or 1)
            found = trained.contents[item, 8 * place : 8 * (place + 1)]
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_queries_of_new_items(trained: Injector) -> None:
    queries = trained.model.query.detach().numpy().astype(float)
    # Items 10 and 11 come in anew; item 2 has neither modality.
    rows = [10, 11, 2]
    new = {name: (vectors[rows], present[rows]) for name, (vectors, present) in _parts().items()}
    found = trained.queries_for(new, "neighbors")
    assert (found.shape, found.dtype) == ((3, 8), np.float32)
    for place, row in enumerate([10, 11]):
        own = trained.contents[row].astype(float)
        cosines = [
            other @ own / (np.linalg.norm(other) * np.linalg.norm(own) or 1)
            for other in trained.contents.astype(float)
        ]
        nearest = sorted(range(N_ITEMS), key=lambda item: -cosines[item])[:10]
        assert nearest[0] == row
        np.testing.assert_allclose(found[place], queries[nearest].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found[2], queries.mean(axis=0), atol=1e-6)
    other_order = dict(reversed(new.items()))  # as if the data set had the tables one by one
    np.testing.assert_array_equal(trained.queries_for(other_order, "neighbors"), found)
    means = trained.queries_for(new, "mean")
    np.testing.assert_allclose(means, np.tile(queries.mean(axis=0), (3, 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gate", "dinamic"),
        ("hidden_size", 0),
        ("n_heads", 0),
        ("inner_size", 0),
        ("max_depth", 0),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("consistency_weight", -0.1),
        ("ponder_weight", float("nan")),
        ("epochs", -1),
        ("batch_size", 1),
        ("learning_rate", -1e-3),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range(key: str, value: Any) -> None:
    given = {**SETTINGS.model_dump(), key: value}
    with pytest.raises(InputError, match=rf"^injection\.{key}: {value!r} is no"):
        read_settings(InjectionSettings, "injection", given)


def test_nothing_to_inject_and_a_loss_that_runs_away(tmp_path: Path) -> None:
    empty = {
        name: (0 * vectors, np.zeros_like(present)) for name, (vectors, present) in _parts().items()
    }
    with pytest.raises(InputError, match="no item has a vector"):
        fit_injector(empty, SETTINGS, seed=0)
    wild = _changed(learning_rate=1e30)
    with pytest.raises(InputError, match="not finite in epoch 1; decrease injection"):
        _fit(wild, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_modality_that_nobody_has_is_carried_along() -> None:
    parts = _parts()
    vectors, present = parts["image"]
    parts["image"] = 0 * vectors, np.zeros_like(present)
    injector = fit_injector(parts, _changed(epochs=2), seed=0)
    assert not injector.centers["image"].any()
    assert injector.history[-1]["fused-image"] == injector.history[-1]["text-image"] == 0.0
    assert np.isfinite(injector.fuse(parts)[0]).all()


def test_the_smallest_shape_has_gates() -> None:
    model = CrossModalInjection(
        2, {"text": 1}, InjectionSettings(hidden_size=2, n_heads=1, inner_size=1, max_depth=2)
    )
    gate = model.gates[0]
    assert not torch.equal(gate(torch.tensor([1.0, 0.0])), gate(torch.tensor([0.0, 9.0])))
