"""Usage of the codes: by level, and by groups that share a prefix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert.common.files import read_json, sidecar_path
from recbole_qbert.data.codec import level_letters
from recbole_qbert.reports.inspection.catalog import Catalog


@dataclass(frozen=True)
class LevelUsage:
    """Usage of one level.

    Attributes:
        level: letters of the level.
        codebook_size: number of codes, C.
        used: number of codes that at least one item has.
        perplexity: exp of the entropy (nats) of the code frequencies; C if all are equal.
        largest: number of items with the most common code.
        largest_token: most common code; the lowest one if there are several.
    """

    level: str
    codebook_size: int
    used: int
    perplexity: float
    largest: int
    largest_token: str


@dataclass(frozen=True)
class DepthGroups:
    """The groups of items that share their first `depth` codes.

    Attributes:
        depth: number of shared codes, 1 to K.
        n_groups: number of groups (distinct prefixes).
        n_single: number of groups of one item.
        largest: number of items in the largest group.
        mean_others: number of other items in an item's group, mean over items.
        histogram: number of groups with 1, 2, 3-4, 5-8, 9-16, ... items, up to the largest.
    """

    depth: int
    n_groups: int
    n_single: int
    largest: int
    mean_others: float
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class BuildReport:
    """Report on the making of the codes, from the sidecar; None for missing entries."""

    method: str | None
    collisions: int | None
    moved: int | None
    moved_per_level: tuple[int, ...] | None
    extra_level: str | None


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
                depth=depth,
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


def build_report(semid_path: str | Path) -> BuildReport | None:
    """Read the numbers of collisions and moved items from the sidecar; None without a sidecar.

    The sidecar was checked when the `.semid` file was read. Commands nest their reports
    differently, so numbers are searched by name.
    """
    path = sidecar_path(semid_path)
    if not path.exists():
        return None
    source = read_json(path).get("source")
    if not isinstance(source, Mapping):
        return None
    report = source.get("report")
    per_level = _lookup(report, "moved_per_level")
    extra = _lookup(report, "extra_level")
    extra = extra.get("level") if isinstance(extra, Mapping) else None
    return BuildReport(
        method=source["method"] if isinstance(source.get("method"), str) else None,
        collisions=_count(_lookup(report, "collisions")),
        moved=_count(_lookup(report, "moved")),
        moved_per_level=_counts(per_level),
        extra_level=extra if isinstance(extra, str) else None,
    )


def _lookup(report: Any, key: str) -> Any:
    """Find the first value of a key in nested mappings, outer ones first."""
    queue = [report]
    for place in queue:
        if isinstance(place, Mapping):
            if place.get(key) is not None:
                return place[key]
            queue.extend(place.values())
    return None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _counts(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or any(_count(one) is None for one in value):
        return None
    return tuple(value)
