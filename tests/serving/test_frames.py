"""Recommendations of a pandas table are those of the same histories as lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bundles import bundled
from conftest import Tiny, timed_rows

from recbole_qbert.common.errors import InputError
from recbole_qbert.serving.recommender import Recommender


def clicks(tiny: Tiny) -> pd.DataFrame:
    """The toy data, shuffled."""
    frame = pd.DataFrame(timed_rows(tiny.sequences), columns=["who", "what", "when"])
    return frame.sample(frac=1, random_state=0, ignore_index=True)


def as_lists(found: pd.DataFrame) -> dict[str, list[tuple[str, float]]]:
    lists: dict[str, list[tuple[str, float]]] = {}
    for row in found.itertuples():
        lists.setdefault(row.user, []).append((row.item, row.score))
        assert row.rank == len(lists[row.user])
    return lists


def test_a_frame_gives_the_lists_of_its_histories(tiny: Tiny) -> None:
    recommender, frame = Recommender.load(bundled(tiny, "SASRec")[2]), clicks(tiny)
    found = recommender.recommend_frame(frame, "who", "what", "when", k=5)
    assert [*found] == ["user", "rank", "item", "score", "title"]
    assert (found["title"] == "Thing " + found["item"].str[1:]).all()
    users = [*dict.fromkeys(frame["who"])]
    lists = recommender.recommend([tiny.sequences[user] for user in users], k=5)
    assert [*as_lists(found)] == users
    for left, right in zip(as_lists(found).values(), lists, strict=True):
        assert [item for item, _ in left] == [item for item, _ in right]
        assert [s for _, s in left] == pytest.approx([s for _, s in right], abs=1e-5)
    for change in (
        lambda each: each.assign(when=pd.to_datetime(each["when"], unit="s")),
        lambda each: each.assign(when=pd.to_datetime(each["when"], unit="s", utc=True)),
        lambda each: each.astype({"who": "category", "what": "category"}),
        lambda each: each.astype({"who": "string", "what": "string"}),
        lambda each: each.assign(when=each["when"].astype("int64")),
    ):
        again = recommender.recommend_frame(change(frame), "who", "what", "when", k=5)
        pd.testing.assert_frame_equal(again, found)
    ordered = frame.sort_values("when", kind="stable")
    again = recommender.recommend_frame(ordered, "who", "what", k=5)
    lists_again = as_lists(again)
    assert {*lists_again} == {*users}
    for user, expected in as_lists(found).items():
        assert [item for item, _ in lists_again[user]] == [item for item, _ in expected]


def test_numbers_are_ids(tiny: Tiny) -> None:
    digits = {user[1:]: [i[1:] for i in items] for user, items in tiny.sequences.items()}
    tiny.write_inter(timed_rows(digits))
    (tiny.folder / "toy.semid").unlink()
    (tiny.folder / "toy.semid.json").unlink()
    recommender = Recommender.load(bundled(tiny, "SASRec")[2])
    frame = clicks(tiny)
    frame = frame.assign(who=frame["who"].str[1:], what=frame["what"].str[1:])
    expected = recommender.recommend_frame(frame, "who", "what", "when", k=5)
    for kind in ("int64", "float64", "int32"):
        numbers = frame.astype({"who": kind, "what": kind})
        found = recommender.recommend_frame(numbers, "who", "what", "when", k=5)
        pd.testing.assert_frame_equal(found, expected)


def test_unknown_items_and_users_are_reported(tiny: Tiny) -> None:
    recommender = Recommender.load(bundled(tiny, "SASRec")[2])
    frame = pd.DataFrame({"u": list("aabbc"), "i": ["i1", "x", "y", "y", "i2"]})
    said = r"unknown to the model \(2\): 'x', 'y'; users .* \(1, first: 'b'\)$"
    with pytest.warns(UserWarning, match=said) as caught:
        found = recommender.recommend_frame(frame, "u", "i", k=2)
    assert caught[0].filename == __file__
    assert found["user"].tolist() == ["a", "a", "c", "c"]


Change = Callable[[pd.DataFrame], Any]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.iloc[:0], "^frame: give a pandas DataFrame with at least one row$"),
        (lambda f: f.to_dict(), "^frame: give a pandas DataFrame"),
        (lambda f: f.rename(columns={"what": "whats"}), "no column 'what'.* did you mean 'whats'"),
        (lambda f: f.assign(who=[None, *f["who"][1:]]), "^frame: row 0, who: no value; "),
        (lambda f: f.assign(when=[*f["when"][:-1], np.nan]), r"^frame: row \d+, when: no value"),
        (lambda f: f.assign(when="2020-01-01"), "'when' is text; convert it with pandas.to_dat"),
        (
            lambda f: f.set_axis(["who", "what", "who"], axis=1),
            "^frame: two columns are named 'who'",
        ),
        (lambda f: f.assign(what=1.5), "^frame: column 'what' has other values than text or whole"),
        (lambda f: f.assign(what=[("i1",)] * len(f)), "^frame: column 'what' has other values"),
        (lambda f: f.assign(what="x"), "^history: no item is known to the model: 'x'; "),
    ],
)
def test_faults_of_a_frame(tiny: Tiny, change: Change, said: str) -> None:
    recommender = Recommender.load(bundled(tiny, "Popularity")[2])
    with pytest.raises(InputError, match=said):
        recommender.recommend_frame(change(clicks(tiny)), "who", "what", "when", k=2)
