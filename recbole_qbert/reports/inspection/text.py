"""The report as text on the console."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from recbole_qbert.reports.inspection import tables as sheets
from recbole_qbert.reports.inspection.catalog import Catalog
from recbole_qbert.reports.inspection.facts import Facts
from recbole_qbert.reports.inspection.neighbors import NeighborExample
from recbole_qbert.reports.inspection.tree import Branch, Limits, branch


def print_report(facts: Facts, console: Console) -> None:
    """Print all sections; those without data print a hint on the missing input."""
    console.print(Text(facts.catalog.name, "bold"), Text(sheets.headline(facts)))
    for line in sheets.coverage_lines(facts):
        console.print(Text(line))
    for make in (sheets.usage_table, sheets.groups_table, sheets.sizes_table):
        _print_sheet(make(facts), console)
    _print_tree(facts, console)
    for found, missing in (
        (sheets.agreement_table(facts), sheets.NO_EMBEDDINGS),
        (sheets.purity_table(facts), sheets.NO_CATEGORIES),
    ):
        if found is None:
            console.print("\n", Text(missing), sep="")
        else:
            _print_sheet(found, console)
    console.print(Text("\nExample items and their nearest", "bold"))
    console.print(
        Text("by code: shared leading codes, title; by embedding: cosine, shared codes, title")
    )
    for example in facts.examples:
        _print_example(facts, example, console)


def _print_sheet(sheet: sheets.Table, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for place, column in enumerate(sheet.columns):
        table.add_column(column, justify="left" if place < sheet.n_words else "right", no_wrap=True)
    for row in sheet.rows:
        table.add_row(*map(Text, row))
    console.print(Text(f"\n{sheet.title}", "bold"))
    console.print(table)
    for note in sheet.notes:
        console.print(Text(note))


def _print_tree(facts: Facts, console: Console) -> None:
    catalog = facts.catalog
    if facts.selected:
        limits = Limits(children=30, rows=30, depth=catalog.n_levels)
    else:
        limits = Limits(children=2, rows=3, depth=2)
    console.print(Text(f"\n{sheets.groups_title(facts)}", "bold"))
    for group in facts.groups:
        shown = branch(catalog, group, limits)
        tree = Tree(_group_label(catalog, shown, 0))
        _grow(catalog, tree, shown)
        console.print(tree, no_wrap=True, overflow="ellipsis")


def _grow(catalog: Catalog, tree: Tree, shown: Branch) -> None:
    depth = shown.group.depth
    for child in shown.children:
        _grow(catalog, tree.add(_group_label(catalog, child, depth)), child)
    for row in shown.rows:
        tree.add(Text.assemble((catalog.codes_text(row, depth), "dim"), "  ", catalog.title(row)))
    if shown.n_hidden:
        tree.add(Text(f"... {shown.n_hidden:,} more", "dim"))


def _group_label(catalog: Catalog, shown: Branch, parent_depth: int) -> Text:
    codes = catalog.codes_text(shown.group.start, parent_depth, shown.group.depth)
    plural = "" if shown.group.size == 1 else "s"
    return Text.assemble((codes, "bold cyan"), f"  {shown.group.size:,} item{plural}")


def _print_example(facts: Facts, example: NeighborExample, console: Console) -> None:
    catalog = facts.catalog
    by_code = [sheets.neighbor_text(catalog, near) for near in example.by_code]
    columns = {"by code": by_code or ["(none)"]}
    for name, nearest in example.by_embedding.items():
        texts = [sheets.neighbor_text(catalog, near) for near in nearest or ()]
        columns[f"by {name}"] = texts if nearest is not None else ["(it has no embedding)"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, expand=True)
    for name in columns:
        table.add_column(Text(name), ratio=1, no_wrap=True, overflow="ellipsis")
    for place in range(max(map(len, columns.values()))):
        cells = [texts[place] if place < len(texts) else "" for texts in columns.values()]
        table.add_row(*map(Text, cells))
    console.print(Text(sheets.example_title(catalog, example.row), "bold cyan"))
    console.print(Text(sheets.sharing_text(facts, example)))
    console.print(table)
