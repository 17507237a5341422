"""Conversion of a table of interactions, and one of items, to atomic files.

The tables may be CSV, TSV, Parquet or JSON lines.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, did_you_mean, preview
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.arrow_cache import open_cache, parse_file
from recbole_qbert.datasets.finish import Prepared, finish, listed
from recbole_qbert.datasets.interactions import (
    SCHEMA,
    as_numbers,
    selected,
    usable,
    usable_ids,
)
from recbole_qbert.datasets.items import read_records
from recbole_qbert.datasets.kcore import Rules
from recbole_qbert.datasets.sources import (
    JsonObject,
    Lines,
    Rejects,
    json_lines,
    json_records,
    number_text,
)
from recbole_qbert.datasets.table_source import (
    TableFile,
    first_records,
    json_object,
    parquet_rows,
)
from recbole_qbert.datasets.text import MISSING, as_word, clean_column, whole
from recbole_qbert.datasets.times import DATE, SECONDS, arrow_seconds, divided, iso_seconds
from recbole_qbert.datasets.writer import texts

TYPES = ("token", "token_seq", "float")
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
_NUMERIC = (
    *_TEXT, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean,
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table of interactions.

    Attributes:
        user, item: columns of IDs.
        time: column of times; None if the rows are in time order.
        time_unit: `s`, `ms`, `us`, `ns`, or `date`.
        rating: column of ratings, or None.
    """

    user: str
    item: str
    time: str | None = None
    time_unit: str = "s"
    rating: str | None = None


@dataclass(frozen=True)
class ItemColumns:
    """Names of the columns of a table of items.

    Attributes:
        item: column of IDs.
        fields: columns to keep and their types, `token`, `token_seq` or `float`; empty for all
            columns as `token_seq`.
    """

    item: str
    fields: tuple[tuple[str, str], ...] = ()


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
    written as integers, whatever their type in the file. This includes text columns of whole
    numbers with a `.0` appended.

    Args:
        domain: the data set to write.
        source: the table of interactions.
        columns: its columns.
        items: the table of items and its columns; of several rows of an item, the fullest is used.
        core: fewest interactions of a user and of an item; see `kcore.Rules`.
        duplicates: which of a user's rows with one item stay; see `kcore.Rules`.
        ties: order of a user's rows at one time; see `kcore.Rules`.
        overwrite: whether to replace existing atomic files.
        progress: whether to show a progress bar.

    Raises:
        InputError: a file, column or option is invalid, or no interaction is left.
    """
    rules = Rules(core, duplicates, ties, timed=columns.time is not None)
    rules.check()
    if columns.time_unit not in (*SECONDS, DATE):
        units = (*SECONDS, DATE)
        raise InputError(
            f"time_unit: '{columns.time_unit}' is none of {preview(units)}"
            f"{did_you_mean(columns.time_unit, units)}"
        )
    optional = [name for name in (columns.time, columns.rating) if name]
    source.check([columns.user, columns.item, *optional])
    cells = item_cells(items[1], items[0]) if items else {}
    with open_cache(domain, overwrite) as parts:
        read = parse_file(
            parts / "interactions", SCHEMA, [source.path],
            lambda path, rejects: _interactions(source, columns, rejects, progress),
            {"source": repr(source), "columns": repr(columns)},
        )  # fmt: skip
        if not read.n_rows:
            raise InputError(f"{source.path}: no row is an interaction ({listed(read.reasons)})")
        stages, records = [read], None
        raw, inter = selected(read, rules)
        if items:
            schema = pa.schema([("item", pa.string()), *((name, pa.string()) for name in cells)])
            described = parse_file(
                parts / "items", schema, [items[0].path],
                lambda path, rejects: _items(*items, cells, rejects, progress),
                {"source": repr(items[0]), "cells": cells, "item": items[1].item},
            )  # fmt: skip
            stages.append(described)
            records = read_records(described, schema, inter.item_tokens)
        return finish(
            domain, stages, raw, inter, made_by="table",
            options={"time": columns.time or "order of the rows"}, items=records, cells=cells,
            rules=rules, unit=columns.time_unit, unit_flag="--time_unit",
            with_rating=columns.rating is not None,
        )  # fmt: skip


def _interactions(
    source: TableFile, columns: Columns, rejects: Rejects, progress: bool
) -> Iterator[pa.Table]:
    wanted = {"user": columns.user, "item": columns.item}
    wanted |= {"rating": columns.rating} if columns.rating else {}
    wanted |= {"time": columns.time} if columns.time else {}
    unit = columns.time_unit
    with open(os.devnull, "w") as nowhere:
        looked_at = _read(source, wanted, unit, Rejects(nowhere), False)
        dotted = _dotted(looked_at, {columns.user, columns.item})
    for numbers, table in _read(source, wanted, unit, rejects, progress):
        given = {name: _decoded(table[column]) for name, column in wanted.items()}
        parts = {
            name: _ids(given[name], source.path, wanted[name], rejects, wanted[name] in dotted)
            for name in ("user", "item")
        }
        if "rating" in given:
            parts["rating"] = _numbers(given["rating"], source.path, wanted["rating"])
        if "time" in given:
            parts["time"] = _seconds(given["time"], unit, source.path, wanted["time"])
        else:
            parts["time"] = pa.array(numbers.astype(np.float64))
        yield usable(source.path, (numbers, pa.table(parts)), rejects, given, unit)


def _dotted(batches: Iterator[Lines], names: Iterable[str]) -> set[str]:
    """Find the text columns that contain only whole numbers, with `.0` appended in the first batch.

    pandas writes integer columns with missing values this way. Reading stops when no candidate is
    left.
    """
    found = set(names)
    for place, (_, table) in enumerate(batches):
        for name in sorted(found):
            column = _decoded(table[name])
            if not any(of_kind(column.type) for of_kind in _TEXT):
                found.discard(name)
                continue
            bare = pc.utf8_trim_whitespace(column.cast(pa.string()))
            given = bare.filter(pc.invert(pc.is_in(bare, pa.array(["", *MISSING]))))
            fits = np.asarray(pc.match_substring_regex(given, r"^-?(0|[1-9]\d*)(\.0)?$"))
            if not fits.all() or not (place or np.asarray(pc.ends_with(given, ".0")).any()):
                found.discard(name)
        if not found:
            break
    return found


def _read(
    source: TableFile, wanted: dict[str, str], unit: str, rejects: Rejects, progress: bool
) -> Iterator[Lines]:
    """Yield the wanted columns of a file of any format."""
    if source.format == "json":
        types = {"rating": pa.float64(), "time": pa.string() if unit == DATE else pa.float64()}
        first = first_records(source.path)
        for name in {"user", "item", "time"} & set(wanted):
            values = [record.get(wanted[name]) for record in first]
            if any(type(value) is int for value in values):
                types[name] = pa.int64()  # json_lines returns it as text, without a fraction
            elif name != "time":
                types[name] = pa.string()
        # A column may be used twice; its first use determines its type.
        schema = {column: types[name] for name, column in reversed(wanted.items())}
        yield from json_lines(source.path, pa.schema(list(schema.items())), rejects, progress)
    elif source.format == "parquet":
        yield from parquet_rows(source.path, list(dict.fromkeys(wanted.values())))
    else:
        yield from source.rows(rejects, progress)


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, without dictionary encoding."""
    whole_column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        return whole_column.dictionary_decode()
    return whole_column


def _ids(
    column: pa.Array, path: Path, name: str, rejects: Rejects, dotted: bool = False
) -> pa.Array:
    """Convert a column of IDs to text, whole numbers without a fraction.

    Args:
        dotted: whether to remove `.0` at the end of a text.
    """
    kind = column.type
    if pa.types.is_floating(kind):
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_finite(column), column, None)  # null stays null
        try:
            return column.cast(pa.int64()).cast(pa.string())
        except pa.ArrowInvalid:  # a value is not a whole number, or exceeds 64 bits
            values = column.to_pylist()
            return pa.array([None if v is None else number_text(v) for v in values], pa.string())
    if pa.types.is_integer(kind) or any(of_kind(kind) for of_kind in _TEXT):
        texts_of_ids = column.cast(pa.string())
        if dotted:
            ends = pc.match_substring_regex(texts_of_ids, r"\.0\s*$")
            what = (
                f"ids of {path.name}, column {name}, are whole numbers with a .0, read without it"
            )
            rejects.notes[what] += pc.sum(ends).as_py() or 0
            return pc.replace_substring_regex(texts_of_ids, r"\.0(\s*)$", r"\1")
        return texts_of_ids
    raise InputError(f"{path}: the column '{name}' is of type {kind}; ids are text or numbers")


def _numbers(column: pa.Array, path: Path, name: str) -> pa.Array:
    """Convert a column to numbers; invalid values become null."""
    kind = column.type
    if not any(of_kind(kind) for of_kind in _NUMERIC):
        raise InputError(f"{path}: the column '{name}' is of type {kind}; numbers are expected")
    return as_numbers(column)


def _seconds(column: pa.Array, unit: str, path: Path, name: str) -> pa.Array:
    """Convert times to seconds since 1970; invalid values become null."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return arrow_seconds(column)
    if unit == DATE:
        if not any(of_kind(kind) for of_kind in (*_TEXT, pa.types.is_integer)):
            raise InputError(f"{path}: the column '{name}' is of type {kind}; give it as text")
        return iso_seconds(column.cast(pa.string()))
    numbers = _numbers(column, path, name)
    with contextlib.suppress(pa.ArrowInvalid):  # a value is not a 64-bit integer
        if not pa.types.is_floating(kind):
            return divided(column.cast(pa.int64()), SECONDS[unit])
    return pc.divide(numbers, float(SECONDS[unit]))


def _items(
    source: TableFile, columns: ItemColumns, cells: dict[str, str], rejects: Rejects, progress: bool
) -> Iterator[pa.Table]:
    """Yield rows of `item` and the columns of `cells`, as they will be written."""
    names = [columns.item, *cells]
    with open(os.devnull, "w") as nowhere:
        looked_at = _item_rows(source, [columns.item], Rejects(nowhere), False)
        dotted = _dotted(looked_at, [columns.item])
    for numbers, table in _item_rows(source, names, rejects, progress):
        ids = _decoded(table[columns.item])
        ids = _ids(ids, source.path, columns.item, rejects, columns.item in dotted)
        bare, fine = usable_ids(source.path, numbers, ids, "item", rejects)
        parts = {"item": bare}
        for name, cell in cells.items():
            column = _decoded(table[name])
            if cell.endswith(":float"):
                parts[name] = _decimals(_numbers(column, source.path, name))
            else:
                parts[name] = _clean(column, source.path, name)
        yield pa.table(parts).filter(pa.array(fine))


def _item_rows(
    source: TableFile, names: list[str], rejects: Rejects, progress: bool
) -> Iterator[Lines]:
    """Yield columns of text, or of numbers in a Parquet file; lists are joined as words."""
    if source.format == "json":
        parse = functools.partial(_item_object, keys=names)
        for records in json_records(source.path, parse, rejects, progress):
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


def _item_object(text: str, keys: Sequence[str]) -> JsonObject | None:
    record = json_object(text)
    if record is not None:
        record.check(keys)
    return record


def _plain(column: pa.Array) -> pa.Array:
    """Convert nested values to text; return other columns unchanged."""
    if pa.types.is_nested(column.type):
        return pa.array([_word_list(value) for value in column.to_pylist()], pa.string())
    return column


def _word_list(value: Any) -> str | None:
    """Convert a value to text; each element of a list becomes one word."""
    if value is None or isinstance(value, str):
        return None if value is None else whole(value)
    if isinstance(value, (list, tuple)):
        return " ".join(filter(None, (as_word(_word_list(part) or "") for part in value)))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number_text(value)
    return whole(json.dumps(value, default=str))


def _clean(column: pa.Array, path: Path, name: str) -> pa.Array:
    """Clean a column of text; null becomes ""."""
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        raise InputError(f"{path}: the column '{name}' is of type {column.type}; text is expected")
    return pc.fill_null(clean_column(column.cast(pa.string())), "")


def _decimals(column: pa.Array) -> pa.Array:
    """Format numbers as text; null becomes ""."""
    numbers = column.to_numpy(zero_copy_only=False)
    return pc.if_else(pa.array(np.isfinite(numbers)), texts(numbers), "")
