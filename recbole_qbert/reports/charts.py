"""Charts as plain data, independent of the library that draws them (Plotly or Matplotlib)."""

from __future__ import annotations

import colorsys
import textwrap
from dataclasses import dataclass, field
from typing import NamedTuple

# Horizontal bars with names on y, columns, lines and points, points without axes, nested boxes.
BARS, COLUMNS, CURVES, MAP, TREE = "bars", "columns", "curves", "map", "tree"
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
PALE = "#c9ced6"  # values expected by chance


class Point(NamedTuple):
    """A text label at a position of a chart; `above` places the text above the position."""

    x: float
    y: float
    text: str
    above: bool = True


class Box(NamedTuple):
    """A box of a TREE: index of its parent (-1 for the root), label, size, hover text, color."""

    parent: int
    label: str
    value: int
    text: str
    color: str | float  # a color, or a share from 0 to 1 for a color scale


@dataclass(frozen=True)
class Series:
    """One line, one cloud of points or one set of bars."""

    name: str  # in the legend
    color: str | tuple[str, ...]  # one color, or one per point
    x: tuple[float | str, ...]  # numbers, or names for an axis of categories
    y: tuple[float | str, ...]  # numbers; BARS have names on y and numbers on x
    error: tuple[float, ...] = ()  # half the length of each point's error bar
    texts: tuple[str, ...] = ()  # hover text of each point
    line: bool = True  # connect the points
    marker: bool = True  # draw the points
    width: float = 2.0  # of the line, in points


@dataclass(frozen=True)
class Chart:
    """One chart."""

    key: str  # name of its files and id of its HTML element; letters, digits and hyphens
    title: str
    kind: str  # BARS, COLUMNS, CURVES, MAP or TREE
    series: tuple[Series, ...] = ()  # not of a TREE
    boxes: tuple[Box, ...] = ()  # of a TREE, the root first
    x_title: str = ""  # of a TREE: title of its color scale
    y_title: str = ""
    note: str = ""  # below the chart
    ticks: tuple[tuple[float, str], ...] = ()  # on the x axis; empty: automatic ticks
    labels: tuple[Point, ...] = ()  # texts in the chart
    log_x: bool = False
    log_y: bool = False
    percent: bool = False  # y axis in percent
    legend: bool = True
    bare_y: bool = False  # y axis without tick labels

    @property
    def entries(self) -> dict[str, str]:
        """Legend entries, name -> color; empty if there are fewer than two names."""
        if not self.legend or len({series.name for series in self.series}) < 2:
            return {}
        return {each.name: each.color for each in self.series if isinstance(each.color, str)}

    @property
    def bar_sizes(self) -> tuple[int, int]:
        """Number of bars and largest number of lines of a name; they determine the height."""
        names = {str(name): len(wrapped(str(name))) for each in self.series for name in each.y}
        return len(names), max(names.values(), default=1)


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
    parts = colorsys.hls_to_rgb(number * 0.618 % 1, 0.34, 0.6)
    return "#" + "".join(f"{round(part * 255):02x}" for part in parts)


def group_colors(n: int) -> list[str]:
    """Colors of n groups that are not models."""
    colors = [*_KNOWN.values(), *_OTHERS]
    return [colors[place % len(colors)] for place in range(n)]


def ramp(share: float) -> str:
    """Color between pale gray blue (0) and dark blue (1)."""
    pairs = zip((190, 205, 220), (22, 62, 115), strict=True)
    return "#" + "".join(f"{round(low + (high - low) * share):02x}" for low, high in pairs)


def wrapped(text: str, width: int = LABEL_WIDTH) -> list[str]:
    """Wrap a name into at most `LABEL_LINES` lines and truncate the rest."""
    return textwrap.wrap(text, width, max_lines=LABEL_LINES, placeholder=" ...") or [""]


def slug(*words: str) -> str:
    """Make a key of letters, digits and single hyphens."""
    text = "".join(letter if letter.isalnum() and letter.isascii() else " "
                   for letter in " ".join(words))  # fmt: skip
    return "-".join(text.lower().split())
