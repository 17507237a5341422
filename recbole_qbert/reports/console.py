"""Sections of reports on the console, without charts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from recbole_qbert.common.output import counted
from recbole_qbert.experiments.benchmark.outputs import print_table
from recbole_qbert.experiments.benchmark.tables import BenchmarkTable
from recbole_qbert.reports.page import Example, ItemTree, ReportSection


def print_sections(sections: Sequence[ReportSection], console: Console) -> None:
    """Print all blocks except charts; texts are not interpreted as markup."""
    printers: dict[str, Callable[[Any, Console], None]] = {
        "heading": _print_heading,
        "subheading": _print_heading,
        "missing": lambda text, console: _print_lines(["", text], console),
        "paragraphs": _print_lines,
        "warnings": _print_lines,
        "table": _print_table,
        "trees": _print_trees,
        "examples": _print_examples,
    }
    for section in sections:
        for block in section.blocks:
            if block.kind in printers:
                printers[block.kind](block.content, console)


def _print_heading(text: str, console: Console) -> None:
    console.print(Text(f"\n{text}", "bold"))


def _print_lines(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(Text(line))


def _print_table(sheet: BenchmarkTable, console: Console) -> None:
    console.print()
    print_table(sheet, console)


def _print_trees(trees: Sequence[ItemTree], console: Console) -> None:
    for tree in trees:
        console.print(_grown(tree, None))


def _grown(shown: ItemTree, parent: Tree | None) -> Tree:
    label = Text.assemble((shown.prefix, "bold cyan"), f"  {counted(shown.size, 'item')}")
    tree = Tree(label) if parent is None else parent.add(label)
    for child in shown.children:
        _grown(child, tree)
    for card in shown.cards:
        tree.add(Text.assemble((card.note, "dim"), "  ", card.title))
    if shown.n_hidden:
        tree.add(Text(f"... {shown.n_hidden:,} more", "dim"))
    return tree


def _print_examples(examples: Sequence[Example], console: Console) -> None:
    for example in examples:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=True)
        columns = []
        for items in example.lists:
            table.add_column(Text(items.title), ratio=1, overflow="fold")
            columns.append([f"{c.note}  {c.title}" for c in items.cards] or [f"({items.missing})"])
        for row in zip_longest(*columns, fillvalue=""):
            table.add_row(*map(Text, row))
        console.print(Text(f"{example.title}  {example.codes}", "bold cyan"))
        console.print(Text(example.text))
        console.print(table)
