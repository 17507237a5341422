"""Data set statistics on the console and as an HTML page with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from recbole_qbert.reports.charts import COLUMNS, CURVES, Chart, Series, group_colors
from recbole_qbert.reports.console import print_sections
from recbole_qbert.reports.page import Block, ReportSection, render, text_table
from recbole_qbert.reports.page import write_page as write_text


def print_stats(facts: dict[str, Any], console: Console) -> None:
    """Print all statistics except the curves."""
    print_sections(_sections(facts), console)


def write_page(path: Path, facts: dict[str, Any]) -> None:
    """Write all statistics, with plots of popularity, lengths and coverage, as an HTML page.

    Raises:
        InputError: the file cannot be written.
    """
    counts = ", ".join(f"{value:,} {name}" for name, value in facts["counts"].items())
    write_text(path, render(f"{facts['dataset']}: {counts}", [], _sections(facts)))


def _sections(facts: dict[str, Any]) -> list[ReportSection]:
    names = list(facts["lengths"])
    lengths = text_table(
        "Interactions per user and item",
        ("", *names),
        [
            (title, *(f"{facts[key][name]:,.4g}" for name in names))
            for title, key in (("per user", "lengths"), ("per item", "popularity"))
        ],
    )
    shares = {k: f"{v:.1%}" for k, v in facts["popularity"].items() if k.startswith("share")}
    times, split = facts["times"], facts["leave_one_out"]
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
                "first": f"{times['first']:,.0f}",
                "last": f"{times['last']:,.0f}",
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
    keys = ("share of items", "share of interactions")
    rows = [
        (name, f"{one['items']:,}", *(f"{one[key]:.1%}" for key in keys))
        for name, one in found.items()
    ]
    shares = (list(found), [one["share of items"] for one in found.values()])
    blocks = [
        text_table("Items with each modality", ("modality", "items", *keys), rows),
        _chart("stats-coverage", "Coverage", COLUMNS, shares, y_title=keys[0], percent=True),
    ]
    catalog = _counted(facts["catalog"])
    return [*blocks, *_lines(".item file", catalog)] if catalog else blocks


def _chart(key: str, title: str, kind: str, points: Sequence[Sequence[Any]], **more: Any) -> Block:
    x, y = map(tuple, points)
    series = Series("", group_colors(1)[0], x, y, marker=False)
    return Block("charts", (Chart(key, title, kind, (series,), **more),))


def _counted(counts: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{value:,}" for name, value in counts.items() if isinstance(value, int)}


def _lines(title: str, values: Mapping[str, str]) -> list[Block]:
    lines = [f"{name}: {value}" for name, value in values.items()]
    return [Block("subheading", title), Block("paragraphs", lines)]
