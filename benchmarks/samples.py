"""Samples of a data set's users, written as data sets: python -m benchmarks.samples --help.

The defaults are measured on these small data sets (results/defaults.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from recbole_qbert.common.files import atomic_write
from recbole_qbert.data.atomic import read_atomic
from recbole_qbert.data.atomic_writing import write_header, write_rows


def write_sample(data_path: Path, name: str, n_users: int, seed: int) -> str:
    """Write a sample `<name><n_users>`: all interactions of some users, and their items.

    Args:
        data_path: folder of the data sets.
        name: name of the data set.
        n_users: number of users.
        seed: seed of the choice of users.

    Returns:
        A line with the counts.
    """
    inter = read_atomic(data_path / name / f"{name}.inter")
    item = read_atomic(data_path / name / f"{name}.item")
    users = pc.unique(inter.columns["user_id"])
    chosen = np.random.default_rng(seed).choice(len(users), n_users, replace=False)
    rows = inter.columns.filter(pc.is_in(inter.columns["user_id"], users.take(chosen)))
    items = item.columns.filter(pc.is_in(item.columns["item_id"], pc.unique(rows["item_id"])))
    sample = f"{name}{n_users}"
    for suffix, cells, table in (("inter", inter.cells, rows), ("item", item.cells, items)):
        with atomic_write(data_path / sample / f"{sample}.{suffix}", "wb") as handle:
            write_header(handle, cells)
            write_rows(handle, table.columns)
    return f"{sample}: {n_users} users, {len(items)} items, {len(rows)} interactions"


def main() -> None:
    """Write a sample of each size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samples")
    parser.add_argument("--data_path", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--datasets", required=True, help="names, with commas between them")
    parser.add_argument("--users", default="200,1000", help="sizes, with commas between them")
    parser.add_argument("--seed", type=int, default=2026, help="of the choice of users")
    given = parser.parse_args()
    for name in given.datasets.split(","):
        for n_users in map(int, given.users.split(",")):
            print(write_sample(given.data_path, name, n_users, given.seed))


if __name__ == "__main__":
    main()
