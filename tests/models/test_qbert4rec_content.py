"""QBERT4Rec with `use_content`: item vectors are codes plus adapted content vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CODEBOOK_SIZES, N_ITEMS, Tiny, assert_equal_weights, fitted, new_trainer

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids
from recbole_qbert.serving.bundle import save_bundle, trial_histories
from recbole_qbert.serving.new_items import add_items, open_bundle
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.serving.scoring import scores_of


def content(tiny: Tiny, partial: bool = False) -> dict[str, Any]:
    """Settings with vectors of all items, or of all but a few: i3 lacks both, i5 the image."""
    return {"use_content": True, "item_vectors": tiny.item_vectors(partial)}


def saved(tiny: Tiny, **settings: Any) -> tuple[Any, Path]:
    """A trained model and its bundle."""
    config = tiny.make_config(**settings)
    trainer, loaded = fitted(config)
    save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
    return trainer.model.eval(), tiny.root / "bundle"


@pytest.mark.parametrize("representation", ["compose", "hybrid", "word", "id"])
def test_the_matrix_is_codes_plus_a_linear_map_of_whitened_vectors(
    tiny: Tiny, representation: str
) -> None:
    settings = content(tiny) | {"item_representation": representation}
    trainer, loaded = new_trainer(tiny.make_config(**settings))
    model, adapter = trainer.model.eval(), trainer.model.content.adapter
    torch.nn.init.normal_(adapter.shift)
    tables = []
    for name in sorted(settings["item_vectors"]):
        vectors = loaded.dataset.item_feat[name][1:].double().numpy()  # all items are trained on
        centered = vectors - vectors.mean(axis=0)
        left, _, _ = np.linalg.svd(centered, full_matrices=False)
        tables.append(left * len(vectors) ** 0.5)  # up to the signs of the components
    found = model.content.vectors[1:].double().numpy()
    np.testing.assert_allclose(np.abs(found), np.abs(np.concatenate(tables, axis=1)), atol=1e-3)
    with torch.no_grad():
        expected = model.items().clone()
        moved = model.content.vectors[1:] - adapter.shift[0]
        expected[1:] += moved @ adapter.weight[0]
        torch.testing.assert_close(model.item_matrix(), expected)
        rows = torch.tensor([0, 7, 2, 30])
        torch.testing.assert_close(model.item_matrix(rows), expected[rows])


def test_an_item_without_a_vector_has_only_its_codes(tiny: Tiny) -> None:
    trainer, loaded = new_trainer(tiny.make_config(**content(tiny, partial=True)))
    model, ids = trainer.model.eval(), loaded.dataset.field2token_id["item_id"]
    table = model.content.vectors  # [N, 5 + 6]: image, text
    assert not table[ids["i3"]].any()
    assert table[ids["i5"]][5:].all() and not table[ids["i5"]][:5].any()
    trained = [ids[f"i{n}"] for n in range(N_ITEMS) if n != 3]
    known = table[trained][:, 5:].double()
    torch.testing.assert_close(
        known.T @ known / len(known), torch.eye(6).double(), atol=1e-4, rtol=0
    )
    with torch.no_grad():
        torch.testing.assert_close(model.item_matrix()[ids["i3"]], model.items()[ids["i3"]])


def test_codes_and_adapter_are_trained(tiny: Tiny) -> None:
    settings = content(tiny)
    before, _ = new_trainer(tiny.make_config(**settings))
    after, _ = fitted(tiny.make_config(**settings))
    start, end = before.model.state_dict(), after.model.state_dict()
    for name in ("content.adapter.weight", "content.adapter.shift", "items.table.weight"):
        assert not torch.equal(start[name], end[name]), name
    assert torch.equal(start["content.vectors"], end["content.vectors"])


@pytest.mark.parametrize("score", ["cosine", "dot"])
@pytest.mark.parametrize("representation", ["compose", "hybrid"])
def test_lists_of_a_bundle_are_those_of_a_sort(tiny: Tiny, representation: str, score: str) -> None:
    """A bundle has no vectors beside its weights; the index adds the content to the codes."""
    settings = content(tiny, partial=True) | {"item_representation": representation}
    model, folder = saved(tiny, score=score, exclude_visible="off", **settings)
    for path in tiny.root.glob("*.npz"):
        path.unlink()
    recommender = Recommender.load(folder)
    assert recommender.model.item_index() is not None
    history = ["i4", "i9", "i20"]
    items = torch.tensor([[1 + recommender.tokens.index(item) for item in history] + [0] * 5])
    expected = scores_of(model, recommender.config, items, torch.tensor([3]))[0, 1:]
    (found,) = recommender.recommend([history], k=N_ITEMS, exclude_seen=False)
    order = expected.argsort(descending=True).tolist()
    assert [item for item, _ in found] == [recommender.tokens[n] for n in order]
    np.testing.assert_allclose([value for _, value in found], expected[order], atol=1e-5)


def test_new_items_have_codes_and_no_content(tiny: Tiny) -> None:
    _, folder = saved(tiny, item_representation="compose", **content(tiny))
    before = Recommender.load(folder)
    taken = {*map(tuple, tiny.table.codes.tolist())}
    free = next(code for code in np.ndindex(*CODEBOOK_SIZES) if code not in taken)
    codes = np.concatenate([tiny.table.codes, [free]])
    items = (*tiny.table.items, "new")
    vocabulary = read_semantic_ids(folder / "items.semid").vocabulary
    new = SemanticIDTable(items, codes, CODEBOOK_SIZES, vocabulary=vocabulary)
    assert add_items(
        open_bundle(folder, vocabulary), new, tiny.root / "none.item", tiny.root / "grown"
    ) == ["new"]
    after = Recommender.load(tiny.root / "grown")
    histories = trial_histories(8, N_ITEMS + 1)
    old, grown = (scores_of(each.model, each.config, *histories) for each in (before, after))
    assert torch.equal(grown[:, : N_ITEMS + 1], old)
    with torch.no_grad():
        model = after.model
        none = model.content.adapter(torch.zeros_like(model.content.vectors[:1]))[0]
        torch.testing.assert_close(model.item_matrix()[-1], model.items()[-1] + none)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"item_representation": "flatten"},
            "use_content: a vector cannot be added to the separate",
        ),
        ({"item_vectors": {}}, "item_vectors: QBERT4Rec needs at least one table"),
    ],
)
def test_bad_settings(tiny: Tiny, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        new_trainer(tiny.make_config(**content(tiny) | settings))


def test_vectors_of_zeros_alone(tiny: Tiny) -> None:
    """A table made by hand; `embed` writes none."""
    settings = content(tiny)
    path = settings["item_vectors"]["image"]
    table = dict(np.load(path))
    np.savez(path, **{**table, "vectors": np.zeros_like(table["vectors"])})
    with pytest.raises(InputError, match="item_vectors: image: no item of the training data has"):
        new_trainer(tiny.make_config(**settings))


@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRecContent"])
def test_the_order_of_the_tables_changes_nothing(tiny: Tiny, model: str) -> None:
    """Nor does it change the name of a run, for which keys are sorted."""
    vectors = tiny.item_vectors()
    states = []
    for names in (list(vectors), list(vectors)[::-1]):
        settings = {"item_vectors": {name: vectors[name] for name in names}}
        settings |= {"use_content": True} if model == "QBERT4Rec" else {}
        states.append(new_trainer(tiny.make_config(model, **settings))[0].model.state_dict())
    assert_equal_weights(*states)
