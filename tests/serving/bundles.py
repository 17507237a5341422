"""Bundles of trained toy models, for the tests of bundles and of what reads them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny, fitted
from recbole.data.interaction import Interaction

from recbole_qbert.experiments.splits import Splits
from recbole_qbert.serving.bundle import save_bundle
from recbole_qbert.serving.recommender import Recommender

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


@pytest.fixture(name="shelf", scope="module")
def give_shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `copied` keeps its bundles."""
    return tmp_path_factory.mktemp("bundles")


@pytest.fixture(name="copied")
def give_copied(tiny: Tiny, shelf: Path) -> Callable[[str], Path]:
    """`copied(model)`: a bundle of the test's own; each model is trained once."""

    def copy(model: str) -> Path:
        if not (shelf / model).is_dir():
            settings = {"train_stage": "pretrain"} if model == "S3Rec" else {}
            shutil.move(bundled(tiny, model, **settings)[2], shelf / model)
        return Path(shutil.copytree(shelf / model, tiny.root / "copy"))

    return copy


@pytest.fixture(name="recommender")
def give_recommender(copied: Callable[[str], Path]) -> Recommender:
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
