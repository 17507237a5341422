"""Read CSV and TSV files in bounded blocks, as text; rows that cannot be used are rejected."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recbole_qbert.errors import InputError
from recbole_qbert.preparation.sources import BLOCK, Lines, Rejects, opened


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
    """Columns of text of a CSV or TSV file, nothing inferred, batch by batch.

    Line numbers count records, the header among them: blank lines are passed over, and a quoted
    field may hold line ends.

    Args:
        path: the file.
        rejects: gets the rows with another number of fields, or with text that is not in the
            encoding.
        names: of all columns, where the file has no header.
        delimiter: one character.
        quoted: whether double quotes hold a field together.
        encoding: of the text.

    Raises:
        InputError: the file is empty, or a field is longer than a block.
    """
    header = names is None
    names = table_header(path, delimiter, quoted, encoding) if names is None else list(names)
    skipped: list[int] = []

    def reject(row: pyarrow.csv.InvalidRow) -> str:
        reason = f"{row.actual_columns} fields where there should be {row.expected_columns}"
        rejects.add(path, int(row.number), reason, str(row.text))
        skipped.append(int(row.number))
        return "skip"

    number = 2 if header else 1
    try:
        with opened(path, progress) as stream:
            batches = pyarrow.csv.open_csv(
                stream,
                pyarrow.csv.ReadOptions(
                    use_threads=False,
                    block_size=BLOCK,
                    column_names=names,
                    skip_rows=int(header),
                    encoding="utf8" if encoding == "utf-8" else encoding,
                ),
                pyarrow.csv.ParseOptions(
                    delimiter=delimiter,
                    quote_char='"' if quoted else False,
                    double_quote=quoted,
                    newlines_in_values=quoted,
                    invalid_row_handler=reject,
                ),
                # Bytes, because one that is not UTF-8 would end the reading of the whole file.
                pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.binary()),
                    check_utf8=False,
                    strings_can_be_null=False,
                ),
            )
            for batch in batches:
                rows = np.arange(number, number + batch.num_rows + len(skipped))
                numbers = np.setdiff1d(rows, skipped, assume_unique=True)[: batch.num_rows]
                if len(numbers):
                    number = int(numbers[-1]) + 1
                while skipped and skipped[0] < number:
                    skipped.pop(0)  # in place: rows behind this batch may be read already
                yield _decoded(path, numbers, pa.Table.from_batches([batch]), rejects)
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({' '.join(str(error).split())[:120]}); correct "
            "the file or its delimiter"
        ) from None


def table_header(path: Path, delimiter: str, quoted: bool, encoding: str) -> list[str]:
    """The names in a table's first row.

    Raises:
        InputError: there is none, or a name occurs twice.
    """
    with opened(path) as stream:
        head = stream.read(1 << 20).removeprefix(b"\xef\xbb\xbf").decode(encoding, "replace")
    line = head.splitlines()[0] if head else ""
    names = next(csv.reader([line], delimiter=delimiter)) if quoted else line.split(delimiter)
    if not any(names):
        raise InputError(f"{path}: row 1 is empty; a header with the names of the columns is due")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path}: row 1: the column '{name}' occurs twice; rename one")
    return names


def _decoded(path: Path, numbers: np.ndarray, table: pa.Table, rejects: Rejects) -> Lines:
    """Columns of bytes as text; rows that are not UTF-8 go."""
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
