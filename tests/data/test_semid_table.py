"""The table of semantic IDs in memory: checked, closed to changes, asked by item."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from toy_semid import refusal, small_table

from recbole_qbert.data.semid import SemanticIDTable


@pytest.mark.parametrize(
    ("items", "codes", "sizes", "fragment"),
    [
        ((), np.zeros((0, 2), np.int64), (2, 2), "no items"),
        (("x", "y"), [[0, 0]], (2, 2), "2 items and 1 row"),
        (("x", "x"), [[0, 0], [0, 1]], (2, 2), "row 1, item_id: item 'x' is on row 0 already"),
        (("x", "y"), [[0, 1], [0, 1]], (2, 2), "item 'x' on row 0"),
        (
            ("x", "y"),
            [[0, 1], [0, 2]],
            (2, 2),
            "row 1, semantic_id: 'b_2': code out of range; level b has",
        ),
        (("x", "y"), [[0, 1], [-1, 0]], (2, 2), "'a_-1': code out of range"),
        (("x", "y"), [[0, 1], [1, 0]], (2,), "give integers [N, 1]"),
        (("x", "y"), [0, 1], (2,), "int64 [2]; give integers [N, 1]"),
        (("x", "y"), [[0.5], [1.0]], (2,), "float64"),
        (("x", ""), [[0], [1]], (2,), "row 1, item_id"),
        (("x", "a\tb"), [[0], [1]], (2,), r"'a\tb'"),
        (("x", "a\nb"), [[0], [1]], (2,), r"'a\nb'"),
        (("x", "\ud800"), [[0], [1]], (2,), r"'\ud800'"),
        (("x", "a\0"), [[0], [1]], (2,), r"'a\x00'"),
        (("x",), [[0]], (), "one integer from 1 to"),
        (("x",), [[0]], (3, 0), "one integer from 1 to"),
        (("x",), [[0]], (True,), "one integer from 1 to"),
        (("x",), [[0]], (2.5,), "one integer from 1 to"),
        (("x", 3), [[0], [1]], (2,), "row 1, item_id: '3'"),
        (("x", [3]), [[0], [1]], (2,), "row 1, item_id: '[3]'"),
    ],
)
def test_tables_made_in_code_are_checked(items: Any, codes: Any, sizes: Any, fragment: str) -> None:
    assert fragment in refusal(lambda: SemanticIDTable(items, codes, sizes))


def test_doubled_tuples_are_found_where_one_integer_cannot_hold_them() -> None:
    codes = np.random.default_rng(0).integers(0, 1000, (50, 30))
    sizes = (1000,) * 30
    items = tuple(map(str, range(50)))
    assert SemanticIDTable(items, codes, sizes).n_levels == 30
    codes[41] = codes[17]
    assert "item '41' has the same tuple as item '17'" in refusal(
        lambda: SemanticIDTable(items, codes, sizes)
    )


def test_a_table_is_closed_to_changes() -> None:
    codes = np.array([[0, 1], [0, 2], [3, 1]])
    table = SemanticIDTable(("x1", "x2", "x3"), codes, (4, 5))
    codes[0, 0] = 3
    assert table == small_table()
    assert table.codes.dtype == np.int64
    with pytest.raises(ValueError):
        table.codes[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.items = ()  # type: ignore[misc]
    assert table != dataclasses.replace(table, codebook_sizes=(4, 6))
    assert table != "x1"


def test_codes_for() -> None:
    table = small_table()
    assert table.codes_for(["x3", "x1", "x3"]).tolist() == [[3, 1], [0, 1], [3, 1]]
    assert table.codes_for([]).shape == (0, 2)
    asked = ["x1", *[f"y{n}\n" for n in range(12)], "y0\n"]
    message = refusal(lambda: table.codes_for(asked))
    assert r"12 of 13 items have no semantic ID: 'y0\n', " in message
    assert r"'y9\n', …; make the semantic-ID file again" in message
    assert "y10" not in message
