"""What a user may cause, turned by every command into one line and exit status 2, and its words."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class InputError(Exception):
    """Something the user gave (file, key, value) cannot be used.

    The message is one line that names the file, the line or field, and the remedy.
    """


@contextlib.contextmanager
def error_context(where: str) -> Iterator[None]:
    """What is wrong in the block is said to be wrong there."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


@contextlib.contextmanager
def said_by_recbole(model: type, place: str, failed: str, remedy: str) -> Iterator[None]:
    """Whatever a model of RecBole's own raises in the block becomes one line; of any other model,
    and of memory that is short, it stays what it is.

    Args:
        model: the class.
        place: which model, on which data set.
        failed: what RecBole cannot do.
        remedy: what the user can do.
    """
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        known = kind in ("InputError", "MemoryError", "OutOfMemoryError")
        if known or not model.__module__.startswith("recbole."):
            raise
        said = " ".join(str(error).split())
        raise InputError(f"model {place}: RecBole {failed} ({kind}: {said}); {remedy}") from error


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known word in any case, or an empty string."""
    words = {each.lower(): each for each in sorted(known)}
    close = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return f"; did you mean '{words[close[0]]}'?" if close else ""


def preview(words: Sequence[str], n: int = 10) -> str:
    """The first `n` words, comma-separated, with an ellipsis where more follow."""
    shown = ", ".join(str(word) for word in words[:n])
    return shown + (", …" if len(words) > n else "")


def one_of(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse a word that is none of the allowed ones.

    Raises:
        InputError: names what was given as `name`, all words, and the closest one.
    """
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise InputError(f"{name}: {value!r} is none of {', '.join(allowed)}{hint}")


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """A whole number, which may come as text from a command line.

    Args:
        name: what is said of it where it is none.
        value: what was given.
        least: the smallest one that will do.

    Raises:
        InputError: it is none, or too small.
    """
    text = "" if isinstance(value, bool) else str(value)
    if not text.isdecimal() or int(text) < least:
        raise InputError(f"{name}: {value!r} is not a whole number of at least {least}")
    return int(text)


def check_seed(seed: Any) -> None:
    """Refuse what is no seed of NumPy's generators."""
    if whole_number("seed", seed, least=0) >= 2**32:
        raise InputError(f"seed: {seed} is more than {2**32 - 1}")
