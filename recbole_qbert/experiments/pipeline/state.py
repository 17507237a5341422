"""What a pipeline has done: one JSON file, and the digests of what steps read and write."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, sha256_file, write_json

FORMAT = "recbole-qbert/pipeline/1"
# A file that changed so shortly before it was hashed may change again within one tick of the clock
# that stamps files, and is hashed anew.
_TICK_NS = 2_000_000_000


class State:
    """The state file. `steps` maps a step's name to its record:

    `begun`: key of what was started last; `done`: of the last time it ended well, the `key` and
    what it was made of: `version`, `line`, `settings`, `inputs` and `outputs` with their digests.
    """

    def __init__(self, path: Path):
        """Read `path`, or start without anything done.

        Raises:
            InputError: it is no state file of this version.
        """
        self.path = path
        content: dict[str, Any] = read_json(path) if path.is_file() else {"format": FORMAT}
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: no state file of this version; remove it, or name another")
        self.steps: dict[str, dict[str, Any]] = content.get("steps", {})
        self._stamps: dict[str, list[Any]] = content.get("stamps", {})

    def write(self) -> None:
        """Whole or not at all."""
        content = {"format": FORMAT, "steps": self.steps, "stamps": self._stamps}
        write_json(self.path, content)

    def digest(self, path: str) -> str | None:
        """Hex SHA-256 of a file, or of a folder's names and files; None if it is not there.

        What looks untouched (size, time and inode, of each file in a folder) since it was hashed
        is not read again.
        """
        stamp = _stamp(path)
        if stamp is None:
            return None
        known = self._stamps.get(path)
        if known is not None and known[0] == stamp[0] and stamp[1] < known[1] - _TICK_NS:
            return str(known[2])
        now = time.time_ns()
        digest = _hash(path)
        self._stamps[path] = [stamp[0], now, digest]
        return digest

    def digests(self, paths: Sequence[str]) -> dict[str, str | None]:
        """Of each path; a pattern stands for what it matches, or for itself."""
        return {each: self.digest(each) for path in paths for each in matches(path)}


def matches(path: str) -> list[str]:
    """Paths that fit a pattern, sorted; the path itself where it is none or nothing fits."""
    if not glob.has_magic(path) or os.path.exists(path):
        return [path]
    return sorted(glob.glob(path, recursive=True)) or [path]


def key_of(parts: Any) -> str:
    """Hex SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _files(folder: str) -> list[str]:
    """All files below a folder, sorted; those with a dot in front are other people's."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def _stamp(path: str) -> tuple[str, int] | None:
    """What tells a touched file or folder, and its latest change in ns."""
    try:
        files = _files(path) if os.path.isdir(path) else [path]
        stats = [(file, os.stat(file)) for file in files]
    except OSError:
        return None
    facts = [f"{file}\0{at.st_size}\0{at.st_mtime_ns}\0{at.st_ino}" for file, at in stats]
    latest = max((at.st_mtime_ns for _, at in stats), default=0)
    return hashlib.sha256("\n".join(facts).encode()).hexdigest(), latest


def _hash(path: str) -> str:
    if not os.path.isdir(path):
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{os.path.relpath(file, path)}\0{sha256_file(file)}\n".encode())
    return digest.hexdigest()
