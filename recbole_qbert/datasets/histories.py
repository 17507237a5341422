"""Histories of all users of a table or an `.inter` file.

A table is read in blocks; of each row, an item number, a user number and a time stay in memory.
Shapes: R rows, B users.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.output import counted
from recbole_qbert.data.atomic import read_atomic
from recbole_qbert.data.codec import quote
from recbole_qbert.data.sequences import FIELDS, TIME
from recbole_qbert.datasets.sources import Rejects
from recbole_qbert.datasets.table import Columns, interactions, wanted_columns
from recbole_qbert.datasets.table_source import TableFile
from recbole_qbert.serving.histories import Histories, grouped

_SHOWN = 3  # unknown items that a report names
IDsOf = Callable[[pa.Array], tuple[np.ndarray, list[str]]]


@dataclass(frozen=True, eq=False)
class UserHistories:
    """Histories of the users who have an item that the model knows.

    Attributes:
        users: tokens [B], in the order of their first rows.
        histories: B histories.
        remarks: what was left out: rejected rows, unknown items, users without a known item.
    """

    users: pa.Array
    histories: Histories
    remarks: list[str]


@dataclass
class _Rows:
    """Rows that were read, in memory."""

    users: list[pa.DictionaryArray] = field(default_factory=list)
    items: list[np.ndarray] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)
    unknown: dict[str, None] = field(default_factory=dict)  # the first few

    def add(self, ids_of: IDsOf, users: pa.Array, items: pa.Array, times: np.ndarray) -> None:
        ids, lost = ids_of(items)
        self.users.append(users.dictionary_encode())
        self.items.append(ids)
        self.times.append(times)
        if len(self.unknown) <= _SHOWN:
            self.unknown.update(dict.fromkeys(lost[: _SHOWN + 1]))

    def histories(self, path: Path, remarks: list[str]) -> UserHistories:
        if not self.items:
            why = f" ({remarks[0]})" if remarks else ""
            raise InputError(
                f"{path}: no usable row{why}; correct the file or the names of its columns"
            )
        chunks = pa.chunked_array(self.users).unify_dictionaries().chunks
        tokens, codes = chunks[0].dictionary, np.concatenate([each.indices for each in chunks])
        ids = np.concatenate(self.items)
        histories = grouped(codes, ids, len(tokens), np.concatenate(self.times))
        n_unknown, known = int((ids == 0).sum()), histories.lengths > 0
        shown = preview([*map(quote, self.unknown)], _SHOWN)
        if not known.any():
            raise InputError(
                f"{path}: no item is known to the model ({shown}); check the bundle and the column "
                "of items"
            )
        if n_unknown:
            remarks.append(f"{counted(n_unknown, 'row')} with items unknown to the model: {shown}")
        if not known.all():
            first = quote(tokens[int(known.argmin())])
            of_all = f"{int((~known).sum()):,} of {counted(len(tokens), 'user')}"
            remarks.append(
                f"{of_all} have no known item and get no recommendations, first: {first}"
            )
        return UserHistories(tokens.filter(pa.array(known)), histories.without_empty(), remarks)


class _FirstLine(io.StringIO):
    """Text file that keeps only what is written first."""

    def write(self, text: str) -> int:
        return len(text) if self.tell() else super().write(text)


def table_histories(
    source: TableFile, columns: Columns, ids_of: IDsOf, progress: bool = False
) -> UserHistories:
    """Read the histories of a table; rows are checked as in `prepare_table`.

    Args:
        source: the table.
        columns: its columns; without times, its rows are in order of time.
        ids_of: returns the internal IDs of item tokens, 0 for unknown ones, and the latter.
        progress: whether to show a progress bar.

    Raises:
        InputError: the file, a column or all rows cannot be used.
    """
    wanted = wanted_columns(source, columns)
    first, rows = _FirstLine(), _Rows()
    rejects = Rejects(first)
    for table in interactions(source, wanted, columns.time_unit, rejects, progress):
        if table.num_rows:
            user, item, time = (table[name].combine_chunks() for name in ("user", "item", "time"))
            rows.add(ids_of, user, item, time.to_numpy())
    n_rejected = sum(rejects.reasons.values())
    example = first.getvalue().strip().replace("\t", ": ")
    remarks = [f"{counted(n_rejected, 'row')} cannot be used, first: {example}"] * bool(n_rejected)
    remarks += [f"{count:,} {note}" for note, count in sorted((+rejects.notes).items())]
    return rows.histories(source.path, remarks)


def inter_histories(path: str | Path, ids_of: IDsOf) -> UserHistories:
    """Read the histories of an `.inter` file; see `table_histories`.

    Raises:
        InputError: the file cannot be read as `read_atomic` does, or no row can be used.
    """
    file, rows = read_atomic(path, FIELDS), _Rows()
    file.need_rows()
    user, item, _ = FIELDS
    for name in (user, item):
        file.check_ids(name)
    times, start = file.numbers(TIME), 0
    for batch in file.columns.select([user, item]).to_batches():
        end = start + batch.num_rows
        rows.add(ids_of, batch[user].cast(pa.string()), batch[item], times[start:end])
        start = end
    del file
    return rows.histories(Path(path), [])
