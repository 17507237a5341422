"""Cache of parsed rows on disk.

The cache keeps memory use independent of the size of the raw files, and a killed run does not parse
finished stages again. A stage is a folder of `rows.arrow`, `rejected.txt` and `stage.json`. It is
created atomically, and reused while its sources and settings are unchanged.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_folder, exclusive, read_json, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.sources import Rejects
from recbole_qbert.datasets.target import check_target

_ROWS, _REJECTED, _STAGE = "rows.arrow", "rejected.txt", "stage.json"
_VERSION = 3  # version of the stages' content


class Source(NamedTuple):
    """Raw files and their parser.

    The parser yields a file's usable rows, in tables of bounded size, and reports other rows to the
    `Rejects`.
    """

    paths: Sequence[Path]
    parse: Callable[[Path, Rejects], Iterator[pa.Table]]
    settings: Mapping[str, Any] = {}  # JSON values that `parse` depends on


class ParsedFile:
    """Finished stage."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        content = read_json(folder / _STAGE)
        self.folder, self.schema = folder, schema
        self.reasons: dict[str, int] = content["reasons"]  # see `Rejects`
        self.notes: dict[str, int] = content["notes"]
        self.sources: list[dict[str, Any]] = content["sources"]  # name, SHA-256, number of rows

    @property
    def n_rows(self) -> int:
        """Number of usable rows of all sources."""
        return sum(source["rows"] for source in self.sources)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, in the order of the sources."""
        with pa.OSFile(str(self.folder / _ROWS)) as file, pa.ipc.open_stream(file) as reader:
            yield from reader

    def table(self, keep: np.ndarray) -> pa.Table:
        """Load the rows where `keep`, bool [rows], is True."""
        parts, start = [], 0
        for batch in self.batches():
            parts.append(batch.filter(pa.array(keep[start : start + batch.num_rows])))
            start += batch.num_rows
        return pa.Table.from_batches(parts, self.schema)

    def rejected(self) -> Iterator[str]:
        """Yield the report lines on rejected lines."""
        with open(self.folder / _REJECTED, encoding="utf-8") as handle:
            yield from handle


@contextlib.contextmanager
def open_cache(domain: DatasetPaths, overwrite: bool) -> Iterator[Path]:
    """Lock the cache folder `<name>.parts`, and remove it at the end.

    After a kill, the folder remains, so that the same command need not parse again. After an
    InputError, the folder is removed, together with all folders that were created for it.

    Raises:
        InputError: as `check_target`, or another process prepares this data set.
    """
    check_target(domain, overwrite)
    parts = domain.file("parts")
    made = [folder for folder in (domain.folder, *domain.folder.parents) if not folder.exists()]
    try:
        with exclusive(parts / "lock", wait_s=0):
            check_target(domain, overwrite)  # another process may have written them meanwhile
            try:
                yield parts
            except InputError:
                shutil.rmtree(parts, ignore_errors=True)
                raise
            shutil.rmtree(parts, ignore_errors=True)
    except InputError:
        for folder in made:
            with contextlib.suppress(OSError):  # another process uses it
                folder.rmdir()
        raise


def parse_file(folder: Path, schema: pa.Schema, source: Source) -> ParsedFile:
    """Parse a source into a stage in `folder`, or reuse the existing one."""
    files = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
             for path in source.paths]  # fmt: skip
    key = {"version": _VERSION, "settings": dict(source.settings), "sources": files}
    if (folder / _STAGE).is_file() and read_json(folder / _STAGE)["key"] == key:
        return ParsedFile(folder, schema)
    compressed = pa.ipc.IpcWriteOptions(compression="lz4")
    with atomic_folder(folder) as work:
        found = []
        with (
            open(work / _REJECTED, "w", encoding="utf-8") as handle,
            pa.OSFile(str(work / _ROWS), "wb") as file,
            pa.ipc.new_stream(file, schema, options=compressed) as writer,
        ):
            rejects = Rejects(handle)
            for path in source.paths:
                rows = 0
                for table in source.parse(path, rejects):
                    writer.write_table(table.cast(schema))
                    rows += table.num_rows
                found.append({"file": path.name, "sha256": sha256_file(path), "rows": rows})
        reasons, notes = (
            dict(sorted((+each).items())) for each in (rejects.reasons, rejects.notes)
        )
        write_json(
            work / _STAGE, {"key": key, "reasons": reasons, "notes": notes, "sources": found}
        )
    return ParsedFile(folder, schema)
