"""A typed search space and the trials drawn from it.

The form is `space: {key: {kind: arguments}}`, with the kinds in `KINDS`. Ranges include both ends.
All values are drawn before the first trial starts, so that the same file gives the same trials with
any scheduler. A value depends only on the seed, the position of the trial and the key. More trials
or another key therefore do not change the other values.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.data.budget import AUTO

GRID = "grid"
Space = dict[str, "Range"]
Values = dict[str, Any]  # key (with a dot for a nested one) -> value


class Range(NamedTuple):
    """Possible values of one key."""

    kind: str  # one of `KINDS`
    arguments: tuple[Any, ...]  # ends and step of a range, or a list of options

    def draw(self, rng: random.Random) -> Any:
        """Draw one value. Grids are not drawn: trials take all their options."""
        return KINDS[self.kind].draw(rng, *self.arguments)

    def examples(self) -> tuple[Any, ...]:
        """Example values for type checks: the options, or the ends of the range."""
        return self.arguments if KINDS[self.kind].is_list else self.arguments[:2]

    def to_yaml(self) -> dict[str, list[Any]]:
        """Return the form in the YAML file."""
        return {self.kind: list(self.arguments)}


class Kind(NamedTuple):
    """A kind of range."""

    form: str  # form of its arguments, for error messages
    draw: Callable[..., Any]  # draws a value from a generator and the arguments
    is_list: bool = False  # whether the arguments are options, not the ends of a range
    whole: bool = False  # whether all arguments must be integers


def _uniform(rng: random.Random, low: float, high: float) -> float:
    return min(high, max(low, rng.uniform(low, high)))


def _loguniform(rng: random.Random, low: float, high: float) -> float:
    return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))


def _quniform(rng: random.Random, low: float, high: float, step: float) -> float:
    value = low + step * rng.randint(0, round((high - low) / step))
    return min(high, float(f"{value:.12g}"))  # 0.3, not 0.30000000000000004


def _qrandint(rng: random.Random, low: int, high: int, step: int) -> int:
    return low + step * rng.randint(0, (high - low) // step)


KINDS: dict[str, Kind] = {
    "uniform": Kind("[low, high]", _uniform),
    "loguniform": Kind("[low, high]", _loguniform),
    "quniform": Kind("[low, high, step]", _quniform),
    "randint": Kind("[low, high]", lambda rng, low, high: rng.randint(low, high), whole=True),
    "qrandint": Kind("[low, high, step]", _qrandint, whole=True),
    "choice": Kind("[a, b, ...]", lambda rng, *options: rng.choice(options), is_list=True),
    GRID: Kind("[a, b, ...]", lambda rng, *options: rng.choice(options), is_list=True),
}


def parse_space(content: Any) -> Space:
    """Parse the `space:` of a tune file.

    Raises:
        InputError: names the key and its error.
    """
    if not isinstance(content, Mapping) or not content:
        raise InputError(
            "space: empty; give lines like `learning_rate: {loguniform: [1e-4, 1e-2]}`"
        )
    return {str(key): parse_domain(f"space: {key}", each) for key, each in content.items()}


def parse_domain(name: str, content: Any) -> Range:
    """Parse one range such as `{uniform: [0.1, 0.5]}`; `name` names its key in error messages.

    Raises:
        InputError: the kind or its arguments cannot be used.
    """
    if not isinstance(content, Mapping) or len(content) != 1:
        raise InputError(f"{name}: give one of {', '.join(KINDS)}, such as {{uniform: [0, 1]}}")
    ((kind, arguments),) = content.items()
    if kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS)
        raise InputError(f"{name}: '{kind}' is none of {', '.join(KINDS)}{hint}")
    rule = KINDS[kind]
    if not isinstance(arguments, list) or not arguments:
        raise InputError(f"{name}: {kind}: {arguments!r} is not {rule.form}")
    if rule.is_list:
        if len(set(map(_text, arguments))) < len(arguments):
            raise InputError(f"{name}: {kind}: {arguments} has duplicate options")
        return Range(kind, tuple(arguments))
    allowed = int if rule.whole else (int, float)
    numbers = [x for x in arguments if isinstance(x, allowed) and not isinstance(x, bool)]
    if not len(arguments) == len(numbers) == rule.form.count(",") + 1 or not all(
        map(math.isfinite, numbers)
    ):
        of = "whole numbers" if rule.whole else "numbers"
        raise InputError(f"{name}: {kind}: {arguments} is not {rule.form} of {of}")
    if not rule.whole:
        arguments = [float(each) for each in arguments]
    low, high, *step = arguments
    steps = (high - low) / step[0] if step and step[0] > 0 else 1.0
    if low >= high:
        raise InputError(f"{name}: {kind}: {low} is not below {high}")
    if kind == "loguniform" and low <= 0:
        raise InputError(f"{name}: {kind}: {low} is not positive")
    if step and (step[0] <= 0 or abs(steps - round(steps)) > 1e-6):
        raise InputError(
            f"{name}: {kind}: step {step[0]} does not divide the range from {low} to {high}"
        )
    return Range(kind, tuple(arguments))


def n_grid(space: Space) -> int:
    """Number of trials per sample: the product of the sizes of the grids."""
    return math.prod(len(each.arguments) for each in space.values() if each.kind == GRID)


def draw_trials(
    space: Space, n_samples: int, seed: int, baseline: Values | None = None
) -> list[Values]:
    """Draw the trials in order: the baseline, then the whole grid once per sample.

    Duplicates of earlier trials are left out, since they would give the same result.

    Raises:
        InputError: several samples of a space that has only grids.
    """
    grid = {key: each.arguments for key, each in space.items() if each.kind == GRID}
    if n_samples > 1 and len(grid) == len(space):
        raise InputError(f"trials: {n_samples} samples of a grid are equal; give trials: 1")
    trials = [] if baseline is None else [dict(baseline)]
    cells = list(itertools.product(*grid.values()))
    for place, cell in enumerate(cells * n_samples):
        taken = dict(zip(grid, cell, strict=True))
        trials.append(
            {
                # `random.Random` hashes a string seed identically on all machines and Pythons.
                key: taken[key]
                if key in taken
                else each.draw(random.Random(f"{seed}/{place}/{key}"))
                for key, each in space.items()
            }
        )
    unique: dict[str, Values] = {}
    for trial in trials:
        unique.setdefault(_text(trial), trial)
    return list(unique.values())


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def nested(values: Values, configured: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into nested settings: `mask_mix.span` replaces one entry of `mask_mix`."""
    settings: dict[str, Any] = {}
    for key, value in values.items():
        top, *rest = key.split(".")
        if not rest:
            settings[top] = value
            continue
        place = settings.setdefault(top, json.loads(json.dumps(configured.get(top) or {})))
        for part in rest[:-1]:
            place = place.setdefault(part, {})
        place[rest[-1]] = value
    return settings


def configured_value(key: str, configured: Mapping[str, Any]) -> Any:
    """Look up a plain or dotted key in the settings.

    Raises:
        InputError: a part of a dotted key is missing or is not a mapping.
    """
    top, *rest = key.split(".")
    value, name = configured.get(top), top
    if rest and value == AUTO:
        raise InputError(f"space: {key}: {top} is auto, without entries; give {top} in settings")
    for part in rest:
        if not isinstance(value, Mapping):
            raise InputError(f"space: {key}: {name} is {value!r}, not a mapping")
        if part not in value:
            hint = did_you_mean(part, map(str, value))
            raise InputError(f"space: {key}: {name} has no entry '{part}'{hint}")
        value, name = value[part], f"{name}.{part}"
    return value
