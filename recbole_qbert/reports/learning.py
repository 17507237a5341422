"""The report's section of learning curves: valid metric over epochs and over seconds, by run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.evaluation.ranking import UNSEEN
from recbole_qbert.evaluation.results import RunResult, metric_title
from recbole_qbert.reports.charts import CURVES, Chart, Palette, Series, slug
from recbole_qbert.reports.comparisons import ComparisonData, origin
from recbole_qbert.reports.page import Block, ReportSection
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
    note = (
        "One line per run; runs of a row have the same color. A large point marks the best epoch."
    )
    blocks = [Block("paragraphs", [note])]
    for number, one in enumerate(comparisons, start=1):
        pairs = [(row.name, run) for row in one.scores.rows for run in row.runs]
        curves = [Curve(name, run, read_curve(run)) for name, run in pairs]
        curves = [curve for curve in curves if len(curve.points) > 1]
        used = {curve.run.valid_metric for curve in curves}
        shown = used.pop() if len(used) == 1 else metric
        if curves and all(shown in point for curve in curves for point in curve.points):
            key = slug("curves", str(number), one.scores.dataset, shown)
            charts = [
                _chart(key, one.scores.dataset, curves, shown, axis, palette) for axis in AXES
            ]
            blocks.append(Block("charts", charts))
    if len(blocks) == 1:
        return None
    sources, commands = origin(comparisons)
    return ReportSection(
        "curves", "Learning curves", tuple(blocks), f"<model>.curve.json of the runs; {sources}",
        commands,
    )  # fmt: skip


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
        raise InputError(f"{path}: not a learning curve; delete the file or repeat the run")
    return points


def _chart(
    key: str, dataset: str, curves: Sequence[Curve], metric: str, axis: str, palette: Palette
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
        epochs = [int(point["epoch"]) for point in curve.points]
        best = epochs.index(best_evaluation(curve.points, metric)[1])
        one = slice(best, best + 1)
        series += [
            Series(curve.row, color, places, values, (), texts, marker=False, width=1.4),
            Series(curve.row, color, places[one], values[one], (), texts[one], line=False),
        ]
    return Chart(
        key=f"{key}-{axis}",
        title=f"{dataset}: valid {metric_name(metric)} over {AXES[axis].split(',')[0]}",
        kind=CURVES,
        series=tuple(series),
        x_title=AXES[axis],
        y_title=f"valid {metric_name(metric)}",
    )


def metric_name(metric: str) -> str:
    """Printed name of a metric: `unseen_ndcg@10` becomes `NDCG@10, seen excluded`."""
    name = metric_title(metric.lower().removeprefix(UNSEEN))
    return f"{name}, seen excluded" if metric.lower().startswith(UNSEEN) else name
