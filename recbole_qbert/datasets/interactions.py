"""Filtering of cached interactions, and their conversion to integer codes in memory.

Most users of a raw file have one or two rows. A first pass over 64-bit hashes of the tokens (16
bytes per row) therefore finds the rows that can be in the k-core, and only their tokens are loaded
and coded. A hash collision may admit extra rows, which the exact filter then removes; it never
excludes a row.

Shapes: R rows in the cache, n rows in memory, U users, I items.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.datasets.arrow_cache import ParsedFile
from recbole_qbert.datasets.kcore import Rules, core_rows, without_repeats
from recbole_qbert.datasets.sources import Lines, Rejects
from recbole_qbert.datasets.text import MISSING, token_faults
from recbole_qbert.datasets.times import as_numbers, seconds, time_fault

SCHEMA = pa.schema(
    [
        ("user", pa.string()),
        ("item", pa.string()),
        ("rating", pa.float64()),
        ("time", pa.float64()),  # seconds, or row numbers if there are no times
    ]
)


class Counts(NamedTuple):
    """Numbers of distinct users, distinct items and rows."""

    users: int
    items: int
    interactions: int


@dataclass(frozen=True, eq=False)
class Interactions:
    """Integer-coded rows."""

    user_tokens: pa.Array  # U strings
    item_tokens: pa.Array  # I strings
    users: np.ndarray  # int [n], indices in `user_tokens`
    items: np.ndarray  # int [n], indices in `item_tokens`
    times: np.ndarray  # float64 [n], seconds, or positions in the sequences of the users
    ratings: np.ndarray | None = None  # float64 [n]
    parts: np.ndarray | None = None  # int [n], number of the file that a row is from
    repeats: int = 0  # number of rows that the rule for duplicates removed

    @property
    def counts(self) -> Counts:
        """Counts of the rows; tokens without rows do not count."""
        users, items = np.unique(self.users), np.unique(self.items)
        return Counts(len(users), len(items), len(self.users))

    def take(self, rows: np.ndarray) -> Interactions:
        """Return the given rows in the given order, with all tokens."""

        def chosen(column: np.ndarray | None) -> np.ndarray | None:
            return None if column is None else column[rows]

        return replace(
            self, users=self.users[rows], items=self.items[rows], times=self.times[rows],
            ratings=chosen(self.ratings), parts=chosen(self.parts),
        )  # fmt: skip

    @property
    def starts(self) -> np.ndarray:
        """First row of the user of each row, int64 [n], if sorted by user."""
        counts = np.bincount(self.users)
        return np.repeat(np.cumsum(counts) - counts, counts)

    @property
    def places(self) -> np.ndarray:
        """Position of each row in its user's sequence, int64 [n], if sorted by user."""
        return np.arange(len(self.users)) - self.starts

    @property
    def timed(self) -> bool:
        """Whether the times are timestamps, not positions in the sequences."""
        return not np.array_equal(self.times, self.places)


def usable(path: Path, lines: Lines, rejects: Rejects, unit: str = "s") -> pa.Table:
    """Select the valid interactions of a table, and reject the others.

    Args:
        lines: line numbers [n] and a table of n rows: `user` and `item` are text; `rating` and
            `time` are text or numbers, and 0 if there is no such column.
        unit: unit of `time`, see `times.seconds`.

    Returns:
        A table of `SCHEMA`.
    """
    numbers, table = lines
    given = {name: table[name].combine_chunks() for name in table.schema.names}
    columns, fine = {}, np.ones(len(numbers), dtype=bool)
    for name in ("user", "item"):
        columns[name], fine = usable_ids(path, numbers, given[name], name, rejects, fine)
    for name in ("rating", "time"):
        if name not in given:
            columns[name] = pa.array(np.zeros(len(numbers)))
            continue
        is_time = name == "time"
        columns[name] = seconds(given[name], unit) if is_time else as_numbers(given[name])
        bad = fine & ~np.isfinite(columns[name].to_numpy(zero_copy_only=False))
        values = given[name].filter(pa.array(bad)).to_pylist() if bad.any() else []
        for number, value in zip(numbers[bad].tolist(), values, strict=True):
            text = "" if value is None else str(value)
            fault = time_fault(text, unit) if is_time else "rating is not a finite number"
            rejects.add(path, number, fault if text.strip() else f"no {name}", text)
        fine &= ~bad
    return pa.table(columns).select(SCHEMA.names).filter(pa.array(fine))


def usable_ids(
    path: Path,
    numbers: np.ndarray,
    ids: pa.Array,
    name: str,
    rejects: Rejects,
    among: np.ndarray | None = None,
) -> tuple[pa.Array, np.ndarray]:
    """Strip IDs, and reject the rows of invalid ones.

    Args:
        numbers: line numbers [n].
        ids: strings [n].
        name: name of the column in the report.
        among: bool [n], rows that are not rejected yet; None for all.

    Returns:
        Stripped IDs [n], and bool [n], True for rows of `among` with a valid ID.
    """
    bare = pc.utf8_trim_whitespace(ids)
    fine = np.ones(len(ids), dtype=bool) if among is None else among.copy()
    for reason, fault in token_faults(bare).items():
        bad = fault & fine
        for line, value in zip(numbers[bad].tolist(), ids.filter(bad).to_pylist(), strict=True):
            rejects.add(path, line, f"{name} ID {reason}", value or "")
        fine &= ~bad
    padded = np.asarray(pc.fill_null(pc.not_equal(bare, ids), False)) & fine
    rejects.notes[f"{name} IDs had surrounding blanks, which were removed"] += int(padded.sum())
    words = np.asarray(pc.is_in(bare, pa.array(MISSING, bare.type))) & fine
    rejects.notes[
        f"{name} IDs are words such as NA, which are kept as IDs (RecBole itself drops them)"
    ] += int(words.sum())
    return bare, fine


def token_hashes(tokens: pa.Array) -> np.ndarray:
    """Hash tokens to uint64 [n], equally in every process."""
    return pd.util.hash_array(tokens.to_numpy(zero_copy_only=False), categorize=False)


def hashed(stage: ParsedFile) -> tuple[np.ndarray, np.ndarray]:
    """Hash the users and the items of all rows of a stage of `SCHEMA`, uint64 [R] each."""
    users = np.empty(stage.n_rows, dtype=np.uint64)
    items = np.empty(stage.n_rows, dtype=np.uint64)
    start = 0
    for batch in stage.batches():
        end = start + batch.num_rows
        users[start:end] = token_hashes(batch["user"])
        items[start:end] = token_hashes(batch["item"])
        start = end
    return users, items


def n_distinct(values: np.ndarray) -> int:
    """Count the distinct values, with less memory than `np.unique`."""
    ordered = np.sort(values)
    return int((ordered[1:] != ordered[:-1]).sum()) + int(len(ordered) > 0)


def candidates(
    users: np.ndarray, items: np.ndarray, core: int, allowed_items: np.ndarray | None = None
) -> np.ndarray:
    """Find the rows that the k-core of the allowed items may contain, bool [R].

    Users and items are given by their hashes, uint64 [R]; None allows all items.
    """
    keep = np.ones(len(users), dtype=bool)
    if allowed_items is not None:
        keep &= _among(items, np.unique(allowed_items))
    if core <= 1:
        return keep
    for values in (users, items):
        keep[keep] = _often(values[keep], core)
    rows = np.flatnonzero(keep)
    coded_users, coded_items = (
        np.unique(values[rows], return_inverse=True)[1] for values in (users, items)
    )
    keep[:] = False
    keep[rows[core_rows(coded_users, coded_items, core)]] = True
    return keep


def _often(values: np.ndarray, least: int) -> np.ndarray:
    """Return which values occur at least `least` times, bool [n]."""
    ordered = np.sort(values)
    # The first of `least` equal values equals the one `least - 1` positions later.
    first, last = ordered[: max(0, len(ordered) - least + 1)], ordered[least - 1 :]
    return _among(values, np.unique(first[first == last]))


def _among(values: np.ndarray, ascending: np.ndarray) -> np.ndarray:
    """Return which values are in a sorted array, bool [n], with less memory than `np.isin`."""
    if not len(ascending):
        return np.zeros(len(values), dtype=bool)
    places = np.searchsorted(ascending, values)
    places[places == len(ascending)] = 0
    return ascending[places] == values


def collect(stage: ParsedFile, keep: np.ndarray) -> Interactions:
    """Load and code the rows of a stage where `keep`, bool [R], is True.

    The tokens are sorted, so that the codes do not depend on the order of the rows.
    """
    table = stage.table(keep)
    user_tokens, users = coded(table["user"])
    item_tokens, items = coded(table["item"])
    times, ratings = table["time"].to_numpy(), table["rating"].to_numpy()
    return Interactions(user_tokens, item_tokens, users, items, times, ratings)


def coded(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct tokens, sorted by their bytes, and each row's index among them."""
    encoded = column.dictionary_encode()  # all chunks share one dictionary
    if not encoded.num_chunks:
        return pa.array([], pa.string()), np.empty(0, dtype=np.int32)
    tokens = encoded.chunk(0).dictionary
    order = pc.sort_indices(tokens)
    rank = np.empty(len(tokens), dtype=np.int32)
    rank[order.to_numpy()] = np.arange(len(tokens), dtype=np.int32)
    codes = [rank[chunk.indices.to_numpy()] for chunk in encoded.chunks]
    return tokens.take(order), np.concatenate(codes)


def filtered(
    inter: Interactions, rules: Rules, allowed_items: np.ndarray | None = None
) -> Interactions:
    """Remove duplicates, select the k-core of the allowed items, and sort by user and time.

    The interactions are in file order and have ratings; `allowed_items` is bool [I], None for all.
    """
    if allowed_items is not None:
        inter = inter.take(np.flatnonzero(allowed_items[inter.items]))
    assert inter.ratings is not None
    rows = without_repeats(inter.users, inter.items, inter.times, inter.ratings, rules)
    repeats = len(inter.users) - len(rows)
    inter = inter.take(rows)
    inter = inter.take(core_rows(inter.users, inter.items, rules.core))
    order = np.lexsort((*_ranks(inter, rules.ties)[::-1], inter.times, inter.users))  # stable
    return replace(inter.take(order), repeats=repeats)


def _ranks(inter: Interactions, ties: str) -> tuple[np.ndarray, ...]:
    """Return the sort keys of tied rows, the most significant first; see `kcore.Rules`."""
    assert inter.ratings is not None
    if ties == "file":
        return ()
    if ties == "token":
        return inter.items, inter.ratings
    # A model cannot learn the order of a hash of user and item.
    users, items = token_hashes(inter.user_tokens), token_hashes(inter.item_tokens)
    mixed = users[inter.users] * np.uint64(0x9E3779B97F4A7C15) ^ items[inter.items]
    return pd.util.hash_array(mixed), inter.items, inter.ratings
