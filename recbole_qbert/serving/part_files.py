"""Tables written to one file in parts, so that a killed process continues after the last part.

The parts are files in a folder `<file>.parts` beside the file, each written atomically, with
`plan.json`, which tells from what they were made. At the end they are joined to the file, which
appears whole, and the folder is removed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from recbole_qbert.common.errors import InputError, one_of
from recbole_qbert.common.files import (
    atomic_write,
    check_writable,
    exclusive_folder,
    read_json,
    write_json,
)
from recbole_qbert.data.atomic_writing import write_header, write_rows

_PLAN = "plan.json"


def write_tsv(handle: IO[bytes], table: pa.Table) -> None:
    """Append rows without a header."""
    write_rows(handle, table.columns)


def _write_json_lines(handle: IO[bytes], table: pa.Table) -> None:
    """Append one JSON object per row."""
    frame = table.to_pandas()
    text = frame.to_json(orient="records", lines=True, force_ascii=False, double_precision=9)
    handle.write(text.encode() if len(frame) else b"")  # pandas writes no rows as an empty line


def _join_texts(handle: IO[bytes], parts: Iterable[Path]) -> None:
    for part in parts:
        with open(part, "rb") as source:
            shutil.copyfileobj(source, handle, 1 << 20)


def _join_tsv(handle: IO[bytes], parts: Iterable[Path], schema: pa.Schema) -> None:
    write_header(handle, schema.names)
    _join_texts(handle, parts)


def _join_parquet(handle: IO[bytes], parts: Iterable[Path], schema: pa.Schema) -> None:
    with pq.ParquetWriter(handle, schema) as writer:
        for part in parts:
            with pq.ParquetFile(part) as source:
                for group in range(source.num_row_groups):
                    writer.write_table(source.read_row_group(group))


@dataclass(frozen=True)
class Format:
    """Functions that write a part, and that join parts."""

    write: Callable[[IO[bytes], pa.Table], None]
    join: Callable[[IO[bytes], Iterable[Path], pa.Schema], None]


FORMATS = {
    "tsv": Format(write_tsv, _join_tsv),
    "jsonl": Format(_write_json_lines, lambda handle, parts, _: _join_texts(handle, parts)),
    "parquet": Format(lambda handle, table: pq.write_table(table, handle), _join_parquet),
}


def check_output(path: Path, format: str | None, overwrite: bool) -> str:
    """Return the format of an output file, by default that of its suffix.

    Raises:
        InputError: the format is unknown, the folder is not writable, or the file exists and
            `overwrite` is False.
    """
    format = format or path.suffix.removeprefix(".").lower()
    if format not in FORMATS:
        one_of(f"{path}: format", format, FORMATS)
    if path.is_dir() or (path.exists() and not overwrite):
        raise InputError(f"{path} exists; add --overwrite, or choose another name")
    check_writable(path.parent)
    return format


def write_in_parts(
    path: Path,
    format: str,
    schema: pa.Schema,
    parts: Sequence[Callable[[], pa.Table]],
    plan: Mapping[str, Any],
) -> int:
    """Write a table; parts that a killed process has left are not made again.

    Args:
        path: the file; replaced if it exists.
        format: one of `FORMATS`.
        schema: the columns.
        parts: makers of the parts, in order; the same plan makes the same parts.
        plan: JSON values that the content depends on. Parts of another plan are removed.

    Returns:
        Number of parts that were there already.

    Raises:
        InputError: another process writes the file, or the disk is full.
    """
    folder = path.with_name(f"{path.name}.parts")
    with exclusive_folder(folder):
        if not _is_of(folder, plan):
            (folder / _PLAN).unlink(missing_ok=True)  # first, since a kill may follow
            for old in folder.glob("part-*"):
                old.unlink()
            write_json(folder / _PLAN, plan)
        files = [folder / f"part-{number:06}.{format}" for number in range(len(parts))]
        n_there = 0
        for file, make in zip(files, parts, strict=True):
            if file.is_file():
                n_there += 1
                continue
            with atomic_write(file, "wb") as handle:
                FORMATS[format].write(handle, make())
        with atomic_write(path, "wb") as handle:
            FORMATS[format].join(handle, files, schema)
        shutil.rmtree(folder, ignore_errors=True)
    return n_there


def _is_of(folder: Path, plan: Mapping[str, Any]) -> bool:
    with contextlib.suppress(InputError):  # missing or broken
        return read_json(folder / _PLAN) == plan
    return False
