"""Sections of a report, made of text, tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from recbole_qbert.experiments.benchmark.tables import BEST, SECOND, BenchmarkTable, TableCell
from recbole_qbert.reports import webpage
from recbole_qbert.reports.charts import Chart

Block = str | tuple[Chart, ...]
MARKS = {BEST: "<b>%s</b>", SECOND: "<u>%s</u>", "": "%s"}


@dataclass(frozen=True)
class ReportSection:
    """One section, shown as a tab.

    Attributes:
        key: id of its HTML element.
        title: title of the tab.
        source: files that the section was made from.
        again: command that makes these files again.
        blocks: HTML texts, or groups of charts.
    """

    key: str
    title: str
    source: str
    again: str
    blocks: tuple[Block, ...]

    @property
    def charts(self) -> list[Chart]:
        """All charts of the section, in order."""
        return [chart for block in self.blocks if not isinstance(block, str) for chart in block]


def warnings_html(lines: Sequence[str]) -> str:
    """Render a box of warnings; empty if there are none."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warn" role="note"><b>Mind:</b><ul>{items}</ul></div>'


def sheet_html(sheet: BenchmarkTable) -> str:
    """Render a benchmark table, with the best value bold and the second-best underlined."""
    head = webpage.cells("th", sheet.head, sheet.n_names).replace("\n", "<br>")
    lines = []
    for heading, rows in sheet.sections:
        if heading:
            span = f'<th class="word part" colspan="{len(sheet.head)}" scope="rowgroup">'
            lines.append(f"<tr>{span}{escape(heading)}</th></tr>")
        lines += [f"<tr>{_cells(row, sheet.n_names)}</tr>" for row in rows]
    return webpage.table(sheet.title, head, "".join(lines), sheet.notes)


def _cells(row: Sequence[TableCell], n_names: int) -> str:
    cells = []
    for place, entry in enumerate(row):
        text = MARKS[entry.mark] % escape(entry.text).replace("\n", "<br>")
        kind = ' class="word"' if place < n_names else ""
        cells.append(f"<td{kind}>{text}</td>")
    return "".join(cells)
