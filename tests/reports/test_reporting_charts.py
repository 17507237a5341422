"""One chart, two ways to draw it: both must show the same numbers."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from recbole_qbert.common.errors import InputError
from recbole_qbert.reports.charts import (
    BARS,
    COLUMNS,
    CURVES,
    LABEL_LINES,
    MAP,
    Chart,
    Palette,
    Point,
    Series,
    ramp,
    slug,
    wrapped,
)
from recbole_qbert.reports.matplotlib_charts import to_matplotlib, write_plots
from recbole_qbert.reports.page import Block, ReportSection, render
from recbole_qbert.reports.plotly_charts import to_plotly

EVIL = '<script>alert("1")</script> $x_1$ & <b>'


def chart(kind: str, *series: Series, **more: Any) -> Chart:
    return Chart("key", "Title", kind, series, **more)


def line(name: str, *ys: float, **more: Any) -> Series:
    return Series(name, "#112233", tuple(float(x) for x in range(len(ys))), ys, **more)


BAR = Series("m", ("#111111", "#222222"), (0.3, 0.1), ("first", "second"), (0.05, 0.0))
COLUMN = Series("n", "#333333", ("1", "2", "3"), (4.0, 0.0, 2.0))


def page_of(one: Chart) -> str:
    section = ReportSection("s", "Section", (Block("charts", [one]),))
    return render("Page", [], [section]).rpartition("<main>")[2]


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colors_are_fixed_different_and_dark_enough() -> None:
    palette = Palette()
    names = ["QBERT4Rec", "SASRec", *(f"row {number}" for number in range(30))]
    colors = [palette[name] for name in names]
    assert len(set(colors)) == len(colors)
    assert [palette[name] for name in reversed(names)] == colors[::-1]
    assert Palette()["SASRec"] == palette["SASRec"]  # in every report
    assert min(1.05 / (luminance(color) + 0.05) for color in colors) >= 3  # against white
    assert ramp(0.0) == "#becddc" and ramp(1.0) == "#163e73"


@given(st.text(max_size=60))
def test_names_for_files_and_axes(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9]*(-[a-z0-9]+)*", slug(text))
    lines = wrapped(text)
    assert 1 <= len(lines) <= LABEL_LINES and all(len(each) <= 24 for each in lines)


def test_legend_only_where_names_must_be_told_apart() -> None:
    assert chart(CURVES, line("a", 1.0), line("a", 2.0)).entries == {}
    two = chart(CURVES, line("a", 1.0), line("b", 2.0))
    assert two.entries == {"a": "#112233", "b": "#112233"}
    assert 'data-name="a"' in page_of(two)
    assert "data-name=" not in page_of(chart(BARS, BAR))


def test_bars_of_both_kinds() -> None:
    drawn = to_plotly(chart(BARS, BAR))
    (trace,) = drawn.data
    assert list(trace.x) == [0.3, 0.1] and list(trace.error_x.array) == [0.05, 0.0]
    assert drawn.layout.xaxis.rangemode == "tozero"
    axes = to_matplotlib(chart(BARS, BAR)).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.3, 0.1]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.yaxis_inverted()  # the first row stands on top
    (errors,) = axes.collections[0].get_segments()[:1]
    assert errors[:, 0].tolist() == pytest.approx([0.25, 0.35])
    columns = to_matplotlib(chart(COLUMNS, COLUMN)).axes[0]
    assert [bar.get_height() for bar in columns.patches] == [4.0, 0.0, 2.0]
    assert [label.get_text() for label in columns.get_xticklabels()] == ["1", "2", "3"]


def test_curves_of_both_kinds() -> None:
    shown = chart(
        CURVES, line("a", 1.0, 3.0), line("b", 2.0, 0.5, line=False),
        ticks=((0.0, "x"), (1.0, "y")), labels=(Point(0.0, 1.0, "here"),),
    )  # fmt: skip
    drawn = to_plotly(shown)
    assert [list(trace.y) for trace in drawn.data] == [[1.0, 3.0], [2.0, 0.5]]
    assert [trace.mode for trace in drawn.data] == ["lines+markers", "markers"]
    assert [note.text for note in drawn.layout.annotations] == ["here"]
    scaled = to_plotly(chart(CURVES, line("a", 1.0, 3.0), log_x=True, log_y=True, percent=True))
    assert (scaled.layout.xaxis.type, scaled.layout.yaxis.type) == ("log", "log")
    assert scaled.layout.yaxis.tickformat == ".0%"
    figure = to_matplotlib(shown)
    axes = figure.axes[0]
    assert axes.lines[0].get_ydata().tolist() == [1.0, 3.0]
    assert axes.collections[-1].get_offsets().tolist() == [[0.0, 2.0], [1.0, 0.5]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x", "y"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_a_map_has_no_axes_and_even_units() -> None:
    shown = chart(MAP, line("a", 1.0, 3.0, line=False))
    drawn = to_plotly(shown)
    assert drawn.layout.yaxis.scaleanchor == "x" and not drawn.layout.xaxis.visible
    assert drawn.layout.height is None
    axes = to_matplotlib(shown).axes[0]
    assert not axes.axison and axes.get_aspect() == 1.0


def test_whatever_names_hold_is_text() -> None:
    """Plotly reads a little HTML, Matplotlib formulas."""
    evil = chart(CURVES, line(EVIL, 1.0, texts=(EVIL,)), line("b", 2.0), x_title=EVIL, note=EVIL)
    page = page_of(evil)
    assert "<script>alert" not in page and "<b>" not in page
    figure = to_matplotlib(evil)
    FigureCanvasAgg(figure).draw()
    label = figure.axes[0].xaxis.label
    assert label.get_text() == EVIL.replace("$", r"\$")
    assert label._preprocess_math(label.get_text()) == (EVIL, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [CURVES, MAP, COLUMNS])
def test_names_that_begin_with_an_underscore_are_in_the_legend(kind: str) -> None:
    """Matplotlib leaves such labels out of a legend."""
    names = ["_private", "plain", "_"]
    colors = ["#112233", "#445566", "#778899"]
    shown = [
        Series(name, color, (0.0, 1.0), (1.0, 2.0), line=kind == CURVES)
        for name, color in zip(names, colors, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = to_matplotlib(chart(kind, *shown))
        FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    assert len(legend.legend_handles) == len(names)


def test_plots_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    charts = [chart(BARS, BAR), Chart("two", "T", CURVES, (line("a", 1.0, 2.0),), log_x=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = write_plots(tmp_path / "new", charts)
    assert [path.name for path in paths] == ["key.png", "key.svg", "two.png", "two.svg"]
    before = [path.read_bytes() for path in paths]
    assert before[0].startswith(b"\x89PNG") and b"<svg" in before[1]
    (tmp_path / "new" / "mine.txt").write_text("stays", encoding="utf-8")
    write_plots(tmp_path / "new", charts)
    assert [path.read_bytes() for path in paths] == before
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "mine.txt", *(path.name for path in paths)
    }  # fmt: skip
    with pytest.raises(InputError, match="cannot write"):
        write_plots(tmp_path / "new" / "mine.txt", charts)
