"""Items that come later get IDs through the frozen stages; no ID given before changes."""

from __future__ import annotations

from pathlib import Path

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

from recbole_qbert.data.domain import Domain
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.errors import InputError
from recbole_qbert.tokenizer.artifact import Tokenizer
from recbole_qbert.tokenizer.inputs import read_catalogue
from recbole_qbert.tokenizer.new_items import encode_new_items, new_streams
from recbole_qbert.tokenizer.pipeline import tokenize

HELD = 12  # items that are not there at first


def _early(folder: Path, **settings: object) -> tuple[Domain, Tokenizer]:
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


@pytest.mark.parametrize("query", ["neighbours", "mean"])
def test_new_items_join_and_no_old_id_moves(tmp_path: Path, query: str) -> None:
    domain, _ = _early(tmp_path, streams=["fused", "text"], new_item_query=query)
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
    """Without a taken tuple in the way, its codes are the frozen quantiser's, greedily."""
    domain, tokenizer = _early(tmp_path, streams=["text"], n_levels=2, codebook_size=64)
    encode_new_items(tokenizer, [domain])
    vectors = item_vectors(12, 1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = dict(zip(tokenizer.keys, tokenizer.codes.tolist(), strict=True))
    greedy = tokenizer.quantisers["text"].encode(unit)
    new = range(N_ITEMS - HELD, N_ITEMS)
    for row in new:
        assert codes["toy", f"toy{row}"][0] == greedy[row, 0]


def test_identity_comes_from_the_nearest_items(tmp_path: Path) -> None:
    """The mean of ten old items' vectors of co-occurrence, nearest by text, against a loop."""
    domain, tokenizer = _early(tmp_path, streams=["text", "identity"], codebook_size=32)
    text, identity = tokenizer.quantisers.values()
    old_text = text.reconstruct(tokenizer.codes[:, :3])
    old_identity = identity.reconstruct(tokenizer.codes[:, 3:])
    catalogue = read_catalogue([domain], ["text", "image"], known=tokenizer.keys)
    vectors, there = new_streams(tokenizer, catalogue)["identity"]
    assert there.all()
    for row, (_, item) in enumerate(catalogue.keys):
        own = item_vectors(12, 1)[int(item.removeprefix("toy"))]
        cosines = [own @ other / np.linalg.norm(own) / np.linalg.norm(other) for other in old_text]
        nearest = sorted(range(len(cosines)), key=lambda place: -cosines[place])[:10]
        mean = sum(old_identity[place] for place in nearest) / 10
        np.testing.assert_allclose(vectors[row], mean, rtol=1e-4, atol=1e-5)
    tokenizer.settings["new_item_query"] = "mean"
    catalogue = read_catalogue([domain], ["text", "image"], known=tokenizer.keys)
    assert not new_streams(tokenizer, catalogue)["identity"][1].any()


def test_a_counting_level_cannot_take_new_items(tmp_path: Path) -> None:
    domain, tokenizer = _early(tmp_path, streams=["text"], n_levels=1, unique="extra_level")
    with pytest.raises(InputError, match="tokenize with unique: reallocate"):
        encode_new_items(tokenizer, [domain])


def test_vectors_of_another_shape_are_refused(tmp_path: Path) -> None:
    domain, tokenizer = _early(tmp_path, streams=["text"])
    write_table(domain, "text", range(N_ITEMS), 9, 1, "words")
    before = domain.file("semid").read_bytes()
    with pytest.raises(InputError, match=r"1 parts of dimension 9, where 1 of 12 are needed"):
        encode_new_items(tokenizer, [domain])
    assert domain.file("semid").read_bytes() == before


def test_new_items_without_any_vector_are_refused(tmp_path: Path) -> None:
    domain, tokenizer = _early(tmp_path, streams=["text"])
    lines = ["item_id:token", *item_names("toy")[: N_ITEMS - HELD], "nowhere", ""]
    domain.file("item").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match="none of 1 items has embeddings, 'nowhere' say"):
        encode_new_items(tokenizer, [domain])
