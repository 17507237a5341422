"""Multi-threaded download over HTTP, or from a folder in place of the network.

Incomplete files are in `.parts/`. They are continued if the server supports it (`Range`, with
`If-Range`). A file gets its final name only when it is complete and verified.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Collection, Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
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
from recbole_qbert.common.files import report_disk_full
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.codec import quote
from recbole_qbert.data.pictures import FORMATS, UnreadablePicture, open_picture

# In increasing order of how promising another attempt is.
STATES = ("done", "gone", "not a picture", "failed")
DONE, GONE, NO_PICTURE, FAILED = STATES
PARTS = ".parts"  # folder of incomplete files
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
CHUNK = 1 << 16
RETRIED = (408, 425, 429, *range(500, 600))  # statuses of transient errors


class Download(NamedTuple):
    """Entry of a download list, with alternative URLs that are tried in order."""

    name: str
    urls: tuple[str, ...]
    sha256: str = ""  # expected hash, "" if unknown


class Record(NamedTuple):
    """Row of the status file."""

    name: str
    state: str
    file: str = ""
    bytes: int = 0
    sha256: str = ""
    url: str = ""
    reason: str = ""


@dataclass(frozen=True)
class HttpOptions:
    """HTTP options; times in seconds."""

    workers: int = 16  # number of concurrent entries
    per_host: int = 4  # largest number of concurrent requests to one host
    timeout: float = 30.0  # time without data until a connection counts as dead
    file_timeout: float = 4 * 3600.0  # time until an unfinished file is left to the next run
    retries: int = 5  # further attempts at a URL after transient errors
    backoff: float = 1.0  # wait before the first retry; doubled each time
    max_wait: float = 120.0  # longest wait; if a server asks for more, the entry fails
    user_agent: str = f"recbole-qbert/{__version__}"


class DownloadError(Exception):
    """Failure of a URL.

    Attributes:
        state: the resulting state of its entry.
        transient: whether another request may succeed in this run.
    """

    def __init__(self, reason: str, state: str = FAILED, *, transient: bool = False):
        super().__init__(reason)
        self.state, self.transient = state, transient


class _WrongHash(DownloadError):
    """Wrong hash of a complete file, which is downloaded once more at most."""


class _Retry(Retry):
    """urllib3's retries that end when `stop` is set, and never wait longer than `backoff_max`."""

    def __init__(self, *, stop: threading.Event, **settings: Any):
        super().__init__(**settings)
        self.stop = stop

    def new(self, **changes: Any) -> _Retry:
        return super().new(stop=self.stop, **changes)

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        asked = self.get_retry_after(response) if response else None
        if response and asked and asked > self.backoff_max:
            raise DownloadError(f"status {response.status}, asks to wait {asked:.0f} s")
        _pause(self.stop, asked or self.get_backoff_time())


def _pause(stop: threading.Event, seconds: float = 0.0) -> None:
    """Wait; raise CancelledError once `stop` is set."""
    if stop.wait(seconds):
        raise CancelledError


class Fetcher:
    """Downloader of entries on threads.

    Args:
        options: HTTP options.
        pictures: accept only complete pictures, and name them `<name>.<jpg|png|...>`.
        offline: copy files from this folder, by name or by the last part of the URL, instead of
            using the network.
        ambiguous: last parts of URLs that are not used for `offline`, see `ambiguous`.
    """

    def __init__(
        self,
        folder: Path,
        options: HttpOptions,
        pictures: bool = False,
        offline: Path | None = None,
        ambiguous: Collection[str] = (),
    ):
        self.folder, self.options, self.pictures, self.offline = folder, options, pictures, offline
        self.ambiguous = ambiguous
        self.stop = threading.Event()  # ends all running downloads once set
        self.slots: dict[str, threading.Semaphore] = {}  # by host
        retry = _Retry(
            stop=self.stop,
            total=options.retries,
            status_forcelist=RETRIED,
            raise_on_status=False,
            backoff_factor=options.backoff,
            backoff_jitter=options.backoff / 2,
            backoff_max=options.max_wait,
        )
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=options.workers, max_retries=retry))
        # Without "identity", sizes and ranges would refer to compressed bytes.
        headers = {"User-Agent": options.user_agent, "Accept-Encoding": "identity"}
        self.session.headers.update(headers)
        self.session.max_redirects = 10

    def all(self, entries: Sequence[Download]) -> Generator[Record, None, None]:
        """Yield the record of each entry when it ends; closing the generator stops downloads."""
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
        """Download one entry from the first URL that succeeds."""
        errors: list[DownloadError] = []
        for url in entry.urls:
            for attempt in range(1 if self.offline else self.options.retries + 1):
                if attempt:
                    wait = self.options.backoff * 2 ** (attempt - 1)
                    _pause(self.stop, min(wait, self.options.max_wait))
                try:
                    return self._attempt(entry, url)
                except DownloadError as error:
                    failure = error
                if not failure.transient or (attempt and isinstance(failure, _WrongHash)):
                    break
            errors.append(failure)
        worst = max(errors, key=lambda error: STATES.index(error.state))
        return Record(entry.name, worst.state, url=entry.urls[0], reason=str(worst))

    def _attempt(self, entry: Download, url: str) -> Record:
        """Download one file, verify it and move it to its final name."""
        # A hash alone, because the name of the entry may be as long as the file system allows.
        part = self.folder / PARTS / hashlib.sha256(f"{entry.name}\t{url}".encode()).hexdigest()
        if self.offline:
            _copy(self.offline, entry, url, part, self.ambiguous)
        else:
            self._receive(url, part)
        digest = sha256_file(part)
        if entry.sha256 and digest != entry.sha256:
            _discard(part)
            raise _WrongHash("the SHA-256 differs from that of the list", transient=True)
        size = part.stat().st_size
        target = self.folder / f"{entry.name}{_suffix(part) if self.pictures else ''}"
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, target)
        _discard(part)
        return Record(entry.name, DONE, target.name, size, digest, url)

    def _receive(self, url: str, part: Path) -> None:
        """Download `url` to `part`, continuing an incomplete file."""
        size = part.stat().st_size if part.is_file() and _tag(part).is_file() else 0
        tag = _tag(part).read_text(encoding="latin-1") if size else ""
        rest = {"Range": f"bytes={size}-", "If-Range": tag} if tag else {}
        try:
            slots = threading.Semaphore(self.options.per_host)
            with self.slots.setdefault(urlsplit(url).netloc, slots):
                _pause(self.stop)
                with self.session.get(
                    url, headers=rest, stream=True, timeout=self.options.timeout
                ) as answer:
                    self._keep(answer, part)
        except (requests.TooManyRedirects, ValueError) as error:  # ValueError: invalid URL
            raise DownloadError(quote(str(error), 120), GONE) from None
        except (requests.RequestException, HTTPError) as error:
            # HTTPError: failed while receiving the body; the other: no answer after all retries
            cause = error.args[0] if error.args else error  # without the retries around it
            reason = quote(f"{type(error).__name__}: {getattr(cause, 'reason', cause)}", 160)
            raise DownloadError(reason, transient=isinstance(error, HTTPError)) from None

    def _keep(self, answer: requests.Response, part: Path) -> None:
        """Write the body to `part`; append it if it is the requested range."""
        status = answer.status_code
        size = part.stat().st_size if status == 206 and part.is_file() else 0
        begins = answer.headers.get("Content-Range", "").startswith(f"bytes {size}-")
        if status == 416 or (status == 206 and not begins):
            _discard(part)
            raise DownloadError("the server sent another range", transient=True)
        if status not in (200, 206):
            raise DownloadError(f"status {status}", FAILED if status in RETRIED else GONE)
        if status == 200:
            _discard(part)
            etag = answer.headers.get("ETag", "")
            strong = etag and not etag.startswith("W/")
            tag = etag if strong else answer.headers.get("Last-Modified", "")
            _tag(part).write_text(tag, encoding="latin-1")
        deadline = time.monotonic() + self.options.file_timeout
        with open(part, "ab") as handle:
            # Not decoded, so that a .gz served with a Content-Encoding stays compressed.
            while chunk := answer.raw.read1(CHUNK, decode_content=False):
                _pause(self.stop)
                handle.write(chunk)
                if time.monotonic() > deadline:
                    raise DownloadError(f"incomplete after {self.options.file_timeout:g} s")


def ambiguous(entries: Sequence[Download]) -> set[str]:
    """Return the last parts of URLs that are also those of other URLs, or the names of others."""
    names = {entry.name for entry in entries}
    first: dict[str, list[str]] = {}
    found = set()
    for entry in entries:
        for last in {_last_part(url) for url in entry.urls}:
            urls = [url for url in entry.urls if _last_part(url) == last]
            stem, suffix = os.path.splitext(last)
            meant = {last, stem} if suffix in SUFFIXES.values() else {last}
            if first.setdefault(last, urls) != urls or (meant - {entry.name}) & names:
                found.add(last)
    return found


def _last_part(url: str) -> str:
    """Return the file name at the end of a URL, or ""."""
    return os.path.basename(unquote(re.split(r"[?#]", url)[0].rpartition("/")[2]))


def _copy(folder: Path, entry: Download, url: str, part: Path, ambiguous: Collection[str]) -> None:
    """Copy the file of an entry from a folder, by its name or by the last part of its URL."""
    last, reason = _last_part(url), f"not in {folder}"
    names = [entry.name, *(entry.name + suffix for suffix in SUFFIXES.values())]
    if last in ambiguous:
        reason = f"{reason} by its name; {quote(last, 60)} may be of another entry"
    elif last:
        names.append(last)
    for name in names:
        if os.path.isfile(folder / name):  # False for invalid names
            _discard(part)
            shutil.copyfile(folder / name, part)
            return
    raise DownloadError(reason)


def _suffix(part: Path) -> str:
    """Check that a file is a complete picture, and return the suffix of its format."""
    try:
        open_picture(part)
    except UnreadablePicture as error:
        _discard(part)
        # A server that sends no Content-Length may have cut it off.
        cut = str(error).startswith("truncated")
        raise DownloadError(str(error), NO_PICTURE, transient=cut) from None
    with Image.open(part, formats=FORMATS) as picture:
        return SUFFIXES[str(picture.format)]


def _tag(part: Path) -> Path:
    """Path of the file with the part's `ETag` or `Last-Modified`, empty without either."""
    return part.with_name(f"{part.name}.tag")


def _discard(part: Path) -> None:
    """Remove a part and its tag."""
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)
