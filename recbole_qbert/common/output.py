"""Command output on terminals, files and closed pipes."""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100  # columns of tables in files and pipes
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class _Plain:
    """Stream wrapper that removes terminal escape sequences, such as colors."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_ESCAPES.sub("", text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def new_console(**settings: Any) -> Console:
    """Make a console as wide as the terminal; in a file or pipe, of COLUMNS or 100 columns.

    Brackets and colons in texts, such as titles and paths, are not read as markup or emoji codes.

    Args:
        settings: further arguments of rich's `Console`.
    """
    from rich.console import Console

    console = Console(**{"markup": False, "emoji": False, **settings})
    given = os.environ.get("COLUMNS", "")
    if not console.is_terminal and not (given.isdigit() and int(given)):
        console.width = WIDTH  # rich would take the width of a terminal on stdin or stderr
    return console


def counted(n: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun, such as `1 item` or `1,234 items`.

    `plural` is needed where it is not `noun` and an s: `counted(n, "item has", "items have")`.
    """
    return f"{n:,} {noun if n == 1 else plural or f'{noun}s'}"


def duration(seconds: float) -> str:
    """Format as `1 h 05 min`, `12 min` or `40 s`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"


def time_left(seconds: float) -> str:
    """Format an upper bound of the remaining time, after a comma; "" if nothing remains."""
    return f", at most {duration(math.ceil(seconds))} left" if seconds > 0 else ""


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Write plain text to any output that is not a terminal, during the block.

    RecBole colors its messages wherever they go. Progress bars of other libraries are disabled;
    those of this package print a line from time to time (see `progress`).
    """
    before = sys.stdout, sys.stderr
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    sys.stdout, sys.stderr = (each if each.isatty() else _Plain(each) for each in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def ended_by_closed_pipe() -> Iterator[None]:
    """Exit quietly with status 1 if the reader of the output closed the pipe, as `| head` does."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:  # it is None if it was closed before the start
                sys.stdout.flush()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if not closed:  # the error came from another pipe
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(1) from None


def _is_closed(stream: Any) -> bool:
    """Return whether the stream is a pipe whose reader is gone."""
    if not hasattr(select, "poll"):  # on Windows
        return True
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # not backed by a system file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
