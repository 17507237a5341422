"""Fetch entries over HTTP, or from a folder that stands for the network, on threads.

What was begun lies in `.parts/`, and is gone on with where the server can (`Range`, guarded by
`If-Range`); an entry takes its name only when it is whole and verified.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import requests
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError

from recbole_qbert._version import __version__
from recbole_qbert.common.files import report_disk_full, sha256_file
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.codec import quote
from recbole_qbert.data.pictures import FORMATS, UnreadablePicture, open_picture

# From the best to the one that most deserves another try.
STATES = ("done", "gone", "not a picture", "failed")
DONE, GONE, NO_PICTURE, FAILED = STATES
PARTS = ".parts"  # folder of what is not whole yet
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
CHUNK = 1 << 16
RETRIED = (408, 425, 429, *range(500, 600))  # statuses that may not last


class Download(NamedTuple):
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
class HttpOptions:
    """How to ask; times in seconds."""

    workers: int = 16  # entries worked on at a time
    per_host: int = 4  # of them, the most that ask one host at a time
    timeout: float = 30.0  # without a byte, until a connection counts as dead
    file_timeout: float = 4 * 3600.0  # until a file that still arrives is left for the next time
    retries: int = 5  # further attempts at a URL after transient errors
    backoff: float = 1.0  # waited between them; doubled each time
    max_wait: float = 120.0  # the longest; a server that asks for more is left for the next time
    user_agent: str = f"recbole-qbert/{__version__}"


class DownloadError(Exception):
    """Why a URL gives nothing good; `state` is what its entry comes to."""

    def __init__(self, reason: str, state: str = FAILED):
        super().__init__(reason)
        self.state = state


class TransientError(DownloadError):
    """Another request may do better."""


class PermanentError(DownloadError):
    """Another request would do no better, for now."""


class _Retry(Retry):
    """urllib3's retries; but they end when `stop` is set, and wait no longer than `backoff_max`."""

    def __init__(self, *, stop: threading.Event, **settings: Any):
        super().__init__(**settings)
        self.stop = stop

    def new(self, **changes: Any) -> _Retry:
        return super().new(stop=self.stop, **changes)

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        asked = self.get_retry_after(response) if response else None
        if response and asked and asked > self.backoff_max:
            raise PermanentError(f"status {response.status}, asks to wait {asked:.0f} s")
        _pause(self.stop, asked or self.get_backoff_time())


def _pause(stop: threading.Event, seconds: float = 0.0) -> None:
    """Wait, or give up when all stops."""
    if stop.wait(seconds):
        raise CancelledError


def _session(options: HttpOptions, stop: threading.Event) -> requests.Session:
    retry = _Retry(
        stop=stop,
        total=options.retries,
        status_forcelist=RETRIED,
        raise_on_status=False,
        backoff_factor=options.backoff,
        backoff_jitter=options.backoff / 2,
        backoff_max=options.max_wait,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=options.workers, max_retries=retry))
    # Without "identity", sizes and ranges would be those of compressed bytes.
    session.headers.update({"User-Agent": options.user_agent, "Accept-Encoding": "identity"})
    session.max_redirects = 10
    return session


class Fetcher:
    """Works through entries on threads.

    Args:
        folder: where to put the files.
        options: how to ask.
        pictures: take only pictures that open whole; they are named `<name>.<jpg|png|...>`.
        offline: take files from this folder, by a URL's last part or by name, not from the network.
    """

    def __init__(
        self,
        folder: Path,
        options: HttpOptions,
        pictures: bool = False,
        offline: Path | None = None,
    ):
        self.folder, self.options, self.pictures, self.offline = folder, options, pictures, offline
        self.stop = threading.Event()  # set, it ends all that runs
        self.slots: dict[str, threading.Semaphore] = {}  # of each host
        self.session = _session(options, self.stop)

    def all(self, entries: Sequence[Download]) -> Generator[Record, None, None]:
        """The record of each entry, as they end; closed, it stops what runs."""
        counts: Counter[str] = Counter()
        with (
            report_disk_full(self.folder),
            self.session,
            ThreadPoolExecutor(self.options.workers) as pool,
            Progress(total=len(entries), desc=self.folder.name, unit="file") as bar,
        ):
            futures = [pool.submit(self.one, entry) for entry in entries]
            try:
                for future in as_completed(futures):
                    record = future.result()
                    counts[record.state] += 1
                    bar.set_postfix(counts, refresh=False)
                    bar.update()
                    yield record
            finally:
                self.stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def one(self, entry: Download) -> Record:
        """Fetch one entry: the first URL that gives something good."""
        errors: list[DownloadError] = []
        for url in entry.urls:
            try:
                return self._from_url(entry, url)
            except DownloadError as error:
                errors.append(error)
        worst = max(errors, key=lambda error: STATES.index(error.state))
        return Record(entry.name, worst.state, url=entry.urls[0], reason=str(worst))

    def _from_url(self, entry: Download, url: str) -> Record:
        """One URL, asked again where what came is cut off or damaged."""
        for attempt in range(0 if self.offline else self.options.retries):
            with suppress(TransientError):
                return self._attempt(entry, url)
            _pause(self.stop, min(self.options.backoff * 2**attempt, self.options.max_wait))
        return self._attempt(entry, url)

    def _attempt(self, entry: Download, url: str) -> Record:
        """Take one file, verify it and put it in place."""
        part = self.folder / PARTS / f"{entry.name}.{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        if self.offline:
            self._copy(self.offline, entry, url, part)
        else:
            self._receive(url, part)
        digest = sha256_file(part)
        if entry.sha256 and digest != entry.sha256:
            _discard(part)
            raise TransientError("its bytes are not those of the SHA-256 in the list")
        size = part.stat().st_size
        target = self.folder / f"{entry.name}{_suffix(part) if self.pictures else ''}"
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, target)
        _discard(part)
        return Record(entry.name, DONE, target.name, size, digest, url)

    def _receive(self, url: str, part: Path) -> None:
        """Make `part` the whole answer to `url`, going on from what is there of it."""
        try:
            slots = threading.Semaphore(self.options.per_host)
            with self.slots.setdefault(urlsplit(url).netloc, slots):
                _pause(self.stop)
                with self.session.get(
                    url, headers=_range(part), stream=True, timeout=self.options.timeout
                ) as answer:
                    self._keep(answer, part)
        except (requests.TooManyRedirects, ValueError) as error:  # ValueError: not an address
            raise PermanentError(quote(str(error), 120), GONE) from None
        except requests.RequestException as error:  # no answer, after all retries
            raise PermanentError(_reason(error)) from None
        except HTTPError as error:  # in the middle of an answer
            raise TransientError(_reason(error)) from None

    def _keep(self, answer: requests.Response, part: Path) -> None:
        """Write the body to `part`, behind what is there if it is the range asked for."""
        status = answer.status_code
        size = part.stat().st_size if status == 206 and part.is_file() else 0
        begins = answer.headers.get("Content-Range", "").startswith(f"bytes {size}-")
        if status == 416 or (status == 206 and not begins):
            _discard(part)
            raise TransientError("another range than the one asked for")
        if status not in (200, 206):
            raise PermanentError(f"status {status}", FAILED if status in RETRIED else GONE)
        if status == 200:
            _discard(part)
            etag = answer.headers.get("ETag", "")
            strong = etag and not etag.startswith("W/")
            tag = etag if strong else answer.headers.get("Last-Modified", "")
            _tag(part).write_text(tag, encoding="latin-1")
        deadline = time.monotonic() + self.options.file_timeout
        with open(part, "ab") as handle:
            # Undecoded: a .gz that is served as compressed text stays a .gz.
            while chunk := answer.raw.read1(CHUNK, decode_content=False):
                _pause(self.stop)
                handle.write(chunk)
                if time.monotonic() > deadline:
                    raise PermanentError(f"not whole after {self.options.file_timeout:g} s")

    def _copy(self, folder: Path, entry: Download, url: str, part: Path) -> None:
        """The file from the folder that stands for the network."""
        part_of_url = re.split(r"[?#]", url)[0].rpartition("/")[2]
        names = [os.path.basename(unquote(part_of_url)), entry.name]
        names += [entry.name + suffix for suffix in SUFFIXES.values()]
        for name in filter(None, names):
            if os.path.isfile(folder / name):  # not where it can be no file's name
                _discard(part)
                shutil.copyfile(folder / name, part)
                return
        raise PermanentError(f"not in {folder}")


def _suffix(part: Path) -> str:
    """Of a picture that opens whole."""
    try:
        open_picture(part)
    except UnreadablePicture as error:
        _discard(part)
        # It may be cut off, by a server that does not say how much there is.
        fault = TransientError if str(error).startswith("truncated") else PermanentError
        raise fault(str(error), NO_PICTURE) from None
    with Image.open(part, formats=FORMATS) as picture:
        return SUFFIXES[str(picture.format)]


def _tag(part: Path) -> Path:
    """Beside a part: the server's name for these bytes (`ETag`, `Last-Modified`), if it has one."""
    return part.with_name(f"{part.name}.tag")


def _range(part: Path) -> dict[str, str]:
    """The headers that ask for the rest of a part; none, if there is no part or no tag."""
    size = part.stat().st_size if part.is_file() and _tag(part).is_file() else 0
    tag = _tag(part).read_text(encoding="latin-1") if size else ""
    return {"Range": f"bytes={size}-", "If-Range": tag} if tag else {}


def _discard(part: Path) -> None:
    """Remove a part and its tag."""
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Of a network fault, without the retries around it."""
    inner = error.args[0] if error.args else error
    return quote(f"{type(error).__name__}: {getattr(inner, 'reason', inner)}", 160)
