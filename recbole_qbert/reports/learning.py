"""The report's section of learning curves: valid metric over epochs and over seconds, by run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.evaluation.results import RunResult, metric_title
from recbole_qbert.reports import webpage
from recbole_qbert.reports.charts import CURVES, Chart, Palette, Series, slug
from recbole_qbert.reports.comparisons import ComparisonData
from recbole_qbert.reports.sections import Block, ReportSection
from recbole_qbert.training.learning_curve import best_evaluation

AXES = {"epoch": "epochs", "seconds": "seconds, evaluations included"}


class Curve(NamedTuple):
    """Evaluations of one run on valid, with the name of its row."""

    row: str
    run: RunResult
    points: list[dict[str, float]]


def learning_section(
    comparisons: Sequence[ComparisonData], metric: str, palette: Palette
) -> ReportSection | None:
    """Make the section, with two charts per comparison.

    Args:
        comparisons: result of `compare_all`.
        metric: metric to show if the runs did not all select their epoch by the same metric.
        palette: colors of the rows.

    Returns:
        The section; None if no run has several evaluations.

    Raises:
        InputError: a learning curve is damaged.
    """
    blocks: list[Block] = []
    for number, one in enumerate(comparisons, start=1):
        curves = [
            Curve(row.name, run, points)
            for row in one.scores.rows
            for run in row.runs
            if len(points := read_curve(run)) > 1
        ]
        if not curves:
            continue
        chosen_by = {curve.run.valid_metric for curve in curves}
        shown = chosen_by.pop() if len(chosen_by) == 1 else metric
        if all(shown in point for curve in curves for point in curve.points):
            charts = (_chart(one, curves, shown, axis, palette, str(number)) for axis in AXES)
            blocks.append(tuple(charts))
    if not blocks:
        return None
    note = "One line a run; runs of one row have one color, the large point is the chosen epoch."
    source = "the runs' <model>.curve.json; " + "; ".join(
        dict.fromkeys(one.source for one in comparisons)
    )
    again = "; ".join(dict.fromkeys(one.again for one in comparisons))
    return ReportSection(
        "curves", "Learning curves", source, again, (webpage.paragraphs([note]), *blocks)
    )


def read_curve(run: RunResult) -> list[dict[str, float]]:
    """Read the learning curve of a run; empty if its folder has none.

    Raises:
        InputError: the file is damaged.
    """
    path = Path(run.folder) / f"{run.model}.curve.json"
    if not path.is_file():
        return []
    points: Any = read_json(path).get("curve")
    if not isinstance(points, list) or not all(
        isinstance(point, dict) and {"epoch", "seconds"} <= point.keys() for point in points
    ):
        raise InputError(f"{path}: no learning curve; delete the file, or repeat the run")
    return points


def _chart(
    one: ComparisonData,
    curves: Sequence[Curve],
    metric: str,
    axis: str,
    palette: Palette,
    number: str,
) -> Chart:
    series = []
    for curve in curves:
        # Epochs are shown from 1.
        places = tuple(point[axis] + (axis == "epoch") for point in curve.points)
        values = tuple(point[metric] for point in curve.points)
        texts = tuple(
            f"{curve.row}, seed {curve.run.seed}, epoch {int(point['epoch']) + 1}, "
            f"{point['seconds']:.0f} s: {point[metric]:.4f}"
            for point in curve.points
        )
        color = palette[curve.row]
        best = [int(point["epoch"]) for point in curve.points].index(
            best_evaluation(curve.points, metric)[1]
        )
        line = Series(curve.row, color, places, values, (), texts, marker=False, width=1.4)
        point = Series(
            curve.row, color, places[best : best + 1], values[best : best + 1], (),
            texts[best : best + 1], line=False,
        )  # fmt: skip
        series += [line, point]
    return Chart(
        key=slug("curves", number, one.scores.dataset, metric, axis),
        title=f"{one.scores.dataset}: valid {metric_name(metric)} over {AXES[axis].split(',')[0]}",
        kind=CURVES,
        series=tuple(series),
        x_title=AXES[axis],
        y_title=f"valid {metric_name(metric)}",
    )


def metric_name(metric: str) -> str:
    """Printed name of a metric: `unseen_ndcg@10` becomes `NDCG@10, seen excluded`."""
    name = metric_title(metric.lower().removeprefix("unseen_"))
    return f"{name}, seen excluded" if metric.lower().startswith("unseen_") else name
