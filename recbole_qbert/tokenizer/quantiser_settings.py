"""Settings of the quantisers: a dataclass for each method, read from a mapping and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from recbole_qbert.errors import InputError, did_you_mean


def setting(
    default: Any, low: float | None = None, high: float | None = None, choices: Sequence[str] = ()
) -> Any:
    """A dataclass field with the values that `read_settings` accepts."""
    return dataclasses.field(
        default=default, metadata={"low": low, "high": high, "choices": tuple(choices)}
    )


@dataclass(frozen=True)
class QuantiserSettings:
    """Settings of every method.

    Attributes:
        n_levels: K.
        codebook_size: codes of every level, or K numbers.
    """

    n_levels: int = setting(4, low=1)
    codebook_size: int | tuple[int, ...] = setting(256, low=1)

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """S_k, K of them."""
        size = self.codebook_size
        return size if isinstance(size, tuple) else (size,) * self.n_levels


S = TypeVar("S", bound=QuantiserSettings)


def read_settings(kind: type[S], method: str, given: Mapping[str, Any]) -> S:
    """Settings of a method from a mapping; what it lacks has its default.

    Raises:
        InputError: an unknown key (with a "did you mean"), or a value of another kind or out of
            range.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in given:
        if key not in fields:
            raise InputError(f"{method}.{key}: unknown setting{did_you_mean(str(key), fields)}")
    values: dict[str, Any] = {}
    for key, value in given.items():
        values[key] = tuple(value) if isinstance(value, list) else value
        several, wanted = isinstance(values[key], tuple), isinstance(fields[key].default, tuple)
        if several != wanted and key != "codebook_size":
            raise InputError(
                f"{method}.{key}: {value!r} is "
                f"{'one value; give a list' if wanted else 'a list; give one value'}"
            )
        for each in values[key] if several else (value,):
            _check_value(f"{method}.{key}", each, fields[key])
    settings = kind(**values)
    size = settings.codebook_size
    if isinstance(size, tuple) and len(size) != settings.n_levels:
        raise InputError(
            f"{method}.codebook_size: {list(size)} gives {len(size)} sizes for "
            f"{settings.n_levels} levels; give one number, or one a level"
        )
    return settings


def _check_value(name: str, value: Any, field: dataclasses.Field[Any]) -> None:
    """One value of a setting; a whole number may stand for a number."""
    default = field.default[0] if isinstance(field.default, tuple) else field.default
    allowed = (int, float) if isinstance(default, float) else type(default)
    if isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, allowed):
        wanted = {int: "a whole number", float: "a number", str: "a word"}.get(type(default), "")
        raise InputError(f"{name}: {value!r} is not {wanted or 'True or False'}")
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    if choices and value not in choices:
        hint = did_you_mean(str(value), choices)
        raise InputError(f"{name}: {value!r} is none of {', '.join(choices)}{hint}")
    if low is not None and not value >= low:
        raise InputError(f"{name}: {value} is less than {low}")
    if high is not None and not value <= high:
        raise InputError(f"{name}: {value} is more than {high}")
