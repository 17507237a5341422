"""Statistics of a data set.

The statistics are computed from the atomic files, in the order that training uses, with the split
of `run` (see `kcore.held_out`): the last item of a user is the test target, the one before it the
validation target, and the rest is for training. Users of three items have no validation target, and
users of two items have no test target either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.atomic import read_atomic
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.data.items import ITEM_FIELD, read_item_fields
from recbole_qbert.data.sequences import ITEM, TIME, USER, read_interactions
from recbole_qbert.datasets.items import picture_files
from recbole_qbert.datasets.kcore import held_out, tied_tests

QUANTILES = {"least": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "most": 1.0}
HEADS = (0.01, 0.1, 0.2)  # shares of the most popular items
N_LISTED = 10  # largest length of a list of items


def gather_stats(domain: DatasetPaths, pictures: Path | None = None) -> dict[str, Any]:
    """Compute all statistics of a data set as JSON values.

    Args:
        domain: data set with an `.inter` file; `.item` and `<name>.<modality>.npz` are optional.
        pictures: folder of files such as `<item_id>.jpg`.

    Returns:
        counts, sparsity, lengths (interactions per user), popularity (interactions per item, and
        the share of the most popular items), times, duplicates, leave_one_out, modalities (items of
        the `.inter` file with each modality, and their interactions), catalog, and `curves` for the
        plots.

    Raises:
        InputError: a file cannot be read.
    """
    frame = read_interactions(domain.file("inter"))
    if frame.empty:
        raise InputError(f"{domain.file('inter')} is empty: no rows follow the header; add rows")
    # Users and items are numbered in the order of their first row.
    users, user_tokens = pd.factorize(frame[USER].cat.codes.to_numpy())
    items, item_codes = pd.factorize(frame[ITEM].cat.codes.to_numpy())
    names = np.asarray(frame[ITEM].cat.categories, dtype=object)[item_codes]
    times = frame[TIME].to_numpy()
    user_counts, item_counts = np.bincount(users), np.bincount(items)
    popular = np.sort(item_counts)[::-1]
    same = (np.diff(users) == 0) & (np.diff(times) == 0)
    rows = pd.DataFrame({"user": users, "item": items, "time": times})
    repeated = rows.duplicated(["user", "item"]).to_numpy()
    return {
        "dataset": domain.name,
        "counts": {"users": len(user_tokens), "items": len(names), "interactions": len(frame)},
        "sparsity": 1 - len(frame) / (len(user_tokens) * len(names)),
        "lengths": _spread(user_counts),
        "popularity": _spread(item_counts) | {
            f"share of the top {share:.0%}": float(
                popular[: max(1, round(share * len(popular)))].sum() / popular.sum()
            )
            for share in HEADS
        },
        "times": {
            "first": float(times.min()),
            "last": float(times.max()),
            "ties": int(same.sum()),
            "tied test targets": tied_tests(users, times)[0],
        },
        "duplicates": {
            "user and item": int(repeated.sum()),
            "user, item and time": int(rows.duplicated().sum()),
            "users with any": len(np.unique(users[repeated])),
        },
        "leave_one_out": _leave_one_out(users, items, names),
        **_contents(domain, pictures, pd.Index(names), item_counts),
        "curves": _curves(user_counts, popular),
    }  # fmt: skip


def _spread(counts: np.ndarray) -> dict[str, float]:
    found = {name: float(np.quantile(counts, share)) for name, share in QUANTILES.items()}
    return {"mean": float(counts.mean()), **found}


def _leave_one_out(users: np.ndarray, items: np.ndarray, names: np.ndarray) -> dict[str, Any]:
    """Compute the sizes of the parts and the cold items, which are not in training."""
    train, valid, test = held_out(users)
    trained = np.bincount(items[train], minlength=len(names)) > 0
    cold = sorted(names[~trained].tolist())
    return {
        "training": int(train.sum()),
        "valid": int(valid.sum()),
        "test": int(test.sum()),
        "users without a valid target": int((np.bincount(users) < 4).sum()),
        "users without a test target": int((np.bincount(users) < 3).sum()),
        "cold items": len(cold),
        "cold valid targets": int((~trained[items[valid]]).sum()),
        "cold test targets": int((~trained[items[test]]).sum()),
        "first cold items": cold[:N_LISTED],
    }


def _contents(
    domain: DatasetPaths, pictures: Path | None, names: pd.Index, item_counts: np.ndarray
) -> dict[str, Any]:
    """Compute the coverage of each modality, and the mismatch of `.item` and `.inter` file."""
    having: dict[str, pd.Index] = {}
    unused = missing = None
    path = domain.file("item")
    if path.is_file():
        fields = read_atomic(path).names
        frame = read_item_fields(path, fields)
        tokens = pd.Index(frame[ITEM_FIELD])
        unused = int((~tokens.isin(names)).sum())
        missing = int((~names.isin(tokens)).sum())
        for field in fields:
            if field != ITEM_FIELD:
                having[field] = tokens[(frame[field].str.strip() != "").to_numpy()]
    for kind, table in domain.embedding_tables().items():
        having[f"embedding {kind}"] = pd.Index(read_embeddings(table).items)
    if pictures is not None:
        having["picture file"] = pd.Index(list(picture_files(pictures)))
    covered = {}
    for name, tokens in having.items():
        found = names.isin(tokens)
        covered[name] = {
            "items": int(found.sum()),
            "share of items": float(found.mean()),
            "share of interactions": float(item_counts[found].sum() / item_counts.sum()),
        }
    catalog = {"rows without interactions": unused, "items without a row": missing}
    return {"modalities": covered, "catalog": catalog}


def _curves(user_counts: np.ndarray, popular: np.ndarray) -> dict[str, list[list[float]]]:
    """Compute the points of the plots, at most a few hundred each."""
    ranks = np.unique(np.geomspace(1, len(popular), 400).round().astype(np.int64))
    lengths, users = np.unique(user_counts, return_counts=True)
    if len(lengths) > 400:
        edges = np.unique(np.geomspace(1, lengths[-1] + 1, 100).round().astype(np.int64))
        users = np.histogram(user_counts, edges)[0]
        lengths = edges[:-1]
    return {
        "popularity": [ranks.tolist(), popular[ranks - 1].tolist()],
        "lengths": [lengths.tolist(), users.tolist()],
    }
