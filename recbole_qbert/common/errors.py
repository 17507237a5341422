"""User errors. Every command prints them as one line and exits with status 2."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any


class InputError(Exception):
    """Error in something the user gave: a file, a key or a value.

    The message is one line that names the file, the line or field, and the remedy.
    """


@contextlib.contextmanager
def error_context(where: str) -> Iterator[None]:
    """Name the place of every `InputError` raised in the block, also of faults in settings."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('command line: ')}") from None


@contextlib.contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn the failed import of a package of an extra in the block into an `InputError`."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed; run: pip install 'recbole-qbert[{extra}]'"
        ) from None


@contextlib.contextmanager
def recbole_error_context(model: type, place: str, failed: str, remedy: str) -> Iterator[None]:
    """Turn any exception that one of RecBole's own models raises in the block into an `InputError`.

    Exceptions of other models, `InputError` and out-of-memory errors pass unchanged. The message
    names the model and data set (`place`), what RecBole could not do (`failed`), the original
    exception, and what the user can do (`remedy`).
    """
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        known = kind in ("InputError", "MemoryError", "OutOfMemoryError")
        if known or not model.__module__.startswith("recbole."):
            raise
        text = " ".join(str(error).split())
        raise InputError(f"model {place}: RecBole {failed} ({kind}: {text}); {remedy}") from error


def did_you_mean(word: str, known: Iterable[str], suffix: str = "") -> str:
    """Return `"; did you mean 'x'?"` for the closest known word in any case, or an empty string.

    `suffix` is added to that word.
    """
    close = _closest(word, known)
    return f"; did you mean '{close}{suffix}'?" if close else ""


def did_you_mean_path(path: str | Path) -> str:
    """Return `"; did you mean 'x'?"` for the closest existing path, or an empty string.

    Each part of the path that does not exist is replaced by the closest name in its folder: a
    folder's, or at the end of the path one with the same suffix.
    """
    asked = Path(path)
    found = Path(asked.anchor)
    for place in [*reversed(asked.parents), asked]:
        if place.name and not (found / place.name).exists():
            suffix = asked.suffix if place == asked else ""
            stems = [
                each.name.removesuffix(suffix)
                for each in (found.iterdir() if found.is_dir() else ())
                if (each.suffix == suffix if place == asked else each.is_dir())
            ]
            close = _closest(place.name.removesuffix(suffix), stems)
            if not close:
                return ""
            found /= close + suffix
        else:
            found /= place.name
    return f"; did you mean '{found}'?" if found != asked else ""


def _closest(word: str, known: Iterable[str]) -> str:
    """Return the closest known word in any case, or an empty string."""
    words = {each.lower(): each for each in sorted(known)}
    close = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return words[close[0]] if close else ""


def preview(words: Sequence[str], n: int = 10) -> str:
    """Join the first `n` words with commas, followed by an ellipsis if there are more."""
    shown = ", ".join(str(word) for word in words[:n])
    return shown + (", …" if len(words) > n else "")


def one_of(name: str, value: Any, allowed: Collection[str]) -> None:
    """Raise an `InputError` with all allowed words and the closest one if `value` is none."""
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise InputError(f"{name}: {value!r} is none of {', '.join(allowed)}{hint}")


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Parse a whole number of at least `least`, which may be text; an `InputError` names `name`."""
    text = "" if isinstance(value, bool) else str(value)
    if not text.isdecimal() or int(text) < least:
        raise InputError(f"{name}: {value!r} is not a whole number of at least {least}")
    return int(text)


def check_seed(seed: Any) -> None:
    """Raise an `InputError` if a value cannot seed NumPy's generators (0 to 2**32 - 1)."""
    if whole_number("seed", seed, least=0) >= 2**32:
        raise InputError(f"seed: {seed} is more than {2**32 - 1}")
