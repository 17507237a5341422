"""Whole semantic-ID files from code columns, of small and of real `.item` files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, sidecar_path
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids
from recbole_qbert.tokenizer.code_columns import build_from_columns

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"


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


def test_columns_stand_side_by_side(tmp_path: Path) -> None:
    rows = ["x\ta_170 b_224\tA_3 B_0 C_255", "y\ta_170 b_224\tA_3 B_0 C_254"]
    out = tmp_path / "x.semid"
    table = build_from_columns(_code_file(tmp_path, rows), ["right", "left"], out)
    assert _ids(table) == {"x": "a_3 b_0 c_255 d_170 e_224", "y": "a_3 b_0 c_254 d_170 e_224"}
    assert table.codebook_sizes == (256,) * 5
    assert read_semantic_ids(out) == table
    source = read_json(sidecar_path(out))["source"]
    assert source["method"] == "columns"
    assert source["item_file"] == "x.item"
    assert source["item_file_sha256"] == sha256_file(tmp_path / "x.item")
    assert source["columns"] == ["right", "left"]
    assert source["levels_per_column"] == [3, 2]
    assert (source["report"]["collisions"], source["report"]["moved"]) == (0, 0)


def test_levels_of_a_file_follow_the_columns(tmp_path: Path) -> None:
    rows = ["x\ta_1 b_2\tA_3", "y\ta_1 b_2\tA_4"]
    other = SemanticIDTable(("y", "z", "x"), np.array([[5], [1], [0]]), (6,))
    write_semantic_ids(tmp_path / "other.semid", other, {})
    table = build_from_columns(
        _code_file(tmp_path, rows),
        ["left"],
        tmp_path / "x.semid",
        beside=[tmp_path / "other.semid"],
    )
    assert table.codes_for(["x", "y"]).tolist() == [[1, 2, 0], [1, 2, 5]]
    assert table.codebook_sizes == (256, 256, 6)
    alone = build_from_columns(
        _code_file(tmp_path, rows), [], tmp_path / "x.semid", beside=[tmp_path / "other.semid"] * 2
    )
    assert alone.codes_for(["x", "y"]).tolist() == [[0, 0], [5, 5]]
    few = SemanticIDTable(("y",), np.array([[5]]), (6,))
    write_semantic_ids(tmp_path / "few.semid", few, {})
    with pytest.raises(InputError, match=r"few\.semid: 1 of 2 items have no semantic ID: 'x'"):
        build_from_columns(
            _code_file(tmp_path, rows),
            ["left"],
            tmp_path / "y.semid",
            beside=[tmp_path / "few.semid"],
        )


def test_repeated_tuples_get_a_counting_level(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["c\ta_1\tA_0", "b\ta_2\tA_0", "a\ta_1\tA_0", "b2\ta_1\tA_0", "b1\ta_2\tA_0"]
    out = tmp_path / "x.semid"
    with caplog.at_level(logging.WARNING):
        table = build_from_columns(_code_file(tmp_path, rows), ["left"], out, unique="extra_level")
    wanted = {"c": "a_1 b_2", "b": "a_2 b_0", "a": "a_1 b_0", "b2": "a_1 b_1", "b1": "a_2 b_1"}
    assert _ids(table) == wanted
    assert table.codebook_sizes == (256, 3)
    assert "3 of 5 items have the tuple of another item; level b (3 codes)" in caplog.text
    report = read_json(sidecar_path(out))["source"]["report"]
    assert report == {"collisions": 3, "extra_level": {"level": "b", "codebook_size": 3}}

    path = _code_file(tmp_path, sorted(rows))
    moved = build_from_columns(path, ["left"], out, unique="extra_level")
    assert _ids(moved) == wanted


def test_repeated_tuples_move_to_the_rarest_codes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # y and z share a_1 b_1 with x, which keeps it. Of the codes of level b, 1 is used three times,
    # 0 and 2 once and 3 never: y takes 3, z takes 0 of the two equals. w and v stay.
    rows = ["z\ta_1 b_1\tA_0", "v\ta_2 b_0\tA_0", "x\ta_1 b_1\tA_0", "w\ta_1 b_2\tA_0"]
    rows.append("y\ta_1 b_1\tA_0")
    wanted = {"x": "a_1 b_1", "y": "a_1 b_3", "z": "a_1 b_0", "w": "a_1 b_2", "v": "a_2 b_0"}
    out = tmp_path / "x.semid"
    for order in (rows, rows[::-1]):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            table = build_from_columns(
                _code_file(tmp_path, order), ["left"], out, codebook_size=4, unique="reallocate"
            )
        assert _ids(table) == wanted
        assert table.items == tuple(row.split("\t")[0] for row in order)
        assert table.codebook_sizes == (4, 4)
        assert read_semantic_ids(out) == table
        assert "2 of 5 items have the tuple of another item; they were moved" in caplog.text
        source = read_json(sidecar_path(out))["source"]
        assert source["unique"] == "reallocate"
        assert source["report"]["collisions"] == source["report"]["moved"] == 2
        assert source["report"]["moved_per_level"] == [0, 2]


def test_a_full_prefix_moves_an_item_to_another(tmp_path: Path) -> None:
    rows = [f"{item}\ta_0 b_{code}\t" for item, code in [("p", 0), ("q", 1), ("r", 1)]]
    table = build_from_columns(
        _code_file(tmp_path, rows), ["left"], tmp_path / "x.semid", 2, unique="reallocate"
    )
    assert _ids(table) == {"p": "a_0 b_0", "q": "a_0 b_1", "r": "a_1 b_1"}


def test_nothing_to_move(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = ["x\ta_1\t", "y\ta_0\t"]
    out = tmp_path / "x.semid"
    with caplog.at_level(logging.WARNING):
        table = build_from_columns(_code_file(tmp_path, rows), ["left"], out, unique="reallocate")
    assert _ids(table) == {"x": "a_1", "y": "a_0"}
    assert not caplog.text


def test_file_refusals(tmp_path: Path) -> None:
    out, good = tmp_path / "x.semid", ["x\ta_1\t", "y\ta_1\t"]

    def refused(message: str, rows: list[str], columns: list[str], **settings: Any) -> None:
        with pytest.raises(InputError, match=message):
            build_from_columns(_code_file(tmp_path, rows), columns, out, **settings)

    refused("did you mean 'left'", good, ["lefd"])
    refused("give columns with codes, or .semid files in beside", good, [])
    refused("line 4: item 'x' occurs a second time", [*good, "x\ta_2\t"], ["left"])
    refused("no rows follow the header", [], ["left"])
    refused("'realocate' is none of reallocate, extra_level", good, ["left"], unique="realocate")
    # Two items, and one tuple in all.
    zeros = ["x\ta_0\t", "y\ta_0\t"]
    refused("increase codebook_size", zeros, ["left"], codebook_size=1, unique="reallocate")
    assert not out.exists()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("y\ta_1 c_2\t", "'a_1 c_2' is not like 'a_0 b_0'"),
        ("y\tb_1 a_2\t", "'b_1 a_2' is not like"),
        ("y\ta_1\t", "'a_1' is not like 'a_0 b_0'"),
        ("y\ta_1 b_2 c_3\t", "is not like 'a_0 b_0'"),
        ("y\t\t", "'' is not like"),
        ("y\ta_1 b_256\t", "with codes below 256; correct the cell, remove the row, or increase"),
        ("y\ta_1 b_99999999\t", "with codes below 256"),
        ("y\ta_1 b_02\t", "is not like"),
        ("y\ta_1 17\t", "'a_1 17' is not like"),
    ],
)
def test_column_refusals(tmp_path: Path, row: str, says: str) -> None:
    path = _code_file(tmp_path, ["x\ta_1 b_2\tA_1", row])
    with pytest.raises(InputError) as caught:
        build_from_columns(path, ["left"], tmp_path / "x.semid")
    for part in (f"{path}: line 3, left of item 'y': ", says):
        assert part in str(caught.value)


def test_a_larger_codebook_admits_larger_codes(tmp_path: Path) -> None:
    path = _code_file(tmp_path, ["x\ta_1 b_256\tA_1"])
    table = build_from_columns(path, ["left"], tmp_path / "x.semid", codebook_size=512)
    assert table.codebook_sizes == (512, 512)


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
    table = build_from_columns(path, ["llama_codes"], out, unique="extra_level")
    assert table.codebook_sizes == (256,) * 4 + (2,)
    assert read_json(sidecar_path(out))["source"]["report"]["collisions"] == 262


def test_instruments_reallocated(tmp_path: Path) -> None:
    path, out = _real("Instruments"), tmp_path / "Instruments.semid"
    table = build_from_columns(path, ["llama_codes"], out, unique="reallocate")
    assert table.codes.shape == (6250, 4)
    assert table.codebook_sizes == (256,) * 4
    assert len(np.unique(table.codes, axis=0)) == 6250
    leveled = build_from_columns(path, ["llama_codes"], tmp_path / "y.semid", unique="extra_level")
    given = leveled.codes[:, :4]
    changed = table.codes != given
    assert changed.any(axis=1).sum() == 262
    assert changed.sum(axis=0).tolist() == [0, 0, 0, 262]
    report = read_json(sidecar_path(out))["source"]["report"]
    assert (report["collisions"], report["moved"]) == (262, 262)
    # Whoever had a tuple to itself keeps it.
    _, group, members = np.unique(given, axis=0, return_inverse=True, return_counts=True)
    assert not changed[members[group.reshape(-1)] == 1].any()


def test_beauty_attributes_are_no_codes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2, attributes of item '1': '173 1 .*' is not like"):
        build_from_columns(_real("Beauty"), ["attributes"], tmp_path / "x.semid")
