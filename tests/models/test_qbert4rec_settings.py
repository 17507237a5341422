"""Building the model: its size, and the settings and data it refuses."""

from __future__ import annotations

import pytest
import torch
from toy_model import (
    HOST_KEYS,
    MAX_LENGTH,
    N_ITEMS,
    SIZES,
    ToyDataset,
    batch_of,
    shipped_settings,
    small_model,
    small_settings,
)

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.models.qbert4rec import IDBERT4Rec, QBERT4Rec


@pytest.mark.parametrize(("n_items", "millions"), [(6250, 3.71), (9416, 4.51), (13839, 5.64)])
def test_size_is_that_of_the_paper(n_items: int, millions: float) -> None:
    """Table 6: `word` with the paper's settings, within 0.5 %."""
    paper = load_yaml("paper.yaml")["per_model"]["QBERT4Rec"]
    config = {**shipped_settings("QBERT4Rec"), **paper, **HOST_KEYS}
    config["item_representation"] = "word"
    config["MAX_ITEM_LIST_LENGTH"] = 50
    model = QBERT4Rec(config, ToyDataset(n_items + 1, (256,) * 4))
    found = sum(parameter.numel() for parameter in model.parameters())
    rows, positions, mask, norm = n_items, 50, 1, 2
    assert found == (rows + positions + mask + norm) * 256 + 2_108_416
    assert abs(found / 1e6 - millions) <= 0.005 * millions


def test_the_papers_benchmark_has_the_papers_settings() -> None:
    paper = load_yaml("paper.yaml")["per_model"]["QBERT4Rec"]
    benchmark = load_yaml("benchmark/paper.yaml")
    row = {**benchmark["settings"], **benchmark["per_model"]["QBERT4Rec"]}
    assert paper.items() <= row.items()


@pytest.mark.parametrize(("representation", "tokens"), [("compose", 1), ("flatten", 3)])
def test_size_of_code_models_is_free_of_the_catalog(representation: str, tokens: int) -> None:
    """10 items or 30: the same parameters; `flatten` has K mask vectors and K times the places."""
    config = small_settings(item_representation=representation)
    sizes = [
        sum(p.numel() for p in QBERT4Rec(config, ToyDataset(n_items)).parameters())
        for n_items in (10, 30)
    ]
    attention, feed_forward = 4 * (16 * 16 + 16), 16 * 24 + 24 + 24 * 16 + 16
    blocks = 2 * (attention + feed_forward + 2 * 2 * 16)
    vectors = sum(SIZES) + tokens + tokens * MAX_LENGTH + 2
    assert sizes == [blocks + vectors * 16] * 2


def test_next_item_needs_no_ratio_and_zero_weights_none_either() -> None:
    """Only schemes that are drawn must have a ratio."""
    model = small_model(mask_mix={"next_item": 1.0, "span": 0.0}, mask_ratios={})
    assert model.calculate_loss(batch_of([[1, 2, 3]], [4])).isfinite()


@pytest.mark.parametrize("representation", ["compose", "hybrid", "word", "flatten"])
def test_codes_are_needed_by_all_but_id(representation: str) -> None:
    """A dataset without semantic IDs is refused with the two ways out."""
    dataset = ToyDataset()
    dataset.item_codes = None
    with pytest.raises(InputError, match="set semantic_id_file, or item_representation: id"):
        QBERT4Rec(small_settings(item_representation=representation), dataset)


def test_the_id_control_is_built_without_codes() -> None:
    """`IDBERT4Rec` with its shipped settings."""
    dataset = ToyDataset()
    dataset.item_codes = None
    items = shipped_settings("IDBERT4Rec")["item_representation"]
    model = IDBERT4Rec(small_settings("IDBERT4Rec", item_representation=items), dataset)
    assert model.items().shape == (N_ITEMS, 16)
    assert model.calculate_loss(batch_of([[1, 2]], [3])).isfinite()


def test_building_leaves_the_codes_and_warns_of_nothing(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """The dataset's codes stay codes; torch is made to repeat warnings it gives only once."""
    dataset = ToyDataset()
    assert dataset.item_codes is not None
    before = dataset.item_codes.clone()
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        QBERT4Rec(small_settings(), dataset)
    finally:
        torch.set_warn_always(always)
    assert torch.equal(dataset.item_codes, before)
    assert not recwarn.list
