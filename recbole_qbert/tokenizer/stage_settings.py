"""Settings of the stages: dataclasses whose only defaults are in `properties/tokenize.yaml`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from recbole_qbert.common.errors import InputError, did_you_mean, one_of
from recbole_qbert.common.yaml_files import load_yaml, shipped


def setting(
    key: str, low: float | None = None, high: float | None = None, choices: Sequence[str] = ()
) -> Any:
    """Declare a dataclass field with its default and the accepted values.

    Args:
        key: key of the default in the YAML file, `section.name`.
        low: minimum, also of the elements of a list.
        high: maximum.
        choices: accepted values; () for any.
    """
    return dataclasses.field(
        default_factory=functools.partial(shipped_value, key),
        metadata={"low": low, "high": high, "choices": tuple(choices)},
    )


def shipped_value(key: str) -> Any:
    """Return the default of `section.name`, lists as tuples."""
    section, _, name = key.partition(".")
    value = _shipped_file()[section][name]
    return tuple(value) if isinstance(value, list) else value


@functools.cache
def _shipped_file() -> dict[str, Any]:
    return load_yaml(shipped("tokenize.yaml"))


@dataclass(frozen=True)
class QuantizerSettings:
    """Settings that all quantizers share.

    Attributes:
        n_levels: K.
        codebook_size: number of codes of each level, one number or K.
    """

    n_levels: int
    codebook_size: int | tuple[int, ...]

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """K sizes S_k."""
        size = self.codebook_size
        return size if isinstance(size, tuple) else (size,) * self.n_levels


Q = TypeVar("Q", bound=QuantizerSettings)
S = TypeVar("S")


def read_quantizer_settings(kind: type[Q], method: str, given: Mapping[str, Any]) -> Q:
    """Build the settings of a quantizer; keys that the mapping lacks have their defaults.

    Args:
        kind: dataclass of the settings.
        method: name of the quantizer, for messages.
        given: settings, with `n_levels` and `codebook_size`.

    Raises:
        InputError: as `read_settings`, or the number of sizes is not the number of levels.
    """
    settings = read_settings(kind, method, given)
    size = settings.codebook_size
    if isinstance(size, tuple) and len(size) != settings.n_levels:
        raise InputError(
            f"{method}.codebook_size: {list(size)} gives {len(size)} sizes for "
            f"{settings.n_levels} levels; give one number, or one a level"
        )
    return settings


def read_settings(kind: type[S], section: str, given: Mapping[str, Any]) -> S:
    """Build a section of the settings; keys that the mapping lacks have their defaults.

    Args:
        kind: dataclass of the section.
        section: name of the section, for messages.
        given: settings.

    Raises:
        InputError: a key is unknown (the message suggests a similar one), or a value has the wrong
            type or is out of range.
    """
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in fields:
            raise InputError(f"{section}.{key}: unknown setting{did_you_mean(str(key), fields)}")
    values = {key: tuple(each) if isinstance(each, list) else each for key, each in given.items()}
    settings = kind(**values)
    check_values(settings, section)
    return settings


def check_values(settings: Any, section: str) -> None:
    """Check the type and the range of each value of a settings dataclass.

    Raises:
        InputError: a value is invalid; the message names its key.
    """
    for field in dataclasses.fields(settings):
        name, value = f"{section}.{field.name}", getattr(settings, field.name)
        if field.default_factory is dataclasses.MISSING:  # n_levels and codebook_size
            for each in value if isinstance(value, tuple) else (value,):
                check_value(name, each, 1, low=1)
            continue
        default = field.default_factory()
        several, wanted = isinstance(value, tuple), isinstance(default, tuple)
        if several != wanted:
            shown = list(value) if several else value
            raise InputError(
                f"{name}: {shown!r} is "
                f"{'one value; give a list' if wanted else 'a list; give one value'}"
            )
        for each in value if several else (value,):
            check_value(name, each, default[0] if wanted else default, **field.metadata)


def check_value(
    name: str,
    value: Any,
    default: Any,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> None:
    """Check that a value has the type of its default and is accepted; an int is a valid float.

    Raises:
        InputError: the value has another type, is out of range, or is none of the choices.
    """
    allowed = (int, float) if isinstance(default, float) else type(default)
    if isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, allowed):
        wanted = {int: "a whole number", float: "a number", str: "a word"}.get(type(default), "")
        raise InputError(f"{name}: {value!r} is not {wanted or 'True or False'}")
    if choices:
        one_of(name, value, choices)
    if low is not None and not value >= low:
        raise InputError(f"{name}: {value} is less than {low}")
    if high is not None and not value <= high:
        raise InputError(f"{name}: {value} is more than {high}")
