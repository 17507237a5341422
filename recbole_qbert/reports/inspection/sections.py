"""Sections on semantic IDs: code usage, tree of codes, groups, nearest items and purity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import preview
from recbole_qbert.common.output import counted
from recbole_qbert.reports.charts import COLUMNS, PALE, Chart, Series, group_colors
from recbole_qbert.reports.inspection.catalog import (
    Catalog,
    ItemGroup,
    largest_groups,
    printable,
    spread,
)
from recbole_qbert.reports.inspection.facts import Facts
from recbole_qbert.reports.inspection.treemap import tree_chart
from recbole_qbert.reports.page import (
    Block,
    ItemCard,
    ItemTree,
    ReportSection,
    frame_table,
)

NO_TITLES = (
    "No titles: items are shown by token. Give an .item file and its title field "
    "(--item_file=X.item --title_field=title)."
)
NO_SIDECAR = (
    "No sidecar file: the number of collisions before reallocation is unknown. Files made by this "
    "package have a sidecar."
)
NO_EMBEDDINGS = (
    "No embeddings: nearest items are by code only. Give the embeddings of the IDs "
    "(--embeddings=text=X.text.npz,image=X.image.npz)."
)
NO_CATEGORIES = (
    "No categories: give an .item file and its category field "
    "(--item_file=X.item --category_field=class)."
)
NO_IMAGES = "No pictures: give a folder of <item_id>.jpg files (--images=folder)."


class Limits(NamedTuple):
    """Limits of the shown part of a group."""

    children: int  # subgroups of two or more items, the largest first
    rows: int  # single items
    depth: int  # shared codes of subgroups


def page_sections(facts: Facts, has_pictures: bool) -> list[ReportSection]:
    """Make the sections of the page."""
    selected = facts.selected
    limits = Limits(children=4, rows=6, depth=2)
    if selected:
        limits = Limits(20, 24, min(facts.catalog.n_levels, selected.depth + 2))
    usage, groups, nearest, purity = console_sections(facts, limits)
    if not has_pictures:
        groups = ReportSection("groups", "Groups", (Block("missing", NO_IMAGES), *groups.blocks))
    return [usage, _tree(facts), groups, nearest, purity]


def console_sections(facts: Facts, limits: Limits | None = None) -> list[ReportSection]:
    """Make all sections but the treemap; `limits` restrict the shown items of a group."""
    if limits is None:
        selected = Limits(children=30, rows=30, depth=facts.catalog.n_levels)
        limits = selected if facts.selected else Limits(children=2, rows=3, depth=2)
    trees = [item_tree(facts.catalog, group, limits) for group in facts.groups]
    groups = (
        Block("subheading", _groups_title(facts)),
        Block("paragraphs", ["Items of large groups are selected evenly."]),
        Block("trees", trees),
    )
    return [
        ReportSection("usage", "Usage", _usage(facts)),
        ReportSection("groups", "Groups", groups),
        ReportSection("nearest", "Nearest items", _nearest(facts)),
        ReportSection("purity", "Purity", _purity(facts)),
    ]


def summary_lines(facts: Facts) -> list[str]:
    """Lines on the file, and on the items with titles, categories, embeddings and content."""
    catalog = facts.catalog
    sizes = " x ".join(map(str, catalog.codebook_sizes))
    lines = [
        f"{counted(catalog.n_items, 'item')}, {counted(catalog.n_levels, 'level')}, codebooks "
        f"{sizes}"
    ]
    if catalog.titles is None:
        lines.append(NO_TITLES)
    counts = [
        (sum(map(bool, texts)), name)
        for name, texts in (("a title", catalog.titles), ("a category", catalog.categories))
        if texts is not None
    ]
    counts += [(found.n_items, f"an embedding '{found.name}'") for found in facts.agreements]
    for count, name in counts:
        verb = "has" if count == 1 else "have"
        lines.append(f"{count:,} of {counted(catalog.n_items, 'item')} {verb} {name}")
    if catalog.without_content:
        names = preview(list(map(printable, sorted(catalog.without_content))))
        lines.append(
            f"{counted(len(catalog.without_content), 'item has', 'items have')} no content vector: "
            f"{names}"
        )
    return lines


def item_tree(
    catalog: Catalog, group: ItemGroup, limits: Limits, parent_depth: int = 0
) -> ItemTree:
    """Select the part of the tree below a group that is shown."""
    rows: range | list[int] = range(group.start, group.end)
    children: list[ItemTree] = []
    if group.depth < min(limits.depth, catalog.n_levels):
        subgroups = catalog.subgroups(group)
        rows = [one.start for one in subgroups if one.size == 1]
        shared = [one for one in subgroups if one.size > 1]
        children = [
            item_tree(catalog, _narrow(catalog, child, limits.depth), limits, group.depth)
            for child in largest_groups(shared, limits.children)
        ]
    shown = spread(rows, limits.rows)
    return ItemTree(
        prefix=catalog.codes_text(group.start, parent_depth, group.depth),
        size=group.size,
        children=tuple(children),
        cards=tuple(
            ItemCard(catalog.items[row], catalog.title(row), catalog.codes_text(row, group.depth))
            for row in shown
        ),
        n_hidden=group.size - sum(child.size for child in children) - len(shown),
    )


def _narrow(catalog: Catalog, group: ItemGroup, most: int) -> ItemGroup:
    """Extend a group's prefix by all shared codes up to depth `most`, to skip single children."""
    first, last = catalog.codes[[group.start, group.end - 1]].tolist()
    depth = group.depth
    # Rows are sorted, so all rows share the codes that the first and the last share.
    while depth < most and first[depth] == last[depth]:
        depth += 1
    return ItemGroup(depth, group.start, group.end)


def _columns(
    key: str,
    title: str,
    names: Iterable[str],
    values: Mapping[str, tuple[Iterable[float], str]],
    number: str,  # format of hover texts
    **more: bool | str,
) -> Block:
    """Make a column chart; `values` maps the name of a series to heights and color."""
    names = tuple(names)
    series = []
    for name, (heights, color) in values.items():
        pairs = list(zip(names, heights, strict=True))
        texts = tuple(f"{name}, {where}: {height:{number}}" for where, height in pairs)
        series.append(Series(name, color, names, tuple(h for _, h in pairs), texts=texts))
    return Block("charts", [Chart(key, title, COLUMNS, tuple(series), **more)])  # type: ignore[arg-type]


def _usage(facts: Facts) -> tuple[Block, ...]:
    usage, sizes, names = facts.usage, facts.sizes, facts.catalog.depth_names
    usage_chart = _columns(
        "usage-figure",
        "Used codes and perplexity, as shares of the codebook",
        "level " + usage["level"],
        {
            "used codes": (usage["share used"], PALE),
            "perplexity": (usage["perplexity"] / usage["codes"], group_colors(1)[0]),
        },
        ".1%",
        y_title="share of the codebook",
        percent=True,
    )
    formats = ["", ",", ",", ".1%", ".1f", "", ","]
    usage_table = frame_table("Usage of each level", usage, formats, _build_notes(facts))
    groups_table = frame_table(
        "Groups by shared prefix",
        facts.depths,
        ("", ",", ",", ".1%", ",.2f", ","),
        ["others: mean number of other items with an item's prefix."],
    )
    # A depth at which all groups have one item is left out; its bar would dwarf all others.
    several = facts.depths["single items"] < facts.catalog.n_items
    bars = {
        f"shared {name}": (sizes[name], color)
        for name, color, shown in zip(names, group_colors(len(names)), several, strict=True)
        if shown
    }
    sizes_chart = _columns(
        "sizes-figure", "Groups by size", sizes["items in the group"], bars, ",",
        x_title="items in the group", y_title="groups (logarithmic)", log_y=True,
    )  # fmt: skip
    formats = ["", *[",.0f"] * len(names)]
    sizes_table = frame_table("Number of groups by size", sizes.replace(0, np.nan), formats)
    return usage_chart, usage_table, groups_table, sizes_chart, sizes_table


def _tree(facts: Facts) -> ReportSection:
    chart, n_left_out = tree_chart(facts)
    lines = [
        "A box is a group of items that share their first codes. Click a box to open it, and the "
        "bar above to go back. Hover over a box for titles."
    ]
    if n_left_out:
        lines.append(
            f"{n_left_out:,} of the smallest boxes are left out, so some boxes have empty space. "
            "Give a prefix to show all boxes below it (--prefix=a_12)."
        )
    return ReportSection(
        "tree", "Tree of codes", (Block("paragraphs", lines), Block("charts", [chart]))
    )


def _nearest(facts: Facts) -> tuple[Block, ...]:
    blocks = [Block("missing", NO_EMBEDDINGS)]
    if facts.agreements:
        blocks = _agreement(facts)
    note = (
        "By code: number of shared leading codes. By embedding: cosine, number of shared leading "
        "codes."
    )
    return (
        *blocks,
        Block("subheading", "Example items and their nearest items"),
        Block("paragraphs", [note]),
        Block("examples", facts.examples),
    )


def _agreement(facts: Facts) -> list[Block]:
    """Chart and table of the agreement of embeddings and codes."""
    bars: dict[str, tuple[Iterable[float], str]] = {}
    rows, notes = [], []
    for found, color in zip(facts.agreements, group_colors(len(facts.agreements)), strict=True):
        bars[found.name] = (found.shared[:-1], color)
        bars[f"{found.name}, by chance"] = (found.shared_chance[:-1], PALE)
        depths = zip(facts.depths["shared codes"], found.shared, found.shared_chance, strict=True)
        rows += [
            (found.name, f"share {names}", share, chance)
            for names, share, chance in depths
            if chance  # zero for whole tuples, which are unique
        ]
        nearest = f"are among the {found.n_nearest} nearest by code"
        rows.append((found.name, nearest, found.overlap, found.overlap_chance))
        notes.append(
            f"Shares of the {found.n_nearest} nearest items by cosine of '{found.name}'; mean over "
            f"{found.n_asked:,} of {counted(found.n_items, 'item')}."
        )
    chart = _columns(
        "agreement-figure",
        "Nearest items by embedding that share codes",
        [f"shared {name}" for name in facts.catalog.depth_names[:-1]],
        bars,
        ".2%",
        y_title=f"share of the {facts.agreements[0].n_nearest} nearest",
        percent=True,
    )
    frame = pd.DataFrame(rows, columns=["embedding", "nearest items that", "share", "by chance"])
    frame["times chance"] = frame["share"] / frame["by chance"]
    formats = ("", "", ".2%", ".2%", ",.1f")
    return [chart, frame_table("Nearest by embedding and by code", frame, formats, notes, 2)]


def _purity(facts: Facts) -> tuple[Block, ...]:
    found = facts.purity
    if found is None:
        return (Block("missing", NO_CATEGORIES),)
    drawn = found.groupings[found.groupings["groups"] > 0]
    colors = [*group_colors(2), PALE, "#e6d5c3"]
    names = ["purity", "NMI", "purity by chance", "NMI by chance"]
    bars = {name: (drawn[name], color) for name, color in zip(names, colors, strict=True)}
    title = "Purity of the groups by category"
    chart = _columns("purity-figure", title, drawn.index, bars, ".3f", y_title="from 0 to 1")
    notes = [
        f"Categories: {found.label}; {counted(found.n_categories, 'category', 'categories')} of "
        f"{counted(found.n_items, 'item')}; "
        f"{counted(found.n_without, 'item has', 'items have')} none. The most common one, "
        f"'{found.largest}', has {found.largest_share:.1%}.",
        "single: items that do not share their group, which are left out of the row. by chance: "
        "mean over permuted categories. gain: 0% is chance, 100% is perfect.",
    ]
    frame = found.groupings.reset_index()
    frame.columns = frame.columns.str.replace(r"\w+ (by chance|gain)", r"\1", regex=True)
    formats = ("", ",", ",", ",", *(".3f", ".3f", ".0%") * 2)
    return chart, frame_table(title, frame, formats, notes)


def _groups_title(facts: Facts) -> str:
    if facts.selected:
        return f"Items that share {facts.catalog.prefix(facts.selected)}"
    n = len(facts.groups)
    return f"The {f'{n} largest groups' if n > 1 else 'largest group'} of items that share one code"


def _build_notes(facts: Facts) -> list[str]:
    build, n = facts.build, facts.catalog.n_items
    notes = ["All IDs are unique."]
    if facts.catalog.source is None:
        notes.append(NO_SIDECAR)
    elif not build:
        notes.append("The sidecar does not report collisions.")
    if "collisions" in build:
        count = build["collisions"]
        items = counted(count, "item")
        notes.append(
            f"Before reallocation, {items} ({count / n:.1%}) repeated another item's codes."
        )
    if "moved" in build:
        items = counted(build["moved"], "item")
        notes.append(f"{items} ({build['moved'] / n:.1%}) moved to free codes.")
    if "moved_per_level" in build:
        levels = zip(facts.usage["level"], build["moved_per_level"], strict=False)
        notes.append(
            "Moved, by level: " + ", ".join(f"{level} {count:,}" for level, count in levels)
        )
    if "extra_level" in build:
        level = build["extra_level"]["level"]
        notes.append(f"Level {level} was added to make equal tuples unique.")
    return notes
