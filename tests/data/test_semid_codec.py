"""Level tokens of semantic IDs and the offsets of their vocabulary."""

from __future__ import annotations

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
    assert codec.n_levels == 3
    assert codec.offsets.tolist() == [0, 4, 6]
    assert codec.decode_token("b_1") == codec.decode_token("<b_1>") == (1, 1)
    assert not codec.offsets.flags.writeable


@pytest.mark.parametrize(
    ("token", "fragment"),
    [
        ("a_4", "'a_4': code out of range; level a has codes 0 to 3"),
        ("d_0", "the IDs have only 3 levels"),
        *(
            (token, f"{token!r} is not a level token")
            for token in ("", "A_1", "a_-1", "a_01", "a_9999999", "a_1\n", "a_\u0663", "<a_1")
        ),
    ],
)
def test_codec_refusals(token: str, fragment: str) -> None:
    assert fragment in refusal(lambda: SemanticIDCodec((4, 2, 3)).decode_token(token))
