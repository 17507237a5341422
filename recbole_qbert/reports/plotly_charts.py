"""Charts as Plotly figures. All texts are escaped, since Plotly interprets some HTML."""

from __future__ import annotations

from html import escape
from typing import Any

import plotly.graph_objects as go

from recbole_qbert.reports.charts import BARS, COLUMNS, CURVES, MAP, TREE, Chart, Series, wrapped

_CONFIG = {"displayModeBar": False, "responsive": True}
_SHARES = [[0.0, "#f1ede6"], [0.5, "#9dc3d4"], [1.0, "#2f6690"]]


def chart_html(chart: Chart) -> str:
    """Render a chart as HTML without Plotly's script, which the head of the page contains."""
    return to_plotly(chart).to_html(
        full_html=False, include_plotlyjs=False, div_id=chart.key, config=_CONFIG
    )


def to_plotly(chart: Chart) -> go.Figure:
    """Convert a chart to a Plotly figure."""
    tree = chart.kind == TREE
    figure = go.Figure(_treemap(chart) if tree else [_trace(chart, s) for s in chart.series])
    figure.update_layout(
        template="none",
        height=620 if tree else 340,
        barmode="group",
        bargap=0.25,
        margin={"l": 60, "r": 16, "t": 12, "b": 50},
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        hovermode="closest",
    )
    if tree:
        margin = {"l": 4, "r": 4, "t": 30, "b": 60}
        return figure.update_layout(margin=margin, uniformtext={"minsize": 9, "mode": "hide"})
    figure.update_xaxes(title=_text(chart.x_title), gridcolor="#eef1f4", automargin=True)
    figure.update_yaxes(
        title=_text(chart.y_title), gridcolor="#e6e9ee", zerolinecolor="#b8bfc9", automargin=True
    )
    _shape(figure, chart)
    _axes(figure, chart)
    for label in chart.labels:
        figure.add_annotation(
            x=label.x, y=label.y, text=_text(label.text), showarrow=False,
            yanchor="bottom" if label.above else "top", font={"size": 10},
        )  # fmt: skip
    return figure


def _shape(figure: go.Figure, chart: Chart) -> None:
    """Set what depends on the kind of chart."""
    if chart.kind == BARS:
        n_bars, n_lines = chart.bar_sizes
        figure.update_layout(height=90 + (14 + 17 * n_lines) * n_bars, margin={"l": 20})
        figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
        figure.update_xaxes(rangemode="tozero", nticks=5, tickangle=0)
    elif chart.kind == COLUMNS:
        if any(isinstance(x, str) for series in chart.series for x in series.x):
            figure.update_xaxes(type="category")
        figure.update_yaxes(rangemode="tozero")
    elif chart.kind == MAP:
        # The style sheet sets the height, which depends on the width of the window.
        figure.update_layout(height=None, margin={"l": 8, "r": 8, "b": 8})
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False, scaleanchor="x")


def _axes(figure: go.Figure, chart: Chart) -> None:
    """Set ticks and scales."""
    if chart.ticks:
        figure.update_xaxes(
            tickvals=[place for place, _ in chart.ticks],
            ticktext=[_name(text, 14) for _, text in chart.ticks],
            zeroline=False,
            autotickangles=[0, -90],
        )
    if chart.log_x:
        # Without a format, ticks between powers of ten show only the first digit.
        figure.update_xaxes(type="log", dtick="D2", tickformat="~g")
    if chart.log_y:
        figure.update_yaxes(type="log", dtick=1)
    if chart.percent:
        figure.update_yaxes(tickformat=".0%")
    if chart.bare_y:
        figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False)
        figure.update_layout(margin={"r": 50})


def _trace(chart: Chart, series: Series) -> go.Scatter | go.Bar:
    settings: dict[str, Any] = {"name": _text(series.name), "meta": series.name}
    error = {"array": list(series.error), "thickness": 1.5, "width": 4, "color": "#1f2933"}
    x, y = ([_name(v) if isinstance(v, str) else v for v in axis] for axis in (series.x, series.y))
    if series.texts:
        settings |= {"hovertext": [_text(text) for text in series.texts], "hoverinfo": "text"}
    if chart.kind in (BARS, COLUMNS):
        if series.error:
            settings["error_x" if chart.kind == BARS else "error_y"] = error
        orientation = "h" if chart.kind == BARS else "v"
        return go.Bar(x=x, y=y, orientation=orientation, marker_color=series.color, **settings)
    if series.error:
        settings["error_y"] = {**error, "color": series.color}
    return go.Scatter(
        x=x, y=y, mode="+".join(["lines"] * series.line + ["markers"] * series.marker),
        marker={
            "color": series.color,
            "size": 9 if chart.kind == CURVES and not series.line else 6,
            "opacity": 0.8 if chart.kind == MAP else 1.0,
        },
        line={
            "color": series.color if isinstance(series.color, str) else None, "width": series.width
        },
        **settings,
    )  # fmt: skip


def _treemap(chart: Chart) -> go.Treemap:
    """Convert boxes; the chart shows a box and its children, and opens a box on a click."""
    boxes = chart.boxes
    marker: dict[str, Any] = {
        "colors": [box.color for box in boxes],
        "line": {"width": 1, "color": "white"},
        "pad": {"t": 22, "l": 3, "r": 3, "b": 3},
    }
    if not isinstance(boxes[0].color, str):
        # The color bar is below the boxes; at their side, it would be too wide for a phone.
        bar = {
            "title": {"text": _text(chart.x_title), "side": "bottom"}, "orientation": "h",
            "y": -0.02, "yanchor": "top", "tickformat": ".0%", "thickness": 12,
        }  # fmt: skip
        marker |= {"colorscale": _SHARES, "cmin": 0, "cmax": 1, "showscale": True, "colorbar": bar}
    return go.Treemap(
        ids=[str(place) for place in range(len(boxes))],
        parents=["" if box.parent < 0 else str(box.parent) for box in boxes],
        labels=[_text(box.label) for box in boxes],
        values=[box.value for box in boxes],
        hovertext=[_text(box.text) for box in boxes],
        hoverinfo="text",
        branchvalues="total",
        maxdepth=2,
        tiling={"packing": "squarify", "pad": 2},
        pathbar={"thickness": 24},
        marker=marker,
    )


def _name(text: str, width: int = 24) -> str:
    return "<br>".join(_text(line) for line in wrapped(text, width))


def _text(text: str) -> str:
    """Escape HTML, and dollar signs, which begin a formula."""
    return escape(text, quote=False).replace("$", "&#36;").replace("\n", "<br>")
