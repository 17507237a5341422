"""Merge several data sets into one: atomic files and semantic IDs.

Tokens are named `<dataset>/<token>`. `recbole_qbert.pretraining` joins data sets in memory. This
module writes the joint data set, for running any model on all domains at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic import LARGE, Atomic, read_atomic
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids

USER, ITEM, TIME = "user_id", "item_id", "timestamp"


class Merged(NamedTuple):
    """Result of a merge."""

    rows: dict[str, int]  # rows written, by suffix
    left_out: dict[str, list[str]]  # columns that some domains lack, by suffix
    without: dict[str, list[str]]  # domains that lack a file that others have, by suffix


def merge(domains: Sequence[DatasetPaths], into: DatasetPaths) -> Merged:
    """Write `into`'s `.inter`, and its `.item` and `.semid` if all domains have one.

    Columns that some domains lack are left out. Semantic IDs of the first vocabulary keep their
    codes. In every level, the codes of each other vocabulary follow those of the one before.

    Raises:
        InputError: `into` exists, a file cannot be used, columns of one name have two types, only
            some domains have times, or two items of different domains share a tuple.
    """
    if into.folder.exists():
        raise InputError(f"{into.folder}: is there already; give another name, or remove it")
    without = {
        suffix: [domain.name for domain in domains if not domain.file(suffix).is_file()]
        for suffix in ("item", "semid")
    }
    suffixes = ["inter", *(["item"] if not without["item"] else [])]
    files = {
        suffix: [read_atomic(domain.file(suffix)) for domain in domains] for suffix in suffixes
    }
    check_times(files["inter"])
    cells = {suffix: common_cells(files[suffix]) for suffix in suffixes}
    left_out = {
        suffix: sorted({name for file in files[suffix] for name in file.names} - set(_names(kept)))
        for suffix, kept in cells.items()
    }
    table = None
    if not without["semid"]:
        table = merged_ids(domains, [read_semantic_ids(domain.file("semid")) for domain in domains])
    counts = {}
    for suffix in suffixes:
        counts[suffix] = _write(into.file(suffix), domains, files[suffix], cells[suffix])
    if table is not None:
        source = {
            "method": "merge",
            "files": {domain.name: sha256_file(domain.file("semid")) for domain in domains},
        }
        write_semantic_ids(into.file("semid"), table, source)
        counts["semid"] = table.n_items
    some = {suffix: names for suffix, names in without.items() if 0 < len(names) < len(domains)}
    return Merged(counts, left_out, some)


def check_times(files: Sequence[Atomic]) -> None:
    """Check that all `.inter` files have times, or none has.

    With times in only some, the order of the other files' interactions would be lost.

    Raises:
        InputError: only some have times.
    """
    timed = [file.path for file in files if TIME in file.names]
    untimed = [file.path for file in files if TIME not in file.names]
    if timed and untimed:
        raise InputError(
            f"{untimed[0]}: has no {TIME}, which {timed[0]} has; add one, such as the row's "
            f"number, or take it from all"
        )


def _names(cells: Sequence[str]) -> list[str]:
    return [cell.partition(":")[0] for cell in cells]


def common_cells(files: Sequence[Atomic]) -> list[str]:
    """Return the header cells of the columns that all files have, in the order of the first file.

    Raises:
        InputError: files give a column different types.
    """
    shared = [name for name in files[0].names if all(name in file.names for file in files)]
    chosen = []
    for name in shared:
        found = {file.cells[file.names.index(name)] for file in files}
        if len(found) > 1:
            listed = ", ".join(str(file.path) for file in files)
            raise InputError(
                f"{listed}: {name} is written in two ways ({', '.join(sorted(found))}); give it "
                "one type"
            )
        chosen.append(found.pop())
    return chosen


def _write(
    path: Path, domains: Sequence[DatasetPaths], files: Sequence[Atomic], cells: Sequence[str]
) -> int:
    """Write a merged atomic file and return its number of rows."""
    names = _names(cells)
    rows = 0
    with atomic_write(path, "wb") as handle:
        write_header(handle, cells)
        for domain, file in zip(domains, files, strict=True):
            columns = []
            for name in names:
                column = file.columns[name]
                if name in (USER, ITEM):
                    prefix = pa.scalar(f"{domain.name}/", LARGE)
                    column = pc.binary_join_element_wise(prefix, column, pa.scalar("", LARGE))
                columns.append(column)
            rows += write_rows(handle, columns)
    return rows


def merged_ids(
    domains: Sequence[DatasetPaths], tables: Sequence[SemanticIDTable]
) -> SemanticIDTable:
    """Return one table with the items of all domains.

    Raises:
        InputError: codebook sizes differ, or items of two domains share a tuple.
    """
    sizes = {table.codebook_sizes for table in tables}
    if len(sizes) > 1:
        raise InputError(f"semantic IDs: codebook sizes differ: {sorted(sizes)}; tokenize alike")
    (own,) = sizes
    vocabularies = list(dict.fromkeys(table.vocabulary for table in tables))
    items, codes = [], []
    for domain, table in zip(domains, tables, strict=True):
        items += [f"{domain.name}/{item}" for item in table.items]
        codes.append(table.codes + vocabularies.index(table.vocabulary) * np.array(own))
    vocabulary = vocabularies[0] if len(vocabularies) == 1 else ""
    return SemanticIDTable(
        tuple(items),
        np.concatenate(codes),
        tuple(len(vocabularies) * size for size in own),
        vocabulary=vocabulary,
    )
