"""Where the output goes that a command prints: a terminal, a file, or a pipe that was closed."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
from collections.abc import Iterator
from typing import Any

_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class _Plain:
    """A stream without the escape sequences by which text gets its colors."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_ESCAPES.sub("", text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """In the block nothing but plain text goes to an output that is no terminal.

    RecBole colors its messages wherever they go. Bars of other libraries are left out; ours say a
    line now and then (`progress`).
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
    """End quietly, with status 1, where nobody reads the output any more, as `| head` does."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if not closed:  # a pipe of another kind
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(1) from None


def _is_closed(stream: Any) -> bool:
    """Whether it is a pipe that nobody reads."""
    if not hasattr(select, "poll"):  # on Windows
        return True
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # no file of the system's
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
