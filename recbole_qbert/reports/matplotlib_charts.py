"""Charts as PNG and SVG files, drawn with Matplotlib. Equal charts give equal bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write
from recbole_qbert.reports.charts import (
    BARS,
    COLUMNS,
    LEGEND_MOST,
    MAP,
    TREE,
    Chart,
    Series,
    wrapped,
)

DOTS_PER_INCH = 200
TITLE_WIDTH = 56  # characters
FORMATS = ("png", "svg")
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "svg.hashsalt": "recbole-qbert",
}


def write_plots(folder: Path, charts: Sequence[Chart]) -> list[Path]:
    """Write `<key>.png` and `<key>.svg` of each chart that is not a TREE, each atomically.

    Other files in the folder are kept.

    Returns:
        Paths of the written files.

    Raises:
        InputError: a file cannot be written.
    """
    paths = []
    with matplotlib.rc_context(_STYLE):
        for chart in (one for one in charts if one.kind != TREE):
            figure = to_matplotlib(chart)
            for suffix in FORMATS:
                paths.append(folder / f"{chart.key}.{suffix}")
                _save(figure, paths[-1], suffix)
    return paths


def _save(figure: Figure, path: Path, suffix: str) -> None:
    metadata = {"Date": None} if suffix == "svg" else {"Software": None}
    try:
        with atomic_write(path, "wb") as handle:
            figure.savefig(
                handle, format=suffix, dpi=DOTS_PER_INCH, bbox_inches="tight", metadata=metadata
            )
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot write ({reason}); choose another folder") from None


def to_matplotlib(chart: Chart) -> Figure:
    """Draw a chart: 4.8 inches wide, which fits a column of a paper; a map is 6 inches wide."""
    n_bars, n_lines = chart.bar_sizes
    sizes = {BARS: (4.8, 1.0 + (0.16 + 0.16 * n_lines) * n_bars), MAP: (6.0, 6.0)}
    figure = Figure(figsize=sizes.get(chart.kind, (4.8, 3.2)))
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    drawn = {
        series.name: _draw(axes, chart, series, place) for place, series in enumerate(chart.series)
    }
    title = textwrap.fill(_plain(chart.title), TITLE_WIDTH)
    axes.set(title=title, xlabel=_plain(chart.x_title), ylabel=_plain(chart.y_title))
    if chart.kind == MAP:
        axes.set_axis_off()
        axes.set_aspect("equal", "datalim")
    else:
        axes.grid(axis="x" if chart.kind == BARS else "y", color="#e6e9ee")
    if chart.kind == BARS:
        axes.invert_yaxis()
    if chart.ticks:
        axes.set_xticks([x for x, _ in chart.ticks], [_name(text, 14) for _, text in chart.ticks])
    if chart.log_x:
        axes.set_xscale("log")
    if chart.log_y:
        axes.set_yscale("log")
    if chart.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if chart.bare_y:
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.margins(y=0.1)
    for label in chart.labels:
        axes.annotate(
            _plain(label.text), (label.x, label.y), xytext=(0, 3 if label.above else -3),
            textcoords="offset points", ha="center",
            va="bottom" if label.above else "top", fontsize=7,
        )  # fmt: skip
    _legend(figure, chart, drawn)
    return figure


def _draw(axes: Axes, chart: Chart, series: Series, place: int) -> Any:
    """Draw a series; return what stands for it in a legend."""
    color: Any = series.color if isinstance(series.color, str) else list(series.color)
    error = list(series.error) or None
    x, y = ([_name(v) if isinstance(v, str) else v for v in axis] for axis in (series.x, series.y))
    if chart.kind == BARS:
        return axes.barh(y, x, xerr=error, capsize=2, color=color)
    if chart.kind == COLUMNS:
        # Columns of several series are next to each other; names are at 0, 1, 2, ...
        width = 0.8 / len(chart.series)
        middle = (place - (len(chart.series) - 1) / 2) * width
        places = [row + middle for row in range(len(x))]
        columns = axes.bar(places, y, width, yerr=error, capsize=2, color=color)
        axes.set_xticks(range(len(x)), [str(each) for each in x])
        return columns
    if not series.line:
        size = 5 if chart.kind == MAP else 24
        return axes.scatter(x, y, s=size, c=color, linewidths=0)
    marker = "o" if series.marker else None
    return axes.errorbar(x, y, yerr=error, marker=marker, markersize=3.5, capsize=2,
                         linewidth=series.width * 0.7, color=color)  # fmt: skip


def _legend(figure: Figure, chart: Chart, drawn: Mapping[str, Any]) -> None:
    """Add a legend below the chart, with one entry per name; `drawn` has what was drawn of each."""
    names = list(chart.entries)
    if not 0 < len(names) <= LEGEND_MOST:
        return
    legend = figure.legend(
        [drawn[name] for name in names], [f"entry {n}" for n in range(len(names))],
        loc="outside lower center", ncols=min(3, len(names)), frameon=False, fontsize=8,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(_plain(name))  # as a label, a name that begins with _ would be left out


def _name(text: str, width: int = 24) -> str:
    return "\n".join(_plain(line) for line in wrapped(text, width))


def _plain(text: str) -> str:
    """Escape dollar signs, which begin a formula in Matplotlib."""
    return text.replace("$", r"\$")
