"""Whole-or-not-at-all file writing, hashing, and JSON sidecars.

Every artifact `x` has a sidecar `x.json`: what it was made from (by hash), shapes, seed, counts.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import lock_descriptor, unlock_descriptor

from recbole_qbert.common.errors import InputError

_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_ALLOWED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@contextlib.contextmanager
def report_disk_full(path: str | Path) -> Iterator[None]:
    """Say in one line that a disk is full, or may only be read, while `path` is written.

    Raises:
        InputError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        raise _fault(error, path) or error from None


@contextlib.contextmanager
def system_faults() -> Iterator[None]:
    """Say in one line what the system refused in the block, where nobody nearer has said it.

    Raises:
        InputError: names the path, or where a disk may be full. An error without a path, which
            is about no file, stays as it is.
    """
    try:
        yield
    except OSError as error:
        path = error.filename
        if path is None:
            places = f"the current folder, checkpoint_dir or {tempfile.gettempdir()}"
            raise (_fault(error, places) if _is_full(error) else None) or error from None
        path = os.fsdecode(path) if isinstance(path, str | bytes) else path
        raise _fault(error, path) or InputError(f"{path}: {error.strerror}") from None


def _fault(error: OSError, path: str | Path) -> InputError | None:
    if _is_full(error):
        reason = os.strerror(error.errno or errno.ENOSPC)
        return InputError(
            f"{path}: {reason}; make room there, and repeat the command (a training goes on with "
            "--resume=True)"
        )
    if error.errno in _NOT_ALLOWED:
        return InputError(
            f"{path}: {error.strerror}; give --checkpoint_dir, or the flag that this path is from, "
            "a folder that you may write to"
        )
    return None


def _is_full(error: OSError) -> bool:
    """NumPy says of a write that is cut short `5 requested and 3 written`, and no number."""
    return error.errno in _NO_ROOM or (error.errno is None and " requested and " in str(error))


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes the name only if the block succeeds.

    The data is flushed to the disk before the rename, so that a kill at any moment leaves either
    the old file or the new one.
    """
    path = Path(path)
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    temporary = _beside(path, ".part")
    with report_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(temporary, mode.replace("w", "x"), **text)  # type: ignore[call-overload]  # noqa: SIM115
    try:
        with report_disk_full(path), handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; it takes the name only if the block succeeds.

    An older folder of the name is moved aside first, as no system replaces one that has files. A
    kill between these two moves leaves nothing at `path`, until `recovered`, or the next
    `atomic_folder`, puts the older one back.
    """
    path = Path(path)
    with report_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = _beside(recovered(path))
        work.mkdir()
    try:
        with report_disk_full(path):
            yield work
        _take_place(work, path)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        recovered(path)
        raise
    for old in _moved_aside(path):
        shutil.rmtree(old, ignore_errors=True)


def _take_place(work: Path, path: Path) -> None:
    while work.exists():
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, _beside(path, _OLD))
        try:
            os.replace(work, path)
        except OSError as error:
            # Another process may have been faster: its folder is moved aside too.
            if error.errno not in _TAKEN and not path.exists():
                raise


def recovered(path: Path) -> Path:
    """`path`, where a folder is now that a killed `atomic_folder` had moved aside."""
    if not path.exists():
        for old in _moved_aside(path)[:1]:
            with contextlib.suppress(OSError):  # of a folder that may only be read
                os.replace(old, path)
    return path


_OLD = ".old"


def _moved_aside(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{glob.escape(path.name)}.*{_OLD}"))


def _beside(path: Path, suffix: str = "") -> Path:
    """A new hidden name; what is made there has the permissions of any file of the user's."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{suffix}")


def append_line(path: str | Path, content: Mapping[str, Any]) -> None:
    """Add a line of JSON, on the disk before this returns; a line that has no room leaves nothing.

    The line holds its own SHA-256, for `read_line`. Where a kill left half a line, a new one is
    begun. Several processes wait for each other.
    """
    path = Path(path)
    line = _json_line({**content, "sha256": _sha256(_json_line(content))}) + b"\n"
    with report_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as handle, held(handle):
            before = handle.seek(0, os.SEEK_END)
            if before:
                handle.seek(-1, os.SEEK_END)
                line = line if handle.read(1) == b"\n" else b"\n" + line
            try:
                if handle.write(line) < len(line):  # the disk's last bytes
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(before)
                raise


def read_line(line: str | bytes) -> dict[str, Any]:
    """What `append_line` was given; a line without a SHA-256, by other hands, is read as it is.

    Raises:
        ValueError: no JSON object, or a damaged one.
    """
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    digest = content.pop("sha256", None)
    if digest is not None and digest != _sha256(_json_line(content)):
        raise ValueError("damaged: it is not what was written")
    return content


def _json_line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def held(handle: IO[Any], wait_s: float = float("inf")) -> Iterator[bool]:
    """Hold an open file's lock through the block; the system drops it when the process ends.

    Where the file system has no locks, nothing is locked.

    Args:
        handle: of a file; its bytes need have nothing to do with the lock.
        wait_s: seconds to wait for another process that holds it.

    Yields:
        False if another process holds it still.
    """
    free = _lock(handle, time.monotonic() + wait_s)
    yield free
    handle.flush()
    if free:
        with contextlib.suppress(OSError):
            unlock_descriptor(handle.fileno())


def _lock(handle: IO[Any], deadline: float) -> bool:
    with contextlib.suppress(OSError):
        while not lock_descriptor(handle.fileno(), blocking=False):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
    return True


@contextlib.contextmanager
def exclusive(path: str | Path, wait_s: float = 60.0) -> Iterator[None]:
    """Hold the lock file `path` through the block; it holds this process's number, and stays.

    Raises:
        InputError: another process holds it after `wait_s` seconds; says which.
    """
    path = Path(path)
    with report_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115  closed below
    with handle, held(handle, wait_s) as free:
        if not free:
            who = "no number known"
            with contextlib.suppress(OSError):  # Windows lets nobody else read it
                handle.seek(0)
                who = handle.read().strip() or who
            raise InputError(
                f"{path}: another process is at work here ({who}); wait for it, or end it"
            )
        handle.truncate(0)
        handle.write(f"process {os.getpid()}")
        handle.flush()
        yield


def sha256_folder(folder: Path) -> dict[str, str]:
    """Hex SHA-256 of each file in a folder, by name."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def check_writable(folder: str | Path) -> None:
    """Refuse a folder in which no file could be written. It is not made, and nothing stays.

    Raises:
        InputError: names the folder and what is in the way.
    """
    place = Path(os.path.abspath(folder))
    missing: list[str] = []
    try:
        while not os.path.lexists(place):
            missing.insert(0, place.name)
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(0, f"{place} is no folder")
        with tempfile.TemporaryDirectory(dir=place) as trial:
            Path(trial, *missing).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{folder}: cannot be written to ({reason}); give another folder"
        ) from None


def check_folder(folder: Path, digests: Mapping[str, str]) -> None:
    """Refuse a folder whose files are not those that were written.

    Raises:
        InputError: a file is missing or has other bytes; names it.
    """
    for name, digest in digests.items():
        if not (folder / name).is_file() or sha256_file(folder / name) != digest:
            raise InputError(
                f"{folder / name}: missing or changed since it was saved; save it again"
            )


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sidecar_path(path: str | Path) -> Path:
    """`x.semid` -> `x.semid.json`."""
    return Path(f"{path}.json")


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """`np.savez`, whole or not at all, and without a word of its own on a full disk.

    There NumPy leaves an archive open, which tries to end itself when the file is closed already.
    """
    with atomic_write(path, "wb") as handle:
        archive = zipfile.ZipFile(handle, "w")
        try:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
            archive.close()
        except BaseException:
            archive.fp = None  # nothing is left to end
            raise


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all."""
    with atomic_write(path) as handle:
        json.dump(content, handle, indent=2, ensure_ascii=False, sort_keys=True)
        handle.write("\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing, not UTF-8 JSON, nested too deeply, or not an object.
    """
    content: dict[str, Any] = _parsed(path, dict, "object")
    return content


def read_json_list(path: str | Path) -> list[Any]:
    """Read a JSON array.

    Raises:
        InputError: as of `read_json`.
    """
    content: list[Any] = _parsed(path, list, "array")
    return content


def _parsed(path: str | Path, kind: type, called: str) -> Any:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, too deep, endless digits
        raise InputError(f"{path}: not valid JSON ({error}); make it again") from None
    if not isinstance(content, kind):
        raise InputError(f"{path}: a JSON {called} was expected; make it again")
    return content
