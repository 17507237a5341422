"""The search space: what is refused, what is drawn, and in which order."""

from __future__ import annotations

import math
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_qbert.common.errors import InputError
from recbole_qbert.experiments.tune.space import (
    configured_value,
    draw_trials,
    n_grid,
    nested,
    parse_domain,
    parse_space,
)

# Drawing -----------------------------------------------------------------------------------------


class Fixed(random.Random):
    """Draws the same place of every range."""

    def __init__(self, place: float):
        super().__init__(0)
        self.place = place

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.place

    def randint(self, a: int, b: int) -> int:
        return a + round((b - a) * self.place)


@pytest.mark.parametrize(
    ("content", "place", "value"),
    [
        ({"uniform": [0.1, 0.5]}, 0.0, 0.1),
        ({"uniform": [0.1, 0.5]}, 1.0, 0.5),
        ({"uniform": [0, 10]}, 0.25, 2.5),
        ({"loguniform": [1e-4, 1e-2]}, 0.5, 1e-3),
        ({"loguniform": [1e-4, 1e-2]}, 1.0, 1e-2),
        ({"quniform": [1, 9, 1]}, 0.5, 5.0),
        ({"quniform": [0.1, 0.5, 0.1]}, 0.5, 0.3),
        ({"quniform": [0.1, 0.5, 0.1]}, 1.0, 0.5),
        ({"randint": [1, 4]}, 0.0, 1),
        ({"randint": [1, 4]}, 1.0, 4),
        ({"qrandint": [32, 128, 32]}, 1.0, 128),
        ({"qrandint": [32, 128, 32]}, 0.4, 64),
    ],
)
def test_values_by_hand(content: dict[str, Any], place: float, value: float) -> None:
    drawn = parse_domain("x", content).draw(Fixed(place))
    assert drawn == pytest.approx(value, rel=1e-12)
    assert type(drawn) is type(value)


numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: round(x, 3))
positive = st.floats(1e-9, 1e6)
whole = st.integers(-1000, 1000)


@st.composite
def domains(draw: st.DrawFn) -> dict[str, list[Any]]:
    """A domain that is right, as it stands in a file."""
    kind = draw(
        st.sampled_from(
            ["uniform", "loguniform", "quniform", "randint", "qrandint", "choice", "grid"]
        )
    )
    if kind in ("choice", "grid"):
        options = st.one_of(st.booleans(), whole, st.text(max_size=3), st.none())
        return {kind: draw(st.lists(options, min_size=1, max_size=5, unique_by=repr))}
    source = {"uniform": numbers, "loguniform": positive}.get(kind, whole)
    low, high = sorted(draw(st.lists(source, min_size=2, max_size=2, unique=True)))
    if kind == "quniform":
        step = draw(st.sampled_from([0.1, 0.25, 0.5, 1.0]))
        return {kind: [low, low + step * draw(st.integers(1, 50)), step]}
    if kind == "qrandint":
        step = draw(st.integers(1, 50))
        return {kind: [low, low + step * draw(st.integers(1, 50)), step]}
    return {kind: [low, high]}


@given(domains(), st.integers(0, 2**31))
@settings(max_examples=300, deadline=None)
def test_every_value_is_inside_its_range_and_of_its_type(
    content: dict[str, list[Any]], seed: int
) -> None:
    ((kind, arguments),) = content.items()
    try:
        domain = parse_domain("x", content)
    except InputError as error:  # True and 1 are one option
        assert "duplicate options" in str(error)
        return
    value = domain.draw(random.Random(seed))
    if kind in ("choice", "grid"):
        assert any(value is each or repr(value) == repr(each) for each in arguments)
        return
    low, high = arguments[:2]
    assert low <= value <= high
    assert type(value) is (int if "randint" in kind else float)
    if kind in ("quniform", "qrandint"):
        steps = (value - low) / arguments[2]
        assert math.isclose(steps, round(steps), abs_tol=1e-6)


@given(st.dictionaries(st.sampled_from("abcde"), domains(), min_size=1), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_trials_are_the_same_each_time(content: dict[str, Any], seed: int) -> None:
    """And more samples, or one key more, change no value that was there."""
    try:
        space = parse_space(content)
    except InputError:
        return
    samples = 1 if all("grid" in each for each in content.values()) else 3
    first = draw_trials(space, samples, seed)
    assert first == draw_trials(parse_space(content), samples, seed)
    assert len(first) <= n_grid(space) * samples
    assert len({repr(sorted(each.items())) for each in first}) == len(first)
    assert all(each.keys() == space.keys() for each in first)
    if samples > 1:
        longer = draw_trials(space, samples + 2, seed)
        assert longer[: len(first)] == first
    wider = draw_trials(space | parse_space({"z": {"uniform": [0, 1]}}), samples, seed)
    # With the new key no trial repeats another, so that every draw is there.
    assert all({key: each[key] for key in space} in first for each in wider)


def test_the_grid_is_crossed_in_order_and_once_a_sample() -> None:
    space = parse_space(
        {"a": {"grid": [1, 2]}, "b": {"grid": ["x", "y", "z"]}, "c": {"uniform": [0, 1]}}
    )
    trials = draw_trials(space, 2, seed=5)
    assert n_grid(space) == 6
    cells = [(1, "x"), (1, "y"), (1, "z"), (2, "x"), (2, "y"), (2, "z")]
    assert [(each["a"], each["b"]) for each in trials] == cells * 2
    assert len({each["c"] for each in trials}) == 12
    assert draw_trials(space, 2, seed=6) != trials


def test_the_baseline_is_first_and_repetitions_are_left_out() -> None:
    space = parse_space({"a": {"grid": [1, 2, 3]}})
    assert draw_trials(space, 1, 0, {"a": 2}) == [{"a": 2}, {"a": 1}, {"a": 3}]
    assert draw_trials(space, 1, 0, {"a": 9})[0] == {"a": 9}
    drawn = draw_trials(parse_space({"a": {"choice": [1, 2]}}), 20, 0)
    assert sorted(each["a"] for each in drawn) == [1, 2]
    with pytest.raises(InputError, match="3 samples of a grid are equal"):
        draw_trials(space, 3, 0)


# Faults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "space: empty; give lines like"),
        ({}, "space: empty; give lines like"),
        ({"a": 3}, "space: a: give one of uniform, loguniform"),
        ({"a": {"uniform": [0, 1], "grid": [1]}}, "space: a: give one of uniform"),
        ({"a": {"unifrom": [0, 1]}}, "did you mean 'uniform'?"),
        ({"a": {"uniform": 3}}, "space: a: uniform: 3 is not [low, high]"),
        ({"a": {"uniform": [1]}}, "[1] is not [low, high] of numbers"),
        ({"a": {"uniform": [0, 1, 2]}}, "[0, 1, 2] is not [low, high]"),
        ({"a": {"uniform": [0, "x"]}}, "[0, 'x'] is not [low, high] of numbers"),
        ({"a": {"uniform": [0, True]}}, "of numbers"),
        ({"a": {"uniform": [0, math.inf]}}, "of numbers"),
        ({"a": {"uniform": [1, 1]}}, "space: a: uniform: 1.0 is not below 1.0"),
        ({"a": {"loguniform": [0, 1]}}, "0.0 is not positive"),
        ({"a": {"quniform": [0, 1]}}, "[0, 1] is not [low, high, step] of"),
        ({"a": {"quniform": [0, 1, 0.3]}}, "step 0.3 does not divide the range from 0.0 to 1.0"),
        ({"a": {"quniform": [0, 1, 0]}}, "step 0.0 does not divide the range"),
        ({"a": {"randint": [1, 2.5]}}, "[1, 2.5] is not [low, high] of whole numbers"),
        ({"a": {"qrandint": [32, 100, 32]}}, "step 32 does not divide the range from 32 to 100"),
        ({"a": {"choice": []}}, "space: a: choice: [] is not [a, b, ...]"),
        ({"a": {"grid": [1, 2, 1]}}, "[1, 2, 1] has duplicate options"),
        ({"a": {"choice": "x"}}, "'x' is not [a, b, ...]"),
    ],
)
def test_faults(content: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse_space(content)
    assert "\n" not in str(caught.value)


# Nested keys -------------------------------------------------------------------------------------


def test_nested_keys_keep_what_stands_beside_them() -> None:
    configured = {"mask_mix": {"span": 1.0, "tail": 2.0}, "n_layers": 4, "deep": {"a": {"b": 1}}}
    values = {"mask_mix.tail": 5.0, "n_layers": 2, "deep.a.b": 3}
    assert nested(values, configured) == {
        "mask_mix": {"span": 1.0, "tail": 5.0},
        "n_layers": 2,
        "deep": {"a": {"b": 3}},
    }
    assert configured["mask_mix"] == {"span": 1.0, "tail": 2.0}
    assert configured_value("deep.a.b", configured) == 1
    for key, message in (
        ("mask_mix.tial", "mask_mix has no entry 'tial'; did you mean 'tail'?"),
        ("n_layers.x", "n_layers is 4, not a mapping"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            configured_value(key, configured)
