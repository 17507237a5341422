"""Any table of interactions, and one of items, to atomic files: CSV, TSV, Parquet, JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.data.domain import Domain
from recbole_qbert.errors import InputError, did_you_mean, preview
from recbole_qbert.preparation.interactions import SCHEMA, as_numbers, selected, usable
from recbole_qbert.preparation.items import read_records
from recbole_qbert.preparation.kcore import check_filter
from recbole_qbert.preparation.outcome import Prepared, finish, listed
from recbole_qbert.preparation.sources import (
    Lines,
    Rejects,
    json_lines,
    json_records,
    number_text,
)
from recbole_qbert.preparation.spool import run_stage
from recbole_qbert.preparation.table_source import (
    Source,
    first_records,
    json_object,
    parquet_rows,
)
from recbole_qbert.preparation.text import as_word, clean_column, unfit_tokens, whole
from recbole_qbert.preparation.writer import check_target, texts

SECONDS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}  # in one second
DATE = "date"  # ISO 8601, UTC where no zone is named
TYPES = ("token", "token_seq", "float")
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
_NUMERIC = (
    *_TEXT, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean,
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Which columns of a table of interactions are what.

    Attributes:
        user, item: columns of ids.
        time: column of times; None where the order of the rows is the order in time.
        time_unit: `s`, `ms`, `us`, `ns`, or `date`.
        rating: column of ratings, if any.
    """

    user: str
    item: str
    time: str | None = None
    time_unit: str = "s"
    rating: str | None = None


@dataclass(frozen=True)
class ItemColumns:
    """Which columns of a table of items are what.

    Attributes:
        item: column of ids.
        fields: columns to keep and their types, `token`, `token_seq` or `float`; empty for all
            columns as `token_seq`.
    """

    item: str
    fields: tuple[tuple[str, str], ...] = ()


def item_cells(columns: ItemColumns, source: Source) -> dict[str, str]:
    """Header cells, such as `title:token_seq`, by column.

    Raises:
        InputError: an unknown column or type, or two columns that would be called the same.
    """
    fields = columns.fields or tuple(
        (name, "token_seq") for name in source.columns() if name != columns.item
    )
    source.check([columns.item, *(name for name, _ in fields)])
    cells: dict[str, str] = {}
    for name, kind in fields:
        if kind not in TYPES:
            raise InputError(
                f"item_fields: '{name}' is of type '{kind}', none of {preview(TYPES)}"
                f"{did_you_mean(kind, TYPES)}"
            )
        cell = f"{re.sub(r'[^0-9A-Za-z_]+', '_', name).strip('_') or 'field'}:{kind}"
        called = [other.partition(":")[0] for other in cells.values()]
        if name in cells or cell.partition(":")[0] in (*called, "item_id"):
            raise InputError(
                f"{source.path}: the column '{name}' would be called '{cell}', as another one; "
                "rename it, or choose columns (--item_fields)"
            )
        cells[name] = cell
    return cells


def prepare_table(
    domain: Domain,
    source: Source,
    columns: Columns,
    items: tuple[Source, ItemColumns] | None = None,
    *,
    core: int = 0,
    duplicates: str = "all",
    overwrite: bool = False,
    progress: bool = False,
) -> Prepared:
    """Write `<name>.inter`, with items `<name>.item`, their sidecar and the rejected lines.

    Without a column of times, `timestamp` is the row's number in the file. Ids that are whole
    numbers are written as such, whatever their type in the file.

    Args:
        items: the table of items and its columns; of several rows of an item the fullest counts.
        core: fewest interactions of a user and of an item.
        duplicates: which rows of a user with one item stay: `first`, `last` or `all`.

    Raises:
        InputError: a file, column or option cannot be used, or nothing is left to write.
    """
    check_filter(core, duplicates)
    if columns.time_unit not in (*SECONDS, DATE):
        units = (*SECONDS, DATE)
        raise InputError(
            f"time_unit: '{columns.time_unit}' is none of {preview(units)}"
            f"{did_you_mean(columns.time_unit, units)}"
        )
    optional = [name for name in (columns.time, columns.rating) if name]
    source.check([columns.user, columns.item, *optional])
    cells = item_cells(items[1], items[0]) if items else {}
    check_target(domain, overwrite)
    parts = domain.file("parts")
    read = run_stage(
        parts / "interactions", SCHEMA, [source.path],
        lambda path, rejects: _interactions(source, columns, rejects, progress),
        {"source": repr(source), "columns": repr(columns)},
    )  # fmt: skip
    if not read.n_rows:
        raise InputError(f"{source.path}: no row is an interaction ({listed(read.reasons)})")
    stages, records = [read], None
    raw, inter = selected(read, core, duplicates)
    if items:
        schema = pa.schema([("item", pa.string()), *((name, pa.string()) for name in cells)])
        described = run_stage(
            parts / "items", schema, [items[0].path],
            lambda path, rejects: _items(*items, cells, rejects, progress),
            {"source": repr(items[0]), "cells": cells, "item": items[1].item},
        )  # fmt: skip
        stages.append(described)
        records = read_records(described, schema, inter.item_tokens)
    choice = {"core": core, "duplicates": duplicates, "time": columns.time or "order of the rows"}
    return finish(
        domain, stages, raw, inter, made_by="table", options=choice,
        items=records, cells=cells, with_rating=columns.rating is not None,
    )  # fmt: skip


def _interactions(
    source: Source, columns: Columns, rejects: Rejects, progress: bool
) -> Iterator[pa.Table]:
    wanted = {"user": columns.user, "item": columns.item}
    wanted |= {"rating": columns.rating} if columns.rating else {}
    wanted |= {"time": columns.time} if columns.time else {}
    for numbers, table in _read(source, wanted, columns.time_unit, rejects, progress):
        parts = {name: _decoded(table[column]) for name, column in wanted.items()}
        for name in ("user", "item"):
            parts[name] = _ids(parts[name], source.path, wanted[name])
        if "rating" in parts:
            parts["rating"] = _numbers(parts["rating"], source.path, wanted["rating"])
        if "time" in parts:
            parts["time"] = _seconds(parts["time"], columns.time_unit, source.path, wanted["time"])
        else:
            parts["time"] = pa.array(numbers.astype(np.float64))
        yield usable(source.path, (numbers, pa.table(parts)), rejects)


def _read(
    source: Source, wanted: dict[str, str], unit: str, rejects: Rejects, progress: bool
) -> Iterator[Lines]:
    """The wanted columns of any format."""
    if source.format == "json":
        types = {"rating": pa.float64(), "time": pa.string() if unit == DATE else pa.float64()}
        for name in ("user", "item"):
            values = [record.get(wanted[name]) for record in first_records(source.path)]
            whole_numbers = any(type(value) is int for value in values)
            types[name] = pa.int64() if whole_numbers else pa.string()
        # A column may serve twice; its first use says how it is read.
        schema = {column: types[name] for name, column in reversed(wanted.items())}
        yield from json_lines(source.path, pa.schema(list(schema.items())), rejects, progress)
    elif source.format == "parquet":
        yield from parquet_rows(source.path, list(dict.fromkeys(wanted.values())))
    else:
        yield from source.rows(rejects, progress)


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array, not as codes of a dictionary."""
    whole_column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        return whole_column.dictionary_decode()
    return whole_column


def _ids(column: pa.Array, path: Path, name: str) -> pa.Array:
    """A column of ids as text; whole numbers without a fraction."""
    kind = column.type
    if pa.types.is_floating(kind):
        try:
            return column.cast(pa.int64()).cast(pa.string())
        except pa.ArrowInvalid:  # one of them is no whole number, or has more digits
            values = column.to_pylist()
            return pa.array([None if v is None else number_text(v) for v in values], pa.string())
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.string())
    raise InputError(f"{path}: the column '{name}' is of type {kind}; ids are text or numbers")


def _numbers(column: pa.Array, path: Path, name: str) -> pa.Array:
    """A column as numbers; null where there is none."""
    kind = column.type
    if not any(of_kind(kind) for of_kind in _NUMERIC):
        raise InputError(f"{path}: the column '{name}' is of type {kind}; numbers are expected")
    return as_numbers(column)


def _seconds(column: pa.Array, unit: str, path: Path, name: str) -> pa.Array:
    """Times as seconds since 1970; null where there is none."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return pc.divide(column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64()), 1e6)
    if unit != DATE:
        return pc.divide(_numbers(column, path, name), SECONDS[unit])
    if not any(of_kind(column.type) for of_kind in (*_TEXT, pa.types.is_integer)):
        raise InputError(f"{path}: the column '{name}' is of type {column.type}; give it as text")
    text = column.cast(pa.string()).to_pandas()
    dates = pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")
    nanoseconds = dates.astype("int64").to_numpy(dtype=np.float64)
    nanoseconds[dates.isna().to_numpy()] = np.nan
    return pa.array(nanoseconds / 1e9)


def _items(
    source: Source, columns: ItemColumns, cells: dict[str, str], rejects: Rejects, progress: bool
) -> Iterator[pa.Table]:
    """Rows of `item` and the columns of `cells`, as they are written."""
    names = [columns.item, *cells]
    for numbers, table in _item_rows(source, names, rejects, progress):
        parts = {"item": _ids(_decoded(table[columns.item]), source.path, columns.item)}
        for name, cell in cells.items():
            column = _decoded(table[name])
            if cell.endswith(":float"):
                parts[name] = _decimals(_numbers(column, source.path, name))
            else:
                parts[name] = _clean(column, source.path, name)
        unfit = unfit_tokens(parts["item"])
        rejects.add_rows(source.path, numbers[unfit], "item id that RecBole cannot read")
        yield pa.table(parts).filter(pa.array(~unfit))


def _item_rows(
    source: Source, names: list[str], rejects: Rejects, progress: bool
) -> Iterator[Lines]:
    """Columns of text, and of numbers where a Parquet file has them; lists as words."""
    if source.format == "json":
        for records in json_records(source.path, json_object, rejects, progress):
            numbers = np.array([number for number, _ in records], dtype=np.int64)
            columns = {
                name: pa.array([_word_list(record.get(name)) for _, record in records], pa.string())
                for name in names
            }
            yield numbers, pa.table(columns)
    elif source.format == "parquet":
        for numbers, table in parquet_rows(source.path, names):
            columns = {name: _plain(table[name].combine_chunks()) for name in names}
            yield numbers, pa.table(columns)
    else:
        yield from source.rows(rejects, progress)


def _plain(column: pa.Array) -> pa.Array:
    """Text or numbers; lists and other nested values as words."""
    if pa.types.is_nested(column.type):
        return pa.array([_word_list(value) for value in column.to_pylist()], pa.string())
    return column


def _word_list(value: Any) -> str | None:
    """A value as text: of a list each part as one word."""
    if value is None or isinstance(value, str):
        return None if value is None else whole(value)
    if isinstance(value, (list, tuple)):
        return " ".join(filter(None, (as_word(_word_list(part) or "") for part in value)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(value)
    return whole(json.dumps(value, default=str))


def _clean(column: pa.Array, path: Path, name: str) -> pa.Array:
    """Cleaned text, "" for null."""
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        raise InputError(f"{path}: the column '{name}' is of type {column.type}; text is expected")
    return pc.fill_null(clean_column(column.cast(pa.string())), "")


def _decimals(column: pa.Array) -> pa.Array:
    """Numbers as text, "" where there is none."""
    numbers = column.to_numpy(zero_copy_only=False)
    return pc.if_else(pa.array(np.isfinite(numbers)), texts(numbers), "")
