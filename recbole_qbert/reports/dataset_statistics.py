"""Data set statistics on the console and as an HTML page with plots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from recbole_qbert.common.output import counted
from recbole_qbert.datasets.times import as_dates
from recbole_qbert.reports.charts import COLUMNS, CURVES, Chart, Series, group_colors
from recbole_qbert.reports.console import print_sections
from recbole_qbert.reports.page import Block, ReportSection, frame_table, render
from recbole_qbert.reports.page import write_page as write_text


def print_stats(facts: dict[str, Any], console: Console) -> None:
    """Print all statistics except the curves."""
    print_sections(_sections(facts), console)


def write_page(path: Path, facts: dict[str, Any]) -> None:
    """Write all statistics, with plots of popularity, lengths and coverage, as an HTML page.

    Raises:
        InputError: the file cannot be written.
    """
    counts = ", ".join(counted(n, name.removesuffix("s")) for name, n in facts["counts"].items())
    write_text(path, render(f"{facts['dataset']}: {counts}", [], _sections(facts)))


def _sections(facts: dict[str, Any]) -> list[ReportSection]:
    spreads = pd.DataFrame([facts["lengths"], facts["popularity"]])[list(facts["lengths"])]
    spreads.insert(0, "interactions", ["per user", "per item"])
    formats = ["", *[",.4g"] * (len(spreads.columns) - 1)]
    lengths = frame_table("Interactions per user and item", spreads, formats)
    shares = {k: f"{v:.1%}" for k, v in facts["popularity"].items() if k.startswith("share")}
    times, split = facts["times"], facts["leave_one_out"]
    raw = times["first"], times["last"]
    dates = as_dates(raw)
    first, last = [f"{each} UTC" for each in dates] if dates else [f"{each:,.0f}" for each in raw]
    tied = times["tied test targets"] / max(1, split["test"])
    counts = [
        *_lines(facts["dataset"], _counted(facts["counts"])),
        Block("paragraphs", [f"sparsity: {facts['sparsity']:.4%}"]),
        lengths,
        _chart("stats-lengths", "Lengths", COLUMNS, facts["curves"]["lengths"],
               x_title="interactions of a user", y_title="users"),
    ]  # fmt: skip
    popularity = [
        *_lines("Share of the interactions by the most popular items", shares),
        _chart("stats-popularity", "Popularity", CURVES, facts["curves"]["popularity"],
               x_title="rank of the item", y_title="interactions", log_x=True, log_y=True),
    ]  # fmt: skip
    rows = [
        *_lines("Repeated rows", _counted(facts["duplicates"])),
        *_lines(
            "Times",
            {
                "first": first,
                "last": last,
                "rows with the time of the user's previous row": f"{times['ties']:,}",
                "test targets with the time of the previous item": (
                    f"{times['tied test targets']:,} ({tied:.1%})"
                ),
            },
        ),
        *_lines("Leave-one-out", _counted(split)),
    ]
    if split["first cold items"]:
        cold = ", ".join(split["first cold items"])
        rows.append(Block("paragraphs", [f"first cold items: {cold}"]))
    return [
        ReportSection("counts", "Counts", tuple(counts)),
        ReportSection("popularity", "Popularity", tuple(popularity)),
        ReportSection("rows", "Rows and splits", tuple(rows)),
        ReportSection("coverage", "Coverage", tuple(_coverage(facts))),
    ]


def _coverage(facts: dict[str, Any]) -> list[Block]:
    found = facts["modalities"]
    if not found:
        hint = "No .item file, embeddings or pictures: there is no information on the items."
        return [Block("missing", hint)]
    frame = pd.DataFrame.from_dict(found, orient="index").rename_axis("modality").reset_index()
    columns = ["modality", "items", "share of items", "share of interactions"]
    shares = (frame["modality"], frame["share of items"])
    blocks = [
        frame_table("Items with each modality", frame[columns], ("", ",", ".1%", ".1%")),
        _chart("stats-coverage", "Coverage", COLUMNS, shares, y_title=columns[2], percent=True),
    ]
    catalog = _counted(facts["catalog"])
    return [*blocks, *_lines(".item file", catalog)] if catalog else blocks


def _chart(key: str, title: str, kind: str, points: Sequence[Iterable[Any]], **more: Any) -> Block:
    x, y = map(tuple, points)
    series = Series("", group_colors(1)[0], x, y, marker=False)
    return Block("charts", [Chart(key, title, kind, (series,), **more)])


def _counted(counts: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{value:,}" for name, value in counts.items() if isinstance(value, int)}


def _lines(title: str, values: Mapping[str, str]) -> list[Block]:
    lines = [f"{name}: {value}" for name, value in values.items()]
    return [Block("subheading", title), Block("paragraphs", lines)]
