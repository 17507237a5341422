"""Benchmark tables for the terminal, Markdown and LaTeX, and all values as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_qbert.common.files import atomic_write
from recbole_qbert.evaluation.printing import fitting
from recbole_qbert.evaluation.ranking import UNSEEN
from recbole_qbert.evaluation.results import RANKINGS
from recbole_qbert.experiments.benchmark.scores import Scores
from recbole_qbert.experiments.benchmark.tables import BEST, SECOND, BenchmarkTable, TableCell

CSV_HEAD = ("dataset", "model", "seed", "split", "ranking", "metric", "value", "deviation")
MEAN = "mean"  # replaces the seed in rows of means
STYLES = {BEST: "bold", SECOND: "underline", "": ""}
LATEX = {BEST: r"\textbf{%s}", SECOND: r"\underline{%s}", "": "%s"}
MARKDOWN = {BEST: "**%s**", SECOND: "<u>%s</u>", "": "%s"}
MARKDOWN_SPECIAL = str.maketrans({"|": "&#124;", "*": "&ast;", "<": "&lt;"})
LATEX_SPECIAL = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "–": "--",
        "\n": " ",
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    }
)


def print_table(sheet: BenchmarkTable, console: Console, form: str = "table") -> None:
    """Print a table, by default for the terminal; `form` is `table` or one of `FORMATS`."""
    if form in FORMATS:
        console.out(FORMATS[form](sheet), highlight=False)
        return
    for table in to_rich(sheet, console):
        console.print(table, crop=False)


def to_rich(sheet: BenchmarkTable, console: Console) -> list[Table]:
    """Convert a table for the terminal; a wide one is split by columns into several tables."""

    def build(numbers: Sequence[int]) -> Table:
        caption = "\n".join(sheet.notes)
        table = Table(title=Text(sheet.title), caption=Text(caption) if caption else None)
        table.caption_justify = "left"
        places = [*range(sheet.n_names), *numbers]
        for place in places:
            if place < sheet.n_names:  # names may wrap, numbers may not
                table.add_column(Text(sheet.head[place]), overflow="fold")
            else:
                table.add_column(Text(sheet.head[place]), justify="right", no_wrap=True)
        for heading, lines in sheet.sections:
            if heading:
                table.add_row(Text(heading, style="italic"))
            for line in lines:
                entries = [line[place] for place in places]
                table.add_row(*(Text(entry.text, style=STYLES[entry.mark]) for entry in entries))
            table.add_section()
        return table

    return fitting(build, range(sheet.n_names, len(sheet.head)), console)


def to_markdown(sheet: BenchmarkTable) -> str:
    """Convert a table to Markdown: a heading, the table, and the notes as a list."""
    n_numbers = len(sheet.head) - sheet.n_names
    lines = [f"## {sheet.title}", "", _pipes(sheet.head)]
    lines.append("|" + "---|" * sheet.n_names + "---:|" * n_numbers)
    for heading, rows in sheet.sections:
        if heading:
            lines.append(_pipes([f"*{heading}*"] + [""] * (len(sheet.head) - 1)))
        for row in rows:
            lines.append(
                _pipes([MARKDOWN[e.mark] % e.text.translate(MARKDOWN_SPECIAL) for e in row])
            )
    if sheet.notes:
        lines += ["", *(f"- {note.translate(MARKDOWN_SPECIAL)}" for note in sheet.notes)]
    return "\n".join([*lines, ""])


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\n", ", ") for cell in cells) + " |"


def to_latex(sheet: BenchmarkTable) -> str:
    """Convert a table to a LaTeX `tabular` with the rules of booktabs."""
    columns = "l" * sheet.n_names + "r" * (len(sheet.head) - sheet.n_names)
    lines = [f"% {sheet.title}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines.append(_latex_row([TableCell(name) for name in sheet.head]))
    for heading, rows in sheet.sections:
        lines.append(r"\midrule")
        if heading:
            lines.append(rf"\multicolumn{{{len(sheet.head)}}}{{l}}{{\emph{{{heading}}}}} \\")
        lines += [_latex_row(row) for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, *(f"% {note}" for note in sheet.notes), ""])


def _latex_row(row: Sequence[TableCell]) -> str:
    cells = (LATEX[entry.mark] % entry.text.translate(LATEX_SPECIAL) for entry in row)
    return " & ".join(cells) + r" \\"


FORMATS = {"markdown": to_markdown, "latex": to_latex}


def csv_lines(scores: Scores) -> Iterator[list[str]]:
    """CSV rows of all metrics: one row per seed, and one of mean and sample standard deviation.

    Both splits, both rankings, and on test also group metrics and coverage.
    """
    rankings = dict(RANKINGS)
    for row in scores.rows:
        names = [prefix + metric for prefix, _ in RANKINGS for metric in row.metrics]
        found = [(split, n, row.over_seeds(split, n)) for split in ("valid", "test") for n in names]
        found += [("test", name, value) for name, value in row.details.items()]
        for split, name, spread in found:
            ranking = rankings[UNSEEN if name.startswith(UNSEEN) else ""]
            place = [split, ranking, name.removeprefix(UNSEEN)]
            for run, value in zip(row.runs, spread.values, strict=True):
                yield [scores.dataset, row.name, str(run.seed), *place, repr(value), ""]
            deviation = "" if spread.deviation is None else repr(spread.deviation)
            yield [scores.dataset, row.name, MEAN, *place, repr(spread.mean), deviation]


def write_files(
    folder: Path,
    scores: Sequence[Scores],
    sheets: Sequence[Sequence[BenchmarkTable]],
    failures: Sequence[str],
) -> None:
    """Write `table.md`, `table.csv` and `table.tex`, each atomically.

    Args:
        folder: output folder; created if it does not exist.
        scores: one entry per data set.
        sheets: tables of each data set; the first one, of metrics, is also written as LaTeX.
        failures: one line for each failed run.
    """
    with atomic_write(folder / "table.md") as handle:
        handle.write("\n".join(to_markdown(sheet) for one in sheets for sheet in one))
        if failures:
            handle.write("\n## Failed\n\n" + "".join(f"- {failure}\n" for failure in failures))
    with atomic_write(folder / "table.csv") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(CSV_HEAD)
        for one in scores:
            writer.writerows(csv_lines(one))
    with atomic_write(folder / "table.tex") as handle:
        handle.write("% \\usepackage{booktabs}\n")
        handle.write("\n".join(to_latex(one[0]) for one in sheets))
