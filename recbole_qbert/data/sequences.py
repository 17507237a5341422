"""User sequences of an `.inter` file as two flat arrays, stored on disk and memory-mapped.

They are in a folder `<ds>.sequences/` beside the `.inter` file:

    items.npy      int32 [T]: item numbers, one user after another, oldest first
    offsets.npy    int64 [U + 1]: user u's items are `items[offsets[u]:offsets[u + 1]]`
    tokens.json    raw token of each item number
    meta.json      SHA-256 of the `.inter` file and of the files above, counts

The last item of each user, the test target of leave-one-out, is left out, so that code that learns
from these sequences cannot see it. Shapes: T interactions without those, U users, N items.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError, did_you_mean_path
from recbole_qbert.common.files import atomic_folder, read_json, write_json
from recbole_qbert.common.hashes import check_folder, sha256_file, sha256_folder
from recbole_qbert.data.atomic import read_atomic

FORMAT = "recbole-qbert/sequences/2"
USER, ITEM, TIME = FIELDS = ("user_id", "item_id", "timestamp")
TEST_ITEMS = 1  # items at the end of each sequence that are left out


class Sequences(NamedTuple):
    """Flat sequences, see the module docstring; the arrays may be memory-mapped."""

    items: np.ndarray
    offsets: np.ndarray
    tokens: list[str]

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of items of each user, without the test target. int64 [U]"""
        return np.diff(self.offsets)


def read_interactions(path: str | Path) -> pd.DataFrame:
    """Read an `.inter` file, ordered by user and, within a user, by time.

    Equal times keep the order of the file, as in RecBole. Users are ordered by their first row.

    Returns:
        Columns `user_id` and `item_id`, categorical with text categories, and `timestamp`, float64.

    Raises:
        InputError: the file cannot be read, lacks a column, or has a time that is not a number;
            names the line.
    """
    file = read_atomic(path, FIELDS)
    columns: dict[str, Any] = {TIME: file.numbers(TIME)}
    for field in (USER, ITEM):
        file.check_ids(field)
        columns[field] = file.columns[field].combine_chunks().dictionary_encode().to_pandas()
    frame = pd.DataFrame(columns)[list(FIELDS)]
    by_time = frame[TIME].argsort(kind="stable")
    users = frame[USER].cat.codes.to_numpy()[by_time]
    return frame.iloc[by_time.to_numpy()[np.argsort(users, kind="stable")]]


def open_sequences(inter_path: str | Path) -> Sequences:
    """Open the sequences of an `.inter` file, memory-mapped; the first call creates them.

    Raises:
        InputError: the file is missing, or as in `read_interactions`.
    """
    inter_path = Path(inter_path)
    if not inter_path.is_file():
        hint = did_you_mean_path(inter_path)
        raise InputError(f"{inter_path}: no such file; correct the path{hint}")
    folder = inter_path.with_suffix(".sequences")
    digest = sha256_file(inter_path)
    if not _is_of(folder, digest):
        _write(folder, read_interactions(inter_path), digest)
    items = np.load(folder / "items.npy", mmap_mode="r")
    offsets = np.load(folder / "offsets.npy", mmap_mode="r")
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    return Sequences(items, offsets, tokens)


def _is_of(folder: Path, digest: str) -> bool:
    """Return whether the folder holds intact sequences of the `.inter` file with this hash."""
    try:
        meta = read_json(folder / "meta.json")
        if meta.get("format") != FORMAT or meta.get("inter_sha256") != digest:
            return False
        check_folder(folder, meta["sha256"])
    except (InputError, KeyError):
        return False
    return True


def _write(folder: Path, frame: pd.DataFrame, digest: str) -> None:
    """Write the folder atomically, in place of an older one."""
    users = frame[USER].cat.codes.to_numpy()
    counts = np.bincount(users)
    counts = counts[counts > 0]
    from_the_end = np.repeat(counts.cumsum(), counts) - np.arange(len(users))  # 1: last item
    items = frame[ITEM].cat.codes.to_numpy()[from_the_end > TEST_ITEMS]
    offsets = np.concatenate([[0], np.maximum(counts - TEST_ITEMS, 0).cumsum()])
    with atomic_folder(folder) as work:
        np.save(work / "items.npy", items.astype(np.int32))
        np.save(work / "offsets.npy", offsets.astype(np.int64))
        tokens = [str(token) for token in frame[ITEM].cat.categories]
        (work / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
        meta: dict[str, Any] = {"format": FORMAT, "inter_sha256": digest}
        meta["sha256"] = sha256_folder(work)
        meta |= {"users": len(counts), "items": len(tokens), "interactions": len(frame)}
        write_json(work / "meta.json", meta)
