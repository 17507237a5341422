"""The report on a semantic-ID file, alone and against the interactions."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_semid import GOOD, SOURCE, file_of, refusal, small_table

from recbole_qbert.common.files import sidecar_path
from recbole_qbert.data.semid import check_semantic_ids, write_semantic_ids


def test_check_report(tmp_path: Path) -> None:
    path, inter = tmp_path / "ds.semid", tmp_path / "ds.inter"
    write_semantic_ids(path, small_table(), SOURCE)
    inter.write_bytes(
        b"\xef\xbb\xbfuser_id:token\titem_id:token\tt:float\r\nu\tx2\t1\r\nu\tx1\t2\r\n\r\nv\tx2\t3"
    )
    assert check_semantic_ids(path, inter) == [
        f"{path}: 3 items, 2 levels",
        "codebook sizes: 4 5",
        "level a: 2/4 codes used",
        "level b: 2/5 codes used",
        f"sidecar: {path}.json matches the file",
        f"coverage: all 2 items of {inter} have a semantic ID; "
        "1 other item has no interaction there",
    ]
    sidecar_path(path).unlink()
    assert check_semantic_ids(path)[-1].startswith("sidecar: none")


def test_check_says_which_items_are_missing(tmp_path: Path) -> None:
    path, inter = file_of(tmp_path, GOOD), tmp_path / "ds.inter"
    names = ["x1", *[f"new{n}" for n in range(25)], "x2", "new3"]
    inter.write_text("item_id:token\n" + "\n".join(names) + "\n", encoding="utf-8")
    message = refusal(lambda: check_semantic_ids(path, inter))
    assert message.startswith(f"{inter}: 25 of 27 items have no semantic ID: 'new0', 'new1'")
    assert "'new9', …; make" in message


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "ds.inter is empty"),
        (b"user_id:token\titem_ids:token\n", "did you mean 'item_ids'?"),
        (b"user_id:token\titem_id:token\nu\tx1\nu\n", "line 3: 1 fields where the header has 2"),
        (b"item_id:token\nx1\n\xff\n", "line 3: not UTF-8"),
        (b"\xff\x00\n", "line 1: not UTF-8"),
    ],
)
def test_faulty_interactions_are_refused(tmp_path: Path, content: bytes, fragment: str) -> None:
    path, inter = file_of(tmp_path, GOOD), tmp_path / "ds.inter"
    assert "no such file" in refusal(lambda: check_semantic_ids(path, inter))
    inter.write_bytes(content)
    assert fragment in refusal(lambda: check_semantic_ids(path, inter))
