"""Charts as Plotly figures in an HTML page; adjacent charts share a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from recbole_qbert.reports import webpage
from recbole_qbert.reports.charts import (
    BARS,
    COLUMNS,
    MAP,
    Chart,
    Series,
    legend_of,
    rows_and_lines,
    wrapped,
)


def charts_html(charts: Sequence[Chart]) -> str:
    """Render charts in a grid, which has one column on narrow screens, with a common legend."""
    figures = "".join(_one(chart) for chart in charts)
    kind = "charts single" if len(charts) == 1 else "charts"
    return f'<div class="{kind}">{_legend(charts)}{figures}</div>'


def _legend(charts: Sequence[Chart]) -> str:
    """Render legend buttons that show and hide the series of their name."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-name="{escape(name)}">'
        f'<i style="background:{color}"></i>{escape(name)}</button>'
        for name, color in legend_of(charts).items()
    )
    return f'<div class="legend" role="group" aria-label="legend">{buttons}</div>' * bool(buttons)


def _one(chart: Chart) -> str:
    note = f"<p>{escape(chart.note)}</p>" * bool(chart.note)
    title = escape(chart.title)
    return (
        f'<figure class="{chart.kind}" aria-label="{title}"><figcaption>{title}</figcaption>'
        f"{webpage.figure(to_plotly(chart), chart.key)}{note}</figure>"
    )


def to_plotly(chart: Chart) -> go.Figure:
    """Convert a chart to a Plotly figure; texts are escaped, since Plotly interprets some HTML."""
    figure = webpage.styled(go.Figure([_trace(chart, each) for each in chart.series]), "")
    figure.update_layout(
        showlegend=False, margin={"l": 60, "r": 16, "t": 12, "b": 50}, hovermode="closest"
    )
    figure.update_xaxes(title=_text(chart.x_title), gridcolor="#eef1f4", automargin=True)
    figure.update_yaxes(title=_text(chart.y_title), automargin=True)
    if chart.kind == BARS:
        n_bars, n_lines = rows_and_lines(chart)
        figure.update_layout(height=90 + (14 + 17 * n_lines) * n_bars, margin={"l": 20})
        figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
        figure.update_xaxes(rangemode="tozero", nticks=5, tickangle=0)
    elif chart.kind == COLUMNS:
        figure.update_xaxes(type="category")
        figure.update_yaxes(rangemode="tozero")
    elif chart.kind == MAP:
        # The style sheet sets the height, which depends on the width of the window.
        figure.update_layout(height=None, margin={"l": 8, "r": 8, "b": 8})
        figure.update_xaxes(visible=False)
        figure.update_yaxes(visible=False, scaleanchor="x")
    if chart.ticks:
        figure.update_xaxes(
            tickvals=[place for place, _ in chart.ticks],
            ticktext=[_name(text, 14) for _, text in chart.ticks],
            zeroline=False,
            autotickangles=[0, -90],
        )
    if chart.log_x:
        places = _log_places([float(x) for series in chart.series for x in series.x])
        figure.update_xaxes(type="log", tickvals=places, ticktext=[f"{x:g}" for x in places])
    if chart.bare_y:
        figure.update_yaxes(showticklabels=False, showgrid=False, zeroline=False)
        figure.update_layout(margin={"r": 50})
    for label in chart.labels:
        figure.add_annotation(
            x=label.x, y=label.y, text=_text(label.text), showarrow=False,
            yanchor="bottom" if label.above else "top", font={"size": 10},
        )  # fmt: skip
    return figure


def _log_places(values: Sequence[float]) -> list[float]:
    """Tick positions of a logarithmic axis: 1, 2 and 5 times powers of ten that span the values.

    Plotly's own ticks between powers of ten show only the first digit.
    """
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 2)
    places = [float(f"{step}e{power}") for power in powers for step in (1, 2, 5)]
    first = max((place for place in places if place <= low), default=places[0])
    last = min(place for place in places if place >= high)
    return [place for place in places if first <= place <= last]


def _trace(chart: Chart, series: Series) -> go.Scatter | go.Bar:
    settings: dict[str, Any] = {"name": _text(series.name), "meta": series.name}
    error = {"array": list(series.error), "thickness": 1.5, "width": 4, "color": "#1f2933"}
    x, y = [_value(each) for each in series.x], [_value(each) for each in series.y]
    hover = [_text(text) for text in series.texts]
    if hover:
        settings |= {"hovertext": hover, "hoverinfo": "text"}
    if chart.kind in (BARS, COLUMNS):
        if series.error:
            settings["error_x" if chart.kind == BARS else "error_y"] = error
        orientation = "h" if chart.kind == BARS else "v"
        return go.Bar(x=x, y=y, orientation=orientation, marker_color=series.color, **settings)
    if series.error:
        settings["error_y"] = {**error, "color": series.color}
    mode = "+".join(["lines"] * series.line + ["markers"] * series.marker)
    size = 6 if series.line or chart.kind == MAP else 9
    return go.Scatter(
        x=x, y=y, mode=mode,
        marker={"color": series.color, "size": size,
                "opacity": 0.8 if chart.kind == MAP else 1.0},
        line={"color": series.color if isinstance(series.color, str) else None,
              "width": series.width},
        **settings,
    )  # fmt: skip


def _value(value: float | str) -> float | str:
    return _name(value) if isinstance(value, str) else value


def _name(text: str, width: int = 24) -> str:
    return "<br>".join(_text(line) for line in wrapped(text, width))


def _text(text: str) -> str:
    return webpage.chart_text(text).replace("\n", "<br>")
