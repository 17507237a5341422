"""Recommendations for all users of a table or a data set, as a stream or a file."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from torch import Tensor

from recbole_qbert._version import __version__
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.progress import Progress
from recbole_qbert.datasets.histories import UserHistories
from recbole_qbert.serving.part_files import write_in_parts
from recbole_qbert.serving.recommender import Recommender

ROWS_OF_A_PART = 1 << 18  # a killed export loses at most the work for these


@dataclass(frozen=True)
class ListSettings:
    """What to recommend to each user; see `Recommender.recommend`."""

    k: int = 10
    exclude_seen: bool = True
    allowed: Tensor | None = None
    batch_size: int | None = None


class Exported(NamedTuple):
    """What `export` has written."""

    n_there: int  # users whose recommendations a killed export had left
    n_empty: int  # users without an item to recommend; those of a killed export are not counted
    n_short: int  # lists of fewer than k items, likewise


def tables(
    recommender: Recommender, given: UserHistories, wanted: ListSettings, progress: bool = False
) -> Iterator[pa.Table]:
    """Yield the recommendations for all users, some users at a time."""
    with Progress(total=len(given.users), desc="users", unit="users", disable=not progress) as bar:
        for start, end in _bounds(given, wanted):
            yield _part(recommender, given, wanted, start, end)
            bar.update(end - start)


def export(
    recommender: Recommender,
    given: UserHistories,
    wanted: ListSettings,
    output: Path,
    format: str,
    sources: Mapping[str, Any],
    progress: bool = False,
) -> Exported:
    """Write the recommendations for all users to a file; continue after a kill.

    Args:
        recommender: the loaded bundle.
        given: users and histories.
        wanted: what to recommend.
        output: the file; replaced if it exists.
        format: one of `part_files.FORMATS`.
        sources: JSON values from which bundle, users, histories and candidates follow, such as
            hashes of files.
        progress: whether to show a progress bar.
    """
    bounds, n_empty, n_short = _bounds(given, wanted), 0, 0
    with Progress(total=len(given.users), desc="users", unit="users", disable=not progress) as bar:

        def make(start: int, end: int) -> pa.Table:
            nonlocal n_empty, n_short
            table = _part(recommender, given, wanted, start, end)
            lengths = table["user"].value_counts().field("counts").to_numpy(zero_copy_only=False)
            n_empty += end - start - len(lengths)
            n_short += int((lengths < wanted.k).sum())
            bar.update(end - start)
            return table

        parts = [functools.partial(make, *each) for each in bounds]
        plan = {
            "version": __version__,
            "sources": dict(sources),
            "users": len(given.users),
            "rows_of_a_part": ROWS_OF_A_PART,
            "k": wanted.k,
            "exclude_seen": wanted.exclude_seen,
            "batch_size": wanted.batch_size,
            "device": str(recommender.config["device"]),
            "columns": recommender.schema.names,
            "format": format,
        }
        n_there = write_in_parts(output, format, recommender.schema, parts, plan)
    return Exported(bounds[n_there - 1][1] if n_there else 0, n_empty, n_short)


def file_sources(paths: Sequence[Path]) -> dict[str, str]:
    """Return the hex SHA-256 of files by name, for `export`."""
    return {str(path): sha256_file(path) for path in paths}


def _bounds(given: UserHistories, wanted: ListSettings) -> list[tuple[int, int]]:
    n_users = len(given.users)
    step = max(1, ROWS_OF_A_PART // wanted.k)
    return [(start, min(start + step, n_users)) for start in range(0, n_users, step)]


def _part(
    recommender: Recommender, given: UserHistories, wanted: ListSettings, start: int, end: int
) -> pa.Table:
    users, histories = given.users.slice(start, end - start), given.histories.part(start, end)
    return pa.concat_tables(
        recommender.tables(
            users, histories, wanted.k, wanted.exclude_seen, wanted.allowed, wanted.batch_size
        )
    )
