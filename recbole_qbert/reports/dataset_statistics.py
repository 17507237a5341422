"""Data set statistics as text and as an HTML page with plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich import box
from rich.console import Console
from rich.table import Table

from recbole_qbert.reports import webpage

_COLOR = "#3b6fb6"


def print_stats(facts: dict[str, Any], console: Console) -> None:
    """Print all statistics except the curves."""
    counts = {name: f"{value:,}" for name, value in facts["counts"].items()}
    _print(console, facts["dataset"], counts | {"sparsity": f"{facts['sparsity']:.4%}"})
    spread = Table("", *facts["lengths"], box=box.SIMPLE_HEAD)
    for title, key in (("interactions of a user", "lengths"), ("of an item", "popularity")):
        spread.add_row(title, *(f"{facts[key][name]:,.4g}" for name in facts["lengths"]))
    console.print(spread)
    heads = {k: f"{v:.1%}" for k, v in facts["popularity"].items() if k.startswith("share")}
    _print(console, "Interactions of the most popular items", heads)
    _print(console, "Rows that repeat", {k: f"{v:,}" for k, v in facts["duplicates"].items()})
    times = facts["times"]
    shown = {"first": f"{times['first']:,.0f}", "last": f"{times['last']:,.0f}"}
    shown["rows at the time of the one before"] = f"{times['ties']:,}"
    tested = max(1, facts["leave_one_out"]["test"])
    shown["test targets at the time of the item before"] = (
        f"{times['tied test targets']:,} ({times['tied test targets'] / tested:.1%})"
    )
    _print(console, "Times", shown)
    split = {k: f"{v:,}" for k, v in facts["leave_one_out"].items() if isinstance(v, int)}
    _print(console, "Leave-one-out", split)
    if facts["leave_one_out"]["first cold items"]:
        console.print("  cold: " + ", ".join(facts["leave_one_out"]["first cold items"]))
    _print_modalities(facts, console)


def _print(console: Console, title: str, rows: dict[str, str]) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    for name, value in rows.items():
        console.print(f"  {name}: {value}", soft_wrap=True)


def _print_modalities(facts: dict[str, Any], console: Console) -> None:
    if not facts["modalities"]:
        console.print("\nNo .item file, embeddings or pictures: nothing is known of the items.")
        return
    table = Table("items have", "items", "share", "of interactions", box=box.SIMPLE_HEAD)
    for name, found in facts["modalities"].items():
        shares = (f"{found[key]:.1%}" for key in ("share of items", "share of interactions"))
        table.add_row(name, f"{found['items']:,}", *shares)
    console.print(table)
    rows = {k: f"{v:,}" for k, v in facts["catalog"].items() if v is not None}
    if rows:
        _print(console, "The .item file", rows)


def write_page(path: Path, facts: dict[str, Any]) -> None:
    """Write plots of popularity, lengths and coverage as one self-contained HTML page."""
    covered = facts["modalities"]
    figure = make_subplots(
        rows=3 if covered else 2, cols=1, vertical_spacing=0.12,
        subplot_titles=("Popularity", "Lengths", "Coverage")[: 3 if covered else 2],
    )  # fmt: skip
    ranks, counts = facts["curves"]["popularity"]
    figure.add_trace(go.Scatter(x=ranks, y=counts, mode="lines", line_color=_COLOR), 1, 1)
    figure.update_xaxes(type="log", title="rank of the item", row=1, col=1)
    figure.update_yaxes(type="log", title="interactions", row=1, col=1)
    lengths, users = facts["curves"]["lengths"]
    figure.add_trace(go.Bar(x=lengths, y=users, marker_color=_COLOR), 2, 1)
    figure.update_xaxes(title="interactions of a user", row=2, col=1)
    figure.update_yaxes(title="users", row=2, col=1)
    if covered:
        names = [webpage.chart_text(name) for name in covered]
        shares = [found["share of items"] for found in covered.values()]
        figure.add_trace(go.Bar(x=names, y=shares, marker_color=_COLOR), 3, 1)
        figure.update_yaxes(title="share of items", tickformat=".0%", range=[0, 1], row=3, col=1)
    numbers = facts["counts"]
    title = f"{webpage.chart_text(facts['dataset'])}: {numbers['users']:,} users, "
    title += f"{numbers['items']:,} items, {numbers['interactions']:,} interactions"
    figure.update_layout(template="simple_white", showlegend=False, height=1100, title=title)
    webpage.write_page(path, figure.to_html(include_plotlyjs=True, div_id="stats"))
