"""Semantic IDs that a row of a benchmark has for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_qbert.common.files import atomic_write
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.cold import ColdSettings, hold_out
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.sequences import FIELDS, ITEM, TIME, USER, read_interactions
from recbole_qbert.tokenizer.new_items import encode_new_items
from recbole_qbert.tokenizer.pipeline import tokenize


def make_ids(
    domain: DatasetPaths, work: DatasetPaths, settings: Mapping[str, Any], cold: ColdSettings | None
) -> None:
    """Tokenize a data set in the folder of `work`, without changing the data set's own IDs.

    With `cold`, the tokenizer is fitted on the items and interactions that are left, and then
    frozen. The held-out items get their IDs as new items do.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    for path in work.folder.glob(f"{work.name}.*"):  # of an earlier call
        if path.is_symlink():
            path.unlink()
    suffixes = (".npz", ".npz.json") if cold else (".inter", ".item", ".npz", ".npz.json")
    for path in domain.folder.glob(f"{domain.name}.*"):
        if path.name.endswith(suffixes):
            (work.folder / path.name).symlink_to(path.resolve())
    if cold is None:
        tokenize([work], work.folder / "tokenizer", settings)
        return
    frame = read_interactions(domain.file("inter"))
    split = hold_out(frame[USER], frame[ITEM], frame[TIME], cold)
    left = frame.iloc[split.rows].astype({USER: object, ITEM: object})
    if not cold.keeps:
        # Held-out items are left as test targets only. The tokenizer does not learn from test
        # targets, but it would read their items, so that the item before stands in their place.
        items = left[ITEM].to_numpy(copy=True)
        places = np.flatnonzero(np.isin(items.astype(str), split.items.astype(str)))
        items[places] = items[places - 1]
        left = left.assign(**{ITEM: items})
    _write_interactions(work.file("inter"), left)
    _write_items(work.file("item"), left[ITEM])
    tokenizer = tokenize([work], work.folder / "tokenizer", settings)
    if tokenizer is not None and not cold.keeps:
        _write_items(work.file("item"), frame[ITEM])
        encode_new_items(tokenizer, [work])


def _write_interactions(path: Path, frame: pd.DataFrame) -> None:
    with atomic_write(path, "wb") as handle:
        write_header(handle, (f"{USER}:token", f"{ITEM}:token", f"{TIME}:float"))
        columns = frame.assign(**{TIME: frame[TIME].map(repr)})
        write_rows(handle, [pa.array(columns[field], pa.string()) for field in FIELDS])


def _write_items(path: Path, items: Iterable[Any]) -> None:
    with atomic_write(path, "wb") as handle:
        write_header(handle, (f"{ITEM}:token",))
        write_rows(handle, [pa.array(sorted({*map(str, items)}), pa.string())])
