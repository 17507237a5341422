"""What a chart shows, before anybody says whether it is drawn for a page or for a paper."""

from __future__ import annotations

import colorsys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# Kinds: horizontal bars under names, columns over names, lines and points, points without axes.
BARS, COLUMNS, CURVES, MAP = "bars", "columns", "curves", "map"
LABEL_WIDTH = 24  # letters in a line of an axis' names
LABEL_LINES = 3
LEGEND_MOST = 12  # more names than that are told apart by nobody; the page's legend still has them

# Every color has a contrast of 3 to 1 or more against white.
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
    """A place in a chart with a text."""

    x: float
    y: float
    text: str
    above: bool = True


@dataclass(frozen=True)
class Series:
    """One line, one cloud of points or one set of bars.

    Attributes:
        name: in the legend.
        color: of all, or of each point.
        x: numbers, or names (then the axis has names).
        y: numbers; of bars, names are on y and numbers on x.
        error: half the length of each point's interval; empty for none.
        texts: one a point, shown beside it on the page when it is pointed at.
        line: whether the points are joined.
        marker: whether they are drawn.
        width: of the line, in points.
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
        key: names its file and its element of the page; letters, digits and hyphens.
        title: above it.
        kind: see above.
        series: what it shows.
        x_title, y_title: of the axes.
        note: below it.
        ticks: places of the x axis and their names; empty: as the numbers are.
        labels: texts in the chart.
        log_x: whether x is logarithmic.
        legend: whether the names of the series are needed.
        bare_y: whether the y axis has no numbers.
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
        """Name -> color of what the legend holds; empty where there is nothing to tell apart."""
        if not self.legend or len({series.name for series in self.series}) < 2:
            return {}
        return {each.name: each.color for each in self.series if isinstance(each.color, str)}


@dataclass
class Palette:
    """One color a name, the same in all charts of a report, and of known models in all reports."""

    _given: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        """A name's color; a new name takes the next one that is free."""
        if name in _KNOWN:
            return _KNOWN[name]
        return self._given.setdefault(name, _color(len(self._given)))


def _color(number: int) -> str:
    """Behind those that were chosen by eye, hues that are far from the last ones."""
    if number < len(_OTHERS):
        return _OTHERS[number]
    red, green, blue = colorsys.hls_to_rgb(number * 0.618 % 1, 0.34, 0.6)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def group_colors(n: int) -> list[str]:
    """Colors of the n largest groups of something else than models."""
    colors = [*_KNOWN.values(), *_OTHERS]
    return [colors[place % len(colors)] for place in range(n)]


def ramp(share: float) -> str:
    """From pale gray blue (0) to dark blue (1)."""
    low, high = (190, 205, 220), (22, 62, 115)
    mixed = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


def wrapped(text: str, width: int = LABEL_WIDTH) -> list[str]:
    """A name in lines, cut where it is too long."""
    return textwrap.wrap(text, width, max_lines=LABEL_LINES, placeholder=" ...") or [""]


def rows_and_lines(chart: Chart) -> tuple[int, int]:
    """Bars of a chart, and the lines of its longest name: what its height depends on."""
    names = {str(name): len(wrapped(str(name))) for each in chart.series for name in each.y}
    return len(names), max(names.values(), default=1)


def slug(*words: str) -> str:
    """A key of letters, digits and single hyphens."""
    text = "".join(letter if letter.isalnum() and letter.isascii() else " "
                   for letter in " ".join(words))  # fmt: skip
    return "-".join(text.lower().split())


def legend_of(charts: Sequence[Chart]) -> dict[str, str]:
    """Name -> color over several charts."""
    return {name: color for chart in charts for name, color in chart.entries.items()}
