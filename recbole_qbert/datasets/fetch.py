"""Fetch entries over HTTP, or from a folder that stands for the network, on threads.

What was begun lies in `.parts/`; an entry takes its name only when it is whole and verified.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from PIL import Image

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write, sha256_file
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.pictures import FORMATS, UnreadablePicture, open_picture
from recbole_qbert.datasets.receive import (
    CHUNK,
    DONE,
    FAILED,
    GONE,
    NO_PICTURE,
    TOO_LARGE,
    FinalFault,
    Manners,
    PassingFault,
    Receiver,
    discard,
)

PARTS = ".parts"  # folder of what is not whole yet
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}


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


@dataclass
class Fetcher:
    """Works through entries on threads."""

    folder: Path
    wanted: Wanted
    manners: Manners
    receiver: Receiver = field(init=False)

    def __post_init__(self) -> None:
        self.receiver = Receiver(self.manners, self.wanted.max_bytes)

    def all(self, entries: Sequence[Entry]) -> Iterator[Record]:
        """The record of each entry, as they end; what runs is stopped when the caller is."""
        counts: Counter[str] = Counter()
        with (
            ThreadPoolExecutor(self.manners.workers) as pool,
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
            except OSError as error:
                raise InputError(
                    f"{self.folder}: cannot be written ({error.strerror or error}); make room, or "
                    "correct the path, and repeat the command"
                ) from None
            finally:
                self.receiver.stop.set()
                for future in futures:
                    future.cancel()

    def one(self, entry: Entry) -> Record:
        """Fetch one entry: the first URL that gives something good."""
        faults: list[FinalFault] = []
        for url in entry.urls:
            try:
                return self._from_url(entry, url)
            except FinalFault as fault:
                faults.append(fault)
        # What may pass outweighs what stays, so that the entry is tried again.
        order = (FAILED, TOO_LARGE, NO_PICTURE, GONE)
        worst = min(faults, key=lambda fault: order.index(fault.state))
        return Record(entry.name, worst.state, url=entry.urls[0], reason=str(worst))

    def _from_url(self, entry: Entry, url: str) -> Record:
        """One URL with its further attempts.

        Raises:
            FinalFault: it gives nothing good.
        """
        digest = hashlib.sha256(url.encode()).hexdigest()[:16]
        part = self.folder / PARTS / f"{entry.name}.{digest}"
        for attempt in range(self.manners.retries + 1):
            try:
                if self.wanted.offline is None:
                    self.receiver.receive(url, part)
                else:
                    self._copy(entry, url, part)
                return self._accept(entry, url, part)
            except PassingFault as fault:
                if self.wanted.offline is not None or attempt == self.manners.retries:
                    raise FinalFault(fault.state, str(fault)) from None
                wait = self.manners.backoff * 2**attempt * random.uniform(0.5, 1)
                wait = min(wait, self.manners.max_wait)
                if fault.wait is not None and fault.wait > self.manners.max_wait:
                    raise FinalFault(FAILED, f"{fault}, asks to wait {fault.wait:.0f} s") from None
                self.receiver.pause(max(wait, fault.wait or 0.0))
            except FinalFault:
                discard(part)
                raise
        raise AssertionError("the last attempt returns or raises")

    def _accept(self, entry: Entry, url: str, part: Path) -> Record:
        """Verify what came and put it in place."""
        digest = sha256_file(part)
        if entry.sha256 and digest != entry.sha256:
            discard(part)
            raise PassingFault("its bytes are not those of the SHA-256 in the list")
        size = part.stat().st_size
        suffix = self._picture_suffix(part) if self.wanted.pictures else ""
        target = self.folder / f"{entry.name}{suffix}"
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, target)
        discard(part)
        return Record(entry.name, DONE, target.name, size, digest, url)

    def _picture_suffix(self, part: Path) -> str:
        try:
            open_picture(part)
        except UnreadablePicture as fault:
            discard(part)
            if str(fault).startswith("truncated"):  # a server that does not say how much there is
                raise PassingFault(str(fault), state=NO_PICTURE) from None
            raise FinalFault(NO_PICTURE, str(fault)) from None
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
                self.receiver.check_size(source.stat().st_size)
                with atomic_write(part, "wb") as out, open(source, "rb") as handle:
                    while data := handle.read(CHUNK):
                        out.write(data)
                return
        raise PassingFault(f"not in {self.wanted.offline}")
