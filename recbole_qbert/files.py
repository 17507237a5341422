"""Whole-or-not-at-all file writing, hashing, and JSON sidecars.

Every artifact `x` has a sidecar `x.json`: what it was made from (by hash), shapes, seed, counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from recbole_qbert.errors import InputError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@contextlib.contextmanager
def room_for(path: str | Path) -> Iterator[None]:
    """Say in one line that a disk is full, or may only be read, while `path` is written.

    Raises:
        InputError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise InputError(
            f"{path}: {os.strerror(error.errno)}; make room there, and repeat the command (a "
            "training goes on with --resume=True)"
        ) from None


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes the name only if the block succeeds.

    The data is flushed to the disk before the rename, so that a kill at any moment leaves either
    the old file or the new one.
    """
    path = Path(path)
    encoding = None if "b" in mode else "utf-8"
    newline = None if "b" in mode else ""
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with room_for(path), os.fdopen(fd, mode, encoding=encoding, newline=newline) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files private; artifacts are not
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a temporary folder beside `path`; it takes the name, and an older one's place, only if
    the block succeeds."""
    path = Path(path)
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        with room_for(path):
            yield work
        old = Path(f"{work}.old")
        if path.exists():
            os.replace(path, old)
        os.replace(work, path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def append_line(path: str | Path, content: Mapping[str, Any]) -> None:
    """Add a line of JSON, on the disk before this returns; a line that has no room leaves nothing.

    Several processes wait for each other.
    """
    path = Path(path)
    line = (json.dumps(content, ensure_ascii=False, sort_keys=True) + "\n").encode()
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as handle, held(handle):
            before = os.fstat(handle.fileno()).st_size
            try:
                if handle.write(line) < len(line):  # the disk's last bytes
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(before)
                raise


@contextlib.contextmanager
def held(handle: IO[Any], shared: bool = False) -> Iterator[None]:
    """Wait for an open file's lock and hold it through the block, alone or with other readers.

    Where the file system has no locks, nothing is locked.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    yield
    handle.flush()
    with contextlib.suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_UN)


def sha256_folder(folder: Path) -> dict[str, str]:
    """Hex SHA-256 of each file in a folder, by name."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


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


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON, whole or not at all."""
    with atomic_write(path) as handle:
        json.dump(content, handle, indent=2, ensure_ascii=False, sort_keys=True)
        handle.write("\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is missing, not UTF-8 JSON, or not an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); make it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a JSON object was expected; make it again")
    return content
