"""A bundle that was changed, damaged or is none is refused with one line."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch
from bundles import FILES, bundled, give_copied, give_shelf  # noqa: F401
from conftest import OTHER_JSON, Tiny, sign
from safetensors.torch import load_file, save_file

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.training.checkpoint import load_checkpoint, save_checkpoint


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
