"""`table.json` beside a benchmark's tables: which runs each row was made from.

Runs go by data set and folder name, so that results may be moved as a whole.
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


class Table(NamedTuple):
    """One data set of a benchmark, as it was written down.

    Attributes:
        dataset: its name.
        reference: the row tested against all others; "" for none.
        rows: those of which at least one run was found.
        lost: names of runs that were not found.
    """

    dataset: str
    reference: str
    rows: tuple[Row, ...]
    lost: tuple[str, ...]


class Sidecar(NamedTuple):
    """A whole benchmark.

    Attributes:
        source: the benchmark's YAML.
        tables: one a data set.
        failures: what had no result, and why.
    """

    source: str
    tables: tuple[Table, ...]
    failures: tuple[str, ...]


def write_sidecar(
    folder: Path, scores: Sequence[Scores], failures: Sequence[str], source: str
) -> None:
    """Write `table.json`, whole or not at all."""
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
        "model": row.contender.model,
        "budget": row.contender.budget,
        "runs": [Path(run.folder).name for run in row.runs],
    }


def read_sidecar(path: Path, find: FindRun) -> Sidecar:
    """Read `table.json`.

    Args:
        path: the file.
        find: the run of a data set in a folder of that name; None where there is none.

    Raises:
        InputError: not such a file.
    """
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: not a benchmark of this version; repeat the benchmark")
    try:
        tables = tuple(_table(one, find) for one in content["tables"])
        return Sidecar(str(content["source"]), tables, tuple(map(str, content["failures"])))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: damaged ({error!r}); repeat the benchmark") from None


def _table(content: dict[str, Any], find: FindRun) -> Table:
    rows, lost = [], []
    for one in content["rows"]:
        found = [find(content["dataset"], name) for name in one["runs"]]
        lost += [name for name, run in zip(one["runs"], found, strict=True) if run is None]
        runs = tuple(run for run in found if run is not None)
        if runs:
            rows.append(Row(ModelRow(one["name"], one["model"], budget=one["budget"]), runs))
    return Table(content["dataset"], content["reference"], tuple(rows), tuple(lost))
