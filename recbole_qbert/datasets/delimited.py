"""Reader of CSV and TSV files in blocks of bounded size, as text, that rejects invalid rows.

A block is split into records before it is parsed. Therefore the line number of each record is
known, and an unclosed quotation does not affect the rows after it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.codec import quote
from recbole_qbert.datasets.sources import LONGEST_LINE, Lines, Rejects, line_blocks, opened

UNCLOSED = "unclosed quotation"
_QUOTE, _END = ord('"'), ord("\n")
_REST = re.compile(rb'[^"]*(?:""[^"]*)*"(?!")')  # rest of a quotation after its opening quote


def delimited(
    path: Path,
    rejects: Rejects,
    names: Sequence[str] | None = None,
    *,
    wanted: Sequence[str] | None = None,
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
        rejects: receives rows with a wrong number of fields, with an unclosed quotation, or with a
            wanted cell that is not in the encoding.
        names: names of all columns, if the file has no header.
        wanted: the columns to read; None for all.
        delimiter: one character.
        quoted: whether double quotes enclose fields.
        encoding: encoding of the text.

    Raises:
        InputError: the file is empty, its header is invalid, a line is longer than `LONGEST_LINE`,
            or the file is not a table.
    """
    header = names is None
    names = table_header(path, delimiter, quoted, encoding) if names is None else list(names)
    chosen = names if wanted is None else list(dict.fromkeys(wanted))
    line, rest = 1, b""
    try:
        blocks = (block for _, block in line_blocks(path, progress, encoding=encoding))
        following = next(blocks, None)
        while following is not None or rest:
            block = rest + (following or b"").replace(b"\r", b"\n")  # line_blocks replaced CRLF
            following = next(blocks, None)
            final = following is None or len(block) > LONGEST_LINE  # completes the last record
            cut, numbers, data = _complete(path, rejects, line, block, delimiter, quoted, final)
            line, rest = line + block.count(b"\n", 0, cut), block[cut:]
            if header and len(numbers):
                header, numbers, data = False, numbers[1:], data[data.index(b"\n") + 1 :]
            if len(numbers):
                yield _parsed(path, numbers, data, rejects, names, chosen, delimiter, quoted)
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({' '.join(str(error).split())[:120]}); correct "
            "the file, or the options --delimiter and --encoding"
        ) from None


def table_header(path: Path, delimiter: str, quoted: bool, encoding: str) -> list[str]:
    """Read the names in a table's first row.

    Raises:
        InputError: the row is empty, a name occurs twice, or a quotation does not close in it.
    """
    with opened(path) as stream:
        head = stream.read(1 << 20).decode(encoding, "replace").removeprefix("\ufeff")
    line = re.split("\r?\n|\r", head, maxsplit=1)[0]
    if quoted and _quotations(f"{line}\n".encode(), delimiter, True)[2]:
        raise InputError(f"{path}: line 1: {UNCLOSED}; write all column names on one line")
    names = next(csv.reader([line], delimiter=delimiter)) if quoted else line.split(delimiter)
    if not any(names):
        raise InputError(f"{path}: line 1 is empty; write the column names there")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: line 1: the column '{name}' occurs twice; rename one")
    return names


def _complete(
    path: Path, rejects: Rejects, line: int, block: bytes, delimiter: str, quoted: bool, final: bool
) -> tuple[int, np.ndarray, bytes]:
    """Return the end of a block's last complete record, and its non-blank records, with the numbers
    of their first lines; `line` is the number of the block's first line."""
    line_ends = np.flatnonzero(np.frombuffer(block, np.uint8) == _END)
    none = np.empty(0, np.int64)
    first, last, faults = _quotations(block, delimiter, final) if quoted else (none, none, [])
    ends = line_ends[np.searchsorted(first, line_ends) == np.searchsorted(last, line_ends)]
    if not len(ends):
        return 0, none, b""
    starts = np.append(0, ends[:-1] + 1)
    numbers = line + np.searchsorted(line_ends, starts)
    keep = ends > starts
    broken = np.searchsorted(ends, faults)
    for place, record in zip(faults, broken.tolist(), strict=True):
        if keep[record]:  # reject a record with two faults only once
            keep[record] = False
            text = block[starts[record] : ends[record]].decode("utf-8", "replace")
            rejects.add(path, line + int(np.searchsorted(line_ends, place)), UNCLOSED, text)
    cut = int(ends[-1]) + 1
    bounds = [0, *np.stack([starts[broken], ends[broken] + 1], axis=1).ravel().tolist(), cut]
    parts = zip(bounds[::2], bounds[1::2], strict=True)
    return cut, numbers[keep], b"".join(block[start:end] for start, end in parts)


def _quotations(
    block: bytes, delimiter: str, final: bool
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Find the quotations of a block that begins with a record and ends with a line end.

    Returns:
        The places of opening quotes, of their closing quotes, and of opening quotes without a
        closing one. If a later block may close the last quotation, only its opening quote is given.
    """
    values = np.frombuffer(block, np.uint8)
    quotes = np.flatnonzero(values == _QUOTE)
    # Without faults, opening and closing quotes alternate; a doubled quote counts as one of each.
    first, last = quotes[::2], quotes[1::2]
    beside = np.array([ord(delimiter), _END, _QUOTE], np.uint8)
    before = np.where(first > 0, values[first - 1], _END)
    regular = np.isin(before, beside).all() and np.isin(values[last + 1], beside).all()
    if regular and (len(first) == len(last) or not final):
        return first, last, []
    opening = re.compile(rb'(?:\A|(?<=[\n%s]))"' % re.escape(delimiter.encode()))
    opened_at: list[int] = []
    closed_at: list[int] = []
    faults: list[int] = []
    found = opening.search(block)
    while found:
        start = found.end() - 1
        end = line_end = block.index(b"\n", start)
        rest = _REST.match(block, start + 1)
        # Within a line, text may follow the closing quote, as in `"Best" drum`.
        if rest and (rest.end() <= line_end or block[rest.end()] in (ord(delimiter), _END)):
            end = rest.end()
            opened_at.append(start)
            closed_at.append(end - 1)
        elif rest or final:
            faults.append(start)
        else:
            opened_at.append(start)
            break
        found = opening.search(block, end)
    return np.array(opened_at, np.int64), np.array(closed_at, np.int64), faults


def _parsed(
    path: Path,
    numbers: np.ndarray,
    data: bytes,
    rejects: Rejects,
    names: Sequence[str],
    chosen: Sequence[str],
    delimiter: str,
    quoted: bool,
) -> Lines:
    """Parse the chosen columns of records to text; reject records with other fields than names, or
    with a chosen cell that is not UTF-8."""
    good = np.ones(len(numbers), dtype=bool)

    def reject(row: pyarrow.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} fields instead of {row.expected_columns}"
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
            include_columns=list(chosen),
            check_utf8=False,
            strings_can_be_null=False,
        ),
    )
    numbers = numbers[good]
    text = pa.schema([(name, pa.string()) for name in table.schema.names])
    try:
        return numbers, table.cast(text)
    except pa.ArrowInvalid:
        valid = np.ones(table.num_rows, dtype=bool)
        for name, column in zip(table.schema.names, table.columns, strict=True):
            cells = column.to_pylist()
            fine = np.array([v.decode("utf-8", "replace").encode() == v for v in cells], bool)
            for number in numbers[valid & ~fine].tolist():
                rejects.add(path, number, f"column {quote(name)} is not valid UTF-8 (--encoding)")
            valid &= fine
        return numbers[valid], table.filter(pa.array(valid)).cast(text)
