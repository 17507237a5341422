"""Reports: sections of texts, tables and charts, rendered as one HTML page or on the console.

The page is self-contained and needs no network. The template escapes all texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jinja2
import pandas as pd

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write
from recbole_qbert.experiments.benchmark.tables import BenchmarkTable, TableCell
from recbole_qbert.reports.charts import Chart

TEMPLATE = "page.html.j2"
FindPicture = Callable[[str], str | None]  # item token -> data URI


class Block(NamedTuple):
    """A part of a section.

    The content is a text (heading, subheading, missing), lines (paragraphs, warnings), charts with
    a common legend, a `BenchmarkTable` (table), `ItemTree`s (trees) or `Example`s (examples).
    """

    kind: Literal[
        "heading", "subheading", "paragraphs", "missing", "warnings", "charts", "table", "trees",
        "examples",
    ]  # fmt: skip
    content: Any


class ItemCard(NamedTuple):
    """An item in a list: token, title, a note such as its codes, and whether it is highlighted."""

    item: str
    title: str
    note: str = ""
    hit: bool = False


class ItemTree(NamedTuple):
    """A group of items: prefix, size, subgroups, items outside of them, number of other items."""

    prefix: str
    size: int
    children: tuple[ItemTree, ...]
    cards: tuple[ItemCard, ...]
    n_hidden: int


class ItemList(NamedTuple):
    """A list of items; `missing` is shown if it is empty, `more` above it."""

    title: str
    cards: tuple[ItemCard, ...]
    missing: str = ""
    more: str = ""
    numbered: bool = False


class Example(NamedTuple):
    """A user or an item (`item` is its token, else "") and lists of items side by side."""

    title: str
    text: str
    lists: tuple[ItemList, ...]
    item: str = ""
    codes: str = ""


@dataclass(frozen=True)
class ReportSection:
    """One section, shown as a tab.

    Attributes:
        key: id of its HTML element.
        title: title of the tab.
        blocks: content.
        source: files that the section was made from; "": not shown.
        command: command that made these files; of runs, without their settings.
    """

    key: str
    title: str
    blocks: tuple[Block, ...]
    source: str = ""
    command: str = ""

    @property
    def charts(self) -> list[Chart]:
        """All charts of the section, in order."""
        return [chart for block in self.blocks if block.kind == "charts" for chart in block.content]


def frame_table(
    title: str,
    frame: pd.DataFrame,
    formats: Sequence[str],
    notes: Sequence[str] = (),
    n_names: int = 1,
) -> Block:
    """Make a table block; the first `n_names` columns hold names, the others numbers.

    `formats` has a format specification per column. Missing values are shown as a hyphen.
    """
    rows = [
        [TableCell("-" if pd.isna(v) else format(v, f)) for v, f in zip(row, formats, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    head = tuple(map(str, frame.columns))
    return Block("table", BenchmarkTable(title, head, [("", rows)], list(notes), n_names))


def render(
    title: str,
    lines: Sequence[str],
    sections: Sequence[ReportSection],
    pictures: FindPicture | None = None,
    source: str = "",
    command: str = "",
) -> str:
    """Render the page as HTML; equal inputs give equal bytes.

    Args:
        title: title of the page.
        lines: paragraphs below the title.
        sections: one section per tab; keys of sections and charts must be unique.
        pictures: finds the pictures of items; None: no pictures.
        source: what the page was made from.
        command: command that makes the page again.
    """
    from plotly.offline import get_plotlyjs  # Plotly takes a second to import

    from recbole_qbert.reports.plotly_charts import chart_html

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plot": chart_html, "legend": _legend}
    return environment.get_template(TEMPLATE).render(
        title=title, lines=lines, sections=sections, pictures=pictures, source=source,
        command=command, plotly=get_plotlyjs(), version=__version__,
    )  # fmt: skip


def _legend(charts: Sequence[Chart]) -> Iterator[tuple[str, str]]:
    """Common legend of several charts: pairs of name and color."""
    yield from {name: color for one in charts for name, color in one.entries.items()}.items()


def write_page(path: str | Path, text: str) -> int:
    """Write a page atomically; return its size in bytes.

    Raises:
        InputError: the file cannot be written.
    """
    data = text.encode("utf-8")
    try:
        with atomic_write(path, "wb") as handle:
            handle.write(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot write ({reason}); choose another path") from None
    return len(data)
