"""What makes tuples unique without vectors, by hand and by plain loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_qbert.tokenizer.collision_fallback import extra_level, usage_distances
from recbole_qbert.tokenizer.collisions import reallocate


def test_extra_level_by_hand() -> None:
    codes = np.array([[1, 2], [0, 2], [1, 2], [1, 2], [0, 2], [5, 5]])
    # Of [1, 2] the order of tokens is b, d, z; of [0, 2] it is a10, a9.
    unique, sizes = extra_level(codes, [6, 6], ["z", "a9", "b", "d", "a10", "c"])
    assert unique.tolist() == [[1, 2, 2], [0, 2, 1], [1, 2, 0], [1, 2, 1], [0, 2, 0], [5, 5, 0]]
    assert sizes == (6, 6, 3)
    assert unique.dtype == np.int64


def test_extra_level_leaves_unique_codes_alone() -> None:
    codes = np.array([[1, 2], [2, 1]])
    unique, sizes = extra_level(codes, [3, 3], ["b", "a"])
    assert unique is codes
    assert sizes == (3, 3)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=25), st.data()
)
def test_extra_level_is_a_plain_loop_in_any_row_order(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    items = [f"i{number}" for number in range(len(rows))]
    order = data.draw(st.permutations(range(len(rows))))
    codes = np.array([rows[row] for row in order], dtype=np.int64)
    unique, sizes = extra_level(codes, [3, 2], [items[row] for row in order])
    if len(set(rows)) == len(rows):
        assert unique.shape[1] == 2
        return
    seen: Counter[tuple[int, int]] = Counter()
    expected = {}
    for item in sorted(items):
        row = rows[int(item[1:])]
        expected[item] = [*row, seen[row]]
        seen[row] += 1
    assert unique.tolist() == [expected[items[row]] for row in order]
    assert sizes == (3, 2, max(seen.values()))


def test_usage_distances_are_a_plain_loop() -> None:
    chance = np.random.default_rng(0)
    sizes = (3, 5)
    codes = np.stack([chance.integers(0, size, 20) for size in sizes], axis=1)
    asked = np.array([7, 0, 7, 19])
    distances = usage_distances(codes, sizes, asked)
    assert (distances.shape, distances.dtype) == ((4, 2, 5), np.float32)
    for place, row in enumerate(asked):
        for level, size in enumerate(sizes):
            for code in range(5):
                expected = 1 + sum(codes[:, level] == code) if code < size else np.inf
                if code == codes[row, level]:
                    expected = 0
                assert distances[place, level, code] == expected
    assert usage_distances(codes, sizes, asked[:0]).shape == (0, 2, 5)


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 1, 4, 0, 2]])
def test_reallocation_takes_the_rarest_free_code(order: list[int]) -> None:
    # Of code 1 there are three, of 0 and 2 one, of 3 none: b goes to 3, c to 0 beside prefix 7,
    # since the one 0 stands behind prefix 6.
    codes = np.array([[7, 1], [7, 1], [7, 1], [6, 0], [7, 2]])[order]
    items = [["a", "b", "c", "d", "e"][row] for row in order]
    result = reallocate(codes, lambda rows: usage_distances(codes, (8, 4), rows), (8, 4), items)
    assert dict(zip(items, result.codes.tolist(), strict=True)) == {
        "a": [7, 1],
        "b": [7, 3],
        "c": [7, 0],
        "d": [6, 0],
        "e": [7, 2],
    }
    assert (result.collisions, result.moved) == (2, 2)
