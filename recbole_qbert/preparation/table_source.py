"""Tables on disk: their format, their columns, their first rows."""

from __future__ import annotations

import codecs
import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recbole_qbert.errors import InputError, did_you_mean, preview
from recbole_qbert.preparation.delimited import delimited, table_header
from recbole_qbert.preparation.sources import Lines, Rejects, line_blocks, parse_json

FORMATS = {
    "csv": "csv", "tsv": "tsv", "tab": "tsv", "parquet": "parquet", "json": "json",
    "jsonl": "json", "ndjson": "json",
}  # fmt: skip
_SNIFFED = 1 << 16  # bytes of JSON lines whose values tell the type of an id
_BATCH = 1 << 16  # rows of a Parquet file


@dataclass(frozen=True)
class Source:
    """A table on disk.

    Attributes:
        path: the file; CSV, TSV and JSON lines may be compressed.
        format: `csv`, `tsv`, `parquet`, `json`.
        names: of all columns of a CSV or TSV file without a header.
        delimiter: of a CSV or TSV file.
        encoding: of a CSV or TSV file.
    """

    path: Path
    format: str
    names: tuple[str, ...] | None
    delimiter: str
    encoding: str

    def columns(self) -> list[str]:
        """The names of its columns; of JSON lines those in the first ones."""
        if self.format == "parquet":
            return list(open_parquet(self.path).schema_arrow.names)
        if self.format == "json":
            return list(dict.fromkeys(key for record in first_records(self.path) for key in record))
        return list(self.names or table_header(self.path, self.delimiter, True, self.encoding))

    def check(self, wanted: Sequence[str]) -> None:
        """Raises InputError for a column that is not there."""
        known = self.columns()
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"{self.path}: no column '{name}'; it has {preview(known)}"
                    f"{did_you_mean(name, known)}"
                )

    def rows(self, rejects: Rejects, progress: bool) -> Iterator[Lines]:
        """Columns of text of a CSV or TSV file."""
        return delimited(
            self.path, rejects, self.names,
            delimiter=self.delimiter, encoding=self.encoding, progress=progress,
        )  # fmt: skip


def open_source(
    path: str | Path,
    *,
    format: str | None = None,
    names: Sequence[str] | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
) -> Source:
    """A table, its format by its name unless given.

    Raises:
        InputError: no such file, a name that tells no format, or an argument that cannot be.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffixes = [suffix[1:].lower() for suffix in path.suffixes]
    known = [FORMATS[suffix] for suffix in suffixes if suffix in FORMATS]
    kind = FORMATS.get(format or "") or (known[-1] if known and not format else None)
    if kind is None:
        raise InputError(
            f"{path}: a format of {preview(list(FORMATS))} is expected; name it (--format)"
        )
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise InputError(f"encoding '{encoding}' is not known; give utf-8, latin-1, ...") from None
    chosen = ("\t" if kind == "tsv" else ",") if delimiter is None else delimiter
    if len(chosen) != 1 or not chosen.isascii() or chosen in '"\r\n':
        raise InputError(f"delimiter {chosen!r}: give one ASCII character, no quote or line end")
    repeated = [name for name, count in Counter(names or ()).items() if count > 1]
    if repeated:
        raise InputError(f"columns: '{repeated[0]}' occurs twice; give each a name of its own")
    return Source(path, kind, tuple(names) if names else None, chosen, encoding)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Raises InputError for what is no Parquet file."""
    with _parquet_faults(path):
        return pq.ParquetFile(path)


def parquet_rows(path: Path, names: Sequence[str]) -> Iterator[Lines]:
    """Columns of a Parquet file with the numbers of their rows, from 1.

    Raises:
        InputError: it cannot be read.
    """
    number = 1
    with _parquet_faults(path):
        for batch in open_parquet(path).iter_batches(_BATCH, columns=list(names)):
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
    """Objects of the first lines of a file of JSON lines."""
    for _, block in line_blocks(path, size=_SNIFFED):
        records = [json_object(line) for line in block.decode("utf-8", "replace").splitlines()]
        if found := [record for record in records if record is not None]:
            return found
    raise InputError(f"{path}: no line is a JSON object; one a line is expected")


def json_object(text: str) -> dict[str, Any] | None:
    """A line as an object; None if it is none."""
    try:
        record = parse_json(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None
