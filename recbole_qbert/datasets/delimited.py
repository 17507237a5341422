"""Reader of CSV and TSV files in blocks of bounded size, as text, that rejects invalid rows.

A block is split into records before it is parsed. Therefore the line number of each record is
known, and an unclosed quotation does not affect the rows after it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recbole_qbert.common.errors import InputError
from recbole_qbert.datasets.sources import (
    BLOCK,
    LONGEST_LINE,
    Lines,
    Rejects,
    line_blocks,
    opened,
)

UNCLOSED = "a quotation that never closes"
_QUOTE, _END = ord('"'), ord("\n")
_REST = re.compile(rb'[^"]*(?:""[^"]*)*"(?!")')  # rest of a quotation after its opening quote


class _Quotations(NamedTuple):
    """Byte positions of the quotations in a block.

    Attributes:
        first, last: int64 [n] each, opening and closing quote of each closed quotation.
        faults: opening quotes of quotations that never close.
        pending: opening quote of a quotation that a later block may close, or None.
    """

    first: np.ndarray
    last: np.ndarray
    faults: list[int]
    pending: int | None


def delimited(
    path: Path,
    rejects: Rejects,
    names: Sequence[str] | None = None,
    *,
    delimiter: str = ",",
    quoted: bool = True,
    encoding: str = "utf-8",
    progress: bool = False,
) -> Iterator[Lines]:
    """Yield the columns of a CSV or TSV file as text, batch by batch, without type inference.

    The number of a row is that of the line where it begins: blank lines count, and quoted fields
    may contain line ends. The closing quote of a quotation over several lines must precede a
    delimiter or a line end. If it does not, the first line is rejected, and reading continues with
    the next line.

    Args:
        path: the file.
        rejects: receives rows with a wrong number of fields, with an unclosed quotation, or with
            text that is not in the encoding.
        names: names of all columns, if the file has no header.
        delimiter: one character.
        quoted: whether double quotes enclose fields.
        encoding: encoding of the text.
        progress: whether to show a progress bar.

    Raises:
        InputError: the file is empty, its header is invalid, a line is longer than `LONGEST_LINE`,
            or the file is not a table.
    """
    header = names is None
    names = table_header(path, delimiter, quoted, encoding) if names is None else list(names)
    try:
        for numbers, data in _records(path, rejects, delimiter, quoted, encoding, progress):
            if header:
                header, numbers, data = False, numbers[1:], data[data.index(b"\n") + 1 :]
            if len(numbers):
                yield _parsed(path, numbers, data, rejects, names, delimiter, quoted)
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({' '.join(str(error).split())[:120]}); correct "
            "the file or its delimiter"
        ) from None


def table_header(path: Path, delimiter: str, quoted: bool, encoding: str) -> list[str]:
    """Read the names in a table's first row.

    Raises:
        InputError: the row is empty, a name occurs twice, or a quotation does not close in it.
    """
    with opened(path) as stream:
        head = stream.read(1 << 20).decode(encoding, "replace").removeprefix("\ufeff")
    line = re.split("\r?\n|\r", head, maxsplit=1)[0]
    if quoted and _quotations(f"{line}\n".encode(), delimiter, True).faults:
        raise InputError(f"{path}: line 1: {UNCLOSED}; close it, with names on one line")
    names = next(csv.reader([line], delimiter=delimiter)) if quoted else line.split(delimiter)
    if not any(names):
        raise InputError(f"{path}: row 1 is empty; a header with the names of the columns is due")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: row 1: the column '{name}' occurs twice; rename one")
    return names


def _records(
    path: Path, rejects: Rejects, delimiter: str, quoted: bool, encoding: str, progress: bool
) -> Iterator[tuple[np.ndarray, bytes]]:
    """Yield blocks of complete, non-blank records, with the first line number of each record."""
    line, rest = 1, b""
    blocks = (block for _, block in line_blocks(path, progress, BLOCK, encoding))
    following = next(blocks, None)
    while following is not None or rest:
        block = rest + (following or b"").replace(b"\r", b"\n")  # line_blocks replaced CRLF
        following = next(blocks, None)
        final = following is None or len(block) > LONGEST_LINE
        cut, numbers, records = _cut(path, rejects, line, block, delimiter, quoted, final)
        if len(numbers):
            yield numbers, records
        line, rest = line + block.count(b"\n", 0, cut), block[cut:]


def _cut(
    path: Path, rejects: Rejects, line: int, block: bytes, delimiter: str, quoted: bool, final: bool
) -> tuple[int, np.ndarray, bytes]:
    """Split off the complete records of a block.

    Args:
        line: number of the block's first line.
        final: whether no further block can complete the last record.

    Returns:
        The end of the last complete record, the line numbers of the records, and the records.
    """
    line_ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _END)
    found = _quotations(block, delimiter, final) if quoted else _NONE
    open_before = np.searchsorted(found.first, line_ends) - np.searchsorted(found.last, line_ends)
    ends = line_ends[open_before == 0]
    if found.pending is not None:
        ends = ends[ends < found.pending]
    if not len(ends):
        return 0, np.empty(0, np.int64), b""
    starts = np.append(0, ends[:-1] + 1)
    numbers = line + np.searchsorted(line_ends, starts)
    keep = ends > starts
    at = np.searchsorted(ends, found.faults)
    for place, record in zip(found.faults, at.tolist(), strict=True):
        if keep[record]:  # reject a record with two faults only once
            keep[record] = False
            number = line + int(np.searchsorted(line_ends, place))
            text = block[starts[record] : ends[record]].decode("utf-8", "replace")
            rejects.add(path, number, UNCLOSED, text)
    cut = int(ends[-1]) + 1
    if not len(at):
        return cut, numbers[keep], block[:cut]
    parts = zip([0, *(ends[at] + 1).tolist()], [*starts[at].tolist(), cut], strict=True)
    return cut, numbers[keep], b"".join(block[start:end] for start, end in parts)


_NONE = _Quotations(np.empty(0, np.int64), np.empty(0, np.int64), [], None)


def _quotations(block: bytes, delimiter: str, final: bool) -> _Quotations:
    """Find the quotations of a block that begins with a record and ends with a line end."""
    values = np.frombuffer(block, np.uint8)
    quotes = np.flatnonzero(values == _QUOTE)
    if not len(quotes):
        return _NONE
    # Without faults, opening and closing quotes alternate; a doubled quote counts as one of each.
    beside = np.array([ord(delimiter), _END, _QUOTE], np.uint8)
    first, last = quotes[::2], quotes[1::2]
    before = np.where(first > 0, values[first - 1], _END)
    if np.isin(before, beside).all() and np.isin(values[last + 1], beside).all():
        if len(first) == len(last):
            return _Quotations(first, last, [], None)
        if not final:
            return _Quotations(first[:-1], last, [], int(first[-1]))
    return _odd_quotations(block, delimiter, final)


def _odd_quotations(block: bytes, delimiter: str, final: bool) -> _Quotations:
    """Find the quotations one by one, for blocks with quotes inside fields or unclosed ones."""
    opening = re.compile(rb'(?:\A|(?<=[\n%s]))"' % re.escape(delimiter.encode()))
    closed: list[tuple[int, int]] = []
    faults: list[int] = []
    pending = None
    found = opening.search(block)
    while found:
        start = found.end() - 1
        line_end = block.index(b"\n", start)
        rest = _REST.match(block, start + 1)
        end = rest.end() if rest else len(block)
        # Within a line, text may follow the closing quote, as in `"Best" drum`.
        if rest and (end <= line_end or block[end] in (ord(delimiter), _END)):
            closed.append((start, end - 1))
        elif rest or final:
            faults.append(start)
            end = line_end
        else:
            pending = start
            break
        found = opening.search(block, end)
    pairs = np.array(closed, dtype=np.int64).reshape(-1, 2)
    return _Quotations(pairs[:, 0], pairs[:, 1], faults, pending)


def _parsed(
    path: Path,
    numbers: np.ndarray,
    data: bytes,
    rejects: Rejects,
    names: Sequence[str],
    delimiter: str,
    quoted: bool,
) -> Lines:
    """Parse records into columns; reject those with a wrong number of fields."""
    good = np.ones(len(numbers), dtype=bool)

    def reject(row: pyarrow.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} fields where there should be {row.expected_columns}"
        rejects.add(path, int(numbers[row.number - 1]), reason, str(row.text))
        good[row.number - 1] = False
        return "skip"

    table = pyarrow.csv.read_csv(
        pa.BufferReader(data),
        pyarrow.csv.ReadOptions(
            use_threads=False, block_size=len(data) + 1, column_names=list(names)
        ),
        pyarrow.csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if quoted else False,
            double_quote=quoted,
            newlines_in_values=quoted,
            invalid_row_handler=reject,
        ),
        # Read as bytes, because invalid UTF-8 in one cell would fail the whole file.
        pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            check_utf8=False,
            strings_can_be_null=False,
        ),
    )
    return _decoded(path, numbers[good], table, rejects)


def _decoded(path: Path, numbers: np.ndarray, table: pa.Table, rejects: Rejects) -> Lines:
    """Decode columns of bytes; reject rows that are not UTF-8."""
    text = pa.schema([(name, pa.string()) for name in table.schema.names])
    try:
        return numbers, table.cast(text)
    except pa.ArrowInvalid:
        good = np.ones(table.num_rows, dtype=bool)
        for column in table.columns:
            good &= [_is_utf8(value) for value in column.to_pylist()]
        rejects.add_rows(path, numbers[~good], "not UTF-8")
        return numbers[good], table.filter(pa.array(good)).cast(text)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
