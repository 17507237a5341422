"""Fetch entries over HTTP, or from a folder that stands for the network: on threads, politely.

What was begun lies in `.parts/` and is gone on with where the server can (`Range`, guarded by
`If-Range`); an entry takes its name only when it is whole and verified.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urljoin, urlsplit

import requests
from PIL import Image
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from recbole_qbert._version import __version__
from recbole_qbert.data.codec import quote
from recbole_qbert.encoders.pictures import FORMATS, UnreadablePicture, open_picture
from recbole_qbert.errors import InputError
from recbole_qbert.files import atomic_write, read_json, sha256_file, write_json

DONE, GONE, NO_PICTURE, TOO_LARGE, FAILED = (
    "done", "gone", "not a picture", "too large", "failed",
)  # fmt: skip
STATES = (DONE, GONE, NO_PICTURE, TOO_LARGE, FAILED)
PARTS = ".parts"  # folder of what is not whole yet
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
USER_AGENT = f"recbole-qbert/{__version__}"
CHUNK = 1 << 16
MAX_REDIRECTS = 10
# Refusals that may not last; all others below 500 do.
PASSING = (408, 425, 429)


class Entry(NamedTuple):
    """What to fetch: the first good one of some URLs."""

    name: str
    urls: tuple[str, ...]
    sha256: str = ""  # that the bytes must have, where it is known


class Record(NamedTuple):
    """A row of the status file."""

    name: str
    state: str
    file: str = ""
    bytes: int = 0
    sha256: str = ""
    url: str = ""
    reason: str = ""


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


@dataclass(frozen=True)
class Wanted:
    """What counts as good.

    Attributes:
        pictures: only pictures that open whole; they are named `<name>.<jpg|png|...>`.
        max_bytes: of one file; 0: any.
        offline: take files from this folder, by the URL's last part or by name, not from the
            network.
    """

    pictures: bool = False
    max_bytes: int = 0
    offline: Path | None = None


class _Passing(Exception):
    """A fault that may pass; `wait`: seconds that the server asked for; `state`: if it does not."""

    def __init__(self, reason: str, wait: float | None = None, state: str = FAILED):
        super().__init__(reason)
        self.wait, self.state = wait, state


class _Final(Exception):
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
class Fetcher:
    """Works through entries on threads."""

    folder: Path
    wanted: Wanted
    manners: Manners
    stop: threading.Event = field(default_factory=threading.Event)
    hosts: dict[str, _Host] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    local: Any = field(default_factory=threading.local)

    def all(self, entries: Sequence[Entry]) -> Iterator[Record]:
        """The record of each entry, as they end; what runs is stopped when the caller is."""
        counts: Counter[str] = Counter()
        with (
            ThreadPoolExecutor(self.manners.workers) as pool,
            tqdm(total=len(entries), desc=self.folder.name, unit="file", disable=None) as bar,
        ):
            futures = [pool.submit(self.one, entry) for entry in entries]
            try:
                for future in as_completed(futures):
                    record = future.result()
                    counts[record.state] += 1
                    bar.set_postfix(counts, refresh=False)
                    bar.update()
                    yield record
            except OSError as error:
                raise InputError(
                    f"{self.folder}: cannot be written ({error.strerror or error}); make room, or "
                    "correct the path, and repeat the command"
                ) from None
            finally:
                self.stop.set()
                for future in futures:
                    future.cancel()

    def one(self, entry: Entry) -> Record:
        """Fetch one entry: the first URL that gives something good."""
        faults: list[_Final] = []
        for url in entry.urls:
            try:
                return self._from_url(entry, url)
            except _Final as fault:
                faults.append(fault)
        # What may pass outweighs what stays, so that the entry is tried again.
        order = (FAILED, TOO_LARGE, NO_PICTURE, GONE)
        worst = min(faults, key=lambda fault: order.index(fault.state))
        return Record(entry.name, worst.state, url=entry.urls[0], reason=str(worst))

    def _from_url(self, entry: Entry, url: str) -> Record:
        """One URL with its further attempts.

        Raises:
            _Final: it gives nothing good.
        """
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        part = self.folder / PARTS / f"{entry.name}.{digest}"
        for attempt in range(self.manners.retries + 1):
            try:
                if self.wanted.offline is None:
                    self._receive(url, part)
                else:
                    self._copy(entry, url, part)
                return self._accept(entry, url, part)
            except _Passing as fault:
                if self.wanted.offline is not None or attempt == self.manners.retries:
                    raise _Final(fault.state, str(fault)) from None
                wait = self.manners.backoff * 2**attempt * random.uniform(0.5, 1)
                wait = min(wait, self.manners.max_wait)
                if fault.wait is not None and fault.wait > self.manners.max_wait:
                    raise _Final(FAILED, f"{fault}, asks to wait {fault.wait:.0f} s") from None
                self._pause(max(wait, fault.wait or 0.0))
            except _Final:
                _discard(part)
                raise
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, seconds: float) -> None:
        """Wait, or give up when all stops."""
        if self.stop.wait(seconds):
            raise CancelledError

    def _accept(self, entry: Entry, url: str, part: Path) -> Record:
        """Verify what came and put it in place."""
        digest = sha256_file(part)
        if entry.sha256 and digest != entry.sha256:
            _discard(part)
            raise _Passing("its bytes are not those of the SHA-256 in the list")
        size = part.stat().st_size
        suffix = self._picture_suffix(part) if self.wanted.pictures else ""
        target = self.folder / f"{entry.name}{suffix}"
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, target)
        _discard(part)
        return Record(entry.name, DONE, target.name, size, digest, url)

    def _picture_suffix(self, part: Path) -> str:
        try:
            open_picture(part)
        except UnreadablePicture as fault:
            _discard(part)
            if str(fault).startswith("truncated"):  # a server that does not say how much there is
                raise _Passing(str(fault), state=NO_PICTURE) from None
            raise _Final(NO_PICTURE, str(fault)) from None
        with Image.open(part, formats=FORMATS) as picture:
            return SUFFIXES[str(picture.format)]

    def _copy(self, entry: Entry, url: str, part: Path) -> None:
        """The file from the folder that stands for the network."""
        assert self.wanted.offline is not None
        part_of_url = re.split(r"[?#]", url)[0].rpartition("/")[2]
        names = [os.path.basename(unquote(part_of_url)), entry.name]
        names += [entry.name + suffix for suffix in SUFFIXES.values()]
        for name in filter(None, names):
            source = self.wanted.offline / name
            if os.path.isfile(source):  # not where it can be no file's name
                self._check_size(source.stat().st_size)
                with atomic_write(part, "wb") as out, open(source, "rb") as handle:
                    while data := handle.read(CHUNK):
                        out.write(data)
                return
        raise _Passing(f"not in {self.wanted.offline}")

    def _check_size(self, size: int) -> None:
        if self.wanted.max_bytes and size > self.wanted.max_bytes:
            raise _Final(TOO_LARGE, f"{size} bytes or more; at most {self.wanted.max_bytes} asked")

    # The network ----------------------------------------------------------------------------------

    def _receive(self, url: str, part: Path) -> None:
        """Make `part` the whole answer to `url`, going on from what is there of it."""
        for _ in range(MAX_REDIRECTS):
            host = _host_of(url)
            with self._slot(host) as state:
                try:
                    target = self._ask(url, part, state)
                except ValueError as fault:  # of all that parses an address, also in a redirect
                    raise _Final(GONE, f"not an address ({quote(fault, 80)})") from None
                except (requests.RequestException, HTTPError) as fault:
                    raise _Passing(_said(fault)) from None
            if target is None:
                return
            url = urljoin(url, target)
        raise _Final(GONE, f"more than {MAX_REDIRECTS} redirects")

    @contextmanager
    def _slot(self, host: str) -> Iterator[_Host]:
        """Leave to ask a host."""
        with self.lock:
            known = self.hosts.setdefault(host, _Host(threading.Semaphore(self.manners.per_host)))
        with known.slots:
            while (wait := known.not_before - time.monotonic()) > 0:
                self._pause(wait)
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
            _discard(part)
            raise _Passing("another range than the one asked for", wait=0.0)
        if status in (200, 206):
            return
        reason = f"status {status}"
        if status in PASSING or status >= 500:
            wait = _retry_after(answer.headers.get("retry-after"))
            if wait is not None:
                host.not_before = time.monotonic() + min(wait, self.manners.max_wait)
            raise _Passing(reason, wait)
        raise _Final(GONE, reason)

    def _keep(self, answer: requests.Response, part: Path, url: str) -> None:
        """Write the answer's body to `part`, behind what is there if it is a range."""
        there = part.stat().st_size if answer.status_code == 206 else 0
        length = answer.headers.get("content-length", "")
        total = there + int(length) if length.isdecimal() else None
        self._check_size(total or 0)
        if not there:
            _discard(part)
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
                self._check_size(size)
                handle.write(chunk)
                seconds = time.monotonic() - since
                if seconds >= self.manners.timeout:
                    if size - then < self.manners.min_rate * seconds:
                        raise _Passing(f"{size - then} bytes in {seconds:.0f} s")
                    since, then = time.monotonic(), size
        if total is not None and size != total:
            raise _Passing(f"cut off after {size} of {total} bytes")


def _host_of(url: str) -> str:
    """The host of an http address.

    Raises:
        _Final: it is none.
    """
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.netloc:
            return parts.netloc
    raise _Final(GONE, f"{quote(url, 80)} is no http address")


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


def _discard(part: Path) -> None:
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
