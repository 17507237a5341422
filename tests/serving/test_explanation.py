"""Explanations: each history without an item is scored alone, codes are compared in plain loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from bundles import bundled
from conftest import Tiny

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import write_semantic_ids
from recbole_qbert.serving.explanation import Explanation, Removal
from recbole_qbert.serving.recommender import Recommender


def score_after(recommender: Recommender, history: list[str], item: str) -> float:
    """Score of one item after one history."""
    (found,) = recommender.recommend([history], k=30, exclude_seen=False)
    return dict(found)[item]


@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec", "GRU4Rec"])
def test_removals_are_those_of_single_histories(tiny: Tiny, model: str) -> None:
    """Histories with repeats, and longer than the model reads."""
    recommender = Recommender.load(bundled(tiny, model)[2])
    draw = np.random.default_rng(1)
    for length in (2, 5, 8, 13):
        history = [f"i{number}" for number in draw.integers(0, 25, length)]
        items = ["i27", "i25", "i29"]
        read = history[-8:]
        for found, item in zip(recommender.explain(history, items, 99), items, strict=True):
            whole = score_after(recommender, history, item)
            assert (found.item, found.title) == (item, f"Thing {item[1:]}")
            assert found.score == pytest.approx(whole, abs=1e-5)
            drops = {}
            for each in dict.fromkeys(read):
                rest = [other for other in read if other != each]
                drops[each] = whole - score_after(recommender, rest, item)
            known = {removal.item: removal.drop for removal in found.removals}
            assert all(drop > 0 for drop in known.values())
            assert [*known.values()] == sorted(known.values(), reverse=True)
            for each, drop in drops.items():
                assert known.get(each, min(drop, 0)) == pytest.approx(drop, abs=1e-5)


def test_shared_codes_are_those_of_the_file(tiny: Tiny) -> None:
    recommender = Recommender.load(bundled(tiny)[2])
    codes = dict(zip(tiny.table.items, tiny.table.semantic_ids(), strict=True))
    history = [f"i{number}" for number in (3, 9, 3, 12, 20, 7)]
    for found in recommender.explain(history, [f"i{n}" for n in range(22, 30)]):
        expected = []
        for code in codes[found.item].split(" "):
            having = [
                item for item in dict.fromkeys(history[::-1]) if code in codes[item].split(" ")
            ]
            if having:
                expected.append((code, tuple(having)))
        assert [tuple(shared) for shared in found.shared_codes] == expected
        assert len(found.removals) <= 3


@pytest.mark.parametrize("level", [0, 1])
def test_an_extra_level_is_no_shared_code(tiny: Tiny, level: int) -> None:
    """It counts the items of equal tuples, so that equal numbers mean nothing."""
    plain = Recommender.load(bundled(tiny)[2])
    assert plain.extra_level is None
    table = replace(tiny.table, extra_level=level, file=None)
    write_semantic_ids(tiny.folder / "toy.semid", table, {})
    recommender = Recommender.load(bundled(tiny)[2])
    assert recommender.extra_level == level
    history, items = (
        [f"i{number}" for number in (3, 9, 12, 20, 7)],
        [f"i{n}" for n in range(22, 30)],
    )
    letter = f"{'abcdefgh'[level]}_"
    for found, before in zip(
        recommender.explain(history, items), plain.explain(history, items), strict=True
    ):
        kept = [each for each in before.shared_codes if not each.code.startswith(letter)]
        assert list(found.shared_codes) == kept
    assert any(
        shared.code.startswith(letter)
        for found in plain.explain(history, items)
        for shared in found.shared_codes
    )


def test_text_and_json(tiny: Tiny) -> None:
    recommender = Recommender.load(bundled(tiny)[2])
    (found,) = recommender.explain(["i3", "i9", "i1"], ["i2"])
    content = json.loads(json.dumps(found.as_json()))
    assert content["item"] == "i2" and content["title"] == "Thing 2"
    assert [each["item"] for each in content["removals"]] == [r.item for r in found.removals]
    assert [each["items"] for each in content["shared_codes"]] == [
        [*shared.items] for shared in found.shared_codes
    ]
    lines = found.lines({"i3": "Thing 3"})
    assert len(lines) == max(1, len(found.shared_codes) + len(found.removals))
    (found,) = recommender.explain(["i3"], ["i2"])  # no history is left without its only item
    assert found.removals == ()


def test_an_item_that_a_search_does_not_find_without_another() -> None:
    found = Explanation("i2", "", -1.0, (), (Removal("i3", math.inf), Removal("i9", 0.5)))
    assert found.lines({"i3": "Thing 3"}) == [
        "without Thing 3 the model does not find the item",
        "without i9 the score falls by 0.5000",
    ]
    content = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [each["drop"] for each in content["removals"]] == [None, 0.5]


def test_what_cannot_be_explained(tiny: Tiny) -> None:
    recommender = Recommender.load(bundled(tiny)[2])
    for history, items, said in (
        (["i1"], ["x"], "^items to explain: 'x'; give items that the model knows$"),
        (["i1"], [], "^items to explain: none; give items that the model knows$"),
        ([], ["i1"], "^history: no items; "),
        (["x"], ["i1"], "^history: no item is known to the model: 'x'; "),
        (["i1", "i2"], ["i1"], "^'i1': the model does not rank this item after the history$"),
    ):
        with pytest.raises(InputError, match=said):
            recommender.explain(history, items)
