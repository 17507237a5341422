"""The parts of a report: sections of text, tables and charts."""

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
    """One tab.

    Attributes:
        key: its id in the page.
        title: of the tab.
        source: what it was made from.
        again: the command that makes that again.
        blocks: HTML, or charts that stand together.
    """

    key: str
    title: str
    source: str
    again: str
    blocks: tuple[Block, ...]

    @property
    def charts(self) -> list[Chart]:
        """All charts, in their order."""
        return [chart for block in self.blocks if not isinstance(block, str) for chart in block]


def warnings_html(lines: Sequence[str]) -> str:
    """A box of warnings; nothing without any."""
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<div class="warn" role="note"><b>Mind:</b><ul>{items}</ul></div>'


def sheet_html(sheet: BenchmarkTable) -> str:
    """A benchmark's table: the best bold, the second underlined."""
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
