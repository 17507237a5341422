"""The tree of prefixes, cut down to what one can look at."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_qbert.reports.inspection.catalog import Catalog, ItemGroup


@dataclass(frozen=True)
class Limits:
    """How much of a group is shown.

    Attributes:
        children: subgroups of two items or more, the largest first.
        rows: items that are shown one by one.
        depth: how many shared codes the deepest shown subgroups have at most.
    """

    children: int
    rows: int
    depth: int


@dataclass(frozen=True)
class Branch:
    """A group and what is shown of it.

    Attributes:
        group: the group.
        children: the shown subgroups.
        rows: the shown items that are in no shown subgroup.
        n_hidden: items that are in neither.
    """

    group: ItemGroup
    children: tuple[Branch, ...]
    rows: tuple[int, ...]
    n_hidden: int


def largest_groups(groups: list[ItemGroup], n: int) -> list[ItemGroup]:
    """The n largest, the largest first, equal ones in the order of their codes."""
    return sorted(groups, key=lambda group: (-group.size, group.start))[:n]


def spread(rows: range | list[int], n: int) -> list[int]:
    """At most n of the rows, evenly spaced: those of one subgroup alone would mislead."""
    if len(rows) <= n:
        return list(rows)
    return [rows[(2 * place + 1) * len(rows) // (2 * n)] for place in range(n)]


def branch(catalog: Catalog, group: ItemGroup, limits: Limits) -> Branch:
    """The shown part of the tree below a group."""
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
    """The same items with as many shared codes as they have, up to `most`: no chains of one."""
    first, last = catalog.codes[[group.start, group.end - 1]].tolist()
    depth = group.depth
    # The rows are sorted, so what the first and the last share, all share.
    while depth < most and first[depth] == last[depth]:
        depth += 1
    return ItemGroup(depth, group.start, group.end)
