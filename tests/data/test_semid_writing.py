"""Writing the semantic-ID file: round trip, bytes, and writes that fail."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_semid import GOOD, SOURCE, refusal, small_table

from recbole_qbert.common.files import sidecar_path
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.semid import (
    SemanticIDTable,
    items_sha256,
    read_semantic_ids,
    write_semantic_ids,
)

# --- round trip --------------------------------------------------------------------------------

TOKENS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\0"), min_size=1, max_size=12
)


@st.composite
def tables(draw: st.DrawFn) -> SemanticIDTable:
    sizes = tuple(draw(st.lists(st.integers(1, 1000), min_size=1, max_size=30)))
    seed = random.Random(draw(st.integers(0, 2**32)))
    items = draw(st.lists(TOKENS, min_size=1, max_size=12, unique=True))
    rows = dict.fromkeys(tuple(seed.randrange(size) for size in sizes) for _ in items)
    return SemanticIDTable(tuple(items[: len(rows)]), np.array(list(rows)), sizes)


@settings(max_examples=150, deadline=None)
@given(table=tables())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, table: SemanticIDTable) -> None:
    path = tmp_path_factory.mktemp("round") / "ds.semid"
    write_semantic_ids(path, table, SOURCE)
    assert read_semantic_ids(path) == table
    assert read_semantic_ids(path, table.codebook_sizes) == table
    codec = table.codec
    decoded = [[codec.decode_token(t)[1] for t in ids.split()] for ids in table.semantic_ids()]
    assert decoded == table.codes.tolist()
    backwards = table.items[::-1]
    assert np.array_equal(table.codes_for(backwards), table.codes[::-1])


def test_written_bytes_and_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    assert path.read_text(encoding="utf-8") == GOOD
    assert json.loads(sidecar_path(path).read_text()) == {
        "format": "recbole-qbert/semid",
        "version": 1,
        "n_levels": 2,
        "codebook_sizes": [4, 5],
        "n_items": 3,
        "sha256": sha256_file(path),
        "items_sha256": items_sha256(["x3", "x1", "x2"]),
        "source": SOURCE,
    }
    assert sorted(os.listdir(tmp_path)) == ["ds.semid", "ds.semid.json"]


# --- writing fails -----------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


def test_a_failed_write_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    before = contents(tmp_path)
    other = SemanticIDTable(("z",), np.array([[0]]), (1,))

    def failing(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(OSError, match="No space left"):
            write_semantic_ids(path, other, SOURCE)
    assert contents(tmp_path) == before
    for source in ({"x": {1}}, {"x": float("nan")}):
        with pytest.raises((TypeError, ValueError)):
            write_semantic_ids(path, other, source)
    assert contents(tmp_path) == before
    assert read_semantic_ids(path) == small_table()


def test_a_kill_between_file_and_sidecar_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ds.semid"
    write_semantic_ids(path, small_table(), SOURCE)
    replace = os.replace

    def only_the_file(source: str, target: Path) -> None:
        if str(target).endswith(".json"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", only_the_file)
    with pytest.raises(KeyboardInterrupt):
        write_semantic_ids(path, SemanticIDTable(("z",), np.array([[0]]), (1,)), SOURCE)
    assert "its sha256 is not that of" in refusal(lambda: read_semantic_ids(path))
