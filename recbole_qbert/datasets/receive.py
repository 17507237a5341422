"""Receive a file over HTTP, politely: some requests a host at a time, waits and redirects minded.

What was begun lies in a file, the part, and is gone on with where the server can (`Range`, guarded
by `If-Range`).
"""

from __future__ import annotations

import email.utils
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, write_json
from recbole_qbert.data.codec import quote

DONE, GONE, NO_PICTURE, TOO_LARGE, FAILED = (
    "done", "gone", "not a picture", "too large", "failed",
)  # fmt: skip
STATES = (DONE, GONE, NO_PICTURE, TOO_LARGE, FAILED)
USER_AGENT = f"recbole-qbert/{__version__}"
CHUNK = 1 << 16
MAX_REDIRECTS = 10
# Refusals that may not last; all others below 500 do.
PASSING = (408, 425, 429)


@dataclass(frozen=True)
class Manners:
    """How to ask.

    Attributes:
        workers: entries worked on at a time.
        per_host: of them, the most that ask one host at a time.
        timeout: seconds without a byte until a connection counts as dead.
        min_rate: bytes a second, over `timeout` seconds, below which it does so too.
        retries: further attempts at a URL after passing faults.
        backoff: seconds before the first of them; doubled each time, up to `max_wait`.
        max_wait: the longest wait; a server that asks for more is left for another time.
        user_agent: who asks.
    """

    workers: int = 16
    per_host: int = 4
    timeout: float = 30.0
    min_rate: float = 100.0
    retries: int = 5
    backoff: float = 1.0
    max_wait: float = 120.0
    user_agent: str = USER_AGENT


class PassingFault(Exception):
    """A fault that may pass; `wait`: seconds that the server asked for; `state`: if it does not."""

    def __init__(self, reason: str, wait: float | None = None, state: str = FAILED):
        super().__init__(reason)
        self.wait, self.state = wait, state


class FinalFault(Exception):
    """A fault that stays."""

    def __init__(self, state: str, reason: str):
        super().__init__(reason)
        self.state = state


@dataclass
class _Host:
    """One host: how many ask it at a time, and until when nobody shall."""

    slots: threading.Semaphore
    not_before: float = 0.0


@dataclass
class Receiver:
    """Asks hosts for files, from any number of threads.

    Attributes:
        manners: how to ask.
        max_bytes: of one file; 0: any.
        stop: set, it ends all that runs with a `CancelledError`.
        hosts: those asked so far.
        lock: of `hosts`.
        local: each thread's connections.
    """

    manners: Manners
    max_bytes: int
    stop: threading.Event = field(default_factory=threading.Event)
    hosts: dict[str, _Host] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    local: Any = field(default_factory=threading.local)

    def receive(self, url: str, part: Path) -> None:
        """Make `part` the whole answer to `url`, going on from what is there of it.

        Raises:
            FinalFault, PassingFault: it cannot be had, or not now.
        """
        for _ in range(MAX_REDIRECTS):
            host = _host_of(url)
            with self._slot(host) as state:
                try:
                    target = self._ask(url, part, state)
                except ValueError as fault:  # of all that parses an address, also in a redirect
                    raise FinalFault(GONE, f"not an address ({quote(fault, 80)})") from None
                except (requests.RequestException, HTTPError) as fault:
                    raise PassingFault(_said(fault)) from None
            if target is None:
                return
            url = urljoin(url, target)
        raise FinalFault(GONE, f"more than {MAX_REDIRECTS} redirects")

    def pause(self, seconds: float) -> None:
        """Wait, or give up when all stops."""
        if self.stop.wait(seconds):
            raise CancelledError

    def check_size(self, size: int) -> None:
        """Refuse what is too large."""
        if self.max_bytes and size > self.max_bytes:
            raise FinalFault(TOO_LARGE, f"{size} bytes or more; at most {self.max_bytes} asked")

    @contextmanager
    def _slot(self, host: str) -> Iterator[_Host]:
        """Leave to ask a host."""
        with self.lock:
            known = self.hosts.setdefault(host, _Host(threading.Semaphore(self.manners.per_host)))
        with known.slots:
            while (wait := known.not_before - time.monotonic()) > 0:
                self.pause(wait)
            if self.stop.is_set():
                raise CancelledError
            yield known

    def _ask(self, url: str, part: Path, host: _Host) -> str | None:
        """One request; returns where it is redirected to, or None with all of it in `part`."""
        if not hasattr(self.local, "session"):
            self.local.session = requests.Session()
        # Without "identity", sizes and ranges would be those of compressed bytes.
        headers = {"User-Agent": self.manners.user_agent, "Accept-Encoding": "identity"}
        begun = _begun(part, url)
        if begun is not None:
            headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": begun}
        with self.local.session.get(
            url, headers=headers, stream=True, allow_redirects=False, timeout=self.manners.timeout
        ) as answer:
            if answer.is_redirect:
                return str(answer.headers["location"])
            self._check_status(answer, part, host)
            self._keep(answer, part, url)
            return None

    def _check_status(self, answer: requests.Response, part: Path, host: _Host) -> None:
        """Raise for anything but 200 and the range that was asked for."""
        status = answer.status_code
        if status == 416 or (status == 206 and not _goes_on(answer, part)):
            discard(part)
            raise PassingFault("another range than the one asked for", wait=0.0)
        if status in (200, 206):
            return
        reason = f"status {status}"
        if status in PASSING or status >= 500:
            wait = _retry_after(answer.headers.get("retry-after"))
            if wait is not None:
                host.not_before = time.monotonic() + min(wait, self.manners.max_wait)
            raise PassingFault(reason, wait)
        raise FinalFault(GONE, reason)

    def _keep(self, answer: requests.Response, part: Path, url: str) -> None:
        """Write the answer's body to `part`, behind what is there if it is a range."""
        there = part.stat().st_size if answer.status_code == 206 else 0
        length = answer.headers.get("content-length", "")
        total = there + int(length) if length.isdecimal() else None
        self.check_size(total or 0)
        if not there:
            discard(part)
            etag = answer.headers.get("etag", "")
            validator = etag if etag and not etag.startswith("W/") else ""
            validator = validator or answer.headers.get("last-modified", "")
            if validator:
                write_json(_notes(part), {"url": url, "validator": validator})
        size = there
        with open(part, "ab" if there else "wb") as handle:
            since, then = time.monotonic(), size
            # Undecoded: a .gz that is served as compressed text stays a .gz. And what is there:
            # to wait for a whole chunk from a server that dribbles can take days.
            while chunk := answer.raw.read1(CHUNK, decode_content=False):
                if self.stop.is_set():
                    raise CancelledError
                size += len(chunk)
                self.check_size(size)
                handle.write(chunk)
                seconds = time.monotonic() - since
                if seconds >= self.manners.timeout:
                    if size - then < self.manners.min_rate * seconds:
                        raise PassingFault(f"{size - then} bytes in {seconds:.0f} s")
                    since, then = time.monotonic(), size
        if total is not None and size != total:
            raise PassingFault(f"cut off after {size} of {total} bytes")


def _host_of(url: str) -> str:
    """The host of an http address.

    Raises:
        FinalFault: it is none.
    """
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.netloc:
            return parts.netloc
    raise FinalFault(GONE, f"{quote(url, 80)} is no http address")


def _notes(part: Path) -> Path:
    """Beside a part: where it is from, and what tells that the server still has the same."""
    return part.with_name(f"{part.name}.json")


def _begun(part: Path, url: str) -> str | None:
    """The validator of a part that can be gone on with."""
    if not part.is_file() or not part.stat().st_size or not _notes(part).is_file():
        return None
    try:
        notes = read_json(_notes(part))
    except InputError:
        return None
    return str(notes["validator"]) if notes.get("url") == url else None


def discard(part: Path) -> None:
    """Remove a part and its notes."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _goes_on(answer: requests.Response, part: Path) -> bool:
    """Whether a partial answer begins where the part ends."""
    match = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    return match is not None and part.is_file() and int(match[1]) == part.stat().st_size


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait, of a number or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _said(fault: Exception) -> str:
    """The innermost reason of a network fault, short."""
    reason: Any = fault
    while getattr(reason, "args", None) and isinstance(reason.args[-1], Exception):
        reason = reason.args[-1]
    return quote(f"{type(fault).__name__}: {getattr(reason, 'reason', reason)}", 120)
