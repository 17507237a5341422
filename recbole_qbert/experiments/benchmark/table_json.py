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
    """The stored results of a benchmark on one data set.

    Attributes:
        dataset: name of the data set.
        reference: name of the row that is tested against all others; "" if there is none.
        rows: rows with at least one run that was found.
        lost: folder names of the runs that were not found.
    """

    dataset: str
    reference: str
    rows: tuple[Row, ...]
    lost: tuple[str, ...]


class Sidecar(NamedTuple):
    """The stored results of a benchmark.

    Attributes:
        source: the benchmark's YAML file.
        tables: one entry per data set.
        failures: one line for each failed run.
    """

    source: str
    tables: tuple[StoredTable, ...]
    failures: tuple[str, ...]


def write_sidecar(
    folder: Path, scores: Sequence[Scores], failures: Sequence[str], source: str
) -> None:
    """Write `table.json` atomically."""
    datasets = [
        {
            "dataset": one.dataset,
            "reference": one.reference.name if one.reference else "",
            "rows": [_row_content(row) for row in one.rows],
        }
        for one in scores
    ]
    content = {"format": FORMAT, "source": source, "failures": list(failures), "tables": datasets}
    write_json(folder / FILE, content)


def _row_content(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "model": row.model_row.model,
        "budget": row.model_row.budget,
        "runs": [Path(run.folder).name for run in row.runs],
    }


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
        raise InputError(f"{path}: not a benchmark of this version; repeat the benchmark")
    try:
        tables = tuple(_table(one, find) for one in content["tables"])
        return Sidecar(str(content["source"]), tables, tuple(map(str, content["failures"])))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); repeat the benchmark") from None


def _table(content: dict[str, Any], find: FindRun) -> StoredTable:
    rows, lost = [], []
    for one in content["rows"]:
        found = [find(content["dataset"], name) for name in one["runs"]]
        lost += [name for name, run in zip(one["runs"], found, strict=True) if run is None]
        runs = tuple(run for run in found if run is not None)
        if runs:
            rows.append(Row(ModelRow(one["name"], one["model"], budget=one["budget"]), runs))
    return StoredTable(content["dataset"], content["reference"], tuple(rows), tuple(lost))
