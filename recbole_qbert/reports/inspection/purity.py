"""Purity and mutual information of codes and categories, compared with chance.

Purity is the share of items whose category is the most common one of their group. Normalized mutual
information (NMI) is I(group; category) over the mean of both entropies (Strehl & Ghosh 2002, with
the arithmetic mean). Both grow with the number of groups, so each is reported with its mean over
random permutations of the categories.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recbole_qbert.data.codec import IntArray, level_letters
from recbole_qbert.reports.inspection.catalog import Catalog

N_PERMUTATIONS = 20


class GroupPurity(NamedTuple):
    """Purity of one grouping. Groups of one item are left out, since they are always pure.

    Purity and NMI are from 0 to 1, or None if no groups are left.
    """

    name: str  # 'a b': groups by prefix; 'b alone': groups by the code of one level
    n_groups: int  # groups of two or more items
    n_items: int  # items in these groups
    n_single: int  # items in groups of one
    purity: float | None = None
    purity_chance: float | None = None  # mean over permutations of the items' categories
    nmi: float | None = None
    nmi_chance: float | None = None


class Purity(NamedTuple):
    """Purity of all groupings of the items that have a category."""

    label: str  # description of the categories
    n_items: int  # items with a category
    n_without: int  # items without one, which are left out
    n_categories: int
    largest: str  # most common category; the first in the alphabet if there are several
    largest_share: float  # its share of the items
    # K groupings by shared prefix, and K - 1 by the code of each level but the first.
    groupings: tuple[GroupPurity, ...]


def purity(catalog: Catalog, seed: int, n_permutations: int = N_PERMUTATIONS) -> Purity | None:
    """Compute the purity of groups by prefix and by level; None if no item has a category."""
    texts = np.array(catalog.categories or (), dtype=object)
    rows = np.flatnonzero(texts != "")
    if not len(rows):
        return None
    names, categories = np.unique(texts[rows].astype(str), return_inverse=True)
    codes = catalog.codes[rows]
    counts = np.bincount(categories)
    letters = [level_letters(level) for level in range(catalog.n_levels)]

    groupings = {
        " ".join(letters[:depth]): np.unique(codes[:, :depth], axis=0, return_inverse=True)[1]
        for depth in range(1, catalog.n_levels + 1)
    }
    for level in range(1, catalog.n_levels):
        groupings[f"{letters[level]} alone"] = codes[:, level]
    return Purity(
        label=catalog.category_label,
        n_items=len(rows),
        n_without=catalog.n_items - len(rows),
        n_categories=len(names),
        largest=str(names[counts.argmax()]),
        largest_share=float(counts.max() / len(rows)),
        groupings=tuple(
            group_purity(name, groups, categories, seed, n_permutations)
            for name, groups in groupings.items()
        ),
    )


def group_purity(
    name: str, groups: IntArray, categories: IntArray, seed: int, n_permutations: int
) -> GroupPurity:
    """Compute purity and mutual information of one grouping.

    Args:
        name: name of the grouping.
        groups: group of each item, int64 `[n]`, any numbers.
        categories: category of each item, int64 `[n]`, not negative.
        seed: seed of the permutations.
        n_permutations: number of permutations for the chance level.
    """
    groups = np.unique(groups.reshape(-1), return_inverse=True)[1]
    shared = np.bincount(groups)[groups] > 1
    n_single = int((~shared).sum())
    groups = np.unique(groups[shared], return_inverse=True)[1]
    categories = np.unique(categories[shared], return_inverse=True)[1]
    if not len(groups):
        return GroupPurity(name, 0, 0, n_single)
    draw = np.random.default_rng(seed)
    found = _scores(groups, categories)
    by_chance = [_scores(groups, draw.permutation(categories)) for _ in range(n_permutations)]
    chance = np.mean(by_chance, axis=0)
    return GroupPurity(
        name, int(groups.max()) + 1, len(groups), n_single,
        found[0], float(chance[0]), found[1], float(chance[1]),
    )  # fmt: skip


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
