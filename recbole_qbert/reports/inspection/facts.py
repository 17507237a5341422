"""All numbers of a report on a semantic-ID file, independent of the output format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from recbole_qbert.common.errors import InputError
from recbole_qbert.reports.inspection.catalog import (
    Catalog,
    ItemGroup,
    largest_groups,
    open_catalog,
)
from recbole_qbert.reports.inspection.neighbors import (
    Agreement,
    agreement,
    choose_examples,
    example,
    open_space,
)
from recbole_qbert.reports.inspection.usage import (
    Purity,
    build_report,
    depth_groups,
    level_usage,
    purity,
)
from recbole_qbert.reports.page import Example

SEED = 2026


class Facts(NamedTuple):
    """Results of `inspect` for K levels."""

    catalog: Catalog
    build: dict[str, Any]  # numbers of collisions and moved items, from the sidecar
    usage: pd.DataFrame  # of each level, K rows
    depths: pd.DataFrame  # groups that share 1 to K codes, K rows
    sizes: pd.DataFrame  # number of groups by size
    selected: ItemGroup | None  # group of the requested prefix
    groups: tuple[ItemGroup, ...]  # the selected one, or the largest ones that share one code
    agreements: tuple[Agreement, ...]  # one per embedding table
    examples: tuple[Example, ...]
    purity: Purity | None  # None without categories


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
    largest = largest_groups(catalog.subgroups(catalog.root), n_examples)
    depths, sizes = depth_groups(catalog)
    return Facts(
        catalog=catalog,
        build=build_report(catalog),
        usage=level_usage(catalog),
        depths=depths,
        sizes=sizes,
        selected=selected,
        groups=(selected,) if selected else tuple(largest),
        agreements=tuple(agreement(space, catalog, SEED) for space in spaces),
        examples=tuple(example(catalog, spaces, row) for row in rows),
        purity=purity(catalog, SEED),
    )
