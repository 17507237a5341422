"""The rows of the report's tables and charts: named groups of runs that differ only in the seed.

Rows of a benchmark keep their names. Other runs are grouped by their settings. If several groups
have the same model, their names include the results file or the settings in which they differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.evaluation.ranking import RANKS_FILE
from recbole_qbert.evaluation.results import (
    RunResult,
    differing_settings,
    group_runs,
    ranks_of,
)
from recbole_qbert.experiments.benchmark.plan import REFERENCE, ModelRow
from recbole_qbert.experiments.benchmark.scores import Row, Scores, score
from recbole_qbert.experiments.benchmark.table_json import read_sidecar
from recbole_qbert.reports.discovery import Found, Run

MOST_KEYS = 3  # settings in the name of a row


@dataclass(frozen=True)
class ComparisonData:
    """Rows that are compared on one data set."""

    title: str  # heading
    scores: Scores  # the rows, and significance tests between them where possible
    source: str  # files that the rows were read from
    command: str  # command of the runs, without their settings
    warnings: tuple[str, ...]


def origin(comparisons: Sequence[ComparisonData]) -> tuple[str, str]:
    """Sources and commands of all comparisons, each as one text."""
    sources = dict.fromkeys(one.source for one in comparisons)
    commands = dict.fromkeys(one.command for one in comparisons)
    return "; ".join(sources), "; ".join(commands)


def compare_all(found: Found) -> list[ComparisonData]:
    """Make the comparisons of all benchmarks, then of the runs that are in no benchmark.

    Raises:
        InputError: a `table.json` is damaged, or runs have no metric in common.
    """
    comparisons, used = [], set()
    for file in found.benchmarks:
        content = read_sidecar(file, found.finder(file))
        for table in content.tables:
            if not table.rows:
                continue
            used |= {run.folder for row in table.rows for run in row.runs}
            lost = [f"{name}: listed in {found.name(file)}, not found" for name in table.lost]
            comparison = _comparison(table.dataset, table.rows, table.reference, found.name(file))
            comparisons.append(
                dataclasses.replace(
                    comparison,
                    command=f"recbole-qbert benchmark {content.source}",
                    warnings=(*content.failures, *lost, *comparison.warnings),
                )
            )
    for dataset in found.datasets:
        runs = [
            run for run in found.runs
            if run.result.dataset == dataset and run.result.folder not in used
        ]  # fmt: skip
        if runs:
            files = preview(list(dict.fromkeys(found.name(run.file) for run in runs)), 4)
            rows = tuple(_rows(runs, found))
            reference = REFERENCE if REFERENCE in [row.name for row in rows] else ""
            comparisons.append(_comparison(dataset, rows, reference, files))
    return comparisons


def _comparison(dataset: str, rows: tuple[Row, ...], reference: str, source: str) -> ComparisonData:
    """Compare rows by the metrics that all of them have; test them if all runs have ranks."""
    warnings = []
    metrics = {tuple(row.metrics) for row in rows}
    shared = set.intersection(*({*names} for names in metrics))
    if not shared:
        raise InputError(f"{source}: the runs have no common metric; report them separately")
    if len(metrics) > 1:
        warnings.append(f"only the common metrics are shown: {', '.join(sorted(shared))}")
    without = [row.name for row in rows if not has_ranks(row)]
    if without:
        warnings.append(
            f"no {RANKS_FILE} of {preview(without)}, or not as the run wrote it: no tests and no "
            "groups of users; repeat the run"
        )
    tested = reference if not without and len(metrics) == 1 and len(rows) > 1 else ""
    try:
        scores = score(dataset, rows, tested)
    except InputError as error:
        warnings.append(f"no tests: {error}")
        scores = score(dataset, rows, "")
    if len(metrics) > 1:
        names = tuple(name for name in scores.metrics if name in shared)
        scores = dataclasses.replace(scores, metrics=names)
    models = ",".join(dict.fromkeys(run.model for row in rows for run in row.runs))
    command = f"recbole-qbert run --model={models} --dataset={dataset}"
    warnings += [*_late_lines(rows), *_data_lines(rows)]
    return ComparisonData(dataset, scores, source, command, tuple(warnings))


def has_ranks(row: Row) -> bool:
    """Whether the ranks of all runs of a row can be read, and are those that the runs wrote."""
    try:
        for run in row.runs:
            ranks_of(run)
    except InputError:
        return False
    return True


def _late_lines(rows: Sequence[Row]) -> list[str]:
    """Warnings about rows with a run whose best epoch was the last one allowed."""
    lines = []
    for row in rows:
        seeds = [str(run.seed) for run in row.runs if run.late]
        if seeds:
            which = "all seeds" if len(seeds) == len(row.runs) else f"seed {', '.join(seeds)}"
            lines.append(
                f"{row.name}: the best epoch was the last allowed one "
                f"({row.runs[0].max_epochs}, {which}); train longer"
            )
    return lines


def _data_lines(rows: Sequence[Row]) -> list[str]:
    """Warning if the rows were trained on different interaction files."""
    digests: dict[str | None, list[str]] = {}
    for row in rows:
        for run in row.runs:
            digests.setdefault(run.data_sha256.get(f"{run.dataset}.inter"), []).append(row.name)
    if len(digests) < 2:
        return []
    least = min(digests.values(), key=len)
    return [
        f"the rows have different .inter files; not the common one: {preview(sorted({*least}))}"
    ]


def _rows(runs: Sequence[Run], found: Found) -> list[Row]:
    """Group runs by all settings but the seed, with the last run of each seed."""
    files = {run.result.folder: run.file for run in runs}
    groups = group_runs(run.result for run in runs)
    places = []
    for group in groups:
        file = files[group[-1].folder]
        only = found.folders == (file.parent,)
        places.append("" if only else Path(found.name(file)).parent.name)
    return [
        Row(ModelRow(name, group[0].model), tuple(sorted(group, key=lambda run: run.seed)))
        for name, group in zip(_names(groups, places), groups, strict=True)
    ]


def _names(groups: Sequence[Sequence[RunResult]], places: Sequence[str]) -> list[str]:
    """Make unique names of groups from model, results folder and settings."""
    names = [group[0].title for group in groups]
    for title in dict.fromkeys(names):
        alike = [place for place, name in enumerate(names) if name == title]
        if len(alike) == 1:
            continue
        for where in dict.fromkeys(places[place] for place in alike):
            here = [place for place in alike if places[place] == where]
            settings = differing_settings([groups[place][0] for place in here], MOST_KEYS)
            for place, text in zip(here, settings, strict=True):
                names[place] = ", ".join(filter(None, (title, where, text)))
    return distinct(names)


def distinct(names: Iterable[str]) -> list[str]:
    """Number the names that occur more than once: `x`, `y (1)`, `y (2)`."""
    given = list(names)
    return [
        name if given.count(name) == 1 else f"{name} ({given[: place + 1].count(name)})"
        for place, name in enumerate(given)
    ]
