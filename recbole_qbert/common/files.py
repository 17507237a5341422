"""Atomic file writing, append-only logs, file locks, hashes and JSON sidecars.

Tables of vectors, `.semid` files and prepared `.inter` files have a sidecar `x.json` that records
the hashes of their inputs, shapes, seed and counts.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import tempfile
import time
import uuid
import zipfile
from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import lock_descriptor, unlock_descriptor

from recbole_qbert.common.errors import InputError, did_you_mean_path, error_context, preview

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_ALLOWED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
_TORCH_ALLOCATOR = "DefaultCPUAllocator"  # part of PyTorch's message if a CPU's memory runs out


@contextlib.contextmanager
def report_disk_full(path: str | Path) -> Iterator[None]:
    """Raise an `InputError` for a full disk or missing permission, met while `path` is written."""
    try:
        yield
    except OSError as error:
        raise _explained(error, path) or error from None


@contextlib.contextmanager
def system_faults() -> Iterator[None]:
    """Raise an `InputError` for any `OSError` of the block that names a file, or a full disk.

    Likewise if memory runs out, also on a GPU.

    This is the last resort of a command; code that knows more about the file reports it earlier.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # PyTorch raises RuntimeError, on a GPU a class of its own; it is not imported here.
        text = " ".join(str(error).split())
        of_torch = type(error).__name__ == "OutOfMemoryError" or _TORCH_ALLOCATOR in text
        if not (isinstance(error, MemoryError) or of_torch):
            raise
        raise InputError(
            f"memory ran out ({text[:200]}); use smaller batches (train_batch_size, "
            "eval_batch_size), or a machine with more memory"
        ) from None
    except OSError as error:
        path = error.filename
        if path is None:
            if not _is_full(error):
                raise
            path = f"the current folder, checkpoint_dir or {tempfile.gettempdir()}"
        path = os.fsdecode(path) if isinstance(path, str | bytes) else path
        raise _explained(error, path) or InputError(
            f"{path}: {error.strerror}; correct the path{did_you_mean_path(path)}"
        ) from None


def _explained(error: OSError, path: str | Path) -> InputError | None:
    """Return a message with a remedy for a full disk or a missing permission."""
    if _is_full(error):
        reason = os.strerror(error.errno or errno.ENOSPC)
        remedy = "free space there and repeat the command (--resume=True continues a training)"
        return InputError(f"{path}: {reason}; {remedy}")
    if error.errno in _NOT_ALLOWED:
        remedy = "choose a writable folder with --checkpoint_dir or the flag that gave this path"
        return InputError(f"{path}: {error.strerror}; {remedy}")
    return None


def _is_full(error: OSError) -> bool:
    """Return whether the error means a full disk, which NumPy reports without an error number."""
    return error.errno in _NO_ROOM or (error.errno is None and " requested and " in str(error))


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`, and rename it to `path` if the block succeeds.

    The data is flushed to disk before the rename, so that a kill at any moment leaves either the
    old file or the new one. Mode "w" is UTF-8 text without newline translation, "wb" bytes.

    Raises:
        InputError: the disk is full, or `path` may not be written.
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


def check_replaceable(folder: Path, contents: Collection[str]) -> None:
    """Check that `atomic_folder` may replace a folder.

    Args:
        folder: a new folder, or one of an earlier run.
        contents: names of the files that it may have.

    Raises:
        InputError: the folder is not writable, or contains other files, which would be lost.
    """
    if not folder.name or folder.is_file():
        raise InputError(f"{folder}: give a new folder")
    check_writable(folder)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if others := sorted(names - {*contents}):
        raise InputError(
            f"{folder}: contains other files ({preview(others, 3)}); give another folder"
        )


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Create a temporary folder beside `path`, and rename it to `path` if the block succeeds.

    An existing folder at `path` is moved aside first, because no system replaces a folder that
    holds files. A kill between the two renames leaves nothing at `path` until `recovered` or the
    next `atomic_folder` moves the old folder back.

    Raises:
        InputError: the disk is full, or `path` may not be written.
    """
    path = recovered(Path(path))
    work = _beside(path)
    try:
        with report_disk_full(path):
            work.mkdir(parents=True)
            yield work
        while True:
            if path.exists():
                os.replace(path, _beside(path, _OLD))
            try:
                os.replace(work, path)
                break
            except OSError:
                if not path.exists():
                    raise
                # A reader took the folder moved aside for that of a killed process: again.
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        recovered(path)
        raise
    for old in _moved_aside(path):
        shutil.rmtree(old, ignore_errors=True)


def recovered(path: Path) -> Path:
    """Move back the folder that a killed `atomic_folder` left moved aside, and return `path`."""
    if not path.exists():
        for old in _moved_aside(path)[:1]:
            with contextlib.suppress(OSError):  # a read-only folder
                os.replace(old, path)
    return path


_OLD = ".old"


def _moved_aside(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{glob.escape(path.name)}.*{_OLD}"))


def _beside(path: Path, suffix: str = "") -> Path:
    """Return a new hidden name beside `path`; files under it get the user's default permissions."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{suffix}")


def append_line(path: str | Path, content: Mapping[str, Any]) -> None:
    """Append one JSON line with its SHA-256, and flush it to disk before returning.

    If the line cannot be written in full, the file is truncated to its previous length. If a kill
    left half a line at the end, the new line starts on a fresh one. Concurrent writers wait.

    Raises:
        InputError: the disk is full, or `path` may not be written.
    """
    path = Path(path)
    line = _json_line({**content, "sha256": sha256(_json_line(content)).hexdigest()}) + b"\n"
    with report_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as handle, held(handle):
            before = handle.seek(0, os.SEEK_END)
            if before:
                handle.seek(-1, os.SEEK_END)
                line = line if handle.read(1) == b"\n" else b"\n" + line
            try:
                if handle.write(line) < len(line):  # the disk is full
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(before)
                raise


def read_line(line: str | bytes) -> dict[str, Any]:
    """Parse a line of `append_line`, or raise a `ValueError`; the SHA-256 may be missing."""
    content = json.loads(line)
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    digest = content.pop("sha256", None)
    if digest is not None and digest != sha256(_json_line(content)).hexdigest():
        raise ValueError("damaged: the line does not match its SHA-256")
    return content


def _json_line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, sort_keys=True).encode()


@contextlib.contextmanager
def held(handle: IO[Any], wait_s: float = float("inf")) -> Iterator[bool]:
    """Lock an open file during the block; the system releases the lock when the process ends.

    Yields False if another process still holds the lock after `wait_s` seconds, else True. Where
    the file system does not support locks, nothing is locked.
    """
    deadline, free = time.monotonic() + wait_s, True
    with contextlib.suppress(OSError):  # locks are not supported
        while not (free := lock_descriptor(handle.fileno(), blocking=False)):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.05)
    yield free
    handle.flush()
    if free:
        with contextlib.suppress(OSError):
            unlock_descriptor(handle.fileno())


@contextlib.contextmanager
def exclusive(path: str | Path, wait_s: float = 60.0) -> Iterator[None]:
    """Hold the lock file `path`, which is not deleted afterwards, during the block.

    Raises:
        InputError: another process still holds it after `wait_s` seconds; gives its number.
    """
    path = Path(path)
    with report_disk_full(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115  closed below
    with handle, held(handle, wait_s) as free:
        if not free:
            owner = ""
            with contextlib.suppress(OSError):  # Windows forbids reading a locked file
                handle.seek(0)
                owner = handle.read().strip()
            raise InputError(
                f"{path}: another process uses this folder ({owner or 'number unknown'}); wait "
                "until it ends, or end it"
            )
        handle.truncate(0)
        handle.write(f"process {os.getpid()}")
        handle.flush()
        yield


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Create a folder and hold a lock in it during the block.

    At the end, a folder that holds nothing but the lock is removed, with parents made for it.

    Raises:
        InputError: another process holds the lock.
    """
    made = [parent for parent in folder.parents if not parent.exists()]
    with exclusive(folder / _LOCK, wait_s=0):
        try:
            yield
        finally:
            if folder.is_dir() and [path.name for path in folder.iterdir()] == [_LOCK]:
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # one that is used by now
                    for parent in made:
                        parent.rmdir()


_LOCK = "lock"


def check_writable(folder: str | Path) -> None:
    """Raise an `InputError` if files cannot be written in a folder, which need not exist yet.

    The folder is not created, and no file is left behind.
    """
    place = Path(os.path.abspath(folder))
    missing: list[str] = []
    try:
        while not os.path.lexists(place):
            missing.insert(0, place.name)
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(0, f"{place} is not a folder")
        with tempfile.TemporaryDirectory(dir=place) as trial:
            Path(trial, *missing).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: is not writable ({reason}); give another folder") from None


def check_output_file(flag: str, path: Path) -> None:
    """Raise an `InputError` if the file that `--<flag>` names cannot be written."""
    with error_context(f"--{flag}={path}"):
        if path.is_dir():
            raise InputError("is a folder; name a file")
        check_writable(path.parent)


def sidecar_path(path: str | Path) -> Path:
    """Return the path of a file's sidecar: `x.semid` -> `x.semid.json`."""
    return Path(f"{path}.json")


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Write an uncompressed `.npz` atomically; the same arrays give the same bytes.

    `np.savez` is not used, because on a full disk it leaves its archive open, whose finalizer then
    prints an error about the closed file. Raises as `atomic_write`.
    """
    with atomic_write(path, "wb") as handle, zipfile.ZipFile(handle, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON atomically; raises as `atomic_write`."""
    with atomic_write(path) as handle:
        json.dump(content, handle, indent=2, ensure_ascii=False, sort_keys=True)
        handle.write("\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; an `InputError` names a missing, invalid or too deeply nested file."""
    content: dict[str, Any] = _parsed(path, dict, "object")
    return content


def read_json_list(path: str | Path) -> list[Any]:
    """Read a JSON array; raises as `read_json`."""
    content: list[Any] = _parsed(path, list, "array")
    return content


def _parsed(path: str | Path, kind: type, called: str) -> Any:
    """Parse a JSON file whose top level must be a `kind`, named `called` in the message."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    # Not UTF-8, not JSON, nested too deeply, or an integer with too many digits.
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); create the file again") from None
    if not isinstance(content, kind):
        raise InputError(f"{path}: not a JSON {called}; create the file again")
    return content
