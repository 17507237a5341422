"""Comparison of a data set's counts with published ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.table import Table

from recbole_qbert.common.errors import InputError, did_you_mean, preview
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import shipped
from recbole_qbert.datasets.interactions import Counts


class Published(NamedTuple):
    """Published counts and their source."""

    counts: Counts
    whose: str


class Category(NamedTuple):
    """Amazon category: its name in file names, and published counts by source."""

    file: str
    counts: Mapping[str, Counts]


def amazon_files(release: int) -> dict[str, Any]:
    """Return the file name patterns of a release: `interactions` and `metadata`."""
    files: dict[str, Any] = load_yaml(shipped("amazon.yaml"))["files"][release]
    return files


def amazon_categories() -> dict[str, Category]:
    """Return all known categories by short name."""
    content = load_yaml(shipped("amazon.yaml"))["categories"]
    return {
        name: Category(entry["file"], {key: Counts(*entry[key]) for key in entry if key != "file"})
        for name, entry in content.items()
    }


def amazon_category(name: str) -> Category:
    """Return a category by short name.

    Raises:
        InputError: the category is unknown.
    """
    known = amazon_categories()
    if name not in known:
        raise InputError(
            f"category '{name}' is none of {preview(list(known))}{did_you_mean(name, known)}; for "
            "another one name the files (--reviews, --metadata)"
        )
    return known[name]


def counts_table(rows: Mapping[str, tuple[Counts, Published | None]]) -> Table:
    """Build a table of counts, with their differences from the published ones in brackets."""
    table = Table()
    for column in ("", *Counts._fields):
        table.add_column(column, justify="right" if column else "left")
    for name, (ours, theirs) in rows.items():
        cells = [f"{value:,}" for value in ours]
        if theirs is not None:
            cells = [f"{cell} ({ours[i] - theirs.counts[i]:+,})" for i, cell in enumerate(cells)]
        table.add_row(name, *cells)
        if theirs is not None:
            table.add_row("  published", *(f"{value:,}" for value in theirs.counts), style="dim")
    return table


def comparison(ours: Counts, theirs: Published) -> str:
    """Format the comparison of counts with published ones as one line."""
    if ours == theirs.counts:
        return f"The counts are those of {theirs.whose}."
    parts = [
        f"{field} {mine - other:+,} ({(mine - other) / other:+.1%})"
        for field, mine, other in zip(Counts._fields, ours, theirs.counts, strict=True)
        if mine != other
    ]
    return f"The counts differ from {theirs.whose}: {', '.join(parts)}."
