"""The report's section of tables: metrics, user groups, published values and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape

from recbole_qbert.evaluation.results import RANKINGS, metric_title
from recbole_qbert.experiments.benchmark.published import published_figures, published_source
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
    groups_sheet,
    metrics_sheet,
    published_sheet,
    runs_sheet,
)
from recbole_qbert.reports import webpage
from recbole_qbert.reports.charts import BARS, CURVES, Chart, Palette, Series, slug
from recbole_qbert.reports.comparisons import ComparisonData, has_ranks
from recbole_qbert.reports.sections import Block, ReportSection, sheet_html, warnings_html

INTERVAL = "bars and numbers: means over seeds, ± the sample deviation; a single seed has none"
EXPLAINED = (
    "Every table has both rankings. 'all items': what a user has seen stands in the ranking. 'seen "
    "excluded': it does not, which compares models that repeat with models that cannot. Best bold, "
    "second underlined; test users, whole catalog."
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
    blocks: list[Block] = [webpage.paragraphs([EXPLAINED])]
    for number, one in enumerate(comparisons, start=1):
        blocks += _comparison(one, metric, palette, str(number))
    source = "; ".join(dict.fromkeys(one.source for one in comparisons))
    again = "; ".join(dict.fromkeys(one.again for one in comparisons))
    return ReportSection("tables", "Comparison", source, again, tuple(blocks))


def _comparison(one: ComparisonData, metric: str, palette: Palette, number: str) -> list[Block]:
    scores = one.scores
    heading = f"<h2>{escape(one.title)}</h2>{webpage.paragraphs([f'From {one.source}.'])}"
    blocks: list[Block] = [heading + warnings_html(one.warnings)]
    if metric in scores.rows[0].metrics:
        blocks.append(tuple(_bars(scores, metric, palette, number)))
    blocks.append(sheet_html(metrics_sheet(scores)))
    published = published_figures(scores.dataset)
    if any(row.model_row.model in published for row in scores.rows):
        blocks.append(sheet_html(published_sheet(scores, published, published_source())))
    blocks += _groups(scores, metric, palette, number)
    if scores.tested:
        blocks.append(sheet_html(comparisons_sheet(scores)))
    blocks.append(sheet_html(runs_sheet(scores)))
    return blocks


def _bars(scores: Scores, metric: str, palette: Palette, number: str) -> list[Chart]:
    """Bar charts of the rows, one chart per ranking."""
    charts = []
    for prefix, ranking in RANKINGS:
        spreads = [row.over_seeds("test", prefix + metric) for row in scores.rows]
        series = Series(
            name=metric_title(metric),
            color=tuple(palette[row.name] for row in scores.rows),
            x=tuple(one.mean for one in spreads),
            y=tuple(row.name for row in scores.rows),
            error=_errors(spreads),
            texts=tuple(
                f"{row.name}: {one.mean:.4f}"
                + (f" ± {one.deviation:.4f}" if one.deviation is not None else "")
                + f", {len(one.values)} seed{'s' * (len(one.values) > 1)}"
                for row, one in zip(scores.rows, spreads, strict=True)
            ),
        )
        charts.append(
            Chart(
                key=slug("bars", number, scores.dataset, metric, ranking),
                title=f"{scores.dataset}: test {metric_title(metric)}, {ranking}",
                kind=BARS,
                series=(series,),
                x_title=metric_title(metric),
                note=INTERVAL if series.error else "",
            )
        )
    return charts


def _errors(spreads: Sequence[MeanStd]) -> tuple[float, ...]:
    """Sample standard deviations, 0 for a single seed; empty if all rows have a single seed."""
    if all(one.deviation is None for one in spreads):
        return ()
    return tuple(one.deviation or 0.0 for one in spreads)


def _groups(scores: Scores, metric: str, palette: Palette, number: str) -> list[Block]:
    """Tables and charts by groups of users: target popularity and history length."""
    ranked = replace(scores, rows=tuple(row for row in scores.rows if has_ranks(row)))
    if not ranked.rows:
        return []  # a warning tells the reader
    if not ranked.group_sizes:
        return [webpage.missing(f"No groups of users. Of every run, {OLD_RUN}.")]
    shown = metric if metric in GROUP_METRICS else GROUP_METRICS[-1]
    blocks: list[Block] = []
    for kind in GROUPS:
        charts = (_group_chart(ranked, kind, shown, *each, palette, number) for each in RANKINGS)
        blocks += [tuple(charts), sheet_html(groups_sheet(ranked, kind))]
    return blocks


def _group_chart(
    scores: Scores,
    kind: str,
    metric: str,
    prefix: str,
    ranking: str,
    palette: Palette,
    number: str,
) -> Chart:
    """Chart with a line per row over the groups, without groups in which the row has no users."""
    series = []
    for row in scores.rows:
        found = {
            group.name: row.details[group_metric(prefix + metric, kind, group.name)]
            for group in GROUPS[kind]
            if group_metric(prefix + metric, kind, group.name) in row.details
        }
        if found:
            spreads = list(found.values())
            series.append(
                Series(
                    row.name, palette[row.name], tuple(found),
                    tuple(one.mean for one in spreads), _errors(spreads),
                    tuple(f"{row.name}, {name}: {one.mean:.4f}" for name, one in found.items()),
                )
            )  # fmt: skip
    return Chart(
        key=slug("groups", number, scores.dataset, kind, metric, ranking),
        title=f"{scores.dataset}: {metric_title(metric)}, {ranking}, of {GROUP_TITLES[kind]}",
        kind=CURVES,
        series=tuple(series),
        x_title="training interactions of the target" if kind == "target" else "items before it",
        y_title=metric_title(metric),
    )
