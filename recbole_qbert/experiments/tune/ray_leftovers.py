"""Removal of Ray processes that are left over when a sweep is killed.

Ray's processes end when the process that started Ray ends. The exception is Ray's agent, which
first tries for a minute to reach the other processes. This file is also a watcher program,
`python ray_leftovers.py SESSION_FOLDER`, which runs in a separate process. It waits for the end of
its standard input, a pipe that only the sweep holds open, and then kills Ray's processes.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

SECONDS = 10.0  # a Ray process may still be starting when the sweep ends


@contextlib.contextmanager
def ended_with_this_process(session: str) -> Iterator[None]:
    """End all processes of a Ray session when the block or this process ends, even by a kill."""
    line = [sys.executable, __file__, session]
    # In a new session, so that Ctrl-C does not end the watcher.
    watcher = subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()


def end_session(session: str) -> bool:
    """Kill the processes that have the session's folder among their flags.

    Returns:
        Whether there was such a process.
    """
    flag = re.compile(rf"--[\w-]+={re.escape(session)}(/|$)")
    found = False
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or ()
        if process.pid != psutil.Process().pid and any(flag.match(word) for word in words):
            found = True
            with contextlib.suppress(psutil.Error):
                process.kill()
    return found


def main(session: str) -> None:
    """Wait for the end of the input, then kill the session's processes for up to `SECONDS`."""
    sys.stdin.read()
    deadline = time.monotonic() + SECONDS
    while end_session(session) and time.monotonic() < deadline:
        time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1])
