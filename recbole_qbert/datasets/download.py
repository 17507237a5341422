"""Resumable, parallel download of raw files and pictures by lists of URLs.

A folder holds the complete files and `status.tsv`, with one row per entry. A row is written when
its entry ends, so that a kill loses no finished entry. States:

    done            the file is complete and verified
    gone            no URL exists (404, 410, other refusals)
    not a picture   the received file is not a complete picture
    failed          the network or the server failed

A later run tries failed entries again, and entries of other states only on request.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from recbole_qbert.common.errors import InputError, one_of
from recbole_qbert.common.files import atomic_write, check_writable, exclusive_folder
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic import read_lines
from recbole_qbert.data.codec import quote
from recbole_qbert.data.items import ITEM_FIELD, read_item_fields
from recbole_qbert.datasets.http import (
    DONE,
    FAILED,
    PARTS,
    STATES,
    Download,
    Fetcher,
    HttpOptions,
    Record,
    ambiguous,
)

STATUS = "status.tsv"
COLUMNS = Record._fields
LONGEST_NAME = 250  # bytes; file systems allow 255, with the suffix of a picture


def read_list(path: str | Path) -> list[Download]:
    """Read entries from a text file.

    Each line has a name, a tab, URLs separated by blanks, and optionally a tab and a SHA-256.

    Raises:
        InputError: a line is invalid, a name is no valid file name, or a name occurs twice.
    """
    entries = []
    for number, line in enumerate(read_lines(Path(path)), 1):
        fields = line.split("\t")
        if not line:
            continue
        if len(fields) not in (2, 3) or not fields[1].split():
            raise InputError(
                f"{path}: line {number}: {len(fields)} fields; write a name, a tab, URLs separated "
                "by blanks, and optionally a tab and a SHA-256"
            )
        digest = fields[2].lower() if len(fields) == 3 else ""
        if digest and not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(
                f"{path}: line {number}: {quote(digest)} is not a SHA-256 of 64 hex digits; "
                "correct it"
            )
        _check_name(fields[0], f"{path}: line {number}")
        entries.append(Download(fields[0], tuple(fields[1].split()), digest))
    return _checked(entries, path)


def read_items(path: str | Path, column: str) -> list[Download]:
    """Read entries from an `.item` file, for all items that have URLs, separated by blanks.

    Args:
        path: the `.item` file.
        column: column of the URLs.

    Raises:
        InputError: as `read_item_fields`, or an item token is no valid file name.
    """
    frame = read_item_fields(path, [column])
    entries = []
    for line, item, cell in zip(frame.index, frame[ITEM_FIELD], frame[column], strict=True):
        if cell.split():
            _check_name(item, f"{path}: line {line}, {ITEM_FIELD}")
            entries.append(Download(item, tuple(cell.split())))
    return _checked(entries, path)


def _check_name(name: str, place: str) -> None:
    """Check that a name is a valid file name."""
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"{place}: {quote(name, 40)} has more than {LONGEST_NAME} bytes, too many for a file "
            "name; shorten it"
        )
    if not name or name[0] == "." or re.search(r'[/\\\0\r\n\t<>:"|?*]', name) or name == STATUS:
        raise InputError(f"{place}: {quote(name)} is not a valid file name; rename it")


def _checked(entries: list[Download], path: str | Path) -> list[Download]:
    """Return the entries; raise InputError if there are none or a name occurs twice."""
    if not entries:
        raise InputError(f"{path}: has no URL; give another file or column")
    name, count = Counter(entry.name for entry in entries).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: {quote(name)} occurs {count} times; keep one row for each name")
    return entries


def download(
    entries: Sequence[Download],
    folder: str | Path,
    options: HttpOptions | None = None,
    *,
    pictures: bool = False,
    offline: Path | None = None,
    again: Sequence[str] = (),
    check: bool = False,
) -> Counter[str]:
    """Download the entries that are not done yet.

    Args:
        entries: the files to download.
        options: HTTP options; None for the defaults.
        pictures, offline: see `Fetcher`.
        again: states to try again, besides `failed`.
        check: hash all files that are done, and download changed ones again.

    Returns:
        The number of entries in each state.

    Raises:
        InputError: a state is unknown, `offline` is no folder, or the folder is not writable.
    """
    for state in again:
        one_of("again", state, STATES)
    if offline is not None and not offline.is_dir():
        raise InputError(f"{offline}: no such folder; give the folder with the files")
    folder = Path(folder)
    check_writable(folder)
    shared = ambiguous(entries) if offline else set()
    fetcher = Fetcher(folder, options or HttpOptions(), pictures, offline, shared)
    with exclusive_folder(folder / PARTS):
        return _download(entries, folder, fetcher, again, check)


def _download(
    entries: Sequence[Download], folder: Path, fetcher: Fetcher, again: Sequence[str], check: bool
) -> Counter[str]:
    records = read_status(folder)
    _write_status(folder, records, entries)

    def intact(entry: Download, record: Record) -> bool:
        path = folder / record.file
        same = path.is_file() and path.stat().st_size == record.bytes
        same = same and entry.sha256 in ("", record.sha256)
        return same and (not check or sha256_file(path) == record.sha256)

    todo = [
        entry
        for entry in entries
        if (record := records.get(entry.name)) is None
        or record.state in (FAILED, *again)
        or (record.state == DONE and not intact(entry, record))
    ]
    with open(folder / STATUS, "a", encoding="utf-8", newline="") as journal:
        for record in fetcher.all(todo):
            records[record.name] = record
            journal.write(_row(record))
            journal.flush()
    _write_status(folder, records, entries)
    if all(record.state != FAILED for record in records.values()):
        shutil.rmtree(folder / PARTS)
    return Counter(records[entry.name].state for entry in entries)


def read_status(folder: Path) -> dict[str, Record]:
    """Read the last row of each name from a folder's status file; {} if there is no file.

    A last row that a kill cut short is left out.

    Raises:
        InputError: the file is not a status file.
    """
    path = folder / STATUS
    if not path.is_file():
        return {}
    header, *lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    if header.split("\t") != list(COLUMNS):
        raise InputError(f"{path}: line 1 is not the header of a status file; remove the file")
    records = {}
    for number, line in enumerate(lines[:-1], 2):  # the last element is empty or cut short
        fields = line.split("\t")
        if len(fields) != len(COLUMNS) or fields[1] not in STATES or not fields[3].isdecimal():
            raise InputError(f"{path}: line {number}: is not a status row; remove the line")
        name, state, file, size, digest, url, reason = fields
        records[name] = Record(name, state, file, int(size), digest, url, reason)
    return records


def _write_status(folder: Path, records: Mapping[str, Record], entries: Sequence[Download]) -> None:
    """Write the rows in the order of the entries, then the rows of earlier lists."""
    names = dict.fromkeys([*(entry.name for entry in entries), *records])
    with atomic_write(folder / STATUS) as handle:
        handle.write("\t".join(COLUMNS) + "\n")
        handle.writelines(_row(records[name]) for name in names if name in records)


def _row(record: Record) -> str:
    return "\t".join(re.sub(r"[\t\r\n]+", " ", str(value)) for value in record) + "\n"
