"""Tables of results: on the screen, where no number is ever cut, and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from recbole_qbert.evaluation import comparable
from recbole_qbert.evaluation.comparable import MARK
from recbole_qbert.evaluation.results import (
    LATE,
    RANKINGS,
    RunResult,
    differing_settings,
    group_runs,
    mean_and_deviation,
    metric_title,
)

BORDER = 3  # a line and a blank at each side of a column
NONE = "–"  # where a run has no such metric
Column = TypeVar("Column")


def print_tables(results: Sequence[RunResult], console: Console) -> None:
    """Metrics and costs of runs; what is wider than the console comes in several tables."""
    for table in (*metrics_tables(results, console), *runs_tables(results, console)):
        console.print(table, crop=False)


def fitting(
    build: Callable[[Sequence[Column]], Table], columns: Sequence[Column], console: Console
) -> list[Table]:
    """The tables that `build` makes of all columns, as many in each as the console has room for.

    `build` sets `no_wrap` for what must not be broken.
    """
    wide = console.options.update(width=100_000)

    def needed(table: Table) -> int:
        widths = []
        for column in table.columns:
            cells = [
                Measurement.get(console, wide, each) for each in (column.header, *column.cells)
            ]
            widths.append(max(each.maximum if column.no_wrap else each.minimum for each in cells))
        return sum(widths) + BORDER * len(widths) + 1

    tables: list[Table] = []
    left = list(columns)
    while left:
        n_columns = len(left)
        while n_columns > 1 and needed(build(left[:n_columns])) > console.width:
            n_columns -= 1
        table = build(left[:n_columns])
        if needed(table) > console.width:  # a single column: lines longer than the console
            table.width = needed(table)
        tables.append(table)
        left = left[n_columns:]
    return tables


def all_metrics(results: Sequence[RunResult]) -> list[str]:
    """What any of them has, in the order asked for."""
    return list(dict.fromkeys(name for result in results for name in result.metrics))


def metrics_tables(results: Sequence[RunResult], console: Console) -> list[Table]:
    """Valid and test, both rankings, four rows a model."""
    unlike = comparable.unlike_first(results)
    marked = zip(results, unlike, strict=True)
    titles = [result.title + MARK * bool(parts) for result, parts in marked]
    said = comparable.notes([result.title for result in results], unlike)

    def build(names: Sequence[str]) -> Table:
        table = Table(
            title=f"{results[0].dataset}: leave-one-out, the whole catalog ranked",
            caption="\n".join(said) or None,
        )
        for column in ("model", "split", "ranking"):
            table.add_column(column, no_wrap=column != "model", overflow="fold")
        for name in names:
            table.add_column(metric_title(name), justify="right", no_wrap=True)
        for result, title in zip(results, titles, strict=True):
            cells = [title.replace(" (", "\n("), "", "", ""]
            rows = [(split, each) for split in ("valid", "test") for each in RANKINGS]
            for cell, (split, (prefix, ranking)) in zip(cells, rows, strict=True):
                values = getattr(result, split)
                table.add_row(cell, split, ranking, *(_text(values, prefix + n) for n in names))
            table.add_section()
        return table

    return fitting(build, all_metrics(results), console)


def _text(values: dict[str, float], name: str) -> str:
    return f"{values[name]:.4f}" if name in values else NONE


def runs_tables(results: Sequence[RunResult], console: Console) -> list[Table]:
    """What was trained, how long, and what the reader must know to compare."""
    cells: dict[str, Callable[[RunResult], str]] = {
        "seed": lambda run: str(run.seed),
        "loss": lambda run: run.loss,
        "repeats": lambda run: run.repeats,
        "chosen by": lambda run: run.valid_metric,
        "best epoch": lambda run: f"{run.best_epoch + 1} of {run.epochs}{' !' if run.late else ''}",
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


def seeds_markdown(groups: Sequence[Sequence[RunResult]]) -> str:
    """Mean and sample deviation over seeds, valid and test, both rankings, as Markdown.

    Rows of one model are told apart by their settings and by the digits that name their folder.

    Args:
        groups: of `group_runs`.
    """
    first = [group[0] for group in groups]
    names = all_metrics(first)
    settings = _settings(groups)
    unlike = comparable.unlike_first(first)
    head = ["data", "model", *["settings"] * any(settings), "repeats", "split", "ranking"]
    head += [*map(metric_title, names), "seeds", "best epoch", "steps", "s a run"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for group, one, text, parts in zip(groups, first, settings, unlike, strict=True):
        named = [one.dataset, one.title + MARK * bool(parts), *[text] * any(settings), one.repeats]
        for split in ("valid", "test"):
            for prefix, ranking in RANKINGS:
                values = [getattr(run, split) for run in group]
                row = [*named, split, ranking]
                row += [
                    mean_and_deviation([each[prefix + name] for each in values])
                    if all(prefix + name in each for each in values)
                    else NONE
                    for name in names
                ]
                row.append(", ".join(str(run.seed) for run in group))
                row.append(", ".join(str(run.best_epoch + 1) for run in group))
                row.append(f"{statistics.mean(run.steps for run in group):.0f}")
                row.append(f"{statistics.mean(run.seconds for run in group):.0f}")
                lines.append("| " + " | ".join(row) + " |")
    said = comparable.notes([run.title for run in first], unlike)
    return "\n".join([*lines, *([""] * bool(said)), *said])


def _settings(groups: Sequence[Sequence[RunResult]]) -> list[str]:
    """What tells each group from the others of its model on its data set; "" of a single one."""
    found = [""] * len(groups)
    alike: dict[tuple[str, str], list[int]] = {}
    for place, group in enumerate(groups):
        alike.setdefault((group[0].dataset, group[0].title), []).append(place)
    for places in alike.values():
        if len(places) > 1:
            texts = differing_settings([groups[place][0] for place in places])
            for place, text in zip(places, texts, strict=True):
                found[place] = f"{text} @{groups[place][-1].hash}".strip()
    return found


def chosen_groups(results: Sequence[RunResult], which: str = "all") -> list[list[RunResult]]:
    """Groups of runs for a table.

    Args:
        results: of a results file.
        which: `last` leaves the latest settings of each model on each data set; `all` leaves all.
    """
    groups = group_runs(results)
    if which != "last":
        return groups
    latest = {(run.dataset, run.title): id(run) for run in results}
    return [group for group in groups if any(id(run) in latest.values() for run in group)]
