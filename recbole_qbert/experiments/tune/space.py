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
from dataclasses import dataclass
from typing import Any

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.data.budget import AUTO

GRID = "grid"
Space = dict[str, "Range"]
Values = dict[str, Any]  # key (with a dot for a nested one) -> value


@dataclass(frozen=True)
class Range:
    """Possible values of one key.

    Attributes:
        kind: one of `KINDS`.
        arguments: ends and step of a range, or a list of options.
    """

    kind: str
    arguments: tuple[Any, ...]

    def draw(self, rng: random.Random) -> Any:
        """Draw one value. Grids are not drawn: trials take all their options."""
        return KINDS[self.kind].draw(rng, *self.arguments)

    def examples(self) -> tuple[Any, ...]:
        """Example values for type checks: the options, or the ends of the range."""
        return self.arguments if KINDS[self.kind].is_list else self.arguments[:2]

    def to_yaml(self) -> dict[str, list[Any]]:
        """Return the form in the YAML file."""
        return {self.kind: list(self.arguments)}


@dataclass(frozen=True)
class Kind:
    """A kind of range.

    Attributes:
        form: form of its arguments, for error messages.
        draw: draws a value from a generator and the arguments.
        check: returns an error message about the arguments, or None.
        is_list: whether the arguments are options, not the ends of a range.
        whole: whether all arguments must be integers.
    """

    form: str
    draw: Callable[..., Any]
    check: Callable[..., str | None]
    is_list: bool = False
    whole: bool = False


def _uniform(rng: random.Random, low: float, high: float) -> float:
    return min(high, max(low, rng.uniform(low, high)))


def _loguniform(rng: random.Random, low: float, high: float) -> float:
    return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))


def _quniform(rng: random.Random, low: float, high: float, step: float) -> float:
    value = low + step * rng.randint(0, round((high - low) / step))
    return min(high, float(f"{value:.12g}"))  # 0.3, not 0.30000000000000004


def _qrandint(rng: random.Random, low: int, high: int, step: int) -> int:
    return low + step * rng.randint(0, (high - low) // step)


def _rising(low: float, high: float, *_: float) -> str | None:
    return None if low < high else f"{low} is not below {high}"


def _positive(low: float, high: float) -> str | None:
    return _rising(low, high) if low > 0 else f"{low} has no logarithm"


def _stepped(low: float, high: float, step: float) -> str | None:
    if step <= 0:
        return f"step {step} is not positive"
    steps = (high - low) / step
    if abs(steps - round(steps)) > 1e-6:
        return f"{low} to {high} is no whole number of steps of {step}"
    return _rising(low, high)


def _some(*options: Any) -> str | None:
    if not options:
        return "no options"
    texts = [_text(option) for option in options]
    return "an option stands twice" if len(set(texts)) < len(texts) else None


KINDS: dict[str, Kind] = {
    "uniform": Kind("[low, high]", _uniform, _rising),
    "loguniform": Kind("[low, high]", _loguniform, _positive),
    "quniform": Kind("[low, high, step]", _quniform, _stepped),
    "randint": Kind("[low, high]", lambda rng, a, b: rng.randint(a, b), _rising, whole=True),
    "qrandint": Kind("[low, high, step]", _qrandint, _stepped, whole=True),
    "choice": Kind("[a, b, ...]", lambda rng, *o: rng.choice(o), _some, is_list=True),
    GRID: Kind("[a, b, ...]", lambda rng, *o: rng.choice(o), _some, is_list=True),
}


def parse_space(content: Any) -> Space:
    """Parse the `space:` of a tune file.

    Raises:
        InputError: names the key and its error.
    """
    if not isinstance(content, Mapping) or not content:
        raise InputError("space: `key: {kind: [...]}` lines were expected")
    return {str(key): parse_domain(f"space: {key}", each) for key, each in content.items()}


def parse_domain(name: str, content: Any) -> Range:
    """Parse one range such as `{uniform: [0.1, 0.5]}`.

    Args:
        name: name of the key in error messages.
        content: YAML content.

    Raises:
        InputError: the kind or its arguments cannot be used.
    """
    if not isinstance(content, Mapping) or len(content) != 1:
        raise InputError(f"{name}: one of {', '.join(KINDS)} was expected, as {{uniform: [0, 1]}}")
    ((kind, arguments),) = content.items()
    if kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS)
        raise InputError(f"{name}: '{kind}' is none of {', '.join(KINDS)}{hint}")
    rule = KINDS[kind]
    wanted = f"{name}: {kind}: {rule.form} was expected"
    if not isinstance(arguments, list):
        raise InputError(f"{wanted}, not {arguments!r}")
    if not rule.is_list:
        n_wanted = rule.form.count(",") + 1
        if len(arguments) != n_wanted or not all(map(_is_number, arguments)):
            raise InputError(f"{wanted}, all numbers, not {arguments!r}")
        if rule.whole and not all(isinstance(each, int) for each in arguments):
            raise InputError(f"{wanted}, all whole numbers, not {arguments!r}")
        if not rule.whole:
            arguments = [float(each) for each in arguments]
    fault = rule.check(*arguments)
    if fault:
        raise InputError(f"{name}: {kind}: {fault}")
    return Range(kind, tuple(arguments))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
        raise InputError(f"trials: {n_samples} samples of a grid alone repeat it; give trials: 1")
    trials = [] if baseline is None else [dict(baseline)]
    cells = itertools.product(*grid.values())
    for place, (_, cell) in enumerate(itertools.product(range(n_samples), list(cells))):
        taken = dict(zip(grid, cell, strict=True))
        trials.append(
            {
                # `random.Random` hashes a string seed identically on all machines and Pythons.
                key: taken[key] if key in taken else domain.draw(_generator(seed, place, key))
                for key, domain in space.items()
            }
        )
    unique: dict[str, Values] = {}
    for trial in trials:
        unique.setdefault(_text(trial), trial)
    return list(unique.values())


def _generator(seed: int, place: int, key: str) -> random.Random:
    return random.Random(f"{seed}/{place}/{key}")


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
        raise InputError(f"space: {key}: {top}: auto has no entries; give {top} in settings")
    for part in rest:
        if not isinstance(value, Mapping):
            raise InputError(f"space: {key}: {name} is no mapping; it is {value!r}")
        if part not in value:
            hint = did_you_mean(part, map(str, value))
            raise InputError(f"space: {key}: {name} has no entry '{part}'{hint}")
        value, name = value[part], f"{name}.{part}"
    return value
