"""Charts as plain data, independent of the library that draws them (Plotly or Matplotlib)."""

from __future__ import annotations

import colorsys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Kinds: horizontal bars with names on y, columns with names on x, lines and points, and maps
# (points without axes).
BARS, COLUMNS, CURVES, MAP = "bars", "columns", "curves", "map"
LABEL_WIDTH = 24  # characters per line of an axis label
LABEL_LINES = 3
LEGEND_MOST = 12  # Matplotlib charts with more names have no legend

# All colors have a contrast of at least 3:1 against white.
_KNOWN = {
    "QBERT4Rec": "#3b6fb6",
    "SASRec": "#c46a1b",
    "BERT4Rec": "#3f8a5f",
    "GRU4Rec": "#b0589a",
    "FDSA": "#85734f",
    "S3Rec": "#2b8fa3",
    "IDBERT4Rec": "#c4524a",
    "Popularity": "#777777",
    "BigramChain": "#8f7a00",
}
_OTHERS = (
    "#5a4fcf", "#00735c", "#9c3d00", "#d1477d", "#4d6a00", "#0077a8",
    "#7d3c98", "#556b7d", "#a8700a", "#8b0000", "#2e4057", "#5f9e00",
)  # fmt: skip
REST = "#9aa3ad"


class Point(NamedTuple):
    """A text label at a position of a chart; `above` places the text above the position."""

    x: float
    y: float
    text: str
    above: bool = True


@dataclass(frozen=True)
class Series:
    """One line, one cloud of points or one set of bars.

    Attributes:
        name: name in the legend.
        color: one color, or one per point.
        x: numbers, or names for an axis of categories.
        y: numbers. Bars have names on y and numbers on x.
        error: half the length of each point's error bar; empty: no error bars.
        texts: hover texts, one per point.
        line: whether the points are connected.
        marker: whether the points are drawn.
        width: width of the line in points.
    """

    name: str
    color: str | tuple[str, ...]
    x: tuple[float | str, ...]
    y: tuple[float | str, ...]
    error: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    line: bool = True
    marker: bool = True
    width: float = 2.0


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        key: name of its files and id of its HTML element; letters, digits and hyphens.
        title: title above the chart.
        kind: BARS, COLUMNS, CURVES or MAP.
        series: the data series.
        x_title, y_title: titles of the axes.
        note: note below the chart.
        ticks: positions and labels of ticks on the x axis; empty: automatic ticks.
        labels: texts in the chart.
        log_x: whether the x axis is logarithmic.
        legend: whether the chart needs a legend.
        bare_y: whether the y axis has no tick labels.
    """

    key: str
    title: str
    kind: str
    series: tuple[Series, ...]
    x_title: str = ""
    y_title: str = ""
    note: str = ""
    ticks: tuple[tuple[float, str], ...] = ()
    labels: tuple[Point, ...] = ()
    log_x: bool = False
    legend: bool = True
    bare_y: bool = False

    @property
    def entries(self) -> dict[str, str]:
        """Legend entries, name -> color; empty if there are fewer than two names."""
        if not self.legend or len({series.name for series in self.series}) < 2:
            return {}
        return {each.name: each.color for each in self.series if isinstance(each.color, str)}


@dataclass
class Palette:
    """Colors by name, equal in all charts of a report. Known models have fixed colors."""

    _given: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        """Color of a name; a new name takes the next free color."""
        if name in _KNOWN:
            return _KNOWN[name]
        return self._given.setdefault(name, _color(len(self._given)))


def _color(number: int) -> str:
    """Color by number; after the fixed list, hues by the golden ratio, which differ clearly."""
    if number < len(_OTHERS):
        return _OTHERS[number]
    red, green, blue = colorsys.hls_to_rgb(number * 0.618 % 1, 0.34, 0.6)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def group_colors(n: int) -> list[str]:
    """Colors of n groups that are not models."""
    colors = [*_KNOWN.values(), *_OTHERS]
    return [colors[place % len(colors)] for place in range(n)]


def ramp(share: float) -> str:
    """Color between pale gray blue (0) and dark blue (1)."""
    low, high = (190, 205, 220), (22, 62, 115)
    mixed = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def wrapped(text: str, width: int = LABEL_WIDTH) -> list[str]:
    """Wrap a name into at most `LABEL_LINES` lines and truncate the rest."""
    return textwrap.wrap(text, width, max_lines=LABEL_LINES, placeholder=" ...") or [""]


def rows_and_lines(chart: Chart) -> tuple[int, int]:
    """Number of bars of a chart and maximum number of lines per name; they determine its height."""
    names = {str(name): len(wrapped(str(name))) for each in chart.series for name in each.y}
    return len(names), max(names.values(), default=1)


def slug(*words: str) -> str:
    """Make a key of letters, digits and single hyphens."""
    text = "".join(letter if letter.isalnum() and letter.isascii() else " "
                   for letter in " ".join(words))  # fmt: skip
    return "-".join(text.lower().split())


def legend_of(charts: Sequence[Chart]) -> dict[str, str]:
    """Merge the legend entries of several charts, name -> color."""
    return {name: color for chart in charts for name, color in chart.entries.items()}
