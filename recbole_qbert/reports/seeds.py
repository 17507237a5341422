"""Tables of a results file: metrics as means over seeds, and the conditions of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recbole_qbert.evaluation import comparable
from recbole_qbert.evaluation.comparable import MARK
from recbole_qbert.evaluation.printing import SPLITS_AND_RANKINGS, all_metrics
from recbole_qbert.evaluation.results import NONE, RunResult, differing_settings, metric_title
from recbole_qbert.experiments.benchmark.plan import ModelRow
from recbole_qbert.experiments.benchmark.scores import Row, Scores, score, shown_metrics
from recbole_qbert.experiments.benchmark.tables import (
    BenchmarkTable,
    TableCell,
    generation_sheets,
    mark_column,
    plus_minus,
    runs_sheet,
)
from recbole_qbert.reports.comparisons import distinct


def seeds_sheets(groups: Sequence[Sequence[RunResult]]) -> list[BenchmarkTable]:
    """Make tables for each data set: valid and test in both rankings, generation, and the runs.

    The rows are groups of `group_runs`. If a model has several settings, its rows are named by the
    digits of the last run's folder, and a note below the table lists the settings that differ.
    """
    sheets = []
    for dataset in dict.fromkeys(group[0].dataset for group in groups):
        here = [group for group in groups if group[0].dataset == dataset]
        names, notes = _named(here)
        rows = tuple(
            Row(ModelRow(name, group[0].model), tuple(group))
            for name, group in zip(names, here, strict=True)
        )
        metrics = shown_metrics(all_metrics([group[0] for group in here]))
        scores = replace(score(dataset, rows, ""), metrics=tuple(metrics))
        sheets += [_metrics_sheet(scores, notes), *generation_sheets(scores), runs_sheet(scores)]
    return sheets


def _named(groups: Sequence[Sequence[RunResult]]) -> tuple[list[str], list[str]]:
    """Return the names of the rows, and notes on the settings of models that have several."""
    titles = [group[0].title for group in groups]
    names = distinct(
        title if titles.count(title) == 1 else f"{title} @{group[-1].hash}"
        for title, group in zip(titles, groups, strict=True)
    )
    notes = []
    for title in dict.fromkeys(titles):
        alike = [place for place, each in enumerate(titles) if each == title]
        settings = differing_settings([groups[place][0] for place in alike])
        notes += [f"{names[p]}: {text}" for p, text in zip(alike, settings, strict=True) if text]
    return names, notes


def _metrics_sheet(scores: Scores, notes: Sequence[str]) -> BenchmarkTable:
    counted = [row.name not in scores.unlike for row in scores.rows]
    names = [row.name + MARK * (row.name in scores.unlike) for row in scores.rows]
    sections = []
    for split, prefix, ranking in SPLITS_AND_RANKINGS:
        columns = [_column(scores.rows, split, prefix + name, counted) for name in scores.metrics]
        lines = [[TableCell(name), *cells] for name, *cells in zip(names, *columns, strict=True)]
        sections.append((f"{split}, {ranking}", lines))
    unlike = scores.unlike
    marked = comparable.notes(list(unlike), list(unlike.values()), comparable.FIRST_ROW)
    return BenchmarkTable(
        f"{scores.dataset}: whole catalog ranked, mean ± deviation over seeds",
        ("model", *map(metric_title, scores.metrics)),
        sections,
        [*notes, *marked],
    )


def _column(rows: Sequence[Row], split: str, name: str, counted: Sequence[bool]) -> list[TableCell]:
    """Format a metric of all rows; the best value is marked if all rows have the metric."""
    having = [all(name in getattr(run, split) for run in row.runs) for row in rows]
    if all(having):
        return mark_column([row.over_seeds(split, name) for row in rows], counted)
    return [
        TableCell(plus_minus(row.over_seeds(split, name)) if has else NONE)
        for row, has in zip(rows, having, strict=True)
    ]
