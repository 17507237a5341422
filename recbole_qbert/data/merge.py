"""Several data sets as one: atomic files and semantic IDs, tokens named `<dataset>/<token>`.

What pretraining does without writing anything (`recbole_qbert.pretraining`), this does for whoever
wants to run any model over all domains at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write, sha256_file
from recbole_qbert.data.atomic import LARGE, Atomic, read_atomic
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids

USER, ITEM, TIME = "user_id", "item_id", "timestamp"


class Merged(NamedTuple):
    """What a merge wrote, and what not all domains have."""

    rows: dict[str, int]  # by suffix
    left_out: dict[str, list[str]]  # names of columns, by suffix
    without: dict[str, list[str]]  # domains that have no file of a suffix, where others do


def merge(domains: Sequence[DatasetPaths], into: DatasetPaths) -> Merged:
    """Write `into`'s `.inter`, and its `.item` and `.semid` where all domains have one.

    Columns that not all domains have are left out. Domains whose IDs are of one vocabulary keep
    their codes; each other vocabulary's codes come behind those before, in every level.

    Raises:
        InputError: a file cannot be used, columns of one name have two types, only some domains
            have times, or two items of different domains share a tuple.
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
    """Refuse `.inter` files of which only some have times: the order of those would be lost.

    Raises:
        InputError: so it is.
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
    """Header cells of the columns that all files have, in the order of the first one."""
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
    """Write a merged atomic file; returns its rows."""
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
    """One table of all domains' items.

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
