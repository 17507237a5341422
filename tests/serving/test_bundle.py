"""Model bundles: `recommend` gives the live model's ranking, and a changed file is refused."""

from __future__ import annotations

import json
import os
import resource
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import OTHER_JSON, Tiny, files_below, fitted, sign, timed_rows
from recbole.data.interaction import Interaction
from safetensors.torch import load_file, save_file

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.experiments.splits import Splits
from recbole_qbert.serving import scoring
from recbole_qbert.serving.bundle import save_bundle
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint

FILES = [
    "config.json",
    "dataset.safetensors",
    "items.json",
    "items.semid",
    "items.semid.json",
    "manifest.json",
    "titles.json",
]

Lists = list[list[tuple[str, float]]]


def bundled(tiny: Tiny, model: str = "QBERT4Rec", **settings: Any) -> tuple[Any, Splits, Path]:
    """A trained model, its data and its bundle."""
    config = tiny.make_config(model, **settings)
    trainer, loaded = fitted(config)
    folder = tiny.root / "bundle"
    save_bundle(folder, trainer.model, config, loaded.train._dataset)
    return trainer.model.eval(), loaded, folder


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `copied` keeps its bundles."""
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture
def copied(tiny: Tiny, shelf: Path) -> Callable[[str], Path]:
    """`copied(model)`: a bundle of the test's own; each model is trained once."""

    def copy(model: str) -> Path:
        if not (shelf / model).is_dir():
            settings = {"train_stage": "pretrain"} if model == "S3Rec" else {}
            shutil.move(bundled(tiny, model, **settings)[2], shelf / model)
        return Path(shutil.copytree(shelf / model, tiny.root / "copy"))

    return copy


@pytest.fixture
def recommender(copied: Callable[[str], Path]) -> Recommender:
    """Of a trained QBERT4Rec."""
    return Recommender.load(copied("QBERT4Rec"))


def assert_same_lists(found: Lists, expected: Lists) -> None:
    """The same items in order; sums of another batch round differently."""
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        assert [item for item, _ in left] == [item for item, _ in right]
        assert [score for _, score in left] == pytest.approx([s for _, s in right], abs=1e-5)


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
    """None at all, and longer than the model reads: all its items are seen."""
    recommender = Recommender.load(bundled(tiny, exclude_visible="off")[2])
    assert recommender.recommend([]) == []
    history = [f"i{number}" for number in range(25)]
    (found,) = recommender.recommend([history], k=30)
    assert {item for item, _ in found} == {f"i{number}" for number in range(25, 30)}
    (found,) = recommender.recommend([history], k=30, exclude_seen=False)
    assert len(found) == 30


@pytest.mark.parametrize("k", [0, -1, 31, 2.5, 3.0, True, "3", None, np.float64(3), np.bool_(True)])
def test_k_and_batch_size_are_whole_numbers(recommender: Recommender, k: Any) -> None:
    with pytest.raises(InputError, match=r"^k: .* (is not a whole number|is more than the 30)"):
        recommender.recommend([["i1"]], k=k)
    if k != 31:
        with pytest.raises(InputError, match="^batch_size: .* is not a whole number"):
            recommender.recommend([["i1"]], k=1, batch_size=k if k is not None else "many")
    assert recommender.recommend([["i1"]], k=np.int64(3)) == recommender.recommend([["i1"]], k=3)


@pytest.mark.parametrize("unknown", ["", "Skip", None, True, 1])
def test_what_to_do_with_unknown_items_is_one_of_two(
    recommender: Recommender, unknown: Any
) -> None:
    with pytest.raises(InputError, match="unknown: .* is none of skip, raise"):
        recommender.recommend([["i1"]], unknown=unknown)


@pytest.mark.parametrize(
    "histories",
    [
        "0000",
        b"0000",
        ["0000", "0005"],
        [["i1"], "i2"],
        np.array(["i1", "i2"]),
        np.array("i1"),
        pd.Series(["i1", "i2"]),
        pd.DataFrame({"user": [["i1"]]}),
        {"u1": ["i1"]},
        [{"i1": 1}],
        [{"i1", "i2"}],
        [["i1"], frozenset(["i1", "i2"])],
        {("i1", "i2"), ("i3",)},
        [1, 2],
        [None],
        [[["i1"], ["i2"]]],
        np.array([[["i1"], ["i2"]]]),
        7,
        None,
    ],
)
def test_texts_and_other_depths_are_refused(recommender: Recommender, histories: Any) -> None:
    with pytest.raises(InputError, match="^histories is a list of lists of item tokens$"):
        recommender.recommend(histories)


def test_any_iterables_of_tokens(recommender: Recommender) -> None:
    """Arrays, generators, series, tuples, one after another: what lists give."""
    lists = [["i1", "i2"], ["i7", "i3"], ["i4", "i5"]]
    expected = recommender.recommend(lists, k=5)
    frame = pd.DataFrame({"user": list("aabbcc"), "item": [i for row in lists for i in row]})
    for given in (
        np.array(lists),
        np.array(lists, dtype=object),
        tuple(map(tuple, lists)),
        pd.Series(lists, index=list("xyz")),
        frame.groupby("user")["item"].apply(list),
        frame.groupby("user")["item"].apply(np.array),
        (group for _, group in frame.groupby("user")["item"]),  # series with an index of their own
        ((item for item in row) for row in lists),
        map(iter, lists),
    ):
        assert recommender.recommend(given, k=5) == expected


def test_tokens_that_are_numbers(tiny: Tiny) -> None:
    """Numbers count as their digits, in lists and arrays."""
    digits = {user: [i[1:] for i in sequence] for user, sequence in tiny.sequences.items()}
    tiny.write_inter(timed_rows(digits))
    (tiny.folder / "toy.semid").unlink()
    (tiny.folder / "toy.semid.json").unlink()
    recommender = Recommender.load(bundled(tiny, "SASRec")[2])
    expected = recommender.recommend([["3", "14"], ["15", "9"]], k=5)
    for given in ([[3, 14], [15, 9]], np.array([[3, 14], [15, 9]]), [(3, "14"), range(15, 8, -6)]):
        assert recommender.recommend(given, k=5) == expected


@pytest.mark.parametrize("batch_size", [1, 3])
def test_unknown_items_are_left_out_and_named(recommender: Recommender, batch_size: int) -> None:
    """Or refused, by choice."""
    histories = [["i1", "x", "i2"], ["i3"], [7, "x"], [], ["y"] * 3]
    with pytest.warns(
        UserWarning,
        match=r"^items unknown to the model \(3\): 'x', '7', 'y'; "
        r"histories without a known item \(3, first: number 3\)$",
    ) as caught:
        found = recommender.recommend(histories, k=5, batch_size=batch_size)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = recommender.recommend([["i1", "i2"], ["i3"]], k=5)
    assert_same_lists(found, [*expected, [], [], []])
    with pytest.raises(InputError, match=r"^items unknown to the model \(\d\): 'x'"):
        recommender.recommend(histories, unknown="raise", batch_size=batch_size)
    many = [["i1", *(f"new{number}" for number in range(1000))]]
    with pytest.warns(UserWarning, match=r"\(1000\): 'new0', .*'new9', …$"):
        recommender.recommend(many)
    with pytest.warns(UserWarning) as caught:
        recommender.recommend([["i1", "a\nb\x1b[2J", "c" * 10**6]])
    said = str(caught[0].message)
    assert said.isprintable()
    assert len(said) < 200


@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec", "Popularity"])
def test_histories_without_a_known_item(copied: Callable[[str], Path], model: str) -> None:
    """No model ranks after them: they get no items, which is said; alone they are refused."""
    recommender = Recommender.load(copied(model))
    said = r"histories without a known item \(2, first: number 2\)$"
    with pytest.warns(UserWarning, match=said):
        found = recommender.recommend([["i1"], [], ["x"], ["i2"]], k=5)
    first, last = recommender.recommend([["i1"], ["i2"]], k=5)
    assert_same_lists(found, [first, [], [], last])
    with pytest.raises(InputError, match=r"^histories without a known item.* \(1, first: number 2"):
        recommender.recommend([["i1"], []], unknown="raise")
    for histories, shown in (
        ([[]], "no items"),
        ([["x", "y"]], "no item is known to the model: 'x', 'y'"),
        ([[], ["x"]], "no item is known to the model: 'x'"),
    ):
        with pytest.raises(InputError, match=f"^history: {shown}; give at least one item"):
            recommender.recommend(histories)


def test_batches_are_bounded(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their size the lists are the same; one history is read after the other."""
    recommender = Recommender.load(bundled(tiny)[2])
    histories = [*tiny.sequences.values()]
    sizes: list[int] = []

    def counted(model: Any, config: Any, items: torch.Tensor, lengths: torch.Tensor) -> Any:
        sizes.append(len(items))
        return original(model, config, items, lengths)

    original = scoring.scores_of
    monkeypatch.setattr(scoring, "scores_of", counted)
    whole = recommender.recommend(histories)
    assert sizes == [40]
    for batch_size, n_batches in ((1, 40), (7, 6), (40, 1), (1000, 1)):
        sizes.clear()
        parts = recommender.recommend(histories, batch_size=batch_size)
        assert (len(sizes), sum(sizes)) == (n_batches, 40)
        assert max(sizes) <= batch_size
        assert_same_lists(parts, whole)
    sizes.clear()
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", 8 * 31 + 5)
    recommender.recommend(iter(histories))
    assert sizes == [8] * 5
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", 1)  # more items than that
    assert len(recommender.recommend(histories[:2])) == 2
    assert sizes[-2:] == [1, 1]


def test_many_histories_take_little_memory(recommender: Recommender) -> None:
    """50,000 histories of 20 items: the lists that are asked for, and no more than a batch."""
    draw = np.random.default_rng(1)
    drawn = draw.integers(0, 30, (50_000, 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = recommender.recommend(((f"i{i}" for i in row) for row in drawn), k=1)
    assert len(found) == 50_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB


def test_a_filtered_catalog_keeps_its_own_items(tiny: Tiny) -> None:
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
        recommender.recommend([missing[:1]], unknown="raise")


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
    config = loaded.dataset.config
    save_bundle(folder, live, config, loaded.train._dataset)
    assert files_below(folder) == sorted([*FILES, "model.safetensors"])
    before = files_below(folder.parent)
    with pytest.raises(AttributeError):
        save_bundle(folder, live, config, None)
    assert files_below(folder.parent) == before
    Recommender.load(folder)


@pytest.mark.parametrize("name", [*FILES, "model.safetensors"])
def test_a_changed_or_missing_file_is_refused(copied: Callable[[str], Path], name: str) -> None:
    folder = copied("QBERT4Rec")
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


def refused(folder: Path) -> str:
    """What is said of a bundle: one line that names it; no memory to speak of was taken."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as caught:
        Recommender.load(folder)
    said = str(caught.value)
    assert str(folder) in said
    assert "\n" not in said
    assert len(said) < 600
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB
    return said


GONE = object()


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other/1"},
        {"format": "recbole-qbert/bundle/1"},
        {"format": GONE},
        {"model": "NoSuchModel"},
        {"model": "SASRec"},
        {"model": "BPR"},
        {"model": None},
        {"model": 7},
        {"model": ["QBERT4Rec"]},
        {"model": GONE},
        {"sha256": {}},
        {"sha256": None},
        {"sha256": []},
        {"sha256": GONE},
        {"sha256": {"../toy/toy.inter": "0"}},
        {"n_items": 29},
        {"n_items": "30"},
        {"n_items": GONE},
    ],
)
def test_an_edited_manifest_is_refused(
    copied: Callable[[str], Path], change: dict[str, Any]
) -> None:
    path = copied("QBERT4Rec") / "manifest.json"
    manifest = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not GONE}))
    refused(path.parent)


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "items.json"])
@pytest.mark.parametrize("text", OTHER_JSON.values(), ids=OTHER_JSON)
def test_json_of_another_kind_is_refused(
    copied: Callable[[str], Path], name: str, text: str
) -> None:
    folder = copied("QBERT4Rec")
    (folder / name).write_text(text, encoding="latin-1")
    if name != "manifest.json":
        sign(folder)
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 2**34},
        {"hidden_size": 2**20},
        {"hidden_size": 32},
        {"hidden_size": "16"},
        {"hidden_size": -16},
        {"hidden_size": None},
        {"n_layers": 2**34},
        {"n_layers": 10**6},
        {"n_layers": 0},
        {"inner_size": 2**34},
        {"MAX_ITEM_LIST_LENGTH": 2**34},
        {"MAX_ITEM_LIST_LENGTH": 10**8},
        {"MAX_ITEM_LIST_LENGTH": 9},
        {"MAX_ITEM_LIST_LENGTH": 2.5},
        {"MAX_ITEM_LIST_LENGTH": "8"},
        {"MAX_ITEM_LIST_LENGTH": None},
        {"MAX_ITEM_LIST_LENGTH": 0},
        {"item_representation": "id"},
        {"ITEM_ID_FIELD": "thing"},
        {"hidden_act": "__import__('os').abort()"},
    ],
)
@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec"])
def test_an_edited_config_is_refused(
    copied: Callable[[str], Path], model: str, change: dict[str, Any]
) -> None:
    if model == "SASRec" and "item_representation" in change:
        pytest.skip("a key of QBERT4Rec's")
    folder = copied(model)
    content = json.loads((folder / "config.json").read_text())
    content["keys"] |= change
    (folder / "config.json").write_text(json.dumps(content))
    sign(folder)
    started = perf_counter()
    refused(folder)
    assert perf_counter() - started < 30


@pytest.mark.parametrize(
    "change", [{"keys": None}, {"keys": []}, {"model": 7}, {"model": "SASRec"}]
)
def test_a_config_of_other_parts_is_refused(
    copied: Callable[[str], Path], change: dict[str, Any]
) -> None:
    folder = copied("QBERT4Rec")
    content = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(content))
    sign(folder)
    refused(folder)


def test_a_recommender_without_positions_reads_no_endless_history(
    copied: Callable[[str], Path],
) -> None:
    """GRU4Rec's weights say nothing of the length."""
    folder = copied("GRU4Rec")
    content = json.loads((folder / "config.json").read_text())
    content["keys"]["MAX_ITEM_LIST_LENGTH"] = 2**34
    (folder / "config.json").write_text(json.dumps(content))
    sign(folder)
    assert "MAX_ITEM_LIST_LENGTH" in refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda tokens: tokens[:-1],
        lambda tokens: [*tokens, "i30"],
        lambda tokens: [*tokens[:-1], "i30"],  # it has no semantic ID
        lambda tokens: [*tokens[:-1], tokens[0]],
        lambda tokens: [*tokens[:-1], 29],
        lambda tokens: [*tokens[:-1], None],
        lambda tokens: [[token] for token in tokens],
        lambda tokens: dict.fromkeys(tokens),
    ],
)
def test_edited_items_are_refused(copied: Callable[[str], Path], change: Any) -> None:
    folder = copied("QBERT4Rec")
    path = folder / "items.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    sign(folder)
    refused(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["n_items"] = len(json.loads(path.read_text()))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: SemanticIDTable(table.items[:-1], table.codes[:-1], (8, 8, 8)),
        lambda table: SemanticIDTable(table.items, table.codes, (8, 8, 9)),
        lambda table: SemanticIDTable(table.items, table.codes, (8, 8, 2**20)),
        lambda table: SemanticIDTable(
            table.items, np.arange(60).reshape(30, 2), (60, 60), vocabulary="x"
        ),
        lambda table: SemanticIDTable(
            table.items, np.hstack([table.codes, table.codes[:, :1]]), (8, 8, 8, 8)
        ),
    ],
)
def test_other_semantic_ids_are_refused(
    tiny: Tiny, copied: Callable[[str], Path], change: Any
) -> None:
    folder = copied("QBERT4Rec")
    write_semantic_ids(folder / "items.semid", change(tiny.table), {})
    sign(folder)
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {},
        lambda weights: dict([*weights.items()][1:]),
        lambda weights: weights | {"more": torch.zeros(1)},
        lambda weights: {name: each.unsqueeze(0) for name, each in weights.items()},
        lambda weights: {
            name: each * torch.nan if each.is_floating_point() else each
            for name, each in weights.items()
        },
    ],
)
def test_other_weights_are_refused(copied: Callable[[str], Path], change: Any) -> None:
    folder = copied("QBERT4Rec")
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    sign(folder)
    refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"field2id_token": {"item_id": 2**40, "semantic_id": 2**40}},
        {"field2id_token": {"item_id": 31, "semantic_id": 5}},
        {"field2id_token": {"item_id": -1}},
        {"field2id_token": None},
        {"field2type": {"item_id": "other"}},
        {"item_feat": None},
        {"item_feat": {"item_id": torch.arange(7), "semantic_id": torch.zeros(7, 3).long()}},
        {"item_feat": {"item_id": torch.arange(31), "semantic_id": -torch.ones(31, 3).long()}},
    ],
)
def test_other_notes_of_the_data_set_are_refused(
    copied: Callable[[str], Path], change: dict[str, Any]
) -> None:
    folder = copied("FDSA")
    path = folder / "dataset.safetensors"
    notes = load_checkpoint(path)
    assert notes["item_feat"]["semantic_id"].shape == (31, 3)
    save_checkpoint(path, notes | change)
    sign(folder)
    refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "dataset.safetensors"])
def test_a_pickle_is_never_loaded(tiny: Tiny, copied: Callable[[str], Path], name: str) -> None:
    folder = copied("QBERT4Rec")
    torch.save(Touch(tiny.root / "ran"), folder / name)
    sign(folder)
    refused(folder)
    assert not (tiny.root / "ran").exists()


def test_nothing_in_a_config_is_evaluated_or_read(
    tiny: Tiny, copied: Callable[[str], Path]
) -> None:
    """Neither texts that are Python, nor a pickle that S3Rec would start its training from."""
    folder = copied("S3Rec")
    mark, pickled = tiny.root / "ran", tiny.root / "start.pth"
    torch.save({"state_dict": Touch(mark)}, pickled)
    content = json.loads((folder / "config.json").read_text())
    content["keys"] |= {
        "title": f"__import__('pathlib').Path({str(mark)!r}).touch()",
        "train_stage": "finetune",
        "pre_model_path": str(pickled),
        "gpu_id": "3",
        "local_rank": 5,
    }
    (folder / "config.json").write_text(json.dumps(content))
    sign(folder)
    environment = dict(os.environ)
    assert len(Recommender.load(folder).recommend([["i1"]])[0]) == 10
    assert not mark.exists()
    assert dict(os.environ) == environment


class Touch:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_device_that_is_none(copied: Callable[[str], Path]) -> None:
    folder = copied("QBERT4Rec")
    for device in ("gpu", "cuda:99", "", 7.5):
        with pytest.raises(InputError, match=f"^device: {device!r} is unusable"):
            Recommender.load(folder, device=device)  # type: ignore[arg-type]


def test_what_is_no_bundle(tiny: Tiny) -> None:
    for folder in (tiny.root / "absent", tiny.root, tiny.folder / "toy.inter"):
        with pytest.raises(InputError):
            Recommender.load(folder)


def test_a_full_memory_is_not_a_damaged_bundle(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bundled(tiny)[2]

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(InputError, match="not enough memory .*no memory.*; free some, or give"):
        Recommender.load(folder)


def test_candidates_and_exclusions_of_any_kind(tiny: Tiny) -> None:
    """Arrays and Series, which have no truth value, as lists."""
    recommender = Recommender.load(bundled(tiny)[2])
    chosen, left_out = ["i4", "i5", "i6"], ["i5"]
    wanted = recommender.recommend([["i1"]], 3, candidates=chosen, exclude=left_out)
    for kind in (np.array, pd.Series, tuple):
        found = recommender.recommend([["i1"]], 3, candidates=kind(chosen), exclude=kind(left_out))
        assert found == wanted
    assert {item for item, _ in wanted[0]} == {"i4", "i6"}


@pytest.mark.parametrize("n_removals", [-1, 1.5, "2"])
def test_number_of_removals(tiny: Tiny, n_removals: Any) -> None:
    recommender = Recommender.load(bundled(tiny)[2])
    with pytest.raises(InputError, match="n_removals: .* is not a whole number of at least 0"):
        recommender.explain(["i1", "i2"], ["i5"], n_removals)
