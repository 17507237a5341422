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
from recbole_qbert.data.atomic import LARGE
from recbole_qbert.data.pictures import SUFFIXES
from recbole_qbert.datasets.arrow_cache import ParsedFile
from recbole_qbert.datasets.interactions import Interactions

RECORD = "metadata"  # key of the number of items with a record, in a coverage


class Records(NamedTuple):
    """Metadata of I items, one record for each."""

    fields: dict[str, pa.Array]  # strings [I] by field, "" if missing
    found: np.ndarray  # bool [I], True for items with a record
    repeated: int  # number of records that were dropped in favor of another one of their item
    described: int  # number of items with a record in the table, including items outside the I
    unknown: list[str]  # the first two items with a record outside the I


def read_records(stage: ParsedFile, tokens: pa.Array) -> Records:
    """Read the records of some items.

    Among several records of an item, the one with the most fields is used, then the one with the
    most characters, then the first one in the order of its fields' text. The result does not depend
    on the order of the lines. The columns of the stage are `item` and the fields, all strings.
    """
    # All items are looked up at once, because each call of `is_in` hashes all tokens.
    items = pa.chunked_array([batch["item"] for batch in stage.batches()], pa.string())
    wanted = np.asarray(pc.is_in(items, tokens))
    # The offsets of `string` end at 2 GiB, which the texts of all items may exceed.
    cells = [(name, LARGE) for name in stage.schema.names if name != "item"]
    table = stage.table(wanted).cast(pa.schema([("item", pa.string()), *cells])).combine_chunks()
    unknown = items.filter(pa.array(~wanted)).unique()
    described = len(unknown) + len(table["item"].unique())
    names = [name for name in table.schema.names if name != "item"]
    lengths = [pc.utf8_length(table[name]).to_numpy().astype(np.int64) for name in names]
    none = np.zeros(len(table), dtype=np.int64)
    # No field can have these names, because a NUL is no valid character of a header.
    table = table.append_column("\0filled", pa.array(sum((each > 0 for each in lengths), none)))
    table = table.append_column("\0length", pa.array(sum(lengths, none)))
    keys = [("item", "ascending"), ("\0filled", "descending"), ("\0length", "descending")]
    order = pc.sort_indices(table, [*keys, *((name, "ascending") for name in names)])
    sorted_items = table["item"].take(order).combine_chunks()
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.asarray(pc.not_equal(sorted_items[1:], sorted_items[:-1]))
    best = order.filter(pa.array(first))
    rows = best.take(pc.index_in(tokens, sorted_items.filter(pa.array(first))))
    fields = {name: pc.fill_null(table[name].take(rows), "").combine_chunks() for name in names}
    found, repeated = np.asarray(rows.is_valid()), int((~first).sum())
    return Records(fields, found, repeated, described, unknown[:2].to_pylist())


def item_columns(
    inter: Interactions, items: Records, cells: Mapping[str, str]
) -> tuple[dict[str, pa.Array], dict[str, int]]:
    """Build the columns of an `.item` file, by header cell, for all items with interactions.

    A field that no item has is left out, because RecBole would fill a column without numbers with
    the mean of an empty set. Also returns the number of items with a record and with each field.
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
