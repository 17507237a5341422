"""Write RecBole's atomic files, so that RecBole and `read_atomic` read back the same text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.data.atomic import LARGE

ROWS_AT_ONCE = 1 << 17  # joined into one buffer and written


def write_header(handle: IO[bytes], cells: Iterable[str]) -> None:
    """Write the header line, `name:type` of each column, of an atomic file open as bytes."""
    handle.write(("\t".join(cells) + "\n").encode())


def write_rows(handle: IO[bytes], columns: Sequence[pa.Array | pa.ChunkedArray]) -> int:
    """Append rows to an atomic file that is open as bytes, and return their number.

    A cell that begins with a double quote is written as a quotation, because RecBole reads a
    leading quote as the start of one. `columns` are text of one length, without tabs and line ends.
    """
    for start in range(0, len(columns[0]), ROWS_AT_ONCE):
        handle.write(_lines([column.slice(start, ROWS_AT_ONCE) for column in columns]))
    return len(columns[0])


def _quoted(column: pa.Array) -> pa.Array:
    """Quote the cells that begin with a double quote; a quote after other text needs no quoting."""
    opens = pc.starts_with(column, '"')
    if not pc.any(opens).as_py():
        return column
    mark, none = pa.scalar('"', LARGE), pa.scalar("", LARGE)
    inner = pc.replace_substring(column, '"', '""')
    return pc.if_else(opens, pc.binary_join_element_wise(mark, inner, mark, none), column)


def _lines(columns: Sequence[pa.Array | pa.ChunkedArray]) -> memoryview:
    """Join columns to lines, as bytes: a view of the character buffer of one string array."""
    wide = [
        _quoted((each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each).cast(LARGE))
        for each in columns
    ]
    lines = pc.binary_join_element_wise(*wide, pa.scalar("\t", LARGE))
    lines = pc.binary_join_element_wise(lines, pa.scalar("", LARGE), pa.scalar("\n", LARGE))
    offsets = np.frombuffer(lines.buffers()[1], np.int64)
    first, last = offsets[lines.offset], offsets[lines.offset + len(lines)]
    return memoryview(lines.buffers()[2])[first:last]
