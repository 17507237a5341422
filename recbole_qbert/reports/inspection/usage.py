"""Usage of the codes: by level, by groups that share a prefix, and by category.

Purity is the share of items whose category is the most common one of their group. Normalized mutual
information (NMI) is I(group; category) over the mean of both entropies (Strehl & Ghosh 2002, with
the arithmetic mean). Both grow with the number of groups, so each is reported with its mean over
random permutations of the categories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_qbert.data.codec import IntArray, level_letters
from recbole_qbert.reports.inspection.catalog import Catalog
from recbole_qbert.tokenizer.quantizers.base import usage

N_PERMUTATIONS = 20


class Purity(NamedTuple):
    """Purity of all groupings of the items that have a category."""

    label: str  # description of the categories
    n_items: int  # items with a category
    n_without: int  # items without one, which are left out
    n_categories: int
    largest: str  # most common category; the first in the alphabet if there are several
    largest_share: float  # its share of the items
    # Rows of `group_purity`: K groupings by shared prefix, such as 'a b', and K - 1 by the code of
    # each level but the first, such as 'b alone'.
    groupings: pd.DataFrame


def level_usage(catalog: Catalog) -> pd.DataFrame:
    """Compute the usage of each level, K rows.

    Columns: letters of the level, size of the codebook, number and share of codes that an item has,
    exp of the entropy (nats) of the code frequencies, most common code (the lowest of several),
    number of its items.
    """
    rows = []
    for level, size in enumerate(catalog.codebook_sizes):
        found = usage(catalog.codes[:, level], size)
        counts = np.bincount(catalog.codes[:, level])
        top, letters = int(counts.argmax()), level_letters(level)
        figures = (found["used"], found["usage"], found["perplexity"])
        rows.append((letters, size, *figures, f"{letters}_{top}", counts[top]))
    columns = ["level", "codes", "used", "share used", "perplexity", "most common", "its items"]
    return pd.DataFrame(rows, columns=columns)


def depth_groups(catalog: Catalog) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the groups of items that share their first 1 to K codes.

    Returns:
        K rows: letters of the shared levels, number of groups, number and share of groups of one
        item, mean number over items of other items in the group, size of the largest group; and the
        number of groups by size (1, 2, 3-4, 5-8, ...), one column for each of the K prefix lengths.
    """
    rows, histograms, letters = [], {}, list(map(level_letters, range(catalog.n_levels)))
    for depth in range(1, catalog.n_levels + 1):
        sizes = np.diff(catalog.bounds(depth))
        n, n_single = catalog.n_items, int((sizes == 1).sum())
        others = float((sizes**2).sum() / n - 1)
        name = " ".join(letters[:depth])
        rows.append((name, len(sizes), n_single, n_single / n, others, sizes.max()))
        edges = 2 ** np.arange(int(sizes.max()).bit_length() + 1)
        histogram = np.trim_zeros(np.bincount(np.searchsorted(edges, sizes)), "b")
        histograms[catalog.depth_names[depth - 1]] = pd.Series(histogram)
    columns = ["shared codes", "groups", "single items", "share single", "others", "largest"]
    by_size = pd.DataFrame(histograms).fillna(0).astype(int)
    labels = ["1", "2"] + [f"{2 ** (i - 1) + 1}-{2**i}" for i in range(2, len(by_size))]
    by_size.insert(0, "items in the group", labels[: len(by_size)])
    return pd.DataFrame(rows, columns=columns), by_size


def build_report(catalog: Catalog) -> dict[str, Any]:
    """Numbers of collisions and moved items that the sidecar reports.

    Commands nest their reports differently, so numbers are searched by name, outer ones first.
    Those of the whole tuples (`unique`) come before those of a stage.
    """
    names = ("collisions", "moved", "moved_per_level", "extra_level")
    found: dict[str, Any] = {}
    report = (catalog.source or {}).get("report")
    queue = [report.get("unique"), report] if isinstance(report, Mapping) else []
    for place in queue:
        if isinstance(place, Mapping):
            new = {name: place.get(name) for name in names if name not in found}
            found |= {name: value for name, value in new.items() if value is not None}
            queue.extend(place.values())
    return found


def purity(catalog: Catalog, seed: int, n_permutations: int = N_PERMUTATIONS) -> Purity | None:
    """Compute the purity of groups by prefix and by level; None if no item has a category."""
    texts = np.array(catalog.categories or (), dtype=object)
    rows = np.flatnonzero(texts != "")
    if not len(rows):
        return None
    names, categories = np.unique(texts[rows].astype(str), return_inverse=True)
    codes = catalog.codes[rows]
    counts = np.bincount(categories)
    letters = list(map(level_letters, range(catalog.n_levels)))
    groupings = {
        " ".join(letters[:depth]): np.unique(codes[:, :depth], axis=0, return_inverse=True)[1]
        for depth in range(1, catalog.n_levels + 1)
    }
    for level in range(1, catalog.n_levels):
        groupings[f"{letters[level]} alone"] = codes[:, level]
    found = {
        name: group_purity(groups, categories, seed, n_permutations)
        for name, groups in groupings.items()
    }
    return Purity(
        label=catalog.category_label,
        n_items=len(rows),
        n_without=catalog.n_items - len(rows),
        n_categories=len(names),
        largest=str(names[counts.argmax()]),
        largest_share=float(counts.max() / len(rows)),
        groupings=pd.DataFrame.from_dict(found, orient="index").rename_axis("shared codes"),
    )


def group_purity(
    groups: IntArray, categories: IntArray, seed: int, n_permutations: int
) -> dict[str, float]:
    """Compute purity and mutual information of one grouping.

    Args:
        groups: group of each item, int64 `[n]`, any numbers.
        categories: category of each item, int64 `[n]`, not negative.
        seed: seed of the permutations.
        n_permutations: number of permutations for the chance level.

    Returns:
        groups (of two or more items), items (in these groups), single (items in groups of one,
        which are left out, since they are always pure), purity and NMI (from 0 to 1), each with its
        chance level and gain, (value - chance) / (1 - chance). NaN if undefined.
    """
    groups = np.unique(groups.reshape(-1), return_inverse=True)[1]
    shared = np.bincount(groups)[groups] > 1
    n_single = int((~shared).sum())
    groups = np.unique(groups[shared], return_inverse=True)[1]
    categories = np.unique(categories[shared], return_inverse=True)[1]
    found: dict[str, float] = {"groups": 0, "items": len(groups), "single": n_single}
    values, chances = [np.nan, np.nan], [np.nan, np.nan]
    if len(groups):
        found["groups"] = int(groups.max()) + 1
        draw = np.random.default_rng(seed)
        values = list(_scores(groups, categories))
        by_chance = [_scores(groups, draw.permutation(categories)) for _ in range(n_permutations)]
        chances = np.mean(by_chance, axis=0).tolist()
    for name, value, chance in zip(("purity", "NMI"), values, chances, strict=True):
        gain = (value - chance) / (1 - chance) if chance < 1 else np.nan
        found |= {name: value, f"{name} by chance": chance, f"{name} gain": gain}
    return found


def _scores(groups: IntArray, categories: IntArray) -> tuple[float, float]:
    """Compute purity and NMI; groups and categories are numbered from 0 without gaps."""
    n, width = len(groups), int(categories.max()) + 1
    cells, counts = np.unique(groups * width + categories, return_counts=True)
    # The pairs (group, category) are sorted, so those of a group are adjacent.
    first = np.flatnonzero(np.diff(cells // width, prepend=-1))
    pure = float(np.maximum.reduceat(counts, first).sum() / n)
    both = _entropy(np.bincount(groups)) + _entropy(np.bincount(categories))
    if both == 0:
        return pure, 1.0  # one group and one category: each determines the other
    nmi = (both - _entropy(counts)) / (both / 2)
    return pure, min(max(nmi, 0.0), 1.0)  # rounding errors may exceed the range


def _entropy(counts: IntArray) -> float:
    """Entropy of a distribution given by positive counts, in nats."""
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
