"""Merge several data sets into one: atomic files, semantic IDs and vectors of items.

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
from recbole_qbert.common.files import atomic_folder, atomic_write
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic import LARGE, Atomic, read_atomic
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embedding_kinds import common_kind
from recbole_qbert.data.embeddings import EmbeddingTable, read_embeddings, write_embeddings
from recbole_qbert.data.semid import (
    SemanticIDTable,
    read_semantic_ids,
    tokenized_from,
    write_semantic_ids,
)
from recbole_qbert.data.sequences import ITEM, TIME, USER


class Merged(NamedTuple):
    """Result of a merge."""

    rows: dict[str, int]  # rows written, by suffix
    left_out: dict[str, list[str]]  # columns that some domains lack, by suffix
    without: dict[str, list[str]]  # domains that lack a file that others have, by suffix


def merge(domains: Sequence[DatasetPaths], into: DatasetPaths) -> Merged:
    """Write `into`'s `.inter`, and the `.item`, `.user`, `.semid` and vectors that all have.

    Columns that some domains lack are left out. Semantic IDs of the first vocabulary keep their
    codes. In every level, the codes of each other vocabulary follow those of the one before.

    Raises:
        InputError: `into` exists, a file cannot be used, columns of one name have two types, only
            some domains have times, two items of different domains share a tuple, or the vectors
            of a modality are of different encoders.
    """
    if into.folder.exists():
        raise InputError(f"{into.folder} exists already; give another name, or remove it")
    tables = {f"{name}.npz" for domain in domains for name in domain.embedding_tables()}
    without = {
        suffix: [domain.name for domain in domains if not domain.file(suffix).is_file()]
        for suffix in ("item", "user", "semid", *sorted(tables))
    }
    suffixes = ["inter", *(suffix for suffix in ("item", "user") if not without[suffix])]
    files = {
        suffix: [read_atomic(domain.file(suffix)) for domain in domains] for suffix in suffixes
    }
    for suffix, needed in (("inter", (USER, ITEM)), ("item", (ITEM,)), ("user", (USER,))):
        for file in files.get(suffix, ()):
            file.need(needed, "rename the column")
            for name in needed:
                file.check_ids(name)
            if suffix != "inter":
                file.check_unique(needed[0], suffix)
    _check_times(files["inter"])
    cells = {suffix: _common_cells(files[suffix]) for suffix in suffixes}
    left_out = {
        suffix: sorted({cell for file in files[suffix] for cell in file.cells} - set(cells[suffix]))
        for suffix in suffixes
    }
    table = None if without["semid"] else _merged_ids(domains)
    vectors = {suffix: _merged_vectors(domains, suffix) for suffix in tables if not without[suffix]}
    counts = {}
    with atomic_folder(into.folder) as work:
        target = DatasetPaths(into.name, work)
        for suffix in suffixes:
            counts[suffix] = _write(target.file(suffix), domains, files[suffix], cells[suffix])
        if table is not None:
            paths = {domain.name: domain.file("semid") for domain in domains}
            source = {
                "method": "merge",
                "files": {name: sha256_file(path) for name, path in paths.items()},
                "tokenized_from": [one for path in paths.values() for one in tokenized_from(path)],
            }
            write_semantic_ids(target.file("semid"), table, source)
            counts["semid"] = table.n_items
        for suffix, merged in sorted(vectors.items()):
            write_embeddings(target.file(suffix), merged)
            counts[suffix] = merged.n_items
    some = {suffix: names for suffix, names in without.items() if 0 < len(names) < len(domains)}
    names = {suffix: [cell.partition(":")[0] for cell in left_out[suffix]] for suffix in suffixes}
    return Merged(counts, names, some)


def _check_times(files: Sequence[Atomic]) -> None:
    """Check that all files have times, or none: else the order of some would be lost."""
    timed = [file.path for file in files if TIME in file.names]
    untimed = [file.path for file in files if TIME not in file.names]
    if timed and untimed:
        raise InputError(
            f"{untimed[0]} has no {TIME}, but {timed[0]} has; add one, such as the row's number, "
            f"or remove it from all"
        )


def _common_cells(files: Sequence[Atomic]) -> list[str]:
    """Return the header cells of the columns that all files have, in the order of the first."""
    chosen = []
    for name in files[0].names:
        if all(name in file.names for file in files):
            kinds = {file.kinds[name] for file in files}
            if len(kinds) > 1:
                listed = ", ".join(str(file.path) for file in files)
                raise InputError(
                    f"{listed}: {name} has several types ({', '.join(sorted(kinds))}); give it "
                    "one type"
                )
            chosen.append(f"{name}:{kinds.pop()}")
    return chosen


def _write(
    path: Path, domains: Sequence[DatasetPaths], files: Sequence[Atomic], cells: Sequence[str]
) -> int:
    """Write a merged atomic file and return its number of rows."""
    rows = 0
    with atomic_write(path, "wb") as handle:
        write_header(handle, cells)
        for domain, file in zip(domains, files, strict=True):
            columns = []
            for name in (cell.partition(":")[0] for cell in cells):
                column = file.columns[name]
                if name in (USER, ITEM):
                    prefix = pa.scalar(f"{domain.name}/", LARGE)
                    column = pc.binary_join_element_wise(prefix, column, pa.scalar("", LARGE))
                columns.append(column)
            rows += write_rows(handle, columns)
    return rows


def _merged_ids(domains: Sequence[DatasetPaths]) -> SemanticIDTable:
    """Return one table with the items of all domains."""
    tables = [read_semantic_ids(domain.file("semid")) for domain in domains]
    sizes = {table.codebook_sizes for table in tables}
    if len(sizes) > 1:
        listed = ", ".join(str(domain.file("semid")) for domain in domains)
        raise InputError(
            f"{listed}: the codebook sizes differ ({', '.join(map(str, sorted(sizes)))}); make the "
            "semantic IDs with equal settings"
        )
    (own,) = sizes
    vocabularies = list(dict.fromkeys(table.vocabulary for table in tables))
    items, codes = [], []
    for domain, table in zip(domains, tables, strict=True):
        items += [f"{domain.name}/{item}" for item in table.items]
        codes.append(table.codes + vocabularies.index(table.vocabulary) * np.array(own))
    vocabulary = vocabularies[0] if len(vocabularies) == 1 else ""
    joint = tuple(len(vocabularies) * size for size in own)
    (extra, *others) = {table.extra_level for table in tables}
    return SemanticIDTable(
        tuple(items),
        np.concatenate(codes),
        joint,
        vocabulary=vocabulary,
        extra_level=None if others else extra,
    )


def _merged_vectors(domains: Sequence[DatasetPaths], suffix: str) -> EmbeddingTable:
    """Return one table with the vectors of all domains."""
    modality = suffix.removesuffix(".npz")
    tables = {domain.name: read_embeddings(domain.file(suffix)) for domain in domains}
    kind = common_kind(modality, tables)
    return EmbeddingTable(
        tuple(f"{name}/{item}" for name, table in tables.items() for item in table.items),
        np.concatenate([table.vectors for table in tables.values()]),
        np.concatenate([table.mask for table in tables.values()]),
        {"modality": modality, "encoder": kind.encoder},
    )
