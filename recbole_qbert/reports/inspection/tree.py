"""The tree of prefixes, reduced to a size that can be shown."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_qbert.reports.inspection.catalog import Catalog, ItemGroup


@dataclass(frozen=True)
class Limits:
    """Limits of the shown part of a group.

    Attributes:
        children: maximum number of subgroups of two or more items, the largest first.
        rows: maximum number of single items.
        depth: maximum depth (number of shared codes) of subgroups.
    """

    children: int
    rows: int
    depth: int


@dataclass(frozen=True)
class Branch:
    """A group and its shown part.

    Attributes:
        group: the group.
        children: shown subgroups.
        rows: rows of shown items outside these subgroups.
        n_hidden: number of items that are in neither.
    """

    group: ItemGroup
    children: tuple[Branch, ...]
    rows: tuple[int, ...]
    n_hidden: int


def largest_groups(groups: list[ItemGroup], n: int) -> list[ItemGroup]:
    """The n largest groups, largest first; groups of equal size are ordered by their codes."""
    return sorted(groups, key=lambda group: (-group.size, group.start))[:n]


def spread(rows: range | list[int], n: int) -> list[int]:
    """Select at most n rows, evenly spaced, so that they do not all come from one subgroup."""
    if len(rows) <= n:
        return list(rows)
    return [rows[(2 * place + 1) * len(rows) // (2 * n)] for place in range(n)]


def branch(catalog: Catalog, group: ItemGroup, limits: Limits) -> Branch:
    """Select the part of the tree below a group that is shown."""
    if group.depth >= min(limits.depth, catalog.n_levels):
        rows = spread(range(group.start, group.end), limits.rows)
        return Branch(group, (), tuple(rows), group.size - len(rows))
    subgroups = catalog.subgroups(group)
    shared = [subgroup for subgroup in subgroups if subgroup.size > 1]
    children = [
        branch(catalog, _narrow(catalog, child, limits.depth), limits)
        for child in largest_groups(shared, limits.children)
    ]
    rows = spread([one.start for one in subgroups if one.size == 1], limits.rows)
    n_hidden = group.size - sum(child.group.size for child in children) - len(rows)
    return Branch(group, tuple(children), tuple(rows), n_hidden)


def _narrow(catalog: Catalog, group: ItemGroup, most: int) -> ItemGroup:
    """Extend a group's prefix by all shared codes up to depth `most`, to skip single children."""
    first, last = catalog.codes[[group.start, group.end - 1]].tolist()
    depth = group.depth
    # Rows are sorted, so all rows share the codes that the first and the last share.
    while depth < most and first[depth] == last[depth]:
        depth += 1
    return ItemGroup(depth, group.start, group.end)
