"""Usage of the codes: by level, by groups that share a prefix, and as the sidecar reports it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from recbole_qbert.data.codec import level_letters
from recbole_qbert.reports.inspection.catalog import Catalog


class LevelUsage(NamedTuple):
    """Usage of one level."""

    level: str  # letters
    codebook_size: int
    used: int  # codes that at least one item has
    perplexity: float  # exp of the entropy (nats) of the code frequencies
    largest: int  # items with the most common code
    largest_token: str  # most common code; the lowest one if there are several


class DepthGroups(NamedTuple):
    """The groups of items that share their first `depth` codes."""

    depth: int  # 1 to K
    n_groups: int  # distinct prefixes
    n_single: int  # groups of one item
    largest: int  # items in the largest group
    mean_others: float  # other items in an item's group, mean over items
    histogram: tuple[int, ...]  # groups with 1, 2, 3-4, 5-8, 9-16, ... items, up to the largest


def level_usage(catalog: Catalog) -> tuple[LevelUsage, ...]:
    """Compute the usage of each level, K entries."""
    rows = []
    for level, size in enumerate(catalog.codebook_sizes):
        counts = np.bincount(catalog.codes[:, level])
        shares = counts[counts > 0] / counts.sum()
        perplexity = float(np.exp(-(shares * np.log(shares)).sum()))
        top, letters = int(counts.argmax()), level_letters(level)
        rows.append(
            LevelUsage(letters, size, len(shares), perplexity, int(counts[top]), f"{letters}_{top}")
        )
    return tuple(rows)


def depth_groups(catalog: Catalog) -> tuple[DepthGroups, ...]:
    """Compute the groups of each depth, K entries."""
    rows = []
    for depth in range(1, catalog.n_levels + 1):
        sizes = np.diff(catalog.bounds(depth))
        edges = 2 ** np.arange(int(sizes.max()).bit_length() + 1)
        histogram = np.trim_zeros(np.bincount(np.searchsorted(edges, sizes)), "b")
        rows.append(
            DepthGroups(
                depth,
                n_groups=len(sizes),
                n_single=int((sizes == 1).sum()),
                largest=int(sizes.max()),
                mean_others=float((sizes**2).sum() / catalog.n_items - 1),
                histogram=tuple(histogram.tolist()),
            )
        )
    return tuple(rows)


def bucket_labels(n: int) -> list[str]:
    """Labels of the first n bins of a histogram of sizes: '1', '2', '3-4', '5-8', ..."""
    labels = ["1", "2"] + [f"{2 ** (place - 1) + 1}-{2**place}" for place in range(2, n)]
    return labels[:n]


def build_report(catalog: Catalog) -> dict[str, Any]:
    """Numbers of collisions and moved items that the sidecar reports.

    Commands nest their reports differently, so numbers are searched by name, outer ones first.
    """
    names = ("collisions", "moved", "moved_per_level", "extra_level")
    found: dict[str, Any] = {}
    queue = [catalog.source.get("report")]
    for place in queue:
        if isinstance(place, Mapping):
            found |= {name: place[name] for name in names if name in place and name not in found}
            queue.extend(place.values())
    return {name: value for name, value in found.items() if value is not None}
