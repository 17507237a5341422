"""Benchmark tables of one data set, independent of the output format."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from recbole_qbert.common.output import counted
from recbole_qbert.evaluation import comparable
from recbole_qbert.evaluation.comparable import MARK
from recbole_qbert.evaluation.ranking import LIST_LENGTH, RANKS_FILE
from recbole_qbert.evaluation.results import (
    CREDITED,
    EXACT_GAIN,
    LATE,
    NONE,
    RANKINGS,
    metric_title,
    short,
    without_zero,
)
from recbole_qbert.evaluation.significance import change_text
from recbole_qbert.experiments.benchmark.plan import NOT_STATED
from recbole_qbert.experiments.benchmark.published import published_figures, published_source
from recbole_qbert.experiments.benchmark.scores import (
    COVERAGE,
    GROUP_METRICS,
    GROUPS,
    SIGNIFICANT,
    MeanStd,
    Row,
    Scores,
    group_metric,
    spread,
)

BEST, SECOND = "best", "second"
GROUP_TITLES = {
    "item": "test users by whether their target was drawn by cold_items",
    "target": "test users by how often their target occurs in training",
    "history": "test users by the number of items before their target",
}
OLD_RUN = (
    f"an older version wrote {RANKS_FILE} without top lists; delete this file and the runs' lines "
    "in results.jsonl and repeat the command, which evaluates the runs without training"
)
PUBLISHED_BY_ROW = "published: values from the benchmark's file"


class TableCell(NamedTuple):
    """Content of a table cell. Line breaks are kept only on the terminal."""

    text: str
    mark: str = ""  # BEST or SECOND in its column


@dataclass(frozen=True)
class BenchmarkTable:
    """One table, with notes below it."""

    title: str
    head: tuple[str, ...]  # column names
    sections: list[tuple[str, list[list[TableCell]]]]  # pairs of a heading ("": none) and rows
    notes: list[str] = field(default_factory=list)
    n_names: int = 1  # number of columns that hold names; the others hold numbers


def all_sheets(scores: Scores) -> list[BenchmarkTable]:
    """Build all tables of one data set."""
    sheets = [metrics_sheet(scores)]
    if scores.tested:
        sheets.append(comparisons_sheet(scores))
    if scores.tested_cold:
        sheets.append(comparisons_sheet(scores, cold=True))
    sheets += published_sheets(scores)
    sheets += [groups_sheet(scores, kind) for kind in scores.group_kinds]
    return [*sheets, *generation_sheets(scores), runs_sheet(scores)]


def published_sheets(scores: Scores) -> list[BenchmarkTable]:
    """Build the tables of published values and of published gains; none if no row has any."""
    values = published_sheet(scores, published_figures(scores.dataset), published_source())
    return [sheet for sheet in (values, published_gains_sheet(scores)) if sheet.sections]


def metrics_sheet(scores: Scores) -> BenchmarkTable:
    """Table of all metrics in both rankings, with the improvement of the reference."""
    comparable_rows = [row.name not in scores.unlike for row in scores.rows]
    sections, notes = [], []
    for prefix, ranking in RANKINGS:
        columns = [
            mark_column(
                [row.over_seeds("test", prefix + name) for row in scores.rows], comparable_rows
            )
            for name in scores.metrics
        ]
        lines = [
            [TableCell(row.name + MARK * (row.name in scores.unlike)), *entries]
            for row, *entries in zip(scores.rows, *columns, strict=True)
        ]
        if scores.tested:
            lines.append(_improvements(scores, prefix))
        sections.append((ranking, lines))
    if scores.tested:
        notes.append(
            f"* p < {SIGNIFICANT} in both paired tests (t-test and Wilcoxon over users, on means "
            f"over seeds), Holm's correction over {counted(len(scores.others), 'comparison')}"
        )
    notes += comparable.notes(list(scores.unlike), list(scores.unlike.values()))
    title = f"{scores.dataset}: test, whole catalog ranked, mean ± deviation over seeds"
    return BenchmarkTable(title, ("model", *map(metric_title, scores.metrics)), sections, notes)


def mark_column(column: Sequence[MeanStd], counted: Sequence[bool] = ()) -> list[TableCell]:
    """Format a column of numbers and mark its highest and second-highest mean.

    Means that differ by rounding errors only are equal. A column with one comparable number has no
    marks.

    Args:
        column: one number per row.
        counted: whether the number of each row may be compared; empty: all may.
    """
    counts = counted or [True] * len(column)
    means = [round(value.mean, 12) for value in column]
    compared = {mean for mean, each in zip(means, counts, strict=True) if each}
    order = sorted(compared, reverse=True) if sum(counts) > 1 else []
    marks = dict(zip(order, (BEST, SECOND), strict=False))
    return [
        TableCell(plus_minus(value), marks.get(mean, "") if each else "")
        for value, mean, each in zip(column, means, counts, strict=True)
    ]


def plus_minus(value: MeanStd) -> str:
    """Format as `.1375 ± .0009`."""
    mean = short(value.mean)
    return mean if value.deviation is None else f"{mean} ± {short(value.deviation)}"


def _improvements(scores: Scores, prefix: str) -> list[TableCell]:
    """Row of the reference's improvement over the best other row, by column."""
    assert scores.reference is not None  # otherwise nothing was tested
    line = [TableCell(f"{scores.reference.name} vs. best other")]
    for metric in scores.metrics:
        name = prefix + metric
        best = max(scores.others, key=lambda row: row.over_seeds("test", name).mean)
        test = scores.tested[best.name][name]
        line.append(TableCell(f"{change_text(test.change)}{' *' if test.significant else ''}"))
    return line


def comparisons_sheet(scores: Scores, cold: bool = False) -> BenchmarkTable:
    """Table of the reference against every other row: change and both p-values.

    With `cold`, the tests are over the users with a cold target.
    """
    assert scores.reference is not None  # otherwise nothing was tested
    sections = []
    for prefix, ranking in RANKINGS:
        lines = []
        for name, tests in (scores.tested_cold if cold else scores.tested).items():
            found = [tests[prefix + metric] for metric in scores.metrics]
            texts = [
                f"{change_text(one.change)}\n{p_text(one.p_value)} / {p_text(one.p_ranks)}"
                for one in found
            ]
            lines.append([*map(TableCell, (name, *texts))])
        sections.append((ranking, lines))
    title = f"{scores.dataset}: {scores.reference.name} vs. each other row"
    title += ", cold targets" * cold
    notes = ["change of the mean; p of the t-test / of Wilcoxon's test, after Holm's correction"]
    head = ("other row", *map(metric_title, scores.metrics))
    return BenchmarkTable(title, head, sections, notes)


def p_text(value: float) -> str:
    """Format a p-value with three decimals: `.012`, `<.001`."""
    return "<.001" if value < 0.0005 else without_zero(f"{value:.3f}")


def published_sheet(
    scores: Scores, published: Mapping[str, Mapping[str, float]], source: str
) -> BenchmarkTable:
    """Table of our mean, the published value and their difference, for rows that have one.

    If a row of the benchmark states `published` values, the table shows the rows' own values.

    Args:
        scores: scores of the data set.
        published: model -> metric -> published value, all items ranked.
        source: source of the published values.
    """
    by_row = {row.name: published.get(row.model_row.model, {}) for row in scores.rows}
    if any(row.model_row.published for row in scores.rows):
        source = PUBLISHED_BY_ROW
        by_row = {row.name: row.model_row.published.get(scores.dataset, {}) for row in scores.rows}
    known = {metric for figures in by_row.values() for metric in figures}
    metrics = [metric for metric in scores.metrics if metric in known]
    sections = []
    for row in scores.rows:
        if figures := by_row[row.name]:
            lines = [[row.name, "ours"], ["", "published"], ["", "difference"]]
            for name in metrics:
                ours, other = row.over_seeds("test", name).mean, figures.get(name, math.nan)
                change = without_zero(f"{ours - other:+.4f}")
                for line, text in zip(lines, (short(ours), short(other), change), strict=True):
                    line.append(NONE if "nan" in text else text)
            sections.append(("", [[*map(TableCell, line)] for line in lines]))
    title = f"{scores.dataset}: comparison with published values, all items ranked"
    head = ("model", "", *map(metric_title, metrics))
    return BenchmarkTable(title, head, sections, [source], n_names=2)


def published_gains_sheet(scores: Scores) -> BenchmarkTable:
    """Table of the reference's gain over each row that has `published` values, ours and published.

    Gains in percent can be compared over data sets, unlike the values themselves. The table is
    empty if the reference has no published values.
    """
    reference = scores.reference
    known = reference.model_row.published if reference else {}
    metrics = [m for m in scores.metrics if any(m in figures for figures in known.values())]
    sections = []
    for row in scores.others:
        published = [
            [dataset, *(gain_text(known[dataset].get(m), figures.get(m)) for m in metrics)]
            for dataset, figures in row.model_row.published.items()
            if dataset in known
        ]
        if reference and published:
            tested = scores.tested[row.name]
            ours = [f"{scores.dataset}, ours", *(change_text(tested[m].change) for m in metrics)]
            lines = [[row.name, *ours], *(["", *line] for line in published)]
            sections.append(("", [[*map(TableCell, line)] for line in lines]))
    name = reference.name if reference else NONE
    title = f"{scores.dataset}: gain of {name} over each row, beside published gains, all items"
    head = ("other row", "data", *map(metric_title, metrics))
    return BenchmarkTable(title, head, sections, [PUBLISHED_BY_ROW], n_names=2)


def gain_text(better: float | None, other: float | None) -> str:
    """Format the gain of one published value over another; a dash if one is not known."""
    return change_text(100 * (better / other - 1)) if better and other else NONE


def groups_sheet(scores: Scores, kind: str) -> BenchmarkTable:
    """Table of HR@10 / NDCG@10 by group of users; for `target` groups also of coverage."""
    covered = kind == "target"
    head = ["model", *[COVERAGE] * covered]
    for group in GROUPS[kind]:
        size = scores.group_sizes[group_metric("users", kind, group.name)]
        head.append(f"{group.name}\n{counted(size, 'user')}")
    sections = []
    for prefix, ranking in RANKINGS:
        lines = []
        for row in scores.rows:
            if not row.details:
                continue
            line = [row.name]
            if covered:
                line.append(plus_minus(row.details[prefix + COVERAGE]))
            for group in GROUPS[kind]:
                names = [group_metric(prefix + m, kind, group.name) for m in GROUP_METRICS]
                found = [row.details[name] for name in names if name in row.details]
                line.append(" / ".join(short(each.mean) for each in found) or NONE)
            lines.append([*map(TableCell, line)])
        sections.append((ranking, lines))
    titles = " / ".join(map(metric_title, GROUP_METRICS))
    title = f"{scores.dataset}: {titles} of {GROUP_TITLES[kind]}"
    notes = [f"{COVERAGE}: share of all items that occur in the top 10 of any user"] * covered
    notes += [f"{row.name}: {OLD_RUN}" for row in scores.rows if not row.details]
    notes += [f"trained on other interactions, so its groups differ: {text}"
              for text in scores.other_groups(kind)]  # fmt: skip
    return BenchmarkTable(title, tuple(head), sections, notes)


def generation_sheets(scores: Scores) -> list[BenchmarkTable]:
    """Return a table of the searches of rows that generate codes; empty without such rows."""
    known = {row.name: {key for run in row.runs for key in run.generation} for row in scores.rows}
    rows = [row for row in scores.rows if known[row.name]]
    if not rows:
        return []
    metrics = [each for each in scores.metrics if each in GROUP_METRICS] or [scores.metrics[-1]]
    columns: dict[str, tuple[str, Callable[[MeanStd], str]]] = {
        "valid_beams": ("valid beams", lambda value: f"{value.mean:.1%}"),
        "outside": ("no item", lambda value: f"{value.mean:.1%}"),
        "exact_rows": ("users compared", lambda value: f"{value.mean:.0f}"),
        "same_items": (f"same top {LIST_LENGTH}", lambda value: f"{value.mean:.1%}"),
    }
    for name in metrics:
        gain = (f"exact: {metric_title(name)}", lambda value: f"{value.mean:+.4f}")
        columns[EXACT_GAIN + name] = gain
    for name in metrics:
        columns[CREDITED + name] = (f"collisions credited: {metric_title(name)}", plus_minus)
    shown = set().union(*known.values())
    columns = {key: column for key, column in columns.items() if key in shown}

    def text(row: Row, key: str, form: Callable[[MeanStd], str]) -> str:
        values = [run.generation[key] for run in row.runs if key in run.generation]
        return form(spread(values)) if len(values) == len(row.runs) else NONE

    lines = [
        [TableCell(row.name), *(TableCell(text(row, k, form)) for k, (_, form) in columns.items())]
        for row in rows
    ]
    explained = {
        "valid_beams": "valid beams: share that ends at an item; no item: probability that leads "
        "to codes of no item",
        "exact_rows": f"same top {LIST_LENGTH}: share of an exact ranking's best items that the "
        "beams found; exact: change of the metric if the users compared are ranked exactly, all "
        "items",
        CREDITED + metrics[0]: "collisions credited: items with the target's codes count as the "
        "target, all items",
    }
    notes = [note for key, note in explained.items() if key in columns]
    title = f"{scores.dataset}: generation of codes, test"
    head = ("model", *(name for name, _ in columns.values()))
    return [BenchmarkTable(title, head, [("", lines)], notes)]


def runs_sheet(scores: Scores) -> BenchmarkTable:
    """Table of the conditions of the runs: loss, protocol, tuning budget (if stated) and cost."""
    stated = any(row.model_row.budget != NOT_STATED for row in scores.rows)
    rows = []
    for row in scores.rows:
        one = row.runs[0]
        epochs = (f"{run.best_epoch + 1}{' !' if run.late else ''}" for run in row.runs)
        early = any(run.stopped_early for run in row.runs)
        rows.append({
            "model": row.name,
            "loss": one.loss,
            "repeats": one.repeats,
            "chosen by": metric_title(one.valid_metric),
            **({"budget": row.model_row.budget} if stated else {}),
            "seeds": ", ".join(str(run.seed) for run in row.runs),
            "best epoch": ", ".join(epochs) + f" of {one.max_epochs}" + ", stopped early" * early,
            "steps": f"{statistics.mean(run.steps for run in row.runs):.0f}",
            "s": f"{statistics.mean(run.seconds for run in row.runs):.0f}",
            "parameters": f"{one.n_parameters:,}",
            "MB": f"{max(run.peak_memory_mb for run in row.runs):.0f}",
        })  # fmt: skip
    lines = [[*map(TableCell, cells.values())] for cells in rows]
    notes = ["s: mean training time per seed, including validation; MB: maximum over seeds"]
    notes += [LATE] * any(run.late for row in scores.rows for run in row.runs)
    return BenchmarkTable(
        f"{scores.dataset}: runs", tuple(rows[0]), [("", lines)], notes, n_names=4 + stated
    )
