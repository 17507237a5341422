"""The one exception a user may cause; every command turns it into one line and exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class InputError(Exception):
    """Something the user gave (file, key, value) cannot be used.

    The message is one line that names the file, the line or field, and the remedy.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def preview(words: Sequence[str], n: int = 10) -> str:
    """The first `n` words, comma-separated, with an ellipsis where more follow."""
    shown = ", ".join(str(word) for word in words[:n])
    return shown + (", …" if len(words) > n else "")
