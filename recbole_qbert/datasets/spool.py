"""Parsed rows on disk, so that memory does not grow with the raw files and a kill loses little.

A stage is a folder: `rows.arrow`, the `rejected.txt` of its sources, and `stage.json`. It appears
when it is whole, and is taken again as long as sources and settings are the same.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_folder, exclusive, read_json, sha256_file, write_json
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.sources import Rejects

_ROWS, _REJECTED, _STAGE = "rows.arrow", "rejected.txt", "stage.json"
_VERSION = 2  # of what the stages hold


class Stage:
    """A finished stage.

    Attributes:
        reasons, notes: as of `Rejects`.
        sources: name, SHA-256 and usable rows of each source.
    """

    def __init__(self, folder: Path) -> None:
        content = read_json(folder / _STAGE)
        self.folder = folder
        self.reasons: dict[str, int] = content["reasons"]
        self.notes: dict[str, int] = content["notes"]
        self.sources: list[dict[str, Any]] = content["sources"]

    @property
    def n_rows(self) -> int:
        """Usable rows of all sources."""
        return sum(source["rows"] for source in self.sources)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in the order of the sources."""
        with pa.OSFile(str(self.folder / _ROWS)) as file, pa.ipc.open_stream(file) as reader:
            yield from reader

    def rejected(self) -> Iterator[str]:
        """Lines of the report on what could not be used."""
        with open(self.folder / _REJECTED, encoding="utf-8") as handle:
            yield from handle


@contextlib.contextmanager
def spool(domain: DatasetPaths, overwrite: bool) -> Iterator[Path]:
    """The folder of the stages, `<name>.parts`, for one process at a time; it goes at the end.

    A kill leaves it, so that the same command does not parse again what it had parsed. Bad input
    leaves nothing, not even the folders that were made for it.

    Args:
        overwrite: whether atomic files may be there already.

    Raises:
        InputError: they are, or another process prepares this data set.
    """
    check_target(domain, overwrite)
    parts = domain.file("parts")
    made = [folder for folder in (domain.folder, *domain.folder.parents) if not folder.exists()]
    try:
        with exclusive(parts / "lock", wait_s=0):
            check_target(domain, overwrite)  # another process may have written them since
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


def check_target(domain: DatasetPaths, overwrite: bool) -> None:
    """Refuse to write over atomic files unless told to.

    Raises:
        InputError: there is an `.inter` or `.item` file.
    """
    for suffix in ("inter", "item"):
        if domain.file(suffix).exists() and not overwrite:
            raise InputError(
                f"{domain.file(suffix)}: is there already; add --overwrite, or give another name"
            )


def run_stage(
    folder: Path,
    schema: pa.Schema,
    sources: Sequence[Path],
    parse: Callable[[Path, Rejects], Iterator[pa.Table]],
    settings: Mapping[str, Any],
) -> Stage:
    """Parse the sources into a stage, or take the one that is there.

    Args:
        schema: of the rows.
        parse: a source's usable rows, in tables of bounded size; the others go to the `Rejects`.
        settings: JSON values that `parse` depends on.
    """
    key = {
        "version": _VERSION,
        "settings": dict(settings),
        "sources": [
            [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in sources
        ],
    }
    if (folder / _STAGE).is_file() and read_json(folder / _STAGE)["key"] == key:
        return Stage(folder)
    compressed = pa.ipc.IpcWriteOptions(compression="lz4")
    with atomic_folder(folder) as work:
        found = []
        with (
            open(work / _REJECTED, "w", encoding="utf-8") as handle,
            pa.OSFile(str(work / _ROWS), "wb") as file,
            pa.ipc.new_stream(file, schema, options=compressed) as writer,
        ):
            rejects = Rejects(handle)
            for path in sources:
                rows = 0
                for table in parse(path, rejects):
                    writer.write_table(table.cast(schema))
                    rows += table.num_rows
                found.append({"file": path.name, "sha256": sha256_file(path), "rows": rows})
        reasons, notes = (
            dict(sorted((+each).items())) for each in (rejects.reasons, rejects.notes)
        )
        stage = {"key": key, "reasons": reasons, "notes": notes, "sources": found}
        write_json(work / _STAGE, stage)
    return Stage(folder)
