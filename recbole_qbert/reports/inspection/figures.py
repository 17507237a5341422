"""Bar charts of the page as Plotly figures. Texts are escaped: Plotly interprets some HTML."""

from __future__ import annotations

import plotly.graph_objects as go

from recbole_qbert.reports.inspection import tables as sheets
from recbole_qbert.reports.inspection.facts import Facts
from recbole_qbert.reports.inspection.usage import bucket_labels
from recbole_qbert.reports.webpage import COLORS, PALE, chart_text, styled


def usage_figure(facts: Facts) -> go.Figure:
    """Bar chart of used codes and perplexity by level, as shares of the codebook."""
    levels = [f"level {row.level}" for row in facts.usage]
    figure = go.Figure(
        [
            go.Bar(
                name=name, x=levels, y=values, marker_color=color,
                hovertemplate="%{x}: %{y:.1%}<extra></extra>",
            )
            for name, values, color in (
                ("codes used", [row.used / row.codebook_size for row in facts.usage], PALE),
                ("perplexity", [row.perplexity / row.codebook_size for row in facts.usage],
                 COLORS[0]),
            )
        ]
    )  # fmt: skip
    return styled(figure, "share of the codebook", percent=True)


def sizes_figure(facts: Facts) -> go.Figure:
    """Bar chart of the number of groups by size, one color per depth."""
    labels = bucket_labels(max(len(row.histogram) for row in facts.depths))
    figure = go.Figure()
    for place, (name, row) in enumerate(zip(sheets.depth_names(facts), facts.depths, strict=True)):
        if row.n_single == facts.catalog.n_items:
            continue  # all groups have one item; the bar would dwarf all others
        counts = [*row.histogram, *[0] * (len(labels) - len(row.histogram))]
        figure.add_bar(
            name=f"share {name}", x=labels, y=counts,
            marker_color=COLORS[place % len(COLORS)],
            hovertemplate="%{y:,} groups of %{x}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="category", title="items in the group")
    return styled(figure, "groups (logarithmic)").update_yaxes(type="log", dtick=1)


def agreement_figure(facts: Facts) -> go.Figure:
    """Bar chart of the share of nearest items by embedding that share codes, and of chance."""
    figure = go.Figure()
    names = [f"share {name}" for name in sheets.depth_names(facts)][:-1]
    for place, found in enumerate(facts.agreements):
        label = chart_text(found.name)
        for what, values, color in (
            (label, found.shared, COLORS[place % len(COLORS)]),
            (f"{label}, by chance", found.shared_chance, PALE),
        ):
            figure.add_bar(
                name=what, x=names, y=values[:-1], marker_color=color,
                hovertemplate="%{x}: %{y:.2%}<extra></extra>",
            )  # fmt: skip
    return styled(figure, f"of the {facts.agreements[0].n_nearest} nearest", percent=True)


def purity_figure(facts: Facts) -> go.Figure:
    """Bar chart of purity and mutual information of each grouping, and of their chance levels."""
    rows = [row for row in (*facts.purity.prefixes, *facts.purity.levels) if row.n_groups] \
        if facts.purity else []  # fmt: skip
    names = [row.name for row in rows]
    series = (
        ("purity", [row.purity for row in rows], COLORS[0]),
        ("purity by chance", [row.purity_chance for row in rows], PALE),
        ("NMI", [row.nmi for row in rows], COLORS[1]),
        ("NMI by chance", [row.nmi_chance for row in rows], "#e6d5c3"),
    )
    figure = go.Figure(
        [
            go.Bar(
                name=name, x=names, y=values, marker_color=color,
                hovertemplate="%{x}: %{y:.3f}<extra></extra>",
            )
            for name, values, color in series
        ]
    )  # fmt: skip
    return styled(figure, "0 to 1").update_yaxes(range=[0, 1])
