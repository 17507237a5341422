"""Filtering of cached interactions, and their conversion to integer codes in memory.

Most users of a raw file have one or two rows. A first pass over 64-bit hashes of the tokens (16
bytes per row) therefore finds the rows that can be in the k-core, and only their tokens are loaded
and coded. A hash collision may admit extra rows, which the exact filter then removes; it never
excludes a row.

Shapes: R rows in the cache, n rows in memory, U users, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.datasets.arrow_cache import ParsedFile
from recbole_qbert.datasets.kcore import Rules, core_rows, time_order, without_repeats
from recbole_qbert.datasets.sources import Lines, Rejects
from recbole_qbert.datasets.text import MISSING, token_faults
from recbole_qbert.datasets.times import time_fault

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
    """Integer-coded rows; the codes depend on the sorted tokens, not on the order of the rows.

    Attributes:
        user_tokens: U strings, ascending.
        item_tokens: I strings, ascending.
        users: int [n], indices in `user_tokens`.
        items: int [n], indices in `item_tokens`.
        ratings: float64 [n].
        times: float64 [n], seconds.
        repeats: number of rows that the rule for duplicates removed.
    """

    user_tokens: pa.Array
    item_tokens: pa.Array
    users: np.ndarray
    items: np.ndarray
    ratings: np.ndarray
    times: np.ndarray
    repeats: int = 0

    @property
    def counts(self) -> Counts:
        """Counts of the rows; tokens without rows do not count."""
        users, items = np.unique(self.users), np.unique(self.items)
        return Counts(len(users), len(items), len(self.users))

    def take(self, rows: np.ndarray) -> Interactions:
        """Return the given rows in the given order, with all tokens."""
        return Interactions(
            self.user_tokens, self.item_tokens, self.users[rows], self.items[rows],
            self.ratings[rows], self.times[rows],
        )  # fmt: skip


def usable(
    path: Path, lines: Lines, rejects: Rejects, given: Mapping[str, pa.Array], unit: str = "s"
) -> pa.Table:
    """Select the valid interactions of a table, and reject the others.

    Args:
        path: the file.
        lines: line numbers and the table, with columns of `SCHEMA`; a missing `rating` or `time`
            becomes 0.
        rejects: receives invalid rows.
        given: original `rating` and `time` of the file, for the report.
        unit: unit of the original times, for the report.

    Returns:
        A table of `SCHEMA`.
    """
    numbers, table = lines
    columns = {name: table[name].combine_chunks() for name in table.schema.names}
    fine = np.ones(len(numbers), dtype=bool)
    for name in ("user", "item"):
        columns[name], known = usable_ids(path, numbers, columns[name], name, rejects, fine)
        fine &= known
    for name, fault in (("rating", _rating_fault), ("time", time_fault(unit))):
        if name not in columns:
            columns[name] = pa.array(np.zeros(len(numbers)))
            continue
        bad = fine & ~np.isfinite(columns[name].to_numpy(zero_copy_only=False))
        values = given[name].filter(pa.array(bad)).to_pylist() if bad.any() else []
        for number, value in zip(numbers[bad].tolist(), values, strict=True):
            text = "" if value is None else str(value)
            rejects.add(path, number, fault(text) if text.strip() else f"no {name}", text)
        fine &= ~bad
    return pa.table(columns).select(SCHEMA.names).filter(pa.array(fine))


def _rating_fault(_: str) -> str:
    return "rating is no finite number"


def usable_ids(
    path: Path,
    numbers: np.ndarray,
    ids: pa.Array,
    name: str,
    rejects: Rejects,
    among: np.ndarray | None = None,
) -> tuple[pa.Array, np.ndarray]:
    """Strip and check IDs, and reject the rows of invalid ones.

    Args:
        path: the file.
        numbers: line numbers [n].
        ids: strings [n].
        name: name of the column in the report.
        rejects: receives invalid rows.
        among: bool [n], rows that are not rejected yet; None for all.

    Returns:
        Stripped IDs [n], and bool [n], True for valid rows.
    """
    bare = pc.utf8_trim_whitespace(ids)
    fine = np.ones(len(ids), dtype=bool) if among is None else among.copy()
    for reason, fault in token_faults(bare).items():
        bad = fault & fine
        rejects.add_rows(path, numbers[bad], f"{name} id {reason}", ids.filter(bad).to_pylist())
        fine &= ~bad
    padded = np.asarray(pc.fill_null(pc.not_equal(bare, ids), False)) & fine
    rejects.notes[f"{name} ids had blanks around them, which are taken off"] += int(padded.sum())
    words = np.asarray(pc.is_in(bare, pa.array(MISSING, bare.type))) & fine
    rejects.notes[
        f"{name} ids are words such as NA, which are kept as ids (RecBole by itself drops them)"
    ] += int(words.sum())
    return bare, fine


def as_numbers(column: pa.Array) -> pa.Array:
    """Convert a column of text or numbers to float64; invalid values become null."""
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return column.cast(pa.float64(), safe=False)
    numbers = pd.to_numeric(column.to_pandas(), errors="coerce")
    return pa.array(numbers.astype(np.float64), from_pandas=True)


class Hashed(NamedTuple):
    """64-bit hashes of the cached tokens, uint64 [R] each."""

    users: np.ndarray
    items: np.ndarray

    @property
    def counts(self) -> Counts:
        """Counts of the whole cache; tokens with equal hashes, which are unlikely, count once."""
        return Counts(_n_distinct(self.users), _n_distinct(self.items), len(self.users))


def token_hashes(tokens: pa.Array) -> np.ndarray:
    """Hash tokens to uint64 [n], equally in every process."""
    return pd.util.hash_array(tokens.to_numpy(zero_copy_only=False), categorize=False)


def hashed(stage: ParsedFile) -> Hashed:
    """Hash all rows of a stage of `SCHEMA`."""
    users = np.empty(stage.n_rows, dtype=np.uint64)
    items = np.empty(stage.n_rows, dtype=np.uint64)
    start = 0
    for batch in stage.batches():
        end = start + batch.num_rows
        users[start:end] = token_hashes(batch["user"])
        items[start:end] = token_hashes(batch["item"])
        start = end
    return Hashed(users, items)


def candidates(hashes: Hashed, core: int, allowed_items: np.ndarray | None = None) -> np.ndarray:
    """Find the rows that the k-core may contain.

    Args:
        hashes: hashes of all rows.
        core: minimum number of interactions of a user and of an item.
        allowed_items: hashes of the allowed items; None for all.

    Returns:
        bool [R].
    """
    keep = np.ones(len(hashes.users), dtype=bool)
    if allowed_items is not None:
        keep &= _among(hashes.items, np.unique(allowed_items))
    if core <= 1:
        return keep
    for values in (hashes.users, hashes.items):
        keep[keep] = _often(values[keep], core)
    rows = np.flatnonzero(keep)
    users = np.unique(hashes.users[rows], return_inverse=True)[1]
    items = np.unique(hashes.items[rows], return_inverse=True)[1]
    keep[:] = False
    keep[rows[core_rows(users, items, core)]] = True
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


def _n_distinct(values: np.ndarray) -> int:
    ordered = np.sort(values)
    return int((ordered[1:] != ordered[:-1]).sum()) + int(len(ordered) > 0)


def collect(stage: ParsedFile, keep: np.ndarray) -> Interactions:
    """Load and code the rows of a stage where `keep`, bool [R], is True."""
    parts, start = [], 0
    for batch in stage.batches():
        wanted = keep[start : start + batch.num_rows]
        start += batch.num_rows
        parts.append(batch.filter(pa.array(wanted)))
    table = pa.Table.from_batches(parts, SCHEMA)
    del parts
    user_tokens, users = coded(table["user"])
    item_tokens, items = coded(table["item"])
    return Interactions(
        user_tokens, item_tokens, users, items, table["rating"].to_numpy(),
        table["time"].to_numpy(),
    )  # fmt: skip


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

    Args:
        inter: interactions in file order.
        rules: rules to apply.
        allowed_items: bool [I]; None for all.
    """
    if allowed_items is not None:
        inter = inter.take(np.flatnonzero(allowed_items[inter.items]))
    columns = (inter.users, inter.items, inter.times, inter.ratings)
    rows = without_repeats(*columns, rules)
    repeats = len(inter.users) - len(rows)
    inter = inter.take(rows)
    inter = inter.take(core_rows(inter.users, inter.items, rules.core))
    inter = inter.take(time_order(inter.users, inter.times, _ranks(inter, rules.ties)))
    return replace(inter, repeats=repeats)


def _ranks(inter: Interactions, ties: str) -> tuple[np.ndarray, ...]:
    """Return the sort keys of tied rows, the most significant first; see `kcore.Rules`."""
    if ties == "file":
        return ()
    if ties == "token":
        return inter.items, inter.ratings
    # A model cannot learn the order of a hash of user and item.
    users, items = token_hashes(inter.user_tokens), token_hashes(inter.item_tokens)
    mixed = users[inter.users] * np.uint64(0x9E3779B97F4A7C15) ^ items[inter.items]
    return pd.util.hash_array(mixed), inter.items, inter.ratings


def selected(stage: ParsedFile, rules: Rules) -> tuple[Counts, Interactions]:
    """Return the counts of all rows of a stage of `SCHEMA`, and the rows that pass `filtered`."""
    hashes = hashed(stage)
    raw, keep = hashes.counts, candidates(hashes, rules.core)
    return raw, filtered(collect(stage, keep), rules)
