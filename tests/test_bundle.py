"""Model bundles: `recommend` gives the live model's ranking, and a changed file is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny, files_below, fitted, timed_rows
from recbole.data.interaction import Interaction

from recbole_qbert.bundle import Recommender, save_bundle
from recbole_qbert.data.splits import Splits
from recbole_qbert.errors import InputError

FILES = ["config.json", "items.json", "items.semid", "items.semid.json", "manifest.json"]


def bundled(tiny: Tiny, model: str = "QBERT4Rec", **settings: Any) -> tuple[Any, Splits, Path]:
    """A trained model, its data and its bundle."""
    config = tiny.make_config(model, **settings)
    trainer, loaded = fitted(config)
    folder = tiny.root / "bundle"
    save_bundle(folder, trainer.model, config, loaded.train._dataset)
    return trainer.model.eval(), loaded, folder


def live_scores(model: Any, loaded: Splits, history: list[str], length: int = 8) -> torch.Tensor:
    """The trained model's scores of all items after one history."""
    ids = [loaded.dataset.field2token_id["item_id"][item] for item in history][-length:]
    row = torch.zeros(1, length, dtype=torch.long)
    row[0, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    batch = Interaction({"item_id_list": row, "item_length": torch.tensor([len(ids)])})
    with torch.no_grad():
        return model.full_sort_predict(batch)[0]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("QBERT4Rec", {}),
        ("QBERT4Rec", {"item_representation": "flatten", "position_order": "backward"}),
        ("QBERT4Rec", {"item_representation": "word", "exclude_visible": "off"}),
        ("IDBERT4Rec", {"exclude_visible": "off"}),
    ],
)
def test_recommend_is_the_live_ranking(
    tiny: Tiny, model: str, settings: dict[str, Any], exclude_seen: bool
) -> None:
    live, loaded, folder = bundled(tiny, model, **settings)
    recommender = Recommender.load(folder)
    histories = [sequence[:-1] for sequence in list(tiny.sequences.values())[:12]]
    tokens = loaded.dataset.field2id_token["item_id"]
    lists = recommender.recommend(histories, k=30, exclude_seen=exclude_seen)
    for history, found in zip(histories, lists, strict=True):
        expected = live_scores(live, loaded, history)
        expected[0] = -torch.inf
        if exclude_seen:
            expected[[loaded.dataset.field2token_id["item_id"][i] for i in history]] = -torch.inf
        values, order = expected.sort(descending=True)
        order = order[values > -torch.inf]
        assert [item for item, _ in found] == [tokens[i] for i in order.tolist()]
        assert [score for _, score in found] == pytest.approx(
            values[: len(order)].tolist(), abs=1e-5
        )
        if exclude_seen:
            assert not {item for item, _ in found} & set(history)
    one_by_one = [recommender.recommend([history], 5, exclude_seen)[0] for history in histories]
    for single, found in zip(one_by_one, lists, strict=True):
        assert [item for item, _ in single] == [item for item, _ in found[:5]]


def test_histories_of_any_length(tiny: Tiny) -> None:
    """None at all, an empty one, and longer than the model reads: all its items are seen."""
    live, loaded, folder = bundled(tiny, exclude_visible="off")
    recommender = Recommender.load(folder)
    assert recommender.recommend([]) == []
    (found,) = recommender.recommend([[]], k=3)
    expected = live_scores(live, loaded, [])
    best = loaded.dataset.field2id_token["item_id"][int(expected[1:].argmax()) + 1]
    assert (len(found), found[0][0]) == (3, best)
    history = [f"i{number}" for number in range(25)]
    (found,) = recommender.recommend([history], k=30)
    assert {item for item, _ in found} == {f"i{number}" for number in range(25, 30)}
    (found,) = recommender.recommend([history], k=30, exclude_seen=False)
    assert len(found) == 30


def test_what_cannot_be_recommended(tiny: Tiny) -> None:
    recommender = Recommender.load(bundled(tiny)[2])
    with pytest.raises(InputError, match="2 items are unknown to the model: 7, x"):
        recommender.recommend([["i1", "x"], ["i2", 7]])  # type: ignore[list-item]
    for k in (0, -1, 31):
        with pytest.raises(InputError, match=f"k: {k} is not between 1 and the 30 items"):
            recommender.recommend([["i1"]], k=k)


def test_a_filtered_catalogue_keeps_its_own_items(tiny: Tiny) -> None:
    """Internal ids and codes of a bundle hang on the items that were trained."""
    live, loaded, folder = bundled(tiny, item_inter_num_interval="[9,inf)")
    assert loaded.dataset.item_num < 31
    recommender = Recommender.load(folder)
    kept = loaded.dataset.field2id_token["item_id"][1:].tolist()
    (found,) = recommender.recommend([kept[:3]], k=1)
    expected = live_scores(live, loaded, kept[:3])
    assert found[0][0] == kept[int(expected[1:].argmax())]
    missing = sorted(set(tiny.table.items) - set(kept))
    with pytest.raises(InputError, match="unknown to the model"):
        recommender.recommend([missing[:1]])


def test_repeats_are_remembered(tiny: Tiny) -> None:
    """`exclude_visible: auto` is decided in training; a bundle has no training data to look at."""
    sequence = max(tiny.sequences.values(), key=len)
    sequence[2] = sequence[0]
    tiny.write_inter(timed_rows(tiny.sequences))
    live, _, folder = bundled(tiny)
    assert live.exclude_visible is False
    assert Recommender.load(folder).model.exclude_visible is False


def test_the_folder_is_whole_and_replaces_an_older_one(tiny: Tiny) -> None:
    live, loaded, folder = bundled(tiny)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, "model.safetensors"])
    (folder / "old.txt").write_text("from before")
    save_bundle(folder, live, tiny.make_config(), loaded.train._dataset)
    assert files_below(folder) == sorted([*FILES, "model.safetensors"])
    before = files_below(folder.parent)
    with pytest.raises(AttributeError):
        save_bundle(folder, live, tiny.make_config(), None)
    assert files_below(folder.parent) == before
    Recommender.load(folder)


@pytest.mark.parametrize("name", [*FILES, "model.safetensors"])
def test_a_changed_or_missing_file_is_refused(tiny: Tiny, name: str) -> None:
    folder = bundled(tiny)[2]
    path = folder / name
    original = path.read_bytes()
    middle = len(original) // 2
    for changed in (original[:-1], b"", original[:middle] + b"\x00" + original[middle + 1 :]):
        path.write_bytes(changed)
        if name == "manifest.json" and changed == original[:-1]:
            continue  # the line end alone says nothing
        with pytest.raises(InputError):
            Recommender.load(folder)
    path.unlink()
    with pytest.raises(InputError):
        Recommender.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other/1"},
        {"format": None},
        {"model": "NoSuchModel"},
        {"sha256": {}},
        {"sha256": None},
        {"sha256": {"../toy/toy.inter": "0"}},
        {"training_repeats": None},
    ],
)
def test_a_manifest_that_says_less_is_refused(tiny: Tiny, change: dict[str, Any]) -> None:
    """A key taken out (None) or changed: never a traceback."""
    path = bundled(tiny)[2] / "manifest.json"
    manifest = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))
    with pytest.raises(InputError):
        Recommender.load(path.parent)


def test_what_is_no_bundle(tiny: Tiny) -> None:
    for folder in (tiny.root / "absent", tiny.root, tiny.folder / "toy.inter"):
        with pytest.raises(InputError):
            Recommender.load(folder)
