"""Atomic files from columns, whole or not at all, with a sidecar; nothing here loops over rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert._version import __version__
from recbole_qbert.data.domain import Domain
from recbole_qbert.errors import InputError
from recbole_qbert.files import atomic_write, sha256_file, sidecar_path, write_json
from recbole_qbert.preparation.interactions import Interactions

_CHUNK = 1 << 17  # rows written at a time
Fields = Mapping[str, pa.Array]  # header cell such as `title:token_seq` -> a string a row


def write_dataset(
    domain: Domain,
    inter: Interactions,
    items: Fields | None,
    rejected: Iterable[str],
    facts: Mapping[str, Any],
    *,
    with_rating: bool = True,
    users: Fields | None = None,
) -> None:
    """`<name>.inter`, and where given `.item` and `.user`, `<name>.inter.json` and `.rejected`.

    All files take their names together at the end. Without rejected lines an older `.rejected`
    goes.

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
        report = domain.file("rejected")
        lines = iter(rejected)
        first = next(lines, None)
        if first is not None:
            handle = stack.enter_context(atomic_write(report))
            handle.write(first)
            handle.writelines(lines)
        for suffix, fields in tables.items():
            if fields is not None:
                handle = stack.enter_context(atomic_write(domain.file(suffix), "wb"))
                write_rows(handle, list(fields), list(fields.values()))
        handle = stack.enter_context(atomic_write(domain.file("inter"), "wb"))
        _write_coded(handle, columns)
    if first is None:
        report.unlink(missing_ok=True)
    written = ["inter", *(suffix for suffix, fields in tables.items() if fields is not None)]
    files = {domain.file(suffix).name: sha256_file(domain.file(suffix)) for suffix in written}
    sidecar = {"files": files, "version": __version__, **facts}
    write_json(sidecar_path(domain.file("inter")), sidecar)


def check_target(domain: Domain, overwrite: bool) -> None:
    """Refuse to write over atomic files unless told to.

    Raises:
        InputError: there is an `.inter` or `.item` file.
    """
    for suffix in ("inter", "item"):
        if domain.file(suffix).exists() and not overwrite:
            raise InputError(
                f"{domain.file(suffix)}: is there already; add --overwrite, or give another name"
            )


def write_rows(handle: IO[bytes], cells: Sequence[str], columns: Sequence[pa.Array]) -> None:
    """A header and rows of strings, tab-separated."""
    handle.write(("\t".join(cells) + "\n").encode())
    for start in range(0, len(columns[0]), _CHUNK):
        handle.write(_joined([column.slice(start, _CHUNK) for column in columns]))


def _write_coded(
    handle: IO[bytes], columns: Mapping[str, tuple[pa.Array | None, np.ndarray]]
) -> None:
    """As `write_rows`, of codes (with their tokens) and numbers."""
    handle.write(("\t".join(columns) + "\n").encode())
    n_rows = len(next(iter(columns.values()))[1])
    for start in range(0, n_rows, _CHUNK):
        handle.write(
            _joined(
                [
                    texts(values[start : start + _CHUNK])
                    if tokens is None
                    else tokens.take(pa.array(values[start : start + _CHUNK]))
                    for tokens, values in columns.values()
                ]
            )
        )


def texts(numbers: np.ndarray) -> pa.Array:
    """Shortest decimals that give the numbers back; whole ones without a fraction."""
    return pa.array(numbers).cast(pa.string())


def _joined(columns: Sequence[pa.Array]) -> memoryview:
    """Lines of bytes: the character buffer of one array holds them one after the other."""
    wide = [column.cast(pa.large_string()) for column in columns]
    tab, end = pa.scalar("\t", pa.large_string()), pa.scalar("\n", pa.large_string())
    lines = pc.binary_join_element_wise(*wide, tab)
    lines = pc.binary_join_element_wise(lines, pa.scalar("", pa.large_string()), end)
    offsets = np.frombuffer(lines.buffers()[1], np.int64)
    first, last = offsets[lines.offset], offsets[lines.offset + len(lines)]
    return memoryview(lines.buffers()[2])[first:last]
