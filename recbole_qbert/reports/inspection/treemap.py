"""The treemap: boxes for the groups that share one, two and three codes."""

from __future__ import annotations

from collections import Counter

from recbole_qbert.common.output import counted
from recbole_qbert.reports.charts import PALE, TREE, Box, Chart
from recbole_qbert.reports.inspection.catalog import Catalog, ItemGroup, largest_groups, spread
from recbole_qbert.reports.inspection.facts import Facts

MAX_BOXES = 5_000  # in total; browsers become slow with more
MAX_CHILDREN = 1_000  # per box
_DEPTH = 3
_HOVER_TITLES = 6
_HOVER_WIDTH = 70
_TINTS = ("#cfe0f0", "#f5ddc4", "#d2e8d8", "#ecd6e5", "#e6e0d2", "#d3ecf0", "#f3d5d2", "#dcdcea")


def tree_chart(facts: Facts) -> tuple[Chart, int]:
    """Make the treemap of the selected group, or of all items.

    Boxes are colored by the share of their most common category. Without categories, they have the
    tint of their first code below the root, to distinguish adjacent boxes.

    Returns:
        The chart, and the number of groups that were left out.
    """
    catalog = facts.catalog
    root = facts.selected or catalog.root
    parents, n_left_out = _parents(catalog, root)
    places = {group: place for place, group in enumerate(parents)}
    boxes = []
    for group, parent in parents.items():
        common = _most_common(catalog, group)
        color: str | float = PALE
        if catalog.categories is not None:
            color = round(common[1], 3) if common else 0.0
        elif parent is not None:
            color = _TINTS[catalog.codes[group.start, root.depth] % len(_TINTS)]
        boxes.append(
            Box(
                -1 if parent is None else places[parent],
                _label(catalog, group, parent),
                group.size,
                _hover(catalog, group, common),
                color,
            )
        )
    chart = Chart(
        key="tree-figure",
        title="Tree of codes; the area of a box is its number of items",
        kind=TREE,
        boxes=tuple(boxes),
        x_title="share of the most common category",
    )
    return chart, n_left_out


def _parents(catalog: Catalog, root: ItemGroup) -> tuple[dict[ItemGroup, ItemGroup | None], int]:
    """Map each shown group to its parent, the root first; and count the groups left out."""
    shown: dict[ItemGroup, ItemGroup | None] = {root: None}
    parents, n_left_out = [root], 0
    for _ in range(min(_DEPTH, catalog.n_levels - root.depth)):
        above: dict[ItemGroup, ItemGroup] = {}
        for parent in parents:
            if parent.size > 1:
                below = catalog.subgroups(parent)
                above |= dict.fromkeys(largest_groups(below, MAX_CHILDREN), parent)
                n_left_out += max(0, len(below) - MAX_CHILDREN)
        parents = largest_groups(list(above), MAX_BOXES - len(shown))
        n_left_out += len(above) - len(parents)
        shown |= {child: above[child] for child in parents}
    return shown, n_left_out


def _label(catalog: Catalog, group: ItemGroup, parent: ItemGroup | None) -> str:
    if parent is None:
        return catalog.prefix(group)
    codes = catalog.codes_text(group.start, parent.depth, group.depth)
    if group.size > 1:
        return f"{codes}  ({group.size:,})"
    return f"{codes}\n{_short(catalog.title(group.start))}"


def _hover(catalog: Catalog, group: ItemGroup, common: tuple[str, float] | None) -> str:
    lines = [catalog.prefix(group)]
    if group.size > 1:
        lines[0] += f"  {counted(group.size, 'item')}"
    if common:
        share = f"  {common[1]:.0%}" if group.size > 1 else ""
        lines.append(f"{_short(common[0])}{share}")
    rows = spread(range(group.start, group.end), _HOVER_TITLES)
    lines += [_short(catalog.title(row)) for row in rows]
    if group.size > len(rows):
        lines.append(f"... {group.size - len(rows):,} more")
    return "\n".join(lines)


def _most_common(catalog: Catalog, group: ItemGroup) -> tuple[str, float] | None:
    """Most common category of a group, and its share of the items with a category."""
    names = [name for name in (catalog.categories or ())[group.start : group.end] if name]
    if not names:
        return None
    # Ties go to the first in the alphabet.
    name, count = min(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))
    return name, count / len(names)


def _short(text: str) -> str:
    return text if len(text) <= _HOVER_WIDTH else text[: _HOVER_WIDTH - 3] + "..."
