"""The report's section of tables: metrics, user groups, published values and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recbole_qbert.common.output import counted
from recbole_qbert.evaluation.results import RANKINGS, metric_title
from recbole_qbert.experiments.benchmark.scores import (
    GROUP_METRICS,
    GROUPS,
    MeanStd,
    Scores,
    group_metric,
)
from recbole_qbert.experiments.benchmark.tables import (
    GROUP_TITLES,
    OLD_RUN,
    comparisons_sheet,
    generation_sheets,
    groups_sheet,
    metrics_sheet,
    published_sheets,
    runs_sheet,
)
from recbole_qbert.reports.charts import BARS, CURVES, Chart, Palette, Series, slug
from recbole_qbert.reports.comparisons import ComparisonData, has_ranks, origin
from recbole_qbert.reports.page import Block, ReportSection

INTERVAL = "bars and numbers: mean ± sample deviation over seeds; a single seed has no deviation"
EXPLAINED = (
    "Metrics of the test users over the whole catalog, in two rankings. 'all items': the ranking "
    "includes items that the user has seen. 'seen excluded': it excludes them, which makes models "
    "that recommend seen items comparable with models that do not. The best value is bold, the "
    "second-best is underlined."
)


def tables_section(
    comparisons: Sequence[ComparisonData], metric: str, palette: Palette
) -> ReportSection | None:
    """Make the section, with tables and charts of all comparisons; None if there are none.

    Args:
        comparisons: result of `compare_all`.
        metric: metric of the charts, such as `ndcg@10`.
        palette: colors of the rows.
    """
    if not comparisons:
        return None
    blocks = [Block("paragraphs", [EXPLAINED])]
    for number, one in enumerate(comparisons, start=1):
        blocks += _comparison(one, metric, palette, str(number))
    return ReportSection("tables", "Comparison", tuple(blocks), *origin(comparisons))


def _comparison(one: ComparisonData, metric: str, palette: Palette, number: str) -> list[Block]:
    scores = one.scores
    blocks = [Block("heading", one.title), Block("paragraphs", [f"Source: {one.source}."])]
    if one.warnings:
        blocks.append(Block("warnings", one.warnings))
    if all(metric in row.metrics for row in scores.rows):
        bars = [_bars(scores, metric, palette, number, *ranking) for ranking in RANKINGS]
        blocks.append(Block("charts", bars))
    blocks.append(Block("table", metrics_sheet(scores)))
    blocks += [Block("table", sheet) for sheet in published_sheets(scores)]
    blocks += _groups(scores, metric, palette, number)
    if scores.tested:
        blocks.append(Block("table", comparisons_sheet(scores)))
    blocks += [Block("table", sheet) for sheet in generation_sheets(scores)]
    if scores.tested_cold:
        blocks.append(Block("table", comparisons_sheet(scores, cold=True)))
    return [*blocks, Block("table", runs_sheet(scores))]


def _bars(
    scores: Scores, metric: str, palette: Palette, number: str, prefix: str, ranking: str
) -> Chart:
    """Bar chart of the rows by one ranking."""
    spreads = [row.over_seeds("test", prefix + metric) for row in scores.rows]
    texts = []
    for row, one in zip(scores.rows, spreads, strict=True):
        deviation = f" ± {one.deviation:.4f}" if one.deviation is not None else ""
        n = len(one.values)
        texts.append(f"{row.name}: {one.mean:.4f}{deviation}, {counted(n, 'seed')}")
    series = Series(
        name=metric_title(metric),
        color=tuple(palette[row.name] for row in scores.rows),
        x=tuple(one.mean for one in spreads),
        y=tuple(row.name for row in scores.rows),
        error=_errors(spreads),
        texts=tuple(texts),
    )
    return Chart(
        key=slug("bars", number, scores.dataset, metric, ranking),
        title=f"{scores.dataset}: test {metric_title(metric)}, {ranking}",
        kind=BARS,
        series=(series,),
        x_title=metric_title(metric),
        note=INTERVAL if series.error else "",
    )


def _errors(spreads: Sequence[MeanStd]) -> tuple[float, ...]:
    """Sample standard deviations, 0 for a single seed; empty if all rows have a single seed."""
    if all(one.deviation is None for one in spreads):
        return ()
    return tuple(one.deviation or 0.0 for one in spreads)


GROUP_AXES = {
    "item": "target",
    "target": "training interactions of the target",
    "history": "items before it",
}


def _groups(scores: Scores, metric: str, palette: Palette, number: str) -> list[Block]:
    """Tables and charts by groups of users: target popularity and history length."""
    ranked = replace(scores, rows=tuple(row for row in scores.rows if has_ranks(row)))
    if not ranked.rows:
        return []  # a warning tells the reader
    if not ranked.group_sizes:
        return [Block("missing", f"No groups of users. All runs: {OLD_RUN}.")]
    shown = metric if metric in GROUP_METRICS else GROUP_METRICS[-1]
    blocks = []
    for kind in ranked.group_kinds:
        charts = [_group_chart(ranked, kind, shown, palette, number, *each) for each in RANKINGS]
        blocks += [Block("charts", charts), Block("table", groups_sheet(ranked, kind))]
    return blocks


def _group_chart(
    scores: Scores, kind: str, metric: str, palette: Palette, number: str, prefix: str, ranking: str
) -> Chart:
    """Chart with a line per row over the groups, without groups in which the row has no users."""
    series = []
    for row in scores.rows:
        names = {each.name: group_metric(prefix + metric, kind, each.name) for each in GROUPS[kind]}
        found = {name: row.details[key] for name, key in names.items() if key in row.details}
        if found:
            series.append(
                Series(
                    row.name, palette[row.name], tuple(found),
                    tuple(one.mean for one in found.values()), _errors(list(found.values())),
                    tuple(f"{row.name}, {name}: {one.mean:.4f}" for name, one in found.items()),
                )
            )  # fmt: skip
    return Chart(
        key=slug("groups", number, scores.dataset, kind, metric, ranking),
        title=f"{scores.dataset}: {metric_title(metric)}, {ranking}, of {GROUP_TITLES[kind]}",
        kind=CURVES,
        series=tuple(series),
        x_title=GROUP_AXES[kind],
        y_title=metric_title(metric),
    )
