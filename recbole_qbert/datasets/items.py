"""Item metadata: one record per item, the columns of an `.item` file, and picture files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.pictures import SUFFIXES
from recbole_qbert.datasets.arrow_cache import ParsedFile
from recbole_qbert.datasets.interactions import Interactions

RECORD = "metadata"  # key of the number of items with a record, in a coverage


class Records(NamedTuple):
    """Metadata of I items, one record for each.

    Attributes:
        fields: strings [I] by field, "" if missing.
        found: bool [I], True for items with a record.
        repeated: number of records that were dropped in favor of another one of their item.
        described: number of items with a record in the table, including items outside the I.
        strange: the first two items with a record outside the I.
    """

    fields: dict[str, pa.Array]
    found: np.ndarray
    repeated: int
    described: int
    strange: list[str]


def read_records(stage: ParsedFile, schema: pa.Schema, tokens: pa.Array) -> Records:
    """Read the records of some items.

    Among several records of an item, the one with the most fields is used, then the one with the
    most characters, then the first one in the order of its fields' text. The result does not depend
    on the order of the lines.

    Args:
        stage: rows of `item` and fields.
        schema: schema of the stage.
        tokens: strings [I], the items.
    """
    # All items are looked up at once, because each call of `is_in` hashes all tokens.
    items = pa.chunked_array([batch["item"] for batch in stage.batches()], pa.string())
    wanted = np.asarray(pc.is_in(items, tokens))
    parts, start = [], 0
    for batch in stage.batches():
        parts.append(batch.filter(pa.array(wanted[start : start + batch.num_rows])))
        start += batch.num_rows
    table = pa.Table.from_batches(parts, schema)
    strange = items.filter(pa.array(~wanted)).unique()
    described = len(strange) + len(table["item"].unique())
    found = _chosen_records(table, tokens)
    return Records(*found, described, strange[:2].to_pylist())


def _chosen_records(
    table: pa.Table, tokens: pa.Array
) -> tuple[dict[str, pa.Array], np.ndarray, int]:
    """Choose the record of each token.

    Args:
        table: columns `item` (a token) and fields, all strings.
        tokens: strings [I].

    Returns:
        `fields`, `found` and `repeated` of `Records`.
    """
    names = [name for name in table.schema.names if name != "item"]
    table = table.combine_chunks()
    lengths = [pc.utf8_length(table[name]).to_numpy().astype(np.int64) for name in names]
    filled = sum((length > 0).astype(np.int64) for length in lengths)
    table = table.append_column("filled", pa.array(np.asarray(filled)))
    table = table.append_column("length", pa.array(np.asarray(sum(lengths))))
    keys = [("item", "ascending"), ("filled", "descending"), ("length", "descending")]
    order = pc.sort_indices(table, [*keys, *((name, "ascending") for name in names)])
    items = table["item"].take(order)
    first = np.ones(len(items), dtype=bool)
    first[1:] = np.asarray(pc.not_equal(items.slice(1), items.slice(0, max(0, len(items) - 1))))
    best = order.filter(pa.array(first))
    places = pc.index_in(tokens, table["item"].take(best).combine_chunks())
    rows = best.take(places)
    fields = {name: pc.fill_null(table[name].take(rows), "").combine_chunks() for name in names}
    return fields, np.asarray(rows.is_valid()), int((~first).sum())


def item_columns(
    inter: Interactions, items: Records, cells: Mapping[str, str]
) -> tuple[dict[str, pa.Array], dict[str, int]]:
    """Build the columns of an `.item` file, with one row for each item with interactions.

    Args:
        inter: the interactions.
        items: records of all item tokens.
        cells: header cells by field. A field that no item has is left out, because RecBole would
            fill a column without numbers with the mean of an empty set.

    Returns:
        Columns by header cell, and the number of items with a record and with each field.
    """
    present = pa.array(np.unique(inter.items))
    columns = {"item_id:token": inter.item_tokens.take(present)}
    coverage = {RECORD: int(items.found[present].sum())}
    for name, cell in cells.items():
        column = items.fields[name].take(present)
        coverage[name] = int(np.asarray(filled(column)).sum())
        if coverage[name]:
            columns[cell] = column
    return columns, coverage


def filled(column: pa.Array) -> pa.Array:
    """Return which strings are not empty."""
    return pc.greater(pc.binary_length(column), 0)


def picture_files(folder: Path) -> dict[str, str]:
    """Return the names of the picture files in a folder, by the item that they are named after.

    Raises:
        InputError: the folder does not exist or cannot be read.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be read ({error.strerror}); give a folder of pictures"
        ) from None
    parts = [(name, *os.path.splitext(name)) for name in names]
    return {stem: name for name, stem, suffix in parts if suffix.lower() in SUFFIXES}
