"""Level tokens and vocabulary rows of semantic IDs, there and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from toy_semid import refusal

from recbole_qbert.data.semid import SemanticIDCodec, level_letters


@pytest.mark.parametrize(
    ("level", "letters"),
    [(0, "a"), (1, "b"), (25, "z"), (26, "aa"), (27, "ab"), (51, "az"), (52, "ba"), (701, "zz"),
     (702, "aaa")],
)  # fmt: skip
def test_level_letters(level: int, letters: str) -> None:
    assert level_letters(level) == letters
    assert SemanticIDCodec((2,) * (level + 1)).decode_token(f"{letters}_1") == (level, 1)


def test_codec_by_hand() -> None:
    codec = SemanticIDCodec((4, 2, 3))
    assert (codec.n_levels, codec.vocabulary_size) == (3, 9)
    assert codec.offsets.tolist() == [0, 4, 6]
    assert codec.encode_token(2, 1) == "c_1"
    assert codec.decode_token("b_1") == codec.decode_token("<b_1>") == (1, 1)
    rows = codec.vocabulary_rows(np.array([[3, 0, 2], [0, 1, 0]]))
    assert rows.tolist() == [[3, 4, 8], [0, 5, 6]]
    assert codec.from_vocabulary_rows(rows).tolist() == [[3, 0, 2], [0, 1, 0]]
    assert not codec.offsets.flags.writeable


@pytest.mark.parametrize(
    ("call", "fragment"),
    [
        (lambda c: c.encode_token(0, 4), "level 0, code 4: code out of range; level a has codes"),
        (lambda c: c.encode_token(0, -1), "out of range"),
        (lambda c: c.encode_token(3, 0), "there are 3 levels"),
        (lambda c: c.decode_token("a_4"), "'a_4': code out of range"),
        (lambda c: c.decode_token("d_0"), "there are 3 levels"),
        (lambda c: c.decode_token("A_1"), "lower-case"),
        (lambda c: c.decode_token("a_-1"), "negative"),
        (lambda c: c.decode_token("a_01"), "leading zeros"),
        (lambda c: c.decode_token("a_" + "9" * 5000), "out of range"),
        (lambda c: c.decode_token("a_1\n"), r"'a_1\n'"),
        (lambda c: c.decode_token("a_\u0663"), "no level token"),
        (lambda c: c.decode_token(""), "no level token"),
        (lambda c: c.vocabulary_rows([[0, 0, 3]]), "row 0: code out of range; level c"),
        (lambda c: c.vocabulary_rows([[0, 0]]), "shape [1, 2]; give an array [N, 3]"),
        (lambda c: c.vocabulary_rows([[0.0, 0.0, 1.0]]), "float64"),
        (lambda c: c.vocabulary_rows([[0, 0, 1], [0, 0]]), "differ in length"),
        (lambda c: c.from_vocabulary_rows([[0, 4, 9]]), "out of range"),
        (lambda c: c.from_vocabulary_rows([[4, 4, 6]]), "out of range"),
        (lambda c: SemanticIDCodec(()), "one size a level"),
        (lambda c: SemanticIDCodec((3, 0)), "from 1 to"),
        (lambda c: SemanticIDCodec((True,)), "integers"),
        (lambda c: SemanticIDCodec((2.5,)), "integers"),
        (lambda c: level_letters(-1), "start at 0"),
    ],
)
def test_codec_refusals(call: Callable[[SemanticIDCodec], Any], fragment: str) -> None:
    assert fragment in refusal(lambda: call(SemanticIDCodec((4, 2, 3))))
