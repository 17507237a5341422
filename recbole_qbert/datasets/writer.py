"""Vectorized writer of atomic files with a sidecar, complete or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa

from recbole_qbert._version import __version__
from recbole_qbert.common.files import atomic_write, read_json, sidecar_path, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic_writing import ROWS_AT_ONCE, write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.interactions import Interactions

Fields = Mapping[str, pa.Array]  # header cell such as `title:token_seq` -> one string per row


def write_dataset(
    domain: DatasetPaths,
    inter: Interactions,
    items: Fields | None,
    rejected: Iterable[str],
    facts: Mapping[str, Any],
    *,
    with_rating: bool = True,
    users: Fields | None = None,
) -> None:
    """Write `<name>.inter`, optionally `.item`, `.user` and `.rejected`, and the sidecar.

    All files get their final names together at the end. Files that an earlier preparation wrote,
    and this one does not, are removed.

    Args:
        domain: the data set to write.
        inter: interactions in their final order.
        items: columns of the `.item` file, of equal length, the first `item_id:token`; or None.
        rejected: report lines on rejected lines.
        facts: JSON values for the sidecar `<name>.inter.json`.
        with_rating: whether to write the ratings.
        users: columns of the `.user` file, or None.
    """
    columns = {
        "user_id:token": (inter.user_tokens, inter.users),
        "item_id:token": (inter.item_tokens, inter.items),
        "rating:float": (None, inter.ratings),
        "timestamp:float": (None, inter.times),
    }
    if not with_rating:
        del columns["rating:float"]
    tables = {"item": items, "user": users}
    with contextlib.ExitStack() as stack:
        lines = iter(rejected)
        first = next(lines, None)
        if first is not None:
            handle = stack.enter_context(atomic_write(domain.file("rejected")))
            handle.write(first)
            handle.writelines(lines)
        for suffix, fields in tables.items():
            if fields is not None:
                handle = stack.enter_context(atomic_write(domain.file(suffix), "wb"))
                write_header(handle, fields)
                write_rows(handle, list(fields.values()))
        handle = stack.enter_context(atomic_write(domain.file("inter"), "wb"))
        _write_coded(handle, columns)
    written = ["inter", *(suffix for suffix, fields in tables.items() if fields is not None)]
    files = {domain.file(suffix).name: sha256_file(domain.file(suffix)) for suffix in written}
    sidecar = sidecar_path(domain.file("inter"))
    older = read_json(sidecar).get("files", {}) if sidecar.is_file() else {}
    # Only these kinds of files are deleted, whatever else the sidecar names.
    for suffix in tables:
        name = domain.file(suffix).name
        if name in older and name not in files:
            domain.file(suffix).unlink(missing_ok=True)
    if first is None:
        domain.file("rejected").unlink(missing_ok=True)
    write_json(sidecar, {"files": files, "version": __version__, **facts})


def _write_coded(
    handle: IO[bytes], columns: Mapping[str, tuple[pa.Array | None, np.ndarray]]
) -> None:
    """Write a header, and rows of tokens by code or of numbers, in blocks of bounded size."""
    write_header(handle, columns)
    n_rows = len(next(iter(columns.values()))[1])
    for start in range(0, n_rows, ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        write_rows(
            handle,
            [
                texts(values[part]) if tokens is None else tokens.take(pa.array(values[part]))
                for tokens, values in columns.values()
            ],
        )


def texts(numbers: np.ndarray) -> pa.Array:
    """Format numbers as the shortest decimals that restore them, integers without a fraction."""
    return pa.array(numbers).cast(pa.string())
