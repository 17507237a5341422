"""Co-occurrence in training: counted by hand, blind to what is held out, and its SVD."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.split import cut_offs, read_sequences, temporal, write_split
from recbole_qbert.tokenizer.fusion.cooccurrence import (
    cooccurrence,
    cooccurrence_vectors,
    read_training_pairs,
    training_pairs,
)

Histories = dict[str, list[str]]
ITEMS = ["a", "b", "c", "d"]
# The last two of each do not count, and with them d goes.
THREE_USERS: Histories = {
    "u1": ["a", "b", "c", "d", "a"],
    "u2": ["b", "x", "a", "c", "c"],
    "u3": ["c", "c", "a", "b", "d"],
}


def _write(folder: Path, histories: Histories, shuffle: bool = True) -> Path:
    rows = [
        f"{user}\t{item}\t{1000 * number + place}"
        for number, (user, items) in enumerate(histories.items())
        for place, item in enumerate(items)
    ]
    if shuffle:
        random.Random(4).shuffle(rows)
    path = folder / "x.inter"
    header = "user_id:token\titem_id:token\ttimestamp:float"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def _random_histories(n_users: int = 30, n_items: int = 12) -> Histories:
    chance = random.Random(2)
    return {
        f"u{user}": [f"i{chance.randrange(n_items):02}" for _ in range(chance.randint(1, 9))]
        for user in range(n_users)
    }


def _same_bits(left: sp.csr_matrix, right: sp.csr_matrix) -> bool:
    pairs = [(getattr(left, name), getattr(right, name)) for name in ("data", "indices", "indptr")]
    return all(one.tobytes() == other.tobytes() for one, other in pairs)


def test_three_users_by_hand(tmp_path: Path) -> None:
    pairs = training_pairs(_write(tmp_path, THREE_USERS))
    assert {user: rows["item_id"].tolist() for user, rows in pairs.groupby("user_id")} == {
        "u1": ["a", "b", "c"],
        "u2": ["b", "x", "a"],
        "u3": ["c", "c", "a"],
    }
    # u1 has all three pairs of a, b and c, u2 has a and b, u3 has a and c; x is no item.
    assert cooccurrence(pairs, ITEMS).toarray().tolist() == [
        [0, 2, 2, 0],
        [2, 0, 1, 0],
        [2, 1, 0, 0],
        [0, 0, 0, 0],
    ]


def test_short_histories_are_all_held_out(tmp_path: Path) -> None:
    histories = {"u1": ["a"], "u2": ["a", "b"], "u3": ["a", "b", "c"]}
    pairs = training_pairs(_write(tmp_path, histories))
    assert pairs.to_numpy().tolist() == [["u3", "a"]]
    assert cooccurrence(pairs, ITEMS).nnz == 0


def test_equal_times_follow_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    rows = [f"u\t{item}\t{time}" for item, time in [("b", 5), ("a", 5), ("c", 5), ("d", 5)]]
    # 10 comes after 9 as a number, not as text.
    rows += ["v\ta\t10", "v\tb\t9", "v\tc\t8"]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    path.write_text("\n".join([header, *rows]), encoding="utf-8")
    assert training_pairs(path).to_numpy().tolist() == [["u", "b"], ["u", "a"], ["v", "c"]]


def test_what_is_held_out_changes_nothing(tmp_path: Path) -> None:
    histories = _random_histories()
    items = [f"i{number:02}" for number in range(12)]
    pairs = training_pairs(_write(tmp_path, histories))
    counts = cooccurrence(pairs, items)
    assert counts.nnz > 50
    chance = random.Random(9)
    changed = {
        user: [*history[:-2], *(chance.choice([*items, "new"]) for _ in history[-2:])]
        for user, history in histories.items()
    }
    assert changed != histories
    again = training_pairs(_write(tmp_path, changed))
    pd.testing.assert_frame_equal(again.reset_index(drop=True), pairs.reset_index(drop=True))
    assert _same_bits(cooccurrence(again, items), counts)
    vectors = cooccurrence_vectors(counts, 5, seed=1)
    assert vectors.tobytes() == cooccurrence_vectors(cooccurrence(again, items), 5, 1).tobytes()

    # The comparison would notice: one more item that is not among the last two.
    longest = max(histories, key=lambda user: len(histories[user]))
    changed[longest] = ["i00", "i01", *changed[longest]]
    noticed = cooccurrence(training_pairs(_write(tmp_path, changed)), items)
    assert not _same_bits(noticed, counts)


def test_row_order_does_not_matter(tmp_path: Path) -> None:
    histories, items = _random_histories(), [f"i{number:02}" for number in range(12)]
    counts = [
        cooccurrence(training_pairs(_write(tmp_path, histories, shuffle)), items)
        for shuffle in (False, True)
    ]
    assert (counts[0] != counts[1]).nnz == 0


def test_counts_are_a_plain_loop_over_users(tmp_path: Path) -> None:
    histories, items = _random_histories(), [f"i{number:02}" for number in range(12)]
    expected = np.zeros((12, 12))
    for history in histories.values():
        seen = {items.index(item) for item in history[:-2]}
        for one in seen:
            for other in seen - {one}:
                expected[one, other] += 1
    counts = cooccurrence(training_pairs(_write(tmp_path, histories)), items)
    np.testing.assert_array_equal(counts.toarray(), expected)
    assert (counts.data > 0).all()  # nothing is stored that is not there


def _positive_information(counts: np.ndarray) -> np.ndarray:
    """max(0, log of how much more often a pair occurs than its items' totals would have it)."""
    total, result = counts.sum(), np.zeros_like(counts)
    for one, other in zip(*np.nonzero(counts), strict=True):
        by_chance = counts[one].sum() * counts[:, other].sum() / total
        result[one, other] = max(0.0, math.log(counts[one, other] / by_chance))
    return result


@pytest.mark.parametrize("n_components", [3, 9])
def test_vectors_are_the_dense_svd(tmp_path: Path, n_components: int) -> None:
    items = [f"i{number:02}" for number in range(12)] + ["never"]
    counts = cooccurrence(training_pairs(_write(tmp_path, _random_histories())), items)
    vectors = cooccurrence_vectors(counts, n_components, seed=0)
    assert (vectors.shape, vectors.dtype) == ((13, n_components), np.float32)

    left, singular, _ = np.linalg.svd(_positive_information(counts.toarray()))
    assert singular[n_components - 1] - singular[n_components] > 1e-3  # the cut is no tie
    expected = left[:, :n_components] * np.sqrt(singular[:n_components])
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    expected = np.divide(expected, lengths, where=lengths > 1e-6, out=np.zeros_like(expected))
    expected *= math.sqrt(n_components)
    signs = np.sign((expected * vectors).sum(axis=0))
    np.testing.assert_allclose(vectors * signs, expected, atol=1e-3)
    assert not vectors[12].any()
    np.testing.assert_allclose((vectors[:12] ** 2).mean(axis=1), 1, rtol=1e-5)


def test_vectors_are_the_same_again_and_no_wider_than_the_catalog(tmp_path: Path) -> None:
    counts = cooccurrence(training_pairs(_write(tmp_path, THREE_USERS)), ITEMS)
    vectors = cooccurrence_vectors(counts, 256, seed=3)
    assert vectors.shape == (4, 4)
    assert vectors.tobytes() == cooccurrence_vectors(counts, 256, seed=3).tobytes()
    assert vectors[:3].any(axis=1).all()
    assert not vectors[3].any()


def test_no_cooccurrence_at_all_is_all_zeros() -> None:
    alone = pd.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"]})
    for pairs in (alone, alone[:0]):
        vectors = cooccurrence_vectors(cooccurrence(pairs, ITEMS), 2, seed=0)
        np.testing.assert_array_equal(vectors, np.zeros((4, 2)))


@pytest.mark.parametrize("time", ["yesterday", "", "nan"])
def test_a_time_that_is_no_number_names_its_line(tmp_path: Path, time: str) -> None:
    path = _write(tmp_path, THREE_USERS)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[5] = f"u9\ta\t{time}"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=rf"x\.inter: line 6, timestamp: '{time}' is not a finite"):
        training_pairs(path)


@pytest.mark.parametrize("first", [10, 3])  # times are in sequence, or some sequences interleave
def test_the_training_part_of_a_split_in_time(tmp_path: Path, first: int) -> None:
    """All interactions before the cut, of users with two of them, in the order of time."""
    sequences = _random_histories()
    rows = [
        (user, item, float(first * number + place))
        for number, (user, items) in enumerate(sequences.items())
        for place, item in enumerate(items)
    ]
    path = tmp_path / "x.inter"
    header = "user_id:token\titem_id:token\ttimestamp:float"
    text = "\n".join("\t".join(map(str, row)) for row in rows)
    path.write_text(f"{header}\n{text}\n", encoding="utf-8")
    read, domain = read_sequences(path), DatasetPaths("x", tmp_path)
    cut, late = cut_offs(read, [0.6, 0.8])
    write_split(domain, read, temporal(read, cut, late), 2, {"method": "temporal"})
    expected: Histories = {}
    for user, item, time in rows:
        if time < cut:
            expected.setdefault(f"x/{user}", []).append(f"x/{item}")
    pairs = read_training_pairs([domain], "files")
    found = {str(user): rows["item_id"].tolist() for user, rows in pairs.groupby("user_id")}
    assert found == {user: items for user, items in expected.items() if len(items) > 1}


def test_a_history_is_split_at_blanks_alone(tmp_path: Path) -> None:
    """Tokens may contain other white space, as in RecBole."""
    path = tmp_path / "x.train.inter"
    header = "user_id:token\titem_id_list:token_seq\titem_id:token"
    rows = ["u1\ta\u00a0b  c\u3000d\te", "u1\ta\u00a0b c\u3000d e\tf", "u2\t\tg"]
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    found = read_training_pairs([DatasetPaths("x", tmp_path)], "files")
    assert found["item_id"].tolist() == ["x/a\u00a0b", "x/c\u3000d", "x/e", "x/f", "x/g"]
    assert found["user_id"].tolist() == ["x/u1"] * 4 + ["x/u2"]


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ("files", r"x\.train\.inter: .*; run `recbole-qbert prepare split`, or set"),
        ("leave_one_out", r"x\.inter: .*; add it, or set"),
    ],
)
def test_a_missing_file_and_what_makes_it(tmp_path: Path, split: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_training_pairs([DatasetPaths("x", tmp_path)], split)
