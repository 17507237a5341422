"""Tables of runs on the console. No number is cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from recbole_qbert.evaluation import comparable
from recbole_qbert.evaluation.comparable import MARK
from recbole_qbert.evaluation.results import (
    LATE,
    NONE,
    RANKINGS,
    RunResult,
    group_runs,
    metric_title,
)

BORDER = 3  # width of a column's line and blanks
FOLDED = 4  # least width of a column of words, where they must be folded
SPLITS_AND_RANKINGS = [(split, *ranking) for split in ("valid", "test") for ranking in RANKINGS]


def print_tables(results: Sequence[RunResult], console: Console) -> None:
    """Print metrics and costs of runs; tables wider than the console are split."""
    for table in (*metrics_tables(results, console), *runs_tables(results, console)):
        console.print(table, crop=False)


def fitting(
    build: Callable[[Sequence[Any]], Table], columns: Sequence[Any], console: Console
) -> list[Table]:
    """Split a table by columns into tables that fit the console, with at least one column each.

    `build` makes a table of some columns; it sets `no_wrap` for those that must not be wrapped. The
    words of the others are folded if one column is too wide.
    """
    wide = console.options.update(width=100_000)

    def width_of(table: Table, longest: int = 100_000) -> int:
        total = 1
        for column in table.columns:
            sizes = [
                Measurement.get(console, wide, each) for each in (column.header, *column.cells)
            ]
            total += BORDER + max(
                each.maximum if column.no_wrap else min(each.minimum, longest) for each in sizes
            )
        return total

    tables: list[Table] = []
    left = list(columns)
    while left:
        n_columns = len(left)
        while n_columns > 1 and width_of(build(left[:n_columns])) > console.width:
            n_columns -= 1
        tables.append(build(left[:n_columns]))
        if width_of(tables[-1]) > console.width:
            tables[-1].width = max(console.width, width_of(tables[-1], FOLDED))
        left = left[n_columns:]
    return tables


def all_metrics(results: Sequence[RunResult]) -> list[str]:
    """Return the names of all metrics that any of the runs has, in order of appearance."""
    return list(dict.fromkeys(name for result in results for name in result.metrics))


def metrics_tables(results: Sequence[RunResult], console: Console) -> list[Table]:
    """Build tables of valid and test metrics in both rankings, four rows per run."""
    unlike = comparable.unlike_first(results)
    titles = [result.title for result in results]
    footnotes = comparable.notes(titles, unlike, comparable.FIRST_ROW)
    models = [
        ((result.title + MARK * bool(parts)).replace(" (", "\n("), result.valid, result.test)
        for result, parts in zip(results, unlike, strict=True)
    ]
    return rankings_tables(results[0].dataset, models, all_metrics(results), console, footnotes)


def rankings_tables(
    dataset: str,
    models: Sequence[tuple[str, Mapping[str, float], Mapping[str, float]]],
    metrics: Sequence[str],
    console: Console,
    footnotes: Sequence[str] = (),
) -> list[Table]:
    """Build tables of models, given as title, valid metrics and test metrics."""

    def build(names: Sequence[str]) -> Table:
        table = Table(
            title=f"{dataset}: the whole catalog ranked",
            caption="\n".join(footnotes) or None,
        )
        for column in ("model", "split", "ranking"):
            table.add_column(column, no_wrap=column != "model", overflow="fold")
        for name in names:
            table.add_column(metric_title(name), justify="right", no_wrap=True)
        for title, valid, test in models:
            for split, prefix, ranking in SPLITS_AND_RANKINGS:
                values = valid if split == "valid" else test
                table.add_row(title, split, ranking, *(_text(values, prefix + n) for n in names))
                title = ""
            table.add_section()
        return table

    return fitting(build, metrics, console)


def _text(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:.4f}" if name in values else NONE


def runs_tables(results: Sequence[RunResult], console: Console) -> list[Table]:
    """Build tables of training costs and of settings that matter for comparison."""
    cells: dict[str, Callable[[RunResult], str]] = {
        "seed": lambda run: str(run.seed),
        "loss": lambda run: run.loss,
        "repeats": lambda run: run.repeats,
        "chosen by": lambda run: metric_title(run.valid_metric),
        "best epoch": lambda run: (
            f"{run.best_epoch + 1}{' !' if run.late else ''} of {run.max_epochs}"
        ),
        "stopped early": lambda run: "yes" if run.stopped_early else "no",
        "steps": lambda run: f"{run.steps:,}",
        "s": lambda run: f"{run.seconds:.0f}",
        "parameters": lambda run: f"{run.n_parameters:,}",
        "MB": lambda run: f"{run.peak_memory_mb:.0f}",
    }

    def build(columns: Sequence[str]) -> Table:
        table = Table(title="Runs", caption=LATE if any(run.late for run in results) else None)
        table.add_column("model", overflow="fold")
        for column in columns:
            left = column in ("loss", "repeats")
            table.add_column(column, justify="left" if left else "right", no_wrap=True)
        for run in results:
            table.add_row(run.title, *(cells[column](run) for column in columns))
        return table

    return fitting(build, list(cells), console)


def chosen_groups(results: Sequence[RunResult], which: str = "all") -> list[list[RunResult]]:
    """Group runs for a table; `last` keeps the latest settings of each model on each data set."""
    groups = group_runs(results)
    if which != "last":
        return groups
    latest = {id(run) for run in {(run.dataset, run.title): run for run in results}.values()}
    return [group for group in groups if any(id(run) in latest for run in group)]
