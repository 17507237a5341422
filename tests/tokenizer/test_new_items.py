"""Items that come later get IDs through the frozen stages; no ID given before changes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_domain import (
    N_ITEMS,
    histories,
    item_names,
    item_vectors,
    small,
    write_domain,
    write_inter,
    write_table,
)

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, sidecar_path
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import join, read_embeddings
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.encoders.text import embed_text
from recbole_qbert.tokenizer.artifact import Tokenizer
from recbole_qbert.tokenizer.catalog import read_catalog
from recbole_qbert.tokenizer.new_items import encode_new_items, new_streams
from recbole_qbert.tokenizer.pipeline import modality_streams, tokenize
from recbole_qbert.tokenizer.settings import tokenize_settings

HELD = 12  # items that are not there at first


def _early(folder: Path, **settings: object) -> tuple[DatasetPaths, Tokenizer]:
    """A tokenizer made from all items but the last `HELD`."""
    domain = write_domain(folder)
    early = item_names("toy")[: N_ITEMS - HELD]
    sequences = [[item for item in row if item in early] for row in histories("toy")]
    write_inter(domain, [row for row in sequences if len(row) > 3], None)
    domain.file("item").write_text("\n".join(["item_id:token", *early, ""]), encoding="utf-8")
    tokenizer = tokenize([domain], folder / "tokenizer", small(**settings))
    assert tokenizer is not None
    lines = ["item_id:token", *item_names("toy"), ""]
    domain.file("item").write_text("\n".join(lines), encoding="utf-8")
    return domain, tokenizer


@pytest.mark.parametrize("fusion", ["injection", "next_item"])
@pytest.mark.parametrize("query", ["neighbors", "mean"])
def test_new_items_join_and_no_old_id_moves(tmp_path: Path, query: str, fusion: str) -> None:
    given = {"streams": ["fused", "text"], "fusion": fusion, "new_item_query": query}
    domain, _ = _early(tmp_path, **given)
    before = read_semantic_ids(domain.file("semid"))
    encoded = encode_new_items(Tokenizer.load(tmp_path / "tokenizer"), [domain])
    assert [item for _, item in encoded.keys] == sorted(item_names("toy")[N_ITEMS - HELD :])
    after = read_semantic_ids(domain.file("semid"))  # reading checks that all are unique
    assert after.n_items == N_ITEMS
    np.testing.assert_array_equal(after.codes_for(before.items), before.codes)


def test_a_second_time_nothing_is_new_and_the_file_stays(tmp_path: Path) -> None:
    domain, _ = _early(tmp_path, streams=["text"])
    encode_new_items(Tokenizer.load(tmp_path / "tokenizer"), [domain])
    first = domain.file("semid").read_bytes()
    domain.file("semid").unlink()  # as if killed before it was written
    again = encode_new_items(Tokenizer.load(tmp_path / "tokenizer"), [domain])
    assert again.keys == [] and again.moved == 0
    assert domain.file("semid").read_bytes() == first


def test_a_new_item_gets_the_codes_of_its_vector(tmp_path: Path) -> None:
    """Without a taken tuple in the way, its codes are the frozen quantizer's, greedily."""
    domain, tokenizer = _early(tmp_path, streams=["text"], n_levels=2, codebook_size=64)
    encode_new_items(tokenizer, [domain])
    vectors = item_vectors(12, 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = dict(zip(tokenizer.keys, tokenizer.codes.tolist(), strict=True))
    greedy = tokenizer.quantizers["text"].encode(unit)
    new = range(N_ITEMS - HELD, N_ITEMS)
    for row in new:
        assert codes["toy", f"toy{row}"][0] == greedy[row, 0]


def test_identity_comes_from_the_nearest_items(tmp_path: Path) -> None:
    """The mean of ten old items' vectors of co-occurrence, nearest by text, against a loop."""
    domain, tokenizer = _early(tmp_path, streams=["text", "identity"], codebook_size=32)
    text, identity = tokenizer.quantizers.values()
    old_text = text.reconstruct(tokenizer.codes[:, :3])
    old_identity = identity.reconstruct(tokenizer.codes[:, 3:])
    catalog = read_catalog([domain], ["text", "image"], known=tokenizer.keys)
    vectors, there = new_streams(tokenizer, catalog)["identity"]
    assert there.all()
    for row, (_, item) in enumerate(catalog.keys):
        own = item_vectors(12, 1)[int(item.removeprefix("toy"))]
        cosines = [own @ other / np.linalg.norm(own) / np.linalg.norm(other) for other in old_text]
        nearest = sorted(range(len(cosines)), key=lambda place: -cosines[place])[:10]
        mean = sum(old_identity[place] for place in nearest) / 10
        np.testing.assert_allclose(vectors[row], mean, rtol=1e-4, atol=1e-5)
    tokenizer.settings["new_item_query"] = "mean"
    catalog = read_catalog([domain], ["text", "image"], known=tokenizer.keys)
    assert not new_streams(tokenizer, catalog)["identity"][1].any()


@pytest.mark.parametrize(
    ("stream", "fusion"), [("fused", "injection"), ("fused", "next_item"), ("bbq", "injection")]
)
def test_identity_comes_from_the_contents_of_the_other_stage(
    tmp_path: Path, stream: str, fusion: str
) -> None:
    """Without a stream of a modality, the ten nearest are those of stage 1 or of `bbq`."""
    given = {"streams": [stream, "identity"], "fusion": fusion, "bbq__epochs": 2}
    domain, _ = _early(tmp_path, **given)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    own = len(tokenizer.quantizers["identity"].codebook_sizes)
    old = tokenizer.quantizers["identity"].reconstruct(tokenizer.codes[:, -own:])
    catalog = read_catalog([domain], ["text", "image"], known=tokenizer.keys)
    found, there = new_streams(tokenizer, catalog)["identity"]
    assert there.all()
    stage: Any = tokenizer.stage1 if stream == "fused" else tokenizer.binder
    modalities = modality_streams(catalog, ["text", "image"])
    contents = stage.contents_of(catalog.parts if stream == "fused" else modalities)
    for row, wanted in enumerate(contents):
        lengths = np.linalg.norm(stage.contents, axis=1)
        cosines = stage.contents @ wanted / np.where(lengths > 0, lengths, 1)
        nearest = np.argsort(-cosines, kind="stable")[:10]
        np.testing.assert_allclose(found[row], old[nearest].mean(axis=0), rtol=1e-4, atol=1e-5)


def test_a_new_item_without_content_cannot_be_placed(tmp_path: Path) -> None:
    domain, tokenizer = _early(tmp_path, streams=["text"])
    lines = ["item_id:token", *item_names("toy")[: N_ITEMS - HELD], "blank", ""]
    domain.file("item").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match="'blank'; give the new items a text or a picture and run"):
        encode_new_items(tokenizer, [domain])


def test_a_counting_level_cannot_take_new_items(tmp_path: Path) -> None:
    domain, tokenizer = _early(tmp_path, streams=["text"], n_levels=1, unique="extra_level")
    with pytest.raises(InputError, match="tokenize again with unique: reallocate"):
        encode_new_items(tokenizer, [domain])


def test_vectors_of_another_shape_are_refused(tmp_path: Path) -> None:
    domain, tokenizer = _early(tmp_path, streams=["text"])
    write_table(domain, "text", range(N_ITEMS), 9, 1, "words")
    before = domain.file("semid").read_bytes()
    with pytest.raises(InputError, match=r"1 parts of dimension 9, but the tokenizer has 1 of 12"):
        encode_new_items(tokenizer, [domain])
    assert domain.file("semid").read_bytes() == before


def test_new_items_without_any_vector_are_refused(tmp_path: Path) -> None:
    domain, tokenizer = _early(tmp_path, streams=["text"])
    lines = ["item_id:token", *item_names("toy")[: N_ITEMS - HELD], "nowhere", ""]
    domain.file("item").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match="none of 1 item has embeddings, for example 'nowhere'"):
        encode_new_items(tokenizer, [domain])


def test_vectors_of_another_fit_are_refused(tmp_path: Path) -> None:
    """The old codebooks would misread them: nothing is written."""
    domain, _ = _early(tmp_path, streams=["text"])
    before = (
        domain.file("semid").read_bytes(),
        (tmp_path / "tokenizer/ids.safetensors").read_bytes(),
    )
    write_table(domain, "text", range(N_ITEMS), 12, 1, "words fitted anew")
    with pytest.raises(InputError, match=r"toy\.text\.npz: its encoder, .* that of the tokenizer"):
        encode_new_items(Tokenizer.load(tmp_path / "tokenizer"), [domain])
    after = domain.file("semid").read_bytes(), (tmp_path / "tokenizer/ids.safetensors").read_bytes()
    assert after == before


def test_a_new_item_in_the_order_of_the_manual(tmp_path: Path) -> None:
    """`embed text`, `tokenize`, new rows, `embed text`, `ids add-items`: as if frozen."""
    names = [f"{color} {kind} {row}" for color in ("red", "green", "blue", "black")
             for kind in ("drum", "lamp", "chair") for row in range(5)]  # fmt: skip
    domain = DatasetPaths("shop", tmp_path / "shop")
    domain.folder.mkdir()

    def write(titles: list[str]) -> None:
        rows = [f"i{row}\t{title}" for row, title in enumerate(titles)]
        lines = ["item_id:token\ttitle:token_seq", *rows, ""]
        domain.file("item").write_text("\n".join(lines), encoding="utf-8")

    def embed(**given: Any) -> None:
        embed_text(domain.file("item"), ["title"], domain.file("text.npz"), **given)

    write(names)
    embed()
    settings = tokenize_settings((), {"streams": "content", "show_progress": False})
    made = tokenize([domain], tmp_path / "tokenizer", settings)
    assert made is not None
    state = domain.file("text.npz.encoder.safetensors")
    shutil.copy(state, tmp_path / "first.safetensors")
    write([*names, "red drum deluxe", "green lamp new", ""])
    embed(frozen_encoder=tmp_path / "first.safetensors")
    wanted = made.encode({"text": _unit(domain)})
    embed()
    encoded = encode_new_items(Tokenizer.load(tmp_path / "tokenizer"), [domain])
    assert [item for _, item in encoded.keys] == ["i60", "i61", "i62"]
    assert encoded.without_content == [("shop", "i62")]
    table = read_semantic_ids(domain.file("semid"))
    source = read_json(sidecar_path(domain.file("semid")))["source"]
    assert source["without_content"] == ["i62"]
    # The first levels are the quantizer's own; only the last one may move.
    np.testing.assert_array_equal(table.codes_for(["i60", "i61"])[:, :3], wanted[:, :3])
    write([*names, "red drum deluxe", "green lamp new", "", "blue chair once more"])
    embed(refit=True)
    with pytest.raises(InputError, match="its encoder, .* differs from that of the tokenizer"):
        encode_new_items(Tokenizer.load(tmp_path / "tokenizer"), [domain])


def _unit(domain: DatasetPaths) -> tuple[np.ndarray, np.ndarray]:
    table = read_embeddings(domain.file("text.npz"))
    vectors, _, _ = join(table, ["i60", "i61"], "text")
    return vectors[:, 0], np.ones(2, np.bool_)


def test_a_stored_tokenizer_keeps_the_order_of_its_modalities(tmp_path: Path) -> None:
    """Content vectors of old and new items are compared block by block."""
    domain, made = _early(tmp_path, streams=["fused"])
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert list(loaded.kinds) == list(made.kinds) == ["text", "image"]
    found = []
    for tokenizer in (made, loaded):
        catalog = read_catalog([domain], list(tokenizer.kinds), tokenizer.keys, tokenizer.kinds)
        found.append(new_streams(tokenizer, catalog)["fused"][0])
    np.testing.assert_array_equal(*found)
