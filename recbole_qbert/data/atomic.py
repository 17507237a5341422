"""Read columns of a RecBole atomic file exactly as they are written, and write rows of one.

RecBole's own loader remaps tokens, splits sequences and fills gaps; here the strings count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.errors import InputError, did_you_mean, preview

ROWS_AT_ONCE = 1 << 17  # that writing joins


def read_columns(path: str | Path, fields: Sequence[str]) -> pd.DataFrame:
    """The named columns of a tab-separated file whose header holds `name:type` fields.

    Nothing is inferred: "NA", "007", quotes and blanks stay as written, an empty cell is "".

    Args:
        path: a UTF-8 `.item`, `.user` or `.inter` file.
        fields: column names, without their type.

    Returns:
        One string column per field, in the order asked for. The index, named "line", is each row's
        line in the file; blank lines are passed over, as RecBole does.

    Raises:
        InputError: the file is missing, empty or not UTF-8, the header is not `name:type`, a
            field is unknown or asked for twice, or a row has another number of fields.
    """
    lines = read_lines(Path(path))
    names = header_fields(path, lines[0])
    for field in fields:
        if field not in names:
            hint = did_you_mean(field, names)
            raise InputError(f"{path}: no field '{field}' (it has {preview(names)}){hint}")
    if len(set(fields)) != len(fields):
        raise InputError(f"{path}: a field is asked for twice ({preview(list(fields))})")

    numbered = {number: line.split("\t") for number, line in enumerate(lines[1:], 2) if line}
    for number, row in numbered.items():
        if len(row) != len(names):
            raise InputError(
                f"{path}: line {number}: {len(row)} fields where the header has {len(names)}; "
                "separate fields with one tab and remove tabs inside a field"
            )
    positions = [names.index(field) for field in fields]
    return pd.DataFrame(
        [[row[position] for position in positions] for row in numbered.values()],
        index=pd.Index(list(numbered), dtype="int64", name="line"),
        columns=list(fields),
        dtype=object,
    )


def read_lines(path: Path) -> list[str]:
    """The file's lines without their ends; only LF and CRLF end a line, as in RecBole's reader."""
    try:
        # A byte-order mark would otherwise become part of the first field's name.
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); convert the file to UTF-8") from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[0]:
        raise InputError(f"{path}: line 1 is empty; a header of 'name:type' fields is expected")
    return lines


def header_fields(path: str | Path, line: str) -> list[str]:
    """The field names of a header line, without their types.

    Raises:
        InputError: a cell is not `name:type`, or a name occurs twice.
    """
    names = []
    for cell in line.split("\t"):
        name, colon, kind = cell.partition(":")
        if not (name and colon and kind):
            raise InputError(
                f"{path}: line 1: '{cell}' is not 'name:type'; write a RecBole header such as "
                "'item_id:token<TAB>title:token_seq'"
            )
        if name in names:
            raise InputError(f"{path}: line 1: the field '{name}' occurs twice; rename one")
        names.append(name)
    return names


def write_header(handle: IO[bytes], cells: Iterable[str]) -> None:
    """The first line of an atomic file that is open as bytes: cells `name:type`."""
    handle.write(("\t".join(cells) + "\n").encode())


def write_rows(handle: IO[bytes], columns: Sequence[pa.Array | pa.ChunkedArray]) -> int:
    """Append rows to an atomic file that is open as bytes, and return how many.

    Args:
        handle: its header is written already.
        columns: text columns of one length, of cells without tabs and line ends.
    """
    for start in range(0, len(columns[0]), ROWS_AT_ONCE):
        handle.write(_lines([column.slice(start, ROWS_AT_ONCE) for column in columns]))
    return len(columns[0])


def _lines(columns: Sequence[pa.Array | pa.ChunkedArray]) -> memoryview:
    """Lines of bytes: the character buffer of one array holds them one after the other."""
    text = pa.large_string()
    wide = [
        (each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each).cast(text)
        for each in columns
    ]
    lines = pc.binary_join_element_wise(*wide, pa.scalar("\t", text))
    lines = pc.binary_join_element_wise(lines, pa.scalar("", text), pa.scalar("\n", text))
    offsets = np.frombuffer(lines.buffers()[1], np.int64)
    first, last = offsets[lines.offset], offsets[lines.offset + len(lines)]
    return memoryview(lines.buffers()[2])[first:last]
