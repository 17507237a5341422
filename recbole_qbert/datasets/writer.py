"""Writer of a data set: atomic files with a sidecar, complete or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_qbert._version import __version__
from recbole_qbert.common.files import atomic_write, read_json, sidecar_path, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic_writing import ROWS_AT_ONCE, write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.interactions import Interactions
from recbole_qbert.datasets.target import remove_outdated

Fields = Mapping[str, pa.Array]  # header cell such as `title:token_seq` -> one string per row


def write_dataset(
    domain: DatasetPaths,
    inter: Interactions,
    facts: Mapping[str, Any],
    *,
    items: Fields | None = None,
    users: Fields | None = None,
    rejected: Iterable[str] = (),
) -> list[str]:
    """Write `<name>.inter`, optionally `.item`, `.user` and `.rejected`, and the sidecar.

    All files get their final names together at the end. Files that an earlier preparation wrote,
    and this one does not, are removed, and so is what was made from the data set before.

    Args:
        inter: interactions in their final order.
        facts: JSON values for the sidecar `<name>.inter.json`.
        items, users: columns of the `.item` and `.user` file, the first that of the token.
        rejected: report lines on rejected lines.

    Returns:
        Lines for the user, see `remove_outdated`.
    """
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
        rating = [] if inter.ratings is None else ["rating:float"]
        write_header(handle, ["user_id:token", "item_id:token", *rating, "timestamp:float"])
        for start in range(0, len(inter.users), ROWS_AT_ONCE):
            part = inter.take(np.arange(start, min(start + ROWS_AT_ONCE, len(inter.users))))
            tokens = [part.user_tokens.take(pa.array(part.users)),
                      part.item_tokens.take(pa.array(part.items))]  # fmt: skip
            numbers = [texts(each) for each in (part.ratings, part.times) if each is not None]
            write_rows(handle, [*tokens, *numbers])
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
    remarks = remove_outdated(domain)
    write_json(sidecar, {"files": files, "version": __version__, **facts})
    return remarks


def texts(numbers: np.ndarray) -> pa.Array:
    """Format numbers as the shortest decimals that restore them, integers without a fraction."""
    return pa.array(numbers).cast(pa.string())
