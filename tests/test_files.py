"""Folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_qbert.errors import InputError
from recbole_qbert.files import atomic_folder, check_folder, sha256_folder


def write(folder: Path, text: str) -> None:
    with atomic_folder(folder) as work:
        (work / "a").write_text(text, encoding="utf-8")


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "x"
    write(folder, "1")
    (folder / "left over").touch()
    write(folder, "2")
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (folder / "a").read_text(encoding="utf-8") == "2"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failure_leaves_the_older_one_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write(folder, "1")
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as work:
        (work / "a").write_text("2", encoding="utf-8")
        raise KeyboardInterrupt
    assert (folder / "a").read_text(encoding="utf-8") == "1"
    assert list(tmp_path.iterdir()) == [folder]


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write(folder, "1")
    digests = sha256_folder(folder)
    # SHA-256 of "1".
    assert digests == {"a": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"}
    check_folder(folder, digests)
    (folder / "a").write_text("2", encoding="utf-8")
    with pytest.raises(InputError, match="x/a: missing or changed"):
        check_folder(folder, digests)
    (folder / "a").unlink()
    with pytest.raises(InputError, match="x/a: missing or changed"):
        check_folder(folder, digests)
