"""All numbers of a report on a semantic-ID file, independent of the output format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_qbert.common.errors import InputError
from recbole_qbert.reports.inspection.catalog import Catalog, ItemGroup, open_catalog
from recbole_qbert.reports.inspection.neighbors import (
    Agreement,
    NeighborExample,
    agreement,
    choose_examples,
    example,
    open_space,
)
from recbole_qbert.reports.inspection.purity import Purity, purity
from recbole_qbert.reports.inspection.tree import largest_groups
from recbole_qbert.reports.inspection.usage import (
    BuildReport,
    DepthGroups,
    LevelUsage,
    build_report,
    depth_groups,
    level_usage,
)

SEED = 2026


@dataclass(frozen=True, eq=False)
class Facts:
    """Results of `inspect` for K levels.

    Attributes:
        catalog: the items, sorted by their codes, with titles and categories.
        build: collisions and moved items, from the sidecar; None without a sidecar.
        usage: usage of each level, K entries.
        depths: groups that share 1 to K codes, K entries.
        selected: group of the requested prefix; None if no prefix is given.
        groups: groups to show: the selected one, or the largest ones that share one code.
        agreements: agreement of codes and embeddings, one entry per embedding table.
        examples: example items with their nearest items.
        purity: purity by category; None without categories.
    """

    catalog: Catalog
    build: BuildReport | None
    usage: tuple[LevelUsage, ...]
    depths: tuple[DepthGroups, ...]
    selected: ItemGroup | None
    groups: tuple[ItemGroup, ...]
    agreements: tuple[Agreement, ...]
    examples: tuple[NeighborExample, ...]
    purity: Purity | None


def gather_facts(
    semid_path: str | Path,
    *,
    item_path: str | Path | None = None,
    title_field: str | None = None,
    category_field: str | None = None,
    category_part: str = "auto",
    embeddings: Mapping[str, str | Path] | None = None,
    prefix: str | None = None,
    example_items: Sequence[str] = (),
    n_examples: int = 5,
) -> Facts:
    """Read the files and compute the facts; the results do not depend on the row order of files.

    The arguments are those of `recbole_qbert.reports.inspection.report.inspect`.

    Raises:
        InputError: a file, field, prefix, item or number cannot be used.
    """
    if n_examples < 1:
        raise InputError(f"n_examples is {n_examples}; it must be at least 1")
    catalog = open_catalog(semid_path, item_path, title_field, category_field, category_part)
    selected = None if prefix is None else catalog.find(prefix)
    given = catalog.rows_of(example_items)
    spaces = [open_space(name, path, catalog) for name, path in (embeddings or {}).items()]
    rows = given or choose_examples(catalog, spaces, selected, n_examples)
    largest = largest_groups(catalog.groups(1), n_examples)
    return Facts(
        catalog=catalog,
        build=build_report(semid_path),
        usage=level_usage(catalog),
        depths=depth_groups(catalog),
        selected=selected,
        groups=(selected,) if selected else tuple(largest),
        agreements=tuple(agreement(space, catalog, SEED) for space in spaces),
        examples=tuple(example(catalog, spaces, row) for row in rows),
        purity=purity(catalog, SEED),
    )
