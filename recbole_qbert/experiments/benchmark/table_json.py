"""`table.json`: the runs that each row of a benchmark's tables was made from.

Runs are identified by data set and folder name, so that a results folder can be moved as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json, write_json
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.experiments.benchmark.plan import ModelRow
from recbole_qbert.experiments.benchmark.scores import Row, Scores

FILE = "table.json"
FORMAT = "recbole-qbert/benchmark/1"
FindRun = Callable[[str, str], RunResult | None]


class StoredTable(NamedTuple):
    """The stored results of a benchmark on one data set."""

    dataset: str
    reference: str  # name of the row that is tested against all others; "" if there is none
    rows: tuple[Row, ...]  # rows with at least one run that was found
    lost: tuple[str, ...]  # folder names of the runs that were not found


class Sidecar(NamedTuple):
    """The stored results of a benchmark."""

    source: str  # the benchmark's YAML file
    tables: tuple[StoredTable, ...]
    failures: tuple[str, ...]  # one line for each failed run


def write_sidecar(
    folder: Path, scores: Sequence[Scores], failures: Sequence[str], source: str
) -> None:
    """Write `table.json` atomically."""
    tables = [
        {
            "dataset": one.dataset,
            "reference": one.reference.name if one.reference else "",
            "rows": [
                {
                    "name": row.name,
                    "model": row.model_row.model,
                    "budget": row.model_row.budget,
                    "published": dict(row.model_row.published),
                    "runs": [Path(run.folder).name for run in row.runs],
                }
                for row in one.rows
            ],
        }
        for one in scores
    ]
    content = {"format": FORMAT, "source": source, "failures": list(failures), "tables": tables}
    write_json(folder / FILE, content)


def read_sidecar(path: Path, find: FindRun) -> Sidecar:
    """Read `table.json`.

    Args:
        path: the file.
        find: returns the run of a data set by the name of its folder, or None.

    Raises:
        InputError: the file is damaged or has another format.
    """
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: not a table of this version; run the benchmark again")
    try:
        tables = tuple(_table(one, find) for one in content["tables"])
        return Sidecar(str(content["source"]), tables, tuple(map(str, content["failures"])))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); run the benchmark again") from None


def _table(content: dict[str, Any], find: FindRun) -> StoredTable:
    rows, lost = [], []
    for one in content["rows"]:
        found = {name: find(content["dataset"], name) for name in one["runs"]}
        lost += [name for name, run in found.items() if run is None]
        if runs := tuple(run for run in found.values() if run is not None):
            published = one.get("published", {})
            row = ModelRow(one["name"], one["model"], budget=one["budget"], published=published)
            rows.append(Row(row, runs))
    return StoredTable(content["dataset"], content["reference"], tuple(rows), tuple(lost))
