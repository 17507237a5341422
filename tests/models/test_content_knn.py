"""Nearest neighbors by content against a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import Tiny, new_trainer, scores

from recbole_qbert.common.errors import InputError

NEW_USER = ["i1", "i2", "i3", "i29"]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / (np.linalg.norm(vector) or 1)


@pytest.mark.parametrize(("recency", "center"), [(0.5, True), (1.0, False)])
def test_against_a_loop(
    tiny: Tiny, make_config: Callable[..., Any], recency: float, center: bool
) -> None:
    """Three text vectors of 30 are missing, and one image vector."""
    config = make_config("ContentKNN", recency=recency, center_vectors=center)
    trainer, loaded = new_trainer(config)
    trained = {item for items in tiny.sequences.values() for item in items[:-2]}
    content: dict[str, np.ndarray] = {f"i{number}": np.zeros(0) for number in range(30)}
    for path in config["item_vectors"].values():
        with np.load(path) as stored:
            table = {
                item: _unit(vector.astype(float))
                for item, vector in zip(stored["items"], stored["vectors"], strict=True)
            }
        mean = np.mean([vector for item, vector in table.items() if item in trained], axis=0)
        for item in content:
            vector = table.get(item)
            if vector is None:
                vector = np.zeros_like(mean)
            elif center:
                vector = _unit(vector - mean)
            content[item] = np.concatenate([content[item], vector])
    content = {item: _unit(vector) for item, vector in content.items()}
    found = scores(trainer.model, loaded.test).numpy()
    tokens = loaded.dataset.field2id_token["item_id"][1:]
    users = loaded.dataset.id2token("user_id", loaded.test._dataset.inter_feat["user_id"])
    for row, user in zip(found, users, strict=True):
        history = tiny.sequences[user][:-1][-8:]
        query = sum(recency**age * content[item] for age, item in enumerate(reversed(history)))
        expected = [_unit(np.asarray(query)) @ content[item] for item in tokens]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_without_vectors(make_config: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="ContentKNN needs at least one table"):
        new_trainer(make_config("ContentKNN", item_vectors={}))


@pytest.mark.parametrize("center", [True, False])
def test_vectors_of_items_outside_the_training_data_alone(
    tiny: Tiny, make_config: Callable[..., Any], center: bool
) -> None:
    """Item i29 is the last one of one user, and of nobody's training rows."""
    rows = [row for row in tiny.rows if row[1] != "i29"]
    tiny.write_inter([*rows, *(("new", item, 1.0 + n) for n, item in enumerate(NEW_USER))])
    np.savez(tiny.root / "new.npz", items=["i29"], vectors=np.ones((1, 4), np.float32))
    vectors = {"text": str(tiny.root / "new.npz")}
    with pytest.raises(InputError, match="no item of the training data has a vector"):
        new_trainer(make_config("ContentKNN", item_vectors=vectors, center_vectors=center))
