"""Embedding tables: reader and writer, the sidecar, and the join to the items by raw token."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import N_ITEMS, Tiny, files_below, timed_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.utils import FeatureType

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import sidecar_path
from recbole_qbert.data.embeddings import (
    EmbeddingTable,
    import_matrix,
    join,
    read_embeddings,
    write_embeddings,
)
from recbole_qbert.experiments.splits import load_splits

TOKENS = np.array([f"i{number}" for number in range(N_ITEMS)])
VECTORS = np.random.default_rng(0).normal(size=(N_ITEMS, 5))
MASK = np.ones((N_ITEMS, 1), dtype=bool)
TOKEN = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0"), min_size=1, max_size=6
)


def write(path: Path, **arrays: Any) -> Path:
    """An .npz with the given arrays in place of the good ones; None leaves one out."""
    content = {"items": TOKENS, "vectors": VECTORS} | arrays
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return path


def three_items() -> EmbeddingTable:
    """Two parts an item, of which the second item lacks one and the third the other."""
    vectors = np.array(
        [[[1, 2], [3, 6]], [[5, 5], [0, 0]], [[0, 0], [-1, 1]]], dtype=np.float32
    )  # fmt: skip
    return EmbeddingTable(
        ("a", "b", "c"), vectors, vectors.any(axis=2), {"modality": "text", "missing": {"d": "no"}}
    )


@st.composite
def tables(draw: st.DrawFn) -> EmbeddingTable:
    """Any valid table."""
    items = draw(st.lists(TOKEN, min_size=1, max_size=5, unique=True))
    n_parts, dimension = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    width = draw(st.sampled_from([16, 32]))
    numbers = st.floats(allow_nan=False, allow_infinity=False, width=width)  # type: ignore[arg-type]
    count = len(items) * n_parts * dimension
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    vectors = np.array(values, dtype=f"float{width}").reshape(len(items), n_parts, dimension)
    rows = st.lists(st.booleans(), min_size=n_parts, max_size=n_parts).filter(any)
    mask = np.array(draw(st.lists(rows, min_size=len(items), max_size=len(items))))
    vectors[~mask] = 0
    meta = draw(st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text()))
    return EmbeddingTable(tuple(items), vectors, mask, meta)


@given(table=tables())
@settings(max_examples=30, deadline=None)
def test_any_table_comes_back(
    tmp_path_factory: pytest.TempPathFactory, table: EmbeddingTable
) -> None:
    folder = tmp_path_factory.mktemp("tables")
    write_embeddings(folder / "a.npz", table)
    again = read_embeddings(folder / "a.npz")
    assert again.items == table.items
    assert again.meta == table.meta
    assert again.vectors.dtype == table.vectors.dtype
    assert again.vectors.tobytes() == table.vectors.tobytes()
    assert np.array_equal(again.mask, table.mask)
    write_embeddings(folder / "b.npz", again)
    for suffix in ("npz", "npz.json"):
        one, other = folder / f"a.{suffix}", folder / f"b.{suffix}"
        assert one.read_bytes() == other.read_bytes()


def test_pooled_is_the_mean_over_present_parts() -> None:
    pooled = three_items().pooled()
    assert pooled.dtype == np.float32
    assert pooled.tolist() == [[2, 4], [5, 5], [-1, 1]]


def test_half_precision_is_pooled_in_single() -> None:
    # 1 + 2048 is no float16: a sum in half precision would lose the 1.
    vectors = np.array([[[2048.0], [1.0]]], dtype=np.float16)
    table = EmbeddingTable(("a",), vectors, np.ones((1, 2), dtype=bool), {})
    assert table.pooled().tolist() == [[1024.5]]


def test_a_foreign_file(tmp_path: Path) -> None:
    """Two axes, float64, no mask, no sidecar; then integer tokens and a mask over rubbish."""
    table = read_embeddings(write(tmp_path / "v.npz"))
    assert table.items == tuple(TOKENS.tolist())
    assert (table.n_items, table.n_parts, table.dimension) == (N_ITEMS, 1, 5)
    assert np.array_equal(table.vectors, VECTORS.astype(np.float32)[:, None])
    assert np.array_equal(table.pooled(), VECTORS.astype(np.float32))
    assert table.mask.all()
    assert table.meta == {}
    vectors = np.stack([VECTORS, np.full_like(VECTORS, np.nan)], axis=1)
    mask = np.tile([True, False], (N_ITEMS, 1))
    path = write(tmp_path / "w.npz", items=np.arange(N_ITEMS), vectors=vectors, mask=mask)
    table = read_embeddings(path)
    assert table.items[:2] == ("0", "1")
    assert not table.vectors[:, 1].any()
    assert np.array_equal(table.pooled(), VECTORS.astype(np.float32))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"items": None}, "not an .npz file with string array 'items'"),
        ({"vectors": None}, "not an .npz file with string array 'items'"),
        ({"items": TOKENS.astype(object)}, "not an .npz file"),
        ({"vectors": VECTORS[:-1]}, "30 items and 29 rows; give one row per item"),
        ({"vectors": VECTORS[:, 0]}, "not one array"),
        ({"items": TOKENS[:, None]}, "items are <U3 .*save n strings"),
        ({"items": TOKENS.astype(bytes)}, "items are .S3 .*save n strings"),
        ({"vectors": VECTORS.astype(str)}, "not numbers"),
        ({"vectors": VECTORS[:, :0]}, r"float32 \(30, 1, 0\)"),
        ({"items": np.array(["i0", *TOKENS[:-1]])}, "row 1, .* 'i0' is on row 0 already"),
        ({"items": np.array(["", *TOKENS[1:]])}, "row 0, item_id: ''"),
        ({"items": np.array(["a\0b", *TOKENS[1:]])}, "row 0, .* NUL"),
        (
            {"vectors": np.where(np.arange(N_ITEMS)[:, None] == 4, np.nan, VECTORS)},
            "item 'i4' is not finite",
        ),
        (
            {"vectors": np.where(np.arange(N_ITEMS)[:, None] == 2, -np.inf, VECTORS)},
            "item 'i2' is not finite",
        ),
        ({"vectors": VECTORS * 1e300}, "a value is too large for float32; scale the vectors"),
        ({"mask": MASK.astype(int)}, r"mask is int64 \(30, 1\); give bool \(30, 1\)"),
        ({"mask": MASK[:, 0]}, r"mask is bool \(30,\); give bool \(30, 1\)"),
        ({"mask": (TOKENS != "i7")[:, None]}, "item 'i7' has no part"),
    ],
)
def test_refusals(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "v.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_embeddings(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_npz(tmp_path: Path) -> None:
    """Missing, a folder, text, a lone array, and cut short at any place."""
    with pytest.raises(InputError, match="no such file"):
        read_embeddings(tmp_path / "absent.npz")
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
                read_embeddings(path)


def test_tables_that_are_none() -> None:
    table = three_items()
    rubbish = np.ones_like(table.vectors)
    with pytest.raises(InputError, match="a masked part that is not zero"):
        EmbeddingTable(table.items, rubbish, table.mask, {})
    with pytest.raises(InputError, match="vectors are float64"):
        EmbeddingTable(table.items, table.vectors.astype(float), table.mask, {})
    with pytest.raises(InputError, match="2 items and 3 rows"):
        EmbeddingTable(("a", "b"), table.vectors, table.mask, {})


def test_meta_that_is_no_json_leaves_the_old_file(tmp_path: Path) -> None:
    path, table = tmp_path / "v.npz", three_items()
    write_embeddings(path, table)
    before = path.read_bytes()
    for meta in ({"path": tmp_path}, {"loss": float("nan")}):
        changed = EmbeddingTable(table.items, table.vectors * 2, table.mask, meta)
        with pytest.raises((TypeError, ValueError), match="JSON"):
            write_embeddings(path, changed)
    assert path.read_bytes() == before
    assert files_below(tmp_path) == ["v.npz", "v.npz.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "its sha256 is not that of"),
        ({"format": "recbole-qbert/semid"}, "format is 'recbole-qbert/semid'"),
        ({"version": 2}, "version is '2', not 1"),
        ({"meta": ["text"]}, "no JSON object 'meta'"),
    ],
)
def test_a_sidecar_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "v.npz"
    write_embeddings(path, three_items())
    sidecar = sidecar_path(path)
    content = json.loads(sidecar.read_text(encoding="utf-8"))
    sidecar.write_text(json.dumps(content | changes), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        read_embeddings(path)
    assert str(sidecar) in str(caught.value)


def test_a_sidecar_of_another_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    write_embeddings(path, three_items())
    write(path)
    with pytest.raises(InputError, match="delete the sidecar if the file is right"):
        read_embeddings(path)
    sidecar_path(path).unlink()
    assert read_embeddings(path).n_items == N_ITEMS


def test_join_by_token() -> None:
    table = three_items()
    vectors, mask, coverage = join(table, ["c", "zz", "a", "c"], "text.npz")
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[[0, 0], [-1, 1]], [[0, 0], [0, 0]], [[1, 2], [3, 6]],
                                [[0, 0], [-1, 1]]]  # fmt: skip
    assert mask.tolist() == [[False, True], [False, False], [True, True], [False, True]]
    assert (coverage.n_items, coverage.n_present, coverage.missing) == (4, 3, ("zz",))
    assert str(coverage).startswith(
        "3 of 4 items have a vector; 1 has none: 'zz'; the table has 1 more that the data set "
        "does not know: 'b'"
    )
    assert str(join(table, list("abc"), "text.npz")[2]) == "3 of 3 items have a vector"


def test_join_does_not_depend_on_the_tables_order() -> None:
    table = three_items()
    turned = EmbeddingTable(table.items[::-1], table.vectors[::-1], table.mask[::-1], {})
    for one, other in zip(join(table, "abc", "x"), join(turned, "abc", "x"), strict=True):
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_join_without_overlap_shows_both_sides() -> None:
    with pytest.raises(
        InputError, match="^text.npz: none of 2 requested items .* 'B00X', .* 'a'; "
    ):
        join(three_items(), ["B00X", "B00Y"], "text.npz")


def test_import_matrix(tmp_path: Path) -> None:
    matrix = np.array([[1.5, 2.0], [0.0, 0.0], [-1.0, 0.0]])
    np.save(tmp_path / "m.npy", matrix)
    (tmp_path / "tokens.txt").write_bytes(b"x 1\r\ny\r\n007\r\n")
    table = import_matrix(tmp_path / "m.npy", tmp_path / "tokens.txt", "image", "CLIP ViT-B/32")
    assert table.items == ("x 1", "007")
    assert table.vectors.tolist() == [[[1.5, 2.0]], [[-1.0, 0.0]]]
    assert table.meta["modality"] == "image"
    assert table.meta["encoder"] == {"name": "CLIP ViT-B/32"}
    assert table.meta["missing"] == {"y": "the vector is all zeros"}
    assert table.meta["source"]["matrix_file"] == "m.npy"
    write_embeddings(tmp_path / "image.npz", table)
    assert read_embeddings(tmp_path / "image.npz").meta == table.meta
    np.save(tmp_path / "m.npy", np.stack([matrix, matrix[::-1]], axis=1).astype(np.float16))
    table = import_matrix(tmp_path / "m.npy", tmp_path / "tokens.txt", "image", "grid")
    assert table.items == ("x 1", "007")  # y is zero in both parts
    assert table.vectors.dtype == np.float16
    assert table.mask.all()


@pytest.mark.parametrize(
    ("matrix", "tokens", "message"),
    [
        (np.ones((2, 3)), "a\nb\nc\n", "m.npy: 2 rows, but .*tokens.txt has 3 tokens"),
        (np.ones((2, 3)), "a\n\n", "tokens.txt: line 2, item_id: ''"),
        (np.ones((2, 3)), "a\na\n", "tokens.txt: line 2, .* is on line 1 already"),
        (np.ones((2, 3)), "", "tokens.txt is empty"),
        (np.ones(2), "a\nb\n", r"m.npy: not one array \[n, D\] or \[n, J, D\]"),
        (np.array([["1"], ["2"]]), "a\nb\n", "m.npy: vectors are <U1, not numbers"),
        (np.array([[1.0], [np.inf]]), "a\nb\n", "m.npy: .* item 'b' is not finite"),
        (np.zeros((2, 3)), "a\nb\n", "m.npy: every vector is zero"),
    ],
)
def test_import_refusals(tmp_path: Path, matrix: np.ndarray, tokens: str, message: str) -> None:
    np.save(tmp_path / "m.npy", matrix)
    (tmp_path / "tokens.txt").write_text(tokens)
    with pytest.raises(InputError, match=message):
        import_matrix(tmp_path / "m.npy", tmp_path / "tokens.txt", "text", "x")


def test_import_of_files_that_are_none(tmp_path: Path) -> None:
    matrix, tokens = tmp_path / "m.npy", tmp_path / "tokens.txt"
    with pytest.raises(InputError, match=re.escape(f"{tokens}: no such file")):
        import_matrix(matrix, tokens, "text", "x")
    tokens.write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="tokens.txt: line 1: not UTF-8"):
        import_matrix(matrix, tokens, "text", "x")
    tokens.write_text("a\n")
    with pytest.raises(InputError, match=re.escape(f"{matrix}: no such file")):
        import_matrix(matrix, tokens, "text", "x")
    matrix.write_text("1 2 3")
    with pytest.raises(InputError, match="m.npy: not an .npy array"):
        import_matrix(matrix, tokens, "text", "x")


# As a feature of the data set -----------------------------------------------------------------


@pytest.mark.parametrize("item_columns", [False, True])
def test_joined_by_token(tiny: Tiny, item_columns: bool) -> None:
    """The feature's row of each item is the file's, whatever the internal ids."""
    order = random.Random(3).sample(range(N_ITEMS), N_ITEMS)
    path = write(tiny.root / "v.npz", items=TOKENS[order], vectors=VECTORS[order])
    columns = {"inter": ["user_id", "item_id", "timestamp"]}
    if item_columns:
        columns["item"] = ["item_id", "title"]
    settings: dict[str, Any] = {"item_vectors": {"image": str(path)}, "load_col": columns}
    dataset = load_splits(tiny.make_config("SASRec", **settings)).dataset
    assert dataset.field2type["image"] == FeatureType.FLOAT_SEQ
    feature = dataset.item_feat["image"].numpy()
    assert feature.shape == (N_ITEMS + 1, 5)
    for number, token in enumerate(dataset.field2id_token["item_id"][1:], start=1):
        expected = VECTORS[int(token[1:])].astype(np.float32)
        assert np.array_equal(feature[number], expected)
    batch = next(iter(load_splits(tiny.make_config("SASRec", **settings)).train))
    assert np.array_equal(batch["image"].numpy(), feature[batch["item_id"].numpy()])


def test_parts_are_pooled_for_a_feature(tiny: Tiny) -> None:
    vectors = np.stack([VECTORS, 3 * VECTORS], axis=1)
    path = write(tiny.root / "v.npz", vectors=vectors)
    dataset = load_splits(tiny.make_config("SASRec", item_vectors={"text": str(path)})).dataset
    number = dataset.token2id("item_id", "i4")
    np.testing.assert_allclose(dataset.item_feat["text"][number], 2 * VECTORS[4], rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("FDSA", {"selected_features": ["vecs"]}, "selected_features: vecs: FDSA cannot use"),
        ("SASRecF", {"selected_features": ["vecs"]}, r"column of tokens \(semantic_id\)"),
        ("S3Rec", {"item_attribute": "vecs"}, "item_attribute: vecs: S3Rec cannot use"),
        ("FDSA", {"selected_features": ["vec"]}, "'vec' is not a feature .* did you mean 'vecs'"),
        ("S3Rec", {"item_attribute": "vec"}, "'vec' is not a feature .* did you mean 'vecs'"),
        ("FDSA", {"numerical_features": ["vecs"]}, "numerical_features: 'vecs': .* remove it"),
    ],
)
def test_vectors_are_no_features_of_recboles_models(
    tiny: Tiny, model: str, given: dict[str, Any], said: str
) -> None:
    path = write(tiny.root / "v.npz")
    config = tiny.make_config(model, item_vectors={"vecs": str(path)}, **given)
    with pytest.raises(InputError, match=said):
        load_splits(config)


def test_items_without_a_vector_are_counted(tiny: Tiny) -> None:
    path = write(tiny.root / "v.npz", items=TOKENS[:18], vectors=VECTORS[:18])
    with pytest.raises(InputError, match=r"12 of 30 items of the data set have no image: .*, …;"):
        load_splits(tiny.make_config("SASRec", item_vectors={"image": str(path)}))


def test_two_features_of_one_name_are_refused(tiny: Tiny) -> None:
    path = write(tiny.root / "v.npz")
    for name in ("semantic_id", "item_id"):
        with pytest.raises(InputError, match=f"already have a column '{name}'"):
            load_splits(tiny.make_config("SASRec", item_vectors={name: str(path)}))


def test_a_setting_that_is_no_mapping_is_refused(tiny: Tiny) -> None:
    path = write(tiny.root / "v.npz")
    with pytest.raises(InputError, match="item_vectors: .* is not names of tables"):
        load_splits(tiny.make_config("SASRec", item_vectors=str(path)))


def test_vectors_of_items_that_a_filter_takes_out(tiny: Tiny) -> None:
    """Filters act after the join; the kept items keep their vectors."""
    tiny.write_inter([*timed_rows(tiny.sequences), ("u0", "i7", 999.0)])
    path = write(tiny.root / "v.npz")
    settings = {"item_inter_num_interval": "[9,inf)", "item_vectors": {"image": str(path)}}
    dataset = load_splits(tiny.make_config("SASRec", **settings)).dataset
    assert 1 < dataset.item_num < N_ITEMS
    for number, token in enumerate(dataset.field2id_token["item_id"][1:], start=1):
        expected = VECTORS[int(token[1:])].astype(np.float32)
        assert np.array_equal(dataset.item_feat["image"][number].numpy(), expected)


def test_a_table_that_counts_from_0_is_found_out(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides of the mismatch are counted, by `embed vectors` and by a join."""
    lines = ["item_id:token", *(str(number) for number in range(1, 41)), ""]
    (tiny.folder / "toy.item").write_text("\n".join(lines))
    np.save(tiny.root / "m.npy", np.ones((40, 3), np.float32))
    (tiny.root / "ids.txt").write_text("\n".join(map(str, range(40))))
    command = ["embed", "vectors", "--dataset=toy", "--data_path=.", "--modality=text",
               "--matrix=m.npy", "--items=ids.txt", "--encoder=x"]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    said = (
        "39 of 40 items have a vector; 1 has none: '40'; the table has 1 more that the data set "
        "does not know: '0'; check that both number the items"
    )
    assert said in out
    table = read_embeddings(tiny.folder / "toy.text.npz")
    assert said in str(join(table, [str(number) for number in range(1, 41)], "x")[2])
    (tiny.root / "ids.txt").write_text("\n".join(f"x{number}" for number in range(40)))
    (tiny.folder / "toy.text.npz").unlink()
    assert main(command) == 2
    assert "none of 40 requested items" in capsys.readouterr().err
    assert not (tiny.folder / "toy.text.npz").exists()


def test_a_masked_part_may_hold_any_number(tmp_path: Path) -> None:
    vectors = np.array([[[1.0], [1e300]], [[2.0], [np.nan]]])
    mask = np.array([[True, False], [True, False]])
    np.savez(tmp_path / "v.npz", items=["a", "b"], vectors=vectors, mask=mask)
    table = read_embeddings(tmp_path / "v.npz")
    assert table.vectors.dtype == np.float32
    assert table.vectors[:, :, 0].tolist() == [[1.0, 0.0], [2.0, 0.0]]
