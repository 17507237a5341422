"""Benchmark tables for the terminal, Markdown and LaTeX, and all values as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recbole_qbert.common.files import atomic_write
from recbole_qbert.evaluation.printing import fitting
from recbole_qbert.evaluation.ranking import UNSEEN
from recbole_qbert.evaluation.results import RANKINGS
from recbole_qbert.experiments.benchmark.scores import MeanStd, Row, Scores
from recbole_qbert.experiments.benchmark.tables import BEST, SECOND, BenchmarkTable, TableCell

CSV_HEAD = ("dataset", "model", "seed", "split", "ranking", "metric", "value", "deviation")
MEAN = "mean"  # replaces the seed in rows of means
STYLES = {BEST: "bold", SECOND: "underline", "": ""}
LATEX = {BEST: r"\textbf{%s}", SECOND: r"\underline{%s}", "": "%s"}
MARKDOWN = {BEST: "**%s**", SECOND: "<u>%s</u>", "": "%s"}
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


def to_rich(sheet: BenchmarkTable, console: Console) -> list[Table]:
    """Convert a table for the terminal; a wide one is split by columns into several tables."""

    def build(numbers: Sequence[int]) -> Table:
        caption = "\n".join(sheet.notes)
        table = Table(title=Text(sheet.title), caption=Text(caption) if caption else None)
        places = [*range(sheet.n_names), *numbers]
        for place in places:
            table.add_column(Text(sheet.head[place]), **_layout(place < sheet.n_names))
        for heading, lines in sheet.sections:
            if heading:
                table.add_row(Text(heading, style="italic"))
            for line in lines:
                entries = [line[place] for place in places]
                table.add_row(*(Text(entry.text, style=STYLES[entry.mark]) for entry in entries))
            table.add_section()
        return table

    return fitting(build, range(sheet.n_names, len(sheet.head)), console)


def _layout(name: bool) -> dict[str, Any]:
    """Options of a rich column: names may wrap, numbers may not."""
    return {"overflow": "fold"} if name else {"justify": "right", "no_wrap": True}


def to_markdown(sheet: BenchmarkTable) -> str:
    """Convert a table to Markdown: a heading, the table, and the notes as a list."""
    lines = [f"## {sheet.title}", "", _pipes(sheet.head)]
    marks = ["---"] * sheet.n_names + ["---:"] * (len(sheet.head) - sheet.n_names)
    lines.append("|" + "|".join(marks) + "|")
    for heading, rows in sheet.sections:
        if heading:
            lines.append(_pipes([f"*{heading}*"] + [""] * (len(sheet.head) - 1)))
        lines += [_pipes([MARKDOWN[e.mark] % _escaped(e.text) for e in row]) for row in rows]
    if sheet.notes:
        lines += ["", *(f"- {_escaped(note)}" for note in sheet.notes)]
    return "\n".join([*lines, ""])


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\n", ", ") for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Escape the characters that have a meaning in Markdown."""
    return text.replace("|", "&#124;").replace("*", "&ast;").replace("<", "&lt;")


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


def csv_lines(scores: Scores) -> Iterator[list[str]]:
    """CSV rows: all metrics of each run and their means, for both splits and both rankings.

    Group metrics and coverage on test are included.
    """
    for row in scores.rows:
        names = [prefix + metric for prefix, _ in RANKINGS for metric in row.metrics]
        for split in ("valid", "test"):
            for name in names:
                yield from _csv_metric(
                    scores.dataset, row, split, name, row.over_seeds(split, name)
                )
        for metric, value in row.details.items():
            yield from _csv_metric(scores.dataset, row, "test", metric, value)


def _csv_metric(
    dataset: str, row: Row, split: str, metric: str, spread: MeanStd
) -> Iterator[list[str]]:
    """One row per seed, and a row of the mean and the sample standard deviation."""
    ranking = dict(RANKINGS)[UNSEEN if metric.startswith(UNSEEN) else ""]
    metric = metric.removeprefix(UNSEEN)
    seeds = [str(run.seed) for run in row.runs]
    deviation = "" if spread.deviation is None else repr(spread.deviation)
    for seed, value in zip(seeds, spread.values, strict=True):
        yield [dataset, row.name, seed, split, ranking, metric, repr(value), ""]
    yield [dataset, row.name, MEAN, split, ranking, metric, repr(spread.mean), deviation]


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
