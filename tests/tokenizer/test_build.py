"""Whole semantic-ID files from text and from code columns, on small and on real `.item` files."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import numpy as np
import pytest
import recbole

from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids
from recbole_qbert.errors import InputError
from recbole_qbert.files import read_json, sha256_file, sidecar_path
from recbole_qbert.tokenizer.build import build_from_columns, build_from_text

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
ML_100K = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.item"
TITLES = ["Toy Story", "Toy Story 2", "Alien", "Aliens", "Alien", "", "Heat", "Heat of the Night"]


def _text_file(folder: Path, order: list[int] | None = None) -> Path:
    rows = [f"i{number}\t{title}\tdrama" for number, title in enumerate(TITLES)]
    chosen = [rows[number] for number in order] if order else rows
    return _write(folder, "item_id:token\ttitle:token_seq\tkind:token", chosen)


def _code_file(folder: Path, rows: list[str]) -> Path:
    return _write(folder, "item_id:token\tleft:token_seq\tright:token_seq", rows)


def _write(folder: Path, header: str, rows: list[str]) -> Path:
    path = folder / "x.item"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def _ids(table: SemanticIDTable) -> dict[str, str]:
    return dict(zip(table.items, table.semantic_ids(), strict=True))


def _real(name: str) -> Path:
    path = SHARED / name / f"{name}.item"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return path


def test_text_table_is_unique_and_written(tmp_path: Path) -> None:
    item_path, out = _text_file(tmp_path), tmp_path / "x.semid"
    table = build_from_text(item_path, ["title"], out, n_levels=3, codebook_size=4)
    assert table.items == tuple(f"i{number}" for number in range(len(TITLES)))
    assert table.codebook_sizes == (4, 4, 4)
    assert len(np.unique(table.codes, axis=0)) == len(TITLES)
    assert read_semantic_ids(out) == table
    # The two "Alien" share all but the last code, which only the later token gave up.
    assert table.codes[2, :2].tolist() == table.codes[4, :2].tolist()


def test_text_sidecar_tells_how_it_was_made(tmp_path: Path) -> None:
    item_path, out = _text_file(tmp_path), tmp_path / "x.semid"
    build_from_text(item_path, ["title"], out, n_levels=3, codebook_size=4, seed=9)
    source = read_json(sidecar_path(out))["source"]
    assert source["item_file_sha256"] == sha256_file(item_path)
    assert source["item_file"] == "x.item"
    wanted = {"method": "text", "fields": ["title"], "n_levels": 3, "codebook_size": 4, "seed": 9}
    assert {key: source[key] for key in wanted} == wanted
    assert source["encoder"]["name"] == "tfidf-svd"
    assert source["report"]["items_without_text"] == 1
    assert source["report"]["moved"] == source["report"]["collisions"] >= 1
    assert len(source["report"]["levels"]) == 3


def test_text_ids_are_the_same_in_any_row_order_and_again(tmp_path: Path) -> None:
    out = tmp_path / "x.semid"
    first = build_from_text(_text_file(tmp_path), ["title"], out, codebook_size=4)
    before = out.read_bytes()
    build_from_text(_text_file(tmp_path), ["title"], out, codebook_size=4)
    assert out.read_bytes() == before
    shuffled = _text_file(tmp_path, [5, 2, 7, 0, 4, 1, 6, 3])
    again = build_from_text(shuffled, ["title"], out, codebook_size=4)
    assert again.items[0] == "i5"
    assert _ids(again) == _ids(first)


def test_chosen_items_in_the_order_asked(tmp_path: Path) -> None:
    item_path, out = _text_file(tmp_path), tmp_path / "x.semid"
    table = build_from_text(item_path, ["title"], out, items=["i3", "i0"])
    assert table.items == ("i3", "i0")
    with pytest.raises(InputError, match="1 of 2 items are not in the file: 'i99'"):
        build_from_text(item_path, ["title"], out, items=["i3", "i99"])


def test_text_refusals(tmp_path: Path) -> None:
    item_path, out = _text_file(tmp_path), tmp_path / "x.semid"
    with pytest.raises(InputError, match="did you mean 'title'"):
        build_from_text(item_path, ["titel"], out)
    with pytest.raises(InputError, match="give a list of one or more"):
        build_from_text(item_path, [], out)
    with pytest.raises(InputError, match="title: no item has text"):
        build_from_text(item_path, ["title"], out, items=["i5"])
    # Eight items of one text under one prefix, and two codes.
    with pytest.raises(InputError, match="raise codebook_size or n_levels"):
        build_from_text(item_path, ["kind"], out, codebook_size=2)
    twice = _write(tmp_path, "item_id:token\ttitle:token", ["a\tx", "b\ty", "a\tz"])
    with pytest.raises(InputError, match="line 4: item 'a' occurs a second time"):
        build_from_text(twice, ["title"], out)
    with pytest.raises(InputError, match="no rows follow the header"):
        build_from_text(_write(tmp_path, "item_id:token\ttitle:token", []), ["title"], out)
    assert not out.exists()


def test_columns_stand_side_by_side(tmp_path: Path) -> None:
    rows = ["x\ta_170 b_224\tA_3 B_0 C_255", "y\ta_170 b_224\tA_3 B_0 C_254"]
    out = tmp_path / "x.semid"
    table = build_from_columns(_code_file(tmp_path, rows), ["right", "left"], out)
    assert _ids(table) == {"x": "a_3 b_0 c_255 d_170 e_224", "y": "a_3 b_0 c_254 d_170 e_224"}
    assert table.codebook_sizes == (256,) * 5
    assert read_semantic_ids(out) == table
    source = read_json(sidecar_path(out))["source"]
    assert source["columns"] == ["right", "left"]
    assert source["levels_per_column"] == [3, 2]
    assert source["report"] == {"collisions": 0, "extra_level": None}


def test_repeated_tuples_get_a_counting_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["c\ta_1\tA_0", "b\ta_2\tA_0", "a\ta_1\tA_0", "b2\ta_1\tA_0", "b1\ta_2\tA_0"]
    out = tmp_path / "x.semid"
    with caplog.at_level(logging.WARNING):
        table = build_from_columns(_code_file(tmp_path, rows), ["left"], out)
    wanted = {"c": "a_1 b_2", "b": "a_2 b_0", "a": "a_1 b_0", "b2": "a_1 b_1", "b1": "a_2 b_1"}
    assert _ids(table) == wanted
    assert table.codebook_sizes == (256, 3)
    assert "3 of 5 items repeat the tuple of another; level b (3 codes)" in caplog.text
    report = read_json(sidecar_path(out))["source"]["report"]
    assert report == {"collisions": 3, "extra_level": {"level": "b", "codebook_size": 3}}

    moved = build_from_columns(_code_file(tmp_path, sorted(rows)), ["left"], out)
    assert _ids(moved) == wanted


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("y\ta_1 c_2\t", ["line 3", "left of item 'y'", "'c_2'", "level b"]),
        ("y\tb_1 a_2\t", ["'b_1'", "level a"]),
        ("y\ta_1\t", ["line 3", "1 codes where the first row has 2"]),
        ("y\t\t", ["line 3", "left", "empty", "remove its row"]),
        ("y\ta_1 b_256\t", ["line 3", "item 'y'", "left", "'b_256'", "raise codebook_size"]),
        ("y\ta_1 17\t", ["line 3", "'17' is no level token"]),
    ],
)
def test_column_refusals(tmp_path: Path, row: str, parts: list[str]) -> None:
    path = _code_file(tmp_path, ["x\ta_1 b_2\tA_1", row])
    with pytest.raises(InputError) as caught:
        build_from_columns(path, ["left"], tmp_path / "x.semid")
    for part in [str(path), *parts]:
        assert part in str(caught.value)


def test_a_larger_codebook_admits_larger_codes(tmp_path: Path) -> None:
    path = _code_file(tmp_path, ["x\ta_1 b_256\tA_1"])
    table = build_from_columns(path, ["left"], tmp_path / "x.semid", codebook_size=512)
    assert table.codebook_sizes == (512, 512)


def test_ml_100k_from_text(tmp_path: Path) -> None:
    fields = ["movie_title", "release_year", "class"]
    started = time.perf_counter()
    table = build_from_text(ML_100K, fields, tmp_path / "ml-100k.semid")
    assert time.perf_counter() - started < 15
    assert table.codes.shape == (1682, 4)
    assert len(np.unique(table.codes, axis=0)) == 1682

    lines = ML_100K.read_text(encoding="utf-8").splitlines()
    random.Random(0).shuffle(rows := lines[1:])
    shuffled = _write(tmp_path, lines[0], rows)
    assert _ids(build_from_text(shuffled, fields, tmp_path / "again.semid")) == _ids(table)


def test_instruments_columns(tmp_path: Path) -> None:
    path, out = _real("Instruments"), tmp_path / "Instruments.semid"
    table = build_from_columns(path, ["llama_codes", "vit_codes", "qwen_codes"], out)
    assert table.codes.shape == (6250, 12)
    assert table.codebook_sizes == (256,) * 12
    assert table.semantic_ids()[0] == (
        "a_170 b_224 c_251 d_151 e_154 f_106 g_221 h_144 i_90 j_10 k_159 l_148"
    )
    assert build_from_columns(path, ["vit_codes"], out).codes.shape == (6250, 4)
    # The data's README counts 262 collisions of the text codes, none of the image codes.
    assert build_from_columns(path, ["llama_codes"], out).codebook_sizes == (256,) * 4 + (2,)
    assert read_json(sidecar_path(out))["source"]["report"]["collisions"] == 262


def test_scientific_text(tmp_path: Path) -> None:
    table = build_from_text(_real("Scientific"), ["text"], tmp_path / "Scientific.semid")
    assert table.codes.shape == (1585, 4)


def test_beauty_attributes_are_no_codes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2, attributes of item '1': '173' is no level token"):
        build_from_columns(_real("Beauty"), ["attributes"], tmp_path / "x.semid")
