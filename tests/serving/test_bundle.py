"""Model bundles: `recommend` gives the live model's ranking."""

from __future__ import annotations

import resource
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bundles import (  # noqa: F401
    FILES,
    assert_same_lists,
    bundled,
    give_copied,
    give_recommender,
    give_shelf,
    live_scores,
)
from conftest import Tiny, files_below, timed_rows

from recbole_qbert.common.errors import InputError
from recbole_qbert.serving import scoring
from recbole_qbert.serving.bundle import save_bundle
from recbole_qbert.serving.recommender import Recommender


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("QBERT4Rec", {}),
        ("QBERT4Rec", {"item_representation": "flatten", "position_order": "backward"}),
        ("QBERT4Rec", {"item_representation": "word", "exclude_visible": "off"}),
        ("IDBERT4Rec", {"exclude_visible": "off"}),
    ],
)
def test_recommend_is_the_live_ranking(
    tiny: Tiny, model: str, settings: dict[str, Any], exclude_seen: bool
) -> None:
    live, loaded, folder = bundled(tiny, model, **settings)
    recommender = Recommender.load(folder)
    histories = [sequence[:-1] for sequence in list(tiny.sequences.values())[:12]]
    tokens = loaded.dataset.field2id_token["item_id"]
    lists = recommender.recommend(histories, k=30, exclude_seen=exclude_seen)
    for history, found in zip(histories, lists, strict=True):
        expected = live_scores(live, loaded, history)
        expected[0] = -torch.inf
        if exclude_seen:
            expected[[loaded.dataset.field2token_id["item_id"][i] for i in history]] = -torch.inf
        values, order = expected.sort(descending=True)
        order = order[values > -torch.inf]
        assert [item for item, _ in found] == [tokens[i] for i in order.tolist()]
        assert [score for _, score in found] == pytest.approx(
            values[: len(order)].tolist(), abs=1e-5
        )
        if exclude_seen:
            assert not {item for item, _ in found} & set(history)
    one_by_one = [recommender.recommend([history], 5, exclude_seen)[0] for history in histories]
    for single, found in zip(one_by_one, lists, strict=True):
        assert [item for item, _ in single] == [item for item, _ in found[:5]]


def test_histories_of_any_length(tiny: Tiny) -> None:
    """None at all, and longer than the model reads: all its items are seen."""
    recommender = Recommender.load(bundled(tiny, exclude_visible="off")[2])
    assert recommender.recommend([]) == []
    history = [f"i{number}" for number in range(25)]
    (found,) = recommender.recommend([history], k=30)
    assert {item for item, _ in found} == {f"i{number}" for number in range(25, 30)}
    (found,) = recommender.recommend([history], k=30, exclude_seen=False)
    assert len(found) == 30


@pytest.mark.parametrize("k", [0, -1, 31, 2.5, 3.0, True, "3", None, np.float64(3), np.bool_(True)])
def test_k_and_batch_size_are_whole_numbers(recommender: Recommender, k: Any) -> None:
    with pytest.raises(InputError, match=r"^k: .* (is not a whole number|is more than the 30)"):
        recommender.recommend([["i1"]], k=k)
    if k != 31:
        with pytest.raises(InputError, match="^batch_size: .* is not a whole number"):
            recommender.recommend([["i1"]], k=1, batch_size=k if k is not None else "many")
    assert recommender.recommend([["i1"]], k=np.int64(3)) == recommender.recommend([["i1"]], k=3)


@pytest.mark.parametrize("unknown", ["", "Skip", None, True, 1])
def test_what_to_do_with_unknown_items_is_one_of_two(
    recommender: Recommender, unknown: Any
) -> None:
    with pytest.raises(InputError, match="unknown: .* is none of skip, raise"):
        recommender.recommend([["i1"]], unknown=unknown)


@pytest.mark.parametrize(
    "histories",
    [
        "0000",
        b"0000",
        ["0000", "0005"],
        [["i1"], "i2"],
        np.array(["i1", "i2"]),
        np.array("i1"),
        pd.Series(["i1", "i2"]),
        pd.DataFrame({"user": [["i1"]]}),
        {"u1": ["i1"]},
        [{"i1": 1}],
        [{"i1", "i2"}],
        [["i1"], frozenset(["i1", "i2"])],
        {("i1", "i2"), ("i3",)},
        [1, 2],
        [None],
        [[["i1"], ["i2"]]],
        np.array([[["i1"], ["i2"]]]),
        7,
        None,
    ],
)
def test_texts_and_other_depths_are_refused(recommender: Recommender, histories: Any) -> None:
    with pytest.raises(InputError, match="^histories is a list of lists of item tokens$"):
        recommender.recommend(histories)


def test_any_iterables_of_tokens(recommender: Recommender) -> None:
    """Arrays, generators, series, tuples, one after another: what lists give."""
    lists = [["i1", "i2"], ["i7", "i3"], ["i4", "i5"]]
    expected = recommender.recommend(lists, k=5)
    frame = pd.DataFrame({"user": list("aabbcc"), "item": [i for row in lists for i in row]})
    for given in (
        np.array(lists),
        np.array(lists, dtype=object),
        tuple(map(tuple, lists)),
        pd.Series(lists, index=list("xyz")),
        frame.groupby("user")["item"].apply(list),
        frame.groupby("user")["item"].apply(np.array),
        (group for _, group in frame.groupby("user")["item"]),  # series with an index of their own
        ((item for item in row) for row in lists),
        map(iter, lists),
    ):
        assert recommender.recommend(given, k=5) == expected


def test_tokens_that_are_numbers(tiny: Tiny) -> None:
    """Numbers count as their digits, in lists and arrays."""
    digits = {user: [i[1:] for i in sequence] for user, sequence in tiny.sequences.items()}
    tiny.write_inter(timed_rows(digits))
    (tiny.folder / "toy.semid").unlink()
    (tiny.folder / "toy.semid.json").unlink()
    recommender = Recommender.load(bundled(tiny, "SASRec")[2])
    expected = recommender.recommend([["3", "14"], ["15", "9"]], k=5)
    for given in ([[3, 14], [15, 9]], np.array([[3, 14], [15, 9]]), [(3, "14"), range(15, 8, -6)]):
        assert recommender.recommend(given, k=5) == expected


@pytest.mark.parametrize("batch_size", [1, 3])
def test_unknown_items_are_left_out_and_named(recommender: Recommender, batch_size: int) -> None:
    """Or refused, by choice."""
    histories = [["i1", "x", "i2"], ["i3"], [7, "x"], [], ["y"] * 3]
    with pytest.warns(
        UserWarning,
        match=r"^items unknown to the model \(3\): 'x', '7', 'y'; "
        r"histories without a known item \(3, first: number 3\)$",
    ) as caught:
        found = recommender.recommend(histories, k=5, batch_size=batch_size)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = recommender.recommend([["i1", "i2"], ["i3"]], k=5)
    assert_same_lists(found, [*expected, [], [], []])
    with pytest.raises(InputError, match=r"^items unknown to the model \(\d\): 'x'"):
        recommender.recommend(histories, unknown="raise", batch_size=batch_size)
    many = [["i1", *(f"new{number}" for number in range(1000))]]
    with pytest.warns(UserWarning, match=r"\(1000\): 'new0', .*'new9', …$"):
        recommender.recommend(many)
    with pytest.warns(UserWarning) as caught:
        recommender.recommend([["i1", "a\nb\x1b[2J", "c" * 10**6]])
    said = str(caught[0].message)
    assert said.isprintable()
    assert len(said) < 200


@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec", "Popularity"])
def test_histories_without_a_known_item(copied: Callable[[str], Path], model: str) -> None:
    """No model ranks after them: they get no items, which is said; alone they are refused."""
    recommender = Recommender.load(copied(model))
    said = r"histories without a known item \(2, first: number 2\)$"
    with pytest.warns(UserWarning, match=said):
        found = recommender.recommend([["i1"], [], ["x"], ["i2"]], k=5)
    first, last = recommender.recommend([["i1"], ["i2"]], k=5)
    assert_same_lists(found, [first, [], [], last])
    with pytest.raises(InputError, match=r"^histories without a known item.* \(1, first: number 2"):
        recommender.recommend([["i1"], []], unknown="raise")
    for histories, shown in (
        ([[]], "no items"),
        ([["x", "y"]], "no item is known to the model: 'x', 'y'"),
        ([[], ["x"]], "no item is known to the model: 'x'"),
    ):
        with pytest.raises(InputError, match=f"^history: {shown}; give at least one item"):
            recommender.recommend(histories)


def test_batches_are_bounded(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their size the lists are the same; one history is read after the other."""
    recommender = Recommender.load(bundled(tiny)[2])
    histories = [*tiny.sequences.values()]
    sizes: list[int] = []

    def counted(model: Any, config: Any, items: torch.Tensor, lengths: torch.Tensor) -> Any:
        sizes.append(len(items))
        return original(model, config, items, lengths)

    original = scoring.scores_of
    monkeypatch.setattr(scoring, "scores_of", counted)
    whole = recommender.recommend(histories)
    assert sizes == [40]
    for batch_size, n_batches in ((1, 40), (7, 6), (40, 1), (1000, 1)):
        sizes.clear()
        parts = recommender.recommend(histories, batch_size=batch_size)
        assert (len(sizes), sum(sizes)) == (n_batches, 40)
        assert max(sizes) <= batch_size
        assert_same_lists(parts, whole)
    sizes.clear()
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", 8 * 31 + 5)
    recommender.recommend(iter(histories))
    assert sizes == [8] * 5
    monkeypatch.setattr(scoring, "SCORES_AT_ONCE", 1)  # more items than that
    assert len(recommender.recommend(histories[:2])) == 2
    assert sizes[-2:] == [1, 1]


def test_many_histories_take_little_memory(recommender: Recommender) -> None:
    """50,000 histories of 20 items: the lists that are asked for, and no more than a batch."""
    draw = np.random.default_rng(1)
    drawn = draw.integers(0, 30, (50_000, 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = recommender.recommend(((f"i{i}" for i in row) for row in drawn), k=1)
    assert len(found) == 50_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB


def test_a_filtered_catalog_keeps_its_own_items(tiny: Tiny) -> None:
    """Internal ids and codes of a bundle hang on the items that were trained."""
    live, loaded, folder = bundled(tiny, item_inter_num_interval="[9,inf)")
    assert loaded.dataset.item_num < 31
    recommender = Recommender.load(folder)
    kept = loaded.dataset.field2id_token["item_id"][1:].tolist()
    (found,) = recommender.recommend([kept[:3]], k=1)
    expected = live_scores(live, loaded, kept[:3])
    assert found[0][0] == kept[int(expected[1:].argmax())]
    missing = sorted(set(tiny.table.items) - set(kept))
    with pytest.raises(InputError, match="unknown to the model"):
        recommender.recommend([missing[:1]], unknown="raise")


def test_repeats_are_remembered(tiny: Tiny) -> None:
    """`exclude_visible: auto` is decided in training; a bundle has no training data to look at."""
    sequence = max(tiny.sequences.values(), key=len)
    sequence[2] = sequence[0]
    tiny.write_inter(timed_rows(tiny.sequences))
    live, _, folder = bundled(tiny)
    assert live.exclude_visible is False
    assert Recommender.load(folder).model.exclude_visible is False


def test_the_folder_is_whole_and_replaces_an_older_one(tiny: Tiny) -> None:
    live, loaded, folder = bundled(tiny)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, "model.safetensors"])
    (folder / "old.txt").write_text("from before")
    config = loaded.dataset.config
    save_bundle(folder, live, config, loaded.train._dataset)
    assert files_below(folder) == sorted([*FILES, "model.safetensors"])
    before = files_below(folder.parent)
    with pytest.raises(AttributeError):
        save_bundle(folder, live, config, None)
    assert files_below(folder.parent) == before
    Recommender.load(folder)


def test_candidates_and_exclusions_of_any_kind(tiny: Tiny) -> None:
    """Arrays and Series, which have no truth value, as lists."""
    recommender = Recommender.load(bundled(tiny)[2])
    chosen, left_out = ["i4", "i5", "i6"], ["i5"]
    wanted = recommender.recommend([["i1"]], 3, candidates=chosen, exclude=left_out)
    for kind in (np.array, pd.Series, tuple):
        found = recommender.recommend([["i1"]], 3, candidates=kind(chosen), exclude=kind(left_out))
        assert found == wanted
    assert {item for item, _ in wanted[0]} == {"i4", "i6"}


@pytest.mark.parametrize("n_removals", [-1, 1.5, "2"])
def test_number_of_removals(tiny: Tiny, n_removals: Any) -> None:
    recommender = Recommender.load(bundled(tiny)[2])
    with pytest.raises(InputError, match="n_removals: .* is not a whole number of at least 0"):
        recommender.explain(["i1", "i2"], ["i5"], n_removals)
