"""Atomic files from columns, whole or not at all, with a sidecar; nothing here loops over rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np
import pyarrow as pa

from recbole_qbert._version import __version__
from recbole_qbert.common.files import (
    atomic_write,
    read_json,
    sha256_file,
    sidecar_path,
    write_json,
)
from recbole_qbert.data.atomic_writing import ROWS_AT_ONCE, write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.interactions import Interactions

Fields = Mapping[str, pa.Array]  # header cell such as `title:token_seq` -> a string a row


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
    """`<name>.inter`, and where given `.item` and `.user`, `<name>.inter.json` and `.rejected`.

    All files take their names together at the end. What an older preparation wrote and this one
    does not goes.

    Args:
        inter: in the order to be written.
        items: columns of one length, the first of them `item_id:token`.
        facts: JSON values for the sidecar.
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
    # Of these kinds only, whatever a sidecar names: nothing else is ours to delete.
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
    """A header and rows of codes (with their tokens) and numbers, made text bit by bit."""
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
    """Shortest decimals that give the numbers back; whole ones without a fraction."""
    return pa.array(numbers).cast(pa.string())
