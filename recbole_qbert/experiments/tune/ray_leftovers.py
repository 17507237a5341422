"""Ends what a sweep's own Ray leaves behind when the sweep is killed.

Ray's processes end with the one that started it, but for its agent, which first tries for a minute
to report to those that are gone. This file is also the program that does it, in a process of its
own: `python ray_leftovers.py SESSION_FOLDER` waits for the end of its standard input, which is a
pipe that only the sweep holds.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

SECONDS = 10.0  # a process of Ray's may be at its start when the sweep ends


@contextlib.contextmanager
def ended_with_this_process(session: str) -> Iterator[None]:
    """Once the block or this process ends, however it ends, so does all of this Ray session."""
    line = [sys.executable, __file__, session]
    # A session of its own: Ctrl-C is for the sweep.
    watcher = subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()


def end_session(session: str) -> bool:
    """Kill the processes that have the session's folder among their flags; was there one?"""
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
    """Wait for the end of the input, then end the session until none of it is left."""
    sys.stdin.read()
    deadline = time.monotonic() + SECONDS
    while end_session(session) and time.monotonic() < deadline:
        time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1])
