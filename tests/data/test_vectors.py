"""Dense item vectors: the file's checks, and the join to the items by raw token."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_ITEMS, Tiny, load, timed_rows
from recbole.utils import FeatureType

from recbole_qbert.data.vectors import read_item_vectors
from recbole_qbert.errors import InputError

TOKENS = np.array([f"i{number}" for number in range(N_ITEMS)])
VECTORS = np.random.default_rng(0).normal(size=(N_ITEMS, 5))


def write(path: Path, **arrays: Any) -> Path:
    """An .npz with the given arrays in place of the good ones; None leaves one out."""
    content = {"items": TOKENS, "vectors": VECTORS} | arrays
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


def test_round_trip(tmp_path: Path) -> None:
    items, vectors = read_item_vectors(write(tmp_path / "v.npz"))
    assert items == TOKENS.tolist()
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, VECTORS.astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"items": None}, "not an .npz file with string array 'items'"),
        ({"vectors": None}, "not an .npz file with string array 'items'"),
        ({"items": TOKENS.astype(object)}, "not an .npz file"),
        ({"vectors": VECTORS[:-1]}, "one row an item is needed"),
        ({"vectors": VECTORS[:, 0]}, "one row an item is needed"),
        ({"items": TOKENS[:, None]}, "one row an item is needed"),
        ({"vectors": VECTORS.astype(str)}, "not numbers"),
        ({"items": np.array(["i0", *TOKENS[:-1]])}, "the same token twice"),
        ({"vectors": np.where(np.arange(N_ITEMS)[:, None] == 4, np.nan, VECTORS)}, r"row 4 .*i4"),
        ({"vectors": np.where(np.arange(N_ITEMS)[:, None] == 2, -np.inf, VECTORS)}, r"row 2 .*i2"),
        ({"vectors": VECTORS * 1e300}, r"row 0 \(item i0\) is not finite"),
    ],
)
def test_refusals(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "v.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_item_vectors(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    """Missing, a folder, text, a lone array, and cut short at any place."""
    with pytest.raises(InputError, match="no such file"):
        read_item_vectors(tmp_path / "absent.npz")
    good = write(tmp_path / "good.npz").read_bytes()
    np.save(tmp_path / "lone.npy", VECTORS)
    (tmp_path / "text.npz").write_text("i0 0.5\n")
    (tmp_path / "empty.npz").write_bytes(b"")
    for share in (0.2, 0.5, 0.99):
        (tmp_path / f"cut{share}.npz").write_bytes(good[: int(len(good) * share)])
    broken = bytearray(good)
    broken[len(good) // 2] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(bytes(broken))
    for path in [tmp_path, *sorted(tmp_path.iterdir())]:
        if path.name != "good.npz":
            with pytest.raises(InputError, match="not an .npz file"):
                read_item_vectors(path)


@pytest.mark.parametrize("item_columns", [False, True])
def test_joined_by_token(tiny: Tiny, item_columns: bool) -> None:
    """The feature's row of each item is the file's, whatever the internal ids."""
    order = random.Random(3).sample(range(N_ITEMS), N_ITEMS)
    path = write(tiny.root / "v.npz", items=TOKENS[order], vectors=VECTORS[order])
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    if item_columns:
        columns["item"] = ["item_id", "title"]
    settings: dict[str, Any] = {"item_vectors": {"image": str(path)}, "load_col": columns}
    dataset = load(tiny.make_config("SASRec", **settings)).dataset
    assert dataset.field2type["image"] == FeatureType.FLOAT_SEQ
    feature = dataset.item_feat["image"].numpy()
    assert feature.shape == (N_ITEMS + 1, 5)
    for number, token in enumerate(dataset.field2id_token["item_id"][1:], start=1):
        expected = VECTORS[int(token[1:])].astype(np.float32)
        assert np.array_equal(feature[number], expected)
    batch = next(iter(load(tiny.make_config("SASRec", **settings)).train))
    assert np.array_equal(batch["image"].numpy(), feature[batch["item_id"].numpy()])


def test_items_without_a_vector_are_counted(tiny: Tiny) -> None:
    path = write(tiny.root / "v.npz", items=TOKENS[:18], vectors=VECTORS[:18])
    with pytest.raises(InputError, match=r"12 of 30 items of the dataset have no image: .*, …;"):
        load(tiny.make_config("SASRec", item_vectors={"image": str(path)}))


def test_two_features_of_one_name_are_refused(tiny: Tiny) -> None:
    path = write(tiny.root / "v.npz")
    for name in ("semantic_id", "item_id"):
        with pytest.raises(InputError, match=f"already have a column '{name}'"):
            load(tiny.make_config("SASRec", item_vectors={name: str(path)}))


def test_a_setting_that_is_no_mapping_is_refused(tiny: Tiny) -> None:
    path = write(tiny.root / "v.npz")
    with pytest.raises(InputError, match="item_vectors: .* is not a mapping"):
        load(tiny.make_config("SASRec", item_vectors=str(path)))


def test_vectors_of_items_that_a_filter_takes_out(tiny: Tiny) -> None:
    """Filters act after the join; the kept items keep their vectors."""
    tiny.write_inter([*timed_rows(tiny.sequences), ("u0", "i7", 999.0)])
    path = write(tiny.root / "v.npz")
    settings = {"item_inter_num_interval": "[9,inf)", "item_vectors": {"image": str(path)}}
    dataset = load(tiny.make_config("SASRec", **settings)).dataset
    assert 1 < dataset.item_num < N_ITEMS
    for number, token in enumerate(dataset.field2id_token["item_id"][1:], start=1):
        expected = VECTORS[int(token[1:])].astype(np.float32)
        assert np.array_equal(dataset.item_feat["image"][number].numpy(), expected)
