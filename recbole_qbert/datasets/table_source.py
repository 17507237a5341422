"""Tables on disk: detection of their format, encoding and columns, and readers."""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_qbert.common.errors import InputError, did_you_mean, preview
from recbole_qbert.datasets.delimited import delimited, table_header
from recbole_qbert.datasets.sources import Lines, Rejects, line_blocks, opened, parse_json

FORMATS = {
    "csv": "csv", "tsv": "tsv", "tab": "tsv", "parquet": "parquet", "json": "json",
    "jsonl": "json", "ndjson": "json",
}  # fmt: skip
_DELIMITERS = ";\t|,"  # common delimiters
# UTF-32 first, because its byte order mark starts with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_SHOWN = 60  # printed characters of a column's name
_SNIFFED = 1 << 16  # bytes that are read to detect encodings and types
_BATCH = 1 << 16  # rows of a Parquet file that are read at once


@dataclass(frozen=True)
class TableFile:
    """Table on disk; see `open_source`."""

    path: Path
    format: str  # csv, tsv, parquet, json
    names: tuple[str, ...] | None
    delimiter: str
    encoding: str

    def columns(self) -> list[str]:
        """Return the column names; for JSON lines, the keys of the first lines."""
        if self.format == "parquet":
            with _parquet_faults(self.path):
                return list(pq.read_schema(self.path).names)
        if self.format == "json":
            return list(dict.fromkeys(key for record in first_records(self.path) for key in record))
        return list(self.names or table_header(self.path, self.delimiter, True, self.encoding))

    def check(self, wanted: Sequence[str], remedy: str = "") -> None:
        """Raise an InputError, with `remedy` in it, unless the table has the wanted columns."""
        known = self.columns()
        for name in wanted:
            if name not in known:
                shown = [each if len(each) <= _SHOWN else f"{each[:_SHOWN]}…" for each in known]
                hint = did_you_mean(name, known)
                if self.format in ("csv", "tsv") and len(known) == 1:
                    found = [sign for sign in _DELIMITERS if sign in known[0]]
                    if found:
                        hint = f"; if the delimiter is {found[0]!r}, give it with --delimiter"
                raise InputError(
                    f"{self.path}: no column '{name}'{remedy}; it has {preview(shown)}{hint}"
                )

    def rows(self, wanted: Sequence[str], rejects: Rejects, progress: bool) -> Iterator[Lines]:
        """Yield the wanted columns of a CSV or TSV file as text; see `delimited`."""
        return delimited(
            self.path, rejects, self.names, wanted=wanted,
            delimiter=self.delimiter, encoding=self.encoding, progress=progress,
        )  # fmt: skip


def open_source(
    path: str | Path,
    *,
    format: str | None = None,
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> TableFile:
    """Open a table.

    Args:
        path: the file; CSV, TSV and JSON lines may be compressed.
        format: one of `FORMATS`; None to detect it by the suffixes of the file name.
        names: names of all columns of a CSV or TSV file without a header.
        delimiter: one ASCII character; None for a tab in TSV files and a comma in others.
        encoding: encoding of a CSV or TSV file; a byte order mark of UTF-16 or UTF-32 overrides
            UTF-8.

    Raises:
        InputError: the file does not exist, its format is unknown, or an argument is invalid.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffixes = [format] if format else [suffix[1:].lower() for suffix in reversed(path.suffixes)]
    kind = next((FORMATS[suffix] for suffix in suffixes if suffix in FORMATS), None)
    if kind is None:
        raise InputError(f"{path}: unknown format; give --format, one of {', '.join(FORMATS)}")
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise InputError(f"encoding '{encoding}' is unknown; give utf-8, latin-1, ...") from None
    if kind != "parquet" and codecs.lookup(encoding).name == "utf-8":
        encoding = _detected_encoding(path, kind)
    chosen = ("\t" if kind == "tsv" else ",") if delimiter is None else delimiter
    if len(chosen) != 1 or not chosen.isascii() or chosen in '"\r\n':
        raise InputError(f"delimiter {chosen!r}: give one ASCII character, no quote or line end")
    for name in names or ():
        if (names or ()).count(name) > 1:
            raise InputError(f"columns: '{name}' occurs twice; give each column its own name")
    return TableFile(path, kind, tuple(names) if names else None, chosen, encoding)


def _detected_encoding(path: Path, kind: str) -> str:
    """Detect the encoding of a text file by its byte order mark; the default is UTF-8.

    Raises:
        InputError: the encoding is unknown, or it is not UTF-8 and the file has JSON lines.
    """
    with opened(path) as stream:
        head = stream.read(_SNIFFED)
    found = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if found is None and b"\0" not in head:
        return "utf-8"
    if kind == "json":
        raise InputError(f"{path}: line 1 is not UTF-8; convert the file to UTF-8")
    if found is None:
        raise InputError(
            f"{path}: line 1 is not UTF-8 (NUL characters); give the encoding, such as "
            "--encoding=utf-16-le"
        )
    return found


def parquet_rows(path: Path, names: Sequence[str]) -> Iterator[Lines]:
    """Yield columns of a Parquet file, with row numbers from 1.

    Raises:
        InputError: the file cannot be read.
    """
    number = 1
    with _parquet_faults(path):
        for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=list(names)):
            yield np.arange(number, number + batch.num_rows), pa.Table.from_batches([batch])
            number += batch.num_rows


@contextlib.contextmanager
def _parquet_faults(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: cannot be read as Parquet ({reason}); write it again") from None


def first_records(path: Path) -> list[dict[str, Any]]:
    """Return the objects in the first lines of a file of JSON lines.

    Raises:
        InputError: no line is a JSON object.
    """
    for _, block in line_blocks(path, size=_SNIFFED):
        found = []
        for line in block.split(b"\n"):  # str.splitlines would also split at U+2028 in a text
            with contextlib.suppress(ValueError, RecursionError):
                found.append(parse_json(line.decode("utf-8", "replace")))
        if found:
            return found
    raise InputError(f"{path}: no line is a JSON object; write one object on each line")
