"""Conversion of a table of interactions, and one of items, to atomic files.

The tables may be CSV, TSV, Parquet or JSON lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, one_of
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.arrow_cache import Source
from recbole_qbert.datasets.interactions import usable, usable_ids
from recbole_qbert.datasets.kcore import Rules
from recbole_qbert.datasets.prepare import Prepared, prepare
from recbole_qbert.datasets.sources import (
    Lines,
    Rejects,
    json_lines,
    line_blocks,
    number_text,
    parse_json,
    records,
)
from recbole_qbert.datasets.table_source import TableFile, first_records, parquet_rows
from recbole_qbert.datasets.text import MISSING, as_word, clean_column, encodable
from recbole_qbert.datasets.times import DATE, SECONDS, as_numbers
from recbole_qbert.datasets.writer import texts

TYPES = ("token", "token_seq", "float")
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
_NUMERIC = (
    *_TEXT, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean,
)  # fmt: skip
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
_IDS = (*_TEXT, pa.types.is_integer, pa.types.is_floating)
_TIMES = (*_NUMERIC, pa.types.is_timestamp, pa.types.is_date)
_DATES = (*_TEXT, pa.types.is_integer, pa.types.is_timestamp, pa.types.is_date)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table of interactions."""

    user: str
    item: str
    time: str | None = None  # None if the rows are in time order
    time_unit: str = "s"  # s, ms, us, ns, or date
    rating: str | None = None


@dataclass(frozen=True)
class ItemColumns:
    """Names of the columns of a table of items."""

    item: str
    fields: tuple[tuple[str, str], ...] = ()  # columns and `TYPES`; empty for all as `token_seq`


def prepare_table(
    domain: DatasetPaths,
    source: TableFile,
    columns: Columns,
    items: tuple[TableFile, ItemColumns] | None = None,
    *,
    core: int = 0,
    duplicates: str = "all",
    ties: str = "file",
    overwrite: bool = False,
    progress: bool = False,
) -> Prepared:
    """Write `<name>.inter`, with items also `<name>.item`, a sidecar and the rejected lines.

    Without a column of times, `timestamp` is the row number in the file. Whole-number IDs are
    written as integers, whatever their type in the file. This includes columns of text whose first
    block has only whole numbers, some with `.0` appended, as pandas writes integers beside missing
    values.

    Args:
        source: the table of interactions.
        columns: its columns.
        items: the table of items and its columns; of several rows of an item, the fullest is used.
        core: see `kcore.Rules`.
        duplicates: see `kcore.Rules`.
        ties: see `kcore.Rules`.

    Raises:
        InputError: a file, column or option is invalid, or no interaction is left.
    """
    unit, wanted = columns.time_unit, wanted_columns(source, columns)
    described, cells = None, {}
    if items:
        table, item_columns = items
        cells = item_cells(item_columns, table)
        described = Source(
            [table.path],
            lambda path, rejects: _items(table, item_columns.item, cells, rejects, progress),
            {"source": repr(table), "cells": cells, "item": item_columns.item},
        )
    return prepare(
        domain,
        Source(
            [source.path],
            lambda path, rejects: interactions(source, wanted, unit, rejects, progress),
            {"source": repr(source), "columns": repr(columns)},
        ),
        Rules(core, duplicates, ties, timed=columns.time is not None),
        "table",
        items=described,
        cells=cells,
        options={"time": columns.time or "order of the rows"},
        unit=unit,
        unit_flag="--time_unit",
        with_rating=columns.rating is not None,
        overwrite=overwrite,
    )


def item_cells(columns: ItemColumns, source: TableFile) -> dict[str, str]:
    """Return the header cells, such as `title:token_seq`, by column.

    Raises:
        InputError: a column or type is unknown, or two columns would get the same name.
    """
    fields = columns.fields or tuple(
        (name, "token_seq") for name in source.columns() if name != columns.item
    )
    source.check([columns.item, *(name for name, _ in fields)])
    cells: dict[str, str] = {}
    for name, kind in fields:
        one_of(f"item_fields: type of '{name}'", kind, TYPES)
        cell = f"{re.sub(r'[^0-9A-Za-z_]+', '_', name).strip('_') or 'field'}:{kind}"
        written = [other.partition(":")[0] for other in cells.values()]
        if name in cells or cell.partition(":")[0] in (*written, "item_id"):
            raise InputError(
                f"{source.path}: the column '{name}' would be written as '{cell}', like another "
                "one; rename it, or choose columns (--item_fields)"
            )
        cells[name] = cell
    return cells


def wanted_columns(source: TableFile, columns: Columns) -> dict[str, str]:
    """Return the columns to read by their meaning: user, item, rating, time.

    Raises:
        InputError: the table lacks one, or the unit of the times is unknown.
    """
    one_of("time_unit", columns.time_unit, (*SECONDS, DATE))
    named = {name: getattr(columns, name) for name in ("user", "item", "rating", "time")}
    wanted = {name: column for name, column in named.items() if column}
    source.check(list(wanted.values()))
    return wanted


def interactions(
    source: TableFile, wanted: dict[str, str], unit: str, rejects: Rejects, progress: bool
) -> Iterator[pa.Table]:
    """Yield the usable rows of a table in blocks, as `interactions.usable`; reject the others.

    `wanted` is from `wanted_columns`, `unit` is that of the times. Without times, the time is the
    row number.
    """
    ids = {name: _Ids(source.path, wanted[name], rejects) for name in ("user", "item")}
    times = _DATES if unit == DATE else _TIMES
    for numbers, table in _read(source, wanted, unit, rejects, progress):
        parts = {name: _decoded(table[column]) for name, column in wanted.items()}
        parts |= {name: convert(parts[name]) for name, convert in ids.items()}
        for name, kinds, due in (("rating", _NUMERIC, "numbers"), ("time", times, "text or dates")):
            if name in parts:
                _check_type(parts[name], kinds, source.path, wanted[name], due)
        if "time" not in parts:
            parts["time"] = pa.array(numbers.astype(np.float64))
        yield usable(source.path, (numbers, pa.table(parts)), rejects, unit)


def _read(
    source: TableFile, wanted: dict[str, str], unit: str, rejects: Rejects, progress: bool
) -> Iterator[Lines]:
    """Yield the wanted columns of a file of any format."""
    if source.format == "json":
        types = {"rating": pa.float64(), "time": pa.string() if unit == DATE else pa.float64()}
        first = first_records(source.path)
        for name in {"user", "item", "time"} & set(wanted):
            if any(type(record.get(wanted[name])) is int for record in first):
                types[name] = pa.int64()  # json_lines returns it as text, without a fraction
            elif name != "time":
                types[name] = pa.string()
        # A column may be used twice; its first use determines its type.
        schema = {column: types[name] for name, column in reversed(wanted.items())}
        yield from json_lines(source.path, pa.schema(list(schema.items())), rejects, progress)
    elif source.format == "parquet":
        yield from parquet_rows(source.path, list(dict.fromkeys(wanted.values())))
    else:
        yield from source.rows(list(wanted.values()), rejects, progress)


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without dictionary encoding."""
    whole_column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        return whole_column.dictionary_decode()
    return whole_column


def _check_type(column: pa.Array, kinds: Sequence[Any], path: Path, name: str, due: str) -> None:
    """Raise an InputError unless the type of a column is one of the kinds."""
    if not any(of_kind(column.type) for of_kind in kinds):
        raise _wrong_type(column, path, name, due)


def _wrong_type(column: pa.Array, path: Path, name: str, due: str) -> InputError:
    return InputError(f"{path}: the column '{name}' is of type {column.type}; convert it to {due}")


def _as_text(column: pa.Array, path: Path, name: str) -> pa.Array:
    """Convert a column to strings; raise an InputError if it holds bytes, or has no text form."""
    if any(of_kind(column.type) for of_kind in _BYTES):
        raise _wrong_type(column, path, name, "text")
    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # such as UUIDs, which are bytes
        raise _wrong_type(column, path, name, "text") from None


class _Ids:
    """Conversion of a column of IDs to text, whole numbers without a fraction, batch by batch."""

    def __init__(self, path: Path, name: str, rejects: Rejects) -> None:
        self.path, self.name, self.rejects = path, name, rejects
        self.dotted: bool | None = None  # whether to remove `.0`; the first batch determines it

    def __call__(self, column: pa.Array) -> pa.Array:
        _check_type(column, _IDS, self.path, self.name, "text or numbers")
        if pa.types.is_floating(column.type):
            column = column.cast(pa.float64())
            column = pc.if_else(pc.is_finite(column), column, None)  # null stays null
            try:
                return column.cast(pa.int64()).cast(pa.string())
            except pa.ArrowInvalid:  # a value is not a whole number, or exceeds 64 bits
                values = column.to_pylist()
                return pa.array([v if v is None else number_text(v) for v in values], pa.string())
        ids = column.cast(pa.string())
        if self.dotted is None:
            bare = pc.utf8_trim_whitespace(ids)
            given = bare.filter(pc.invert(pc.is_in(bare, pa.array(["", *MISSING]))))
            whole = pc.all(pc.match_substring_regex(given, r"^-?(0|[1-9]\d*)(\.0)?$")).as_py()
            self.dotted = bool(whole and pc.any(pc.ends_with(given, ".0")).as_py())
        if not self.dotted:
            return ids
        dotted = r"^(\s*-?(?:0|[1-9]\d*))\.0(\s*)$"  # others may follow in later batches
        ends = pc.match_substring_regex(ids, dotted)
        what = f"IDs in {self.path.name}, column {self.name}, were whole numbers with .0 appended, "
        self.rejects.notes[f"{what}which was removed"] += pc.sum(ends).as_py() or 0
        return pc.replace_substring_regex(ids, dotted, r"\1\2")


def _items(
    source: TableFile, item: str, cells: dict[str, str], rejects: Rejects, progress: bool
) -> Iterator[pa.Table]:
    """Yield rows of `item` and the columns of `cells`, as they will be written."""
    ids = _Ids(source.path, item, rejects)
    for numbers, table in _item_rows(source, [item, *cells], rejects, progress):
        bare, fine = usable_ids(source.path, numbers, ids(_decoded(table[item])), "item", rejects)
        parts = {"item": bare}
        for name, cell in cells.items():
            column = _decoded(table[name])
            if cell.endswith(":float"):
                _check_type(column, _NUMERIC, source.path, name, "numbers")
                decimals = as_numbers(column).to_numpy(zero_copy_only=False)
                parts[name] = pc.if_else(pa.array(np.isfinite(decimals)), texts(decimals), "")
            else:
                text = _as_text(column, source.path, name)
                parts[name] = pc.fill_null(clean_column(text), "")
        yield pa.table(parts).filter(pa.array(fine))


def _item_rows(
    source: TableFile, names: list[str], rejects: Rejects, progress: bool
) -> Iterator[Lines]:
    """Yield columns of text, or of numbers in a Parquet file; lists are joined as words."""
    if source.format == "json":
        for block in line_blocks(source.path, progress):
            found = records(source.path, block, _item_record, rejects)
            numbers = np.array([number for number, _ in found], dtype=np.int64)
            columns = {
                name: pa.array([_word_list(record.get(name)) for _, record in found], pa.string())
                for name in names
            }
            yield numbers, pa.table(columns)
    elif source.format == "parquet":
        for numbers, table in parquet_rows(source.path, names):
            yield numbers, pa.table({name: _plain(table[name].combine_chunks()) for name in names})
    else:
        yield from source.rows(names, rejects, progress)


def _item_record(line: bytes) -> dict[str, Any]:
    return parse_json(line.decode("utf-8", "replace"))


def _plain(column: pa.Array) -> pa.Array:
    """Convert nested values to text; return other columns unchanged."""
    if pa.types.is_nested(column.type):
        return pa.array([_word_list(value) for value in column.to_pylist()], pa.string())
    return column


def _word_list(value: Any) -> str | None:
    """Convert a value to text; each element of a list becomes one word."""
    if value is None or isinstance(value, str):
        return None if value is None else encodable(value)
    if isinstance(value, (list, tuple)):
        return " ".join(filter(None, (as_word(_word_list(part) or "") for part in value)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(value)
    return encodable(json.dumps(value, default=str))
