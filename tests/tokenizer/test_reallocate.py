"""The collision reallocation against a plain loop over the rule, and numbers worked by hand."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_qbert.common.errors import InputError
from recbole_qbert.tokenizer import collisions as module
from recbole_qbert.tokenizer.collisions import (
    Reallocation,
    extra_level,
    reallocate,
    usage_distances,
)


@dataclass
class _Case:
    """Arguments, with the whole tensor D [N, K, C]."""

    codes: np.ndarray
    tensor: np.ndarray
    sizes: tuple[int, ...]
    items: list[str]
    taken: np.ndarray | None = None

    def run(self) -> Reallocation:
        return reallocate(
            self.codes, lambda rows: self.tensor[rows], self.sizes, self.items, self.taken
        )

    def distance(self, row: int, level: int, code: int) -> float:
        within = code < self.tensor.shape[2]
        return float(self.tensor[row, level, code]) if within else math.inf

    def order(self, row: int, level: int) -> list[int]:
        codes = range(self.sizes[level])
        return sorted(codes, key=lambda code: (self.distance(row, level, code), code))


def _plain_loop(case: _Case) -> list[tuple[int, ...]]:
    """The rule word for word: one mover after another tries one tuple after another."""
    last = len(case.sizes) - 1
    own = [tuple(codes) for codes in case.codes.tolist()]
    result = list(own)
    ranked = sorted(
        range(len(own)), key=lambda row: (case.distance(row, last, own[row][-1]), case.items[row])
    )
    held = set() if case.taken is None else set(map(tuple, case.taken.tolist()))
    queue = []
    for row in ranked:
        if own[row] in held:
            queue.append(row)
        held.add(own[row])
    for level in range(last, -1, -1):
        waiting = []
        for row in queue:
            # The last factor of a product turns fastest, as the last level does.
            options = itertools.product(
                *([code] for code in own[row][:level]),
                *(case.order(row, deeper) for deeper in range(level, last + 1)),
            )
            place = next((option for option in options if option not in held), None)
            if place is None:
                waiting.append(row)
                continue
            result[row] = place
            held.add(place)
        queue = waiting
    assert not queue
    return result


def _plain_report(case: _Case, result: list[tuple[int, ...]]) -> dict[str, object]:
    old = [tuple(codes) for codes in case.codes.tolist()]
    changes = [
        [code != other for code, other in zip(*pair, strict=True)]
        for pair in zip(old, result, strict=True)
    ]
    return {
        "collisions": len(old) - len(set(old)),
        "moved": sum(map(any, changes)),
        "moved_per_level": [sum(row[level] for row in changes) for level in range(len(case.sizes))],
    }


@st.composite
def _cases(draw: st.DrawFn) -> _Case:
    """Small spaces, often full to the last place; few distinct distances, so that many tie."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    places = math.prod(sizes)
    n_items = draw(st.integers(0, min(places, 45)))
    n_taken = draw(st.integers(0, min(places - n_items, 12)))
    distinct_codes, distinct_distances = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    width = max(1, max(sizes) + draw(st.integers(-1, 1)))
    absent = draw(st.sampled_from([0.0, 0.0, 0.3]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))

    codes = random.integers(0, np.minimum(sizes, distinct_codes), size=(n_items, len(sizes)))
    tensor = random.integers(0, distinct_distances, size=(n_items, len(sizes), width))
    tensor = np.where(random.random((len(sizes), width)) < absent, np.inf, tensor)
    numbers = random.choice(places, n_taken, replace=False)
    taken = np.stack(np.unravel_index(numbers, sizes), axis=1)
    taken = np.concatenate([taken, taken[: n_taken // 2]])  # a tuple may be listed twice
    items = [f"item {number}" for number in random.permutation(n_items)]
    return _Case(codes, tensor.astype(np.float32), sizes, items, taken if n_taken else None)


@settings(max_examples=400, deadline=None)
@given(_cases(), st.integers(1, 60), st.randoms(use_true_random=False))
def test_equals_the_plain_loop_in_any_row_order_and_chunk(
    case: _Case, chunk_values: int, random: Random
) -> None:
    expected = _plain_loop(case)
    result = case.run()
    assert list(map(tuple, result.codes.tolist())) == expected
    assert result.report() == _plain_report(case, expected)
    assert len(set(expected)) == len(expected)

    rows = list(range(len(expected)))
    random.shuffle(rows)
    items = [case.items[row] for row in rows]
    shuffled = _Case(case.codes[rows], case.tensor[rows], case.sizes, items, case.taken)
    again = shuffled.run()
    np.testing.assert_array_equal(again.codes, result.codes[rows])
    assert again.report() == result.report()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_VALUES", chunk_values)
        np.testing.assert_array_equal(case.run().codes, result.codes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 40))
def test_without_a_full_prefix_only_last_codes_of_surplus_items_change(
    seed: int, n_items: int
) -> None:
    random = np.random.default_rng(seed)
    codes = random.integers(0, 2, size=(n_items, 3))  # each prefix has 40 last codes: never full
    case = _Case(
        codes, random.random((n_items, 3, 40)), (2, 2, 40), [f"{i}" for i in range(n_items)]
    )
    result = case.run()
    distinct = len(np.unique(codes, axis=0))
    assert result.collisions == result.moved == n_items - distinct
    assert result.moved_per_level == [0, 0, n_items - distinct]
    np.testing.assert_array_equal(result.codes[:, :2], codes[:, :2])
    changed = (result.codes != codes).any(axis=1)
    assert len(np.unique(codes[~changed], axis=0)) == distinct  # each tuple has kept one item


def test_by_hand() -> None:
    # On a line: codewords 0 and 10, then -1, 1 and 3. The four items start with code 0, whose
    # residual is the item itself.
    vectors = np.array([1.1, 0.8, 1.4, 2.9])
    codewords = [[0.0, 10.0, np.inf], [-1.0, 1.0, 3.0]]
    tensor = np.array([[[(v - w) ** 2 for w in level] for level in codewords] for v in vectors])
    codes = np.array([[0, 1], [0, 1], [0, 1], [0, 2]])
    result = _Case(codes, tensor, (2, 3), ["a", "b", "c", "d"]).run()
    # a is nearest to codeword 1 (0.01) and keeps (0, 1). b (0.04) comes next and goes to -1 (3.24),
    # as 3 is further off (4.84). c (0.16) finds 3 held by d and -1 by b: prefix 0 is full. Its only
    # other first code is 10, where 1 is still the nearest last code to its *old* residual 1.4.
    assert result.codes.tolist() == [[0, 1], [0, 0], [1, 1], [0, 2]]
    assert codes.tolist() == [[0, 1], [0, 1], [0, 1], [0, 2]]  # the input is left alone
    assert result.report() == {"collisions": 2, "moved": 2, "moved_per_level": [1, 1]}


def test_residents_go_before_those_who_overflow() -> None:
    # Prefix 0 has two last codes for a, b, c; prefix 1 for d, e. c leaves prefix 0 and is closer to
    # its codeword than e, but (1, 1) is e's, whose own prefix it is; c goes on to prefix 2.
    codes = np.array([[0, 0], [0, 0], [0, 0], [1, 0], [1, 0]])
    tensor = np.zeros((5, 2, 3))
    tensor[:, 0] = [[0, 1, 2], [0, 1, 2], [0, 1, 2], [1, 0, 2], [1, 0, 2]]
    tensor[:, 1] = np.array([0.1, 0.2, 0.3, 0.4, 0.5])[:, None] + [0.0, 1.0, 9.0]
    result = _Case(codes, tensor, (3, 2), ["a", "b", "c", "d", "e"]).run()
    assert result.codes.tolist() == [[0, 0], [0, 1], [2, 0], [1, 0], [1, 1]]


def test_the_highest_changed_level_is_as_deep_as_possible() -> None:
    # Five items on one tuple of 2 x 2 x 2 codes. Level 0 is far cheaper to change, and yet the
    # items fill first code 0 before the fifth one takes first code 1.
    tensor = np.tile(np.array([[0.0, 0.1], [0.0, 5.0], [0.0, 7.0]]), (5, 1, 1))
    codes = np.zeros((5, 3), dtype=np.int64)
    result = _Case(codes, tensor, (2, 2, 2), ["a", "b", "c", "d", "e"]).run()
    assert result.codes.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1], [1, 0, 0]]
    assert result.moved_per_level == [1, 2, 2]


def test_taken_tuples_are_nobodys() -> None:
    # (0, 0) is taken, so both of its items move; so is (1, 1), which only one item has.
    codes = np.array([[0, 0], [0, 0], [1, 1], [1, 2]])
    tensor = np.tile(np.array([0.0, 1.0, 2.0]), (4, 2, 1))
    tensor[1] -= 0.5  # b is the closer of the two
    taken = np.array([[0, 0], [1, 1], [0, 0]])
    result = _Case(codes, tensor, (2, 3), ["a", "b", "c", "d"], taken).run()
    assert result.codes.tolist() == [[0, 2], [0, 1], [1, 0], [1, 2]]
    assert (result.collisions, result.moved) == (1, 3)


def test_ties_go_by_token_then_by_code() -> None:
    case = _Case(np.zeros((3, 1), dtype=np.int64), np.ones((3, 1, 3)), (3,), ["z", "a", "m"])
    assert case.run().codes[:, 0].tolist() == [2, 0, 1]


def test_absent_codewords_come_last_and_below_the_codebook_size() -> None:
    # Level 0 has one code; level 1 five, of which only 0 and 2 have a codeword (4 lies beyond C).
    tensor = np.tile(np.array([0.0, np.inf, 5.0, np.inf]), (5, 2, 1))
    case = _Case(np.zeros((5, 2), dtype=np.int64), tensor, (1, 5), ["a", "b", "c", "d", "e"])
    result = case.run()
    assert result.codes.tolist() == [[0, 0], [0, 2], [0, 1], [0, 3], [0, 4]]


@pytest.mark.parametrize("n_items", [350, 625])
def test_one_tuple_for_all(n_items: int) -> None:
    # The prefix of 3 codes holds 5 of them, that of 2 codes 25, that of 1 code 125.
    tensor = np.random.default_rng(1).random((n_items, 4, 5)).round(2)
    codes = np.full((n_items, 4), 3)
    case = _Case(codes, tensor, (5, 5, 5, 5), [str(number) for number in range(n_items)])
    result = case.run()
    assert list(map(tuple, result.codes.tolist())) == _plain_loop(case)
    assert result.moved_per_level[0] == n_items - 125


def test_more_tuples_than_64_bits_count() -> None:
    codes = np.full((600, 32), 255)
    case = _Case(codes, np.zeros((600, 32, 256)), (256,) * 32, [f"{i:03}" for i in range(600)])
    result = case.run()
    # "000" keeps its tuple, the next 255 take last codes 0 to 254; then level 30 starts at code 0.
    assert result.codes[:2, -2:].tolist() == [[255, 255], [255, 0]]
    assert result.codes[[255, 256, 511, 512], -2:].tolist() == [
        [255, 254],
        [0, 0],
        [0, 255],
        [1, 0],
    ]
    np.testing.assert_array_equal(result.codes[:, :-2], codes[:, :-2])


def _recorder(tensor: np.ndarray) -> tuple[list[np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    asked: list[np.ndarray] = []

    def distances(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        return tensor[rows]

    return asked, distances


def test_distances_are_asked_for_colliding_rows_only_and_in_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(2)
    codes = random.integers(0, 8, size=(200, 3))
    asked, distances = _recorder(random.random((200, 3, 8)))
    monkeypatch.setattr(module, "_CHUNK_VALUES", 10 * 3 * 8)
    result = reallocate(codes, distances, (8, 8, 8), [str(number) for number in range(200)])
    _, tuples, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    colliding = np.flatnonzero(counts[tuples.reshape(-1)] > 1)
    assert 0 < len(colliding) < 100
    assert set(np.concatenate(asked).tolist()) == set(colliding.tolist())
    assert max(map(len, asked)) == 10
    # Once for the ranking and, as no prefix is full, once for those that move.
    assert sum(map(len, asked)) == len(colliding) + result.moved


@pytest.mark.parametrize("n_items", [0, 4])
def test_nothing_to_do(n_items: int) -> None:
    asked, distances = _recorder(np.zeros((n_items, 2, 2)))
    codes = np.array(list(itertools.product([0, 1], repeat=2)), dtype=np.int64)[:n_items]
    result = reallocate(codes, distances, (2, 2), ["a", "b", "c", "d"][:n_items])
    np.testing.assert_array_equal(result.codes, codes)
    assert (asked, result.collisions, result.moved) == ([], 0, 0)


def test_too_many_items_are_refused() -> None:
    case = _Case(np.zeros((7, 2), dtype=np.int64), np.zeros((7, 2, 3)), (2, 3), list("abcdefg"))
    with pytest.raises(
        InputError, match="^7 items exceed the 6 tuples of codebook sizes 2 x 3; increase codebook"
    ):
        case.run()
    case = _Case(case.codes[:5], case.tensor[:5], (2, 3), list("abcde"), np.array([[1, 2], [1, 2]]))
    case.run()  # a tuple listed twice counts once
    case.taken = np.array([[1, 2], [1, 1]])
    with pytest.raises(InputError, match="^5 items and 2 tuples in use exceed the 6 tuples"):
        case.run()


# Without vectors


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
