"""The collision reallocation against a plain loop, and its independence of the row order."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_qbert.errors import InputError
from recbole_qbert.tokenizer.unique import make_unique


def _brute_force(
    codes: np.ndarray, distances: np.ndarray, order: list[str]
) -> tuple[list[list[int]], int]:
    """The rule word for word: first all keepers, then the others one by one."""
    ranked = sorted(range(len(codes)), key=lambda row: (distances[row, codes[row, -1]], order[row]))
    taken: dict[tuple[int, ...], int] = {}
    for row in ranked:
        taken.setdefault(tuple(codes[row].tolist()), row)
    result = [row.tolist() for row in codes]
    moved = 0
    for row in ranked:
        if taken[tuple(codes[row].tolist())] == row:
            continue
        prefix = codes[row, :-1].tolist()
        options = [
            (distances[row, code], code)
            for code in range(distances.shape[1])
            if (*prefix, code) not in taken
        ]
        result[row] = [*prefix, min(options)[1]]
        taken[tuple(result[row])] = row
        moved += 1
    return result, moved


def _case(seed: int, n: int = 60, levels: int = 3) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Codes with many collisions, and distances rounded so that ties occur."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 3, size=(n, levels))
    distances = random.random((n, 40)).round(1)
    order = [f"token{number}" for number in random.permutation(n)]
    return codes, distances, order


def test_by_hand() -> None:
    codes = np.array([[0, 1], [0, 1], [0, 2], [5, 1]])
    distances = np.array(
        [[0.9, 0.4, 0.5, 0.7], [0.8, 0.3, 0.5, 0.7], [9, 9, 0.1, 9], [9, 0.1, 9, 9]]
    )
    # Row 1 is closer to code 1 and keeps it; row 0 would prefer code 2, which row 2 holds.
    unique, moved = make_unique(codes, distances, [6, 4], ["a", "b", "c", "d"])
    assert unique.tolist() == [[0, 3], [0, 1], [0, 2], [5, 1]]
    assert moved == 1
    assert codes[0].tolist() == [0, 1]  # the input is left alone


def test_ties_go_by_token_then_by_code() -> None:
    codes = np.zeros((3, 1), dtype=np.int64)
    unique, moved = make_unique(codes, np.ones((3, 3)), [3], ["z", "a", "m"])
    assert unique[:, 0].tolist() == [2, 0, 1]
    assert moved == 2


@pytest.mark.parametrize("seed", range(6))
def test_against_brute_force_in_any_row_order(seed: int) -> None:
    codes, distances, order = _case(seed)
    unique, moved = make_unique(codes, distances, [3, 3, 40], order)
    expected, expected_moved = _brute_force(codes, distances, order)
    assert unique.tolist() == expected
    assert moved == expected_moved == len(codes) - len(np.unique(codes, axis=0))
    assert len(np.unique(unique, axis=0)) == len(codes)
    np.testing.assert_array_equal(unique[:, :-1], codes[:, :-1])

    shuffled = np.random.default_rng(seed).permutation(len(codes))
    again, _ = make_unique(
        codes[shuffled], distances[shuffled], [3, 3, 40], [order[row] for row in shuffled]
    )
    np.testing.assert_array_equal(again, unique[shuffled])


def test_unique_codes_stay() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0]])
    unique, moved = make_unique(codes, np.ones((3, 2)), [2, 2], ["a", "b", "c"])
    np.testing.assert_array_equal(unique, codes)
    assert moved == 0


def test_absent_codewords_come_last() -> None:
    distances = np.array([[0.0, np.inf, 5.0], [0.0, np.inf, 5.0], [0.0, np.inf, 5.0]])
    unique, _ = make_unique(np.zeros((3, 2), dtype=int), distances, [1, 3], ["a", "b", "c"])
    assert unique[:, 1].tolist() == [0, 2, 1]


def test_full_prefix_is_refused() -> None:
    codes = np.array([[7, 0], [7, 0], [7, 1], [2, 0]])
    with pytest.raises(InputError) as caught:
        make_unique(codes, np.ones((4, 2)), [8, 2], ["a", "b", "c", "d"])
    for part in ["3 items", "[7]", "2 codes", "raise codebook_size or n_levels"]:
        assert part in str(caught.value)


def test_shapes_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="do not belong together"):
        make_unique(np.zeros((2, 2), dtype=int), np.ones((2, 3)), [4, 4], ["a", "b"])
