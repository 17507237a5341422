"""SHA-256 of files and folders."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from recbole_qbert.common.errors import InputError


def sha256_folder(folder: Path) -> dict[str, str]:
    """Return the hex SHA-256 of each file in a folder, by file name."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def check_folder(folder: Path, digests: Mapping[str, str]) -> None:
    """Raise an `InputError` if a file of a folder does not have its SHA-256 of `sha256_folder`."""
    for name, digest in digests.items():
        if not (folder / name).is_file() or sha256_file(folder / name) != digest:
            raise InputError(
                f"{folder / name}: missing or changed since it was saved; save it again"
            )


def sha256_file(path: str | Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
