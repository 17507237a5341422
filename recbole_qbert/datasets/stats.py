"""What there is to know of a data set before anything is trained on it.

All of it is computed from the atomic files as they lie there, ordered as training orders them, and
split as `run` splits them (see `kcore.held_out`): a user's last item tests, the one before
validates, the rest trains; users of three items have no valid target, of two no test target either.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_qbert.data.atomic import header_fields
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import read_embeddings
from recbole_qbert.data.items import ITEM_FIELD, read_item_fields
from recbole_qbert.data.sequences import ITEM, TIME, USER, read_interactions
from recbole_qbert.datasets.items import picture_files
from recbole_qbert.datasets.kcore import held_out, tied_tests

QUANTILES = {"least": 0.0, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "most": 1.0}
HEADS = (0.01, 0.1, 0.2)  # shares of the items, the most popular ones first
N_LISTED = 10  # items of a list


def gather_stats(domain: DatasetPaths, pictures: Path | None = None) -> dict[str, Any]:
    """All facts of a data set as JSON values.

    Args:
        domain: with an `.inter` file; `.item` and `<name>.<modality>.npz` count where they are.
        pictures: folder of `<item_id>.jpg` and the like.

    Returns:
        counts, lengths (interactions of a user), popularity (interactions of an item, and the
        share of all that goes to the most popular), times, duplicates, leave_one_out, modalities
        (items of the `.inter` file with each, and their interactions), catalog, and `curves`
        for the plots.

    Raises:
        InputError: a file cannot be read.
    """
    frame = read_interactions(domain.file("inter"))
    users, user_counts = _numbered(frame[USER])
    items, item_counts = _numbered(frame[ITEM])
    tokens = np.asarray(frame[ITEM].cat.categories)[frame[ITEM].cat.codes]
    names = np.empty(len(item_counts), dtype=object)
    names[items] = tokens
    n = len(frame)
    cells = len(user_counts) * len(item_counts)
    return {
        "dataset": domain.name,
        "counts": {"users": len(user_counts), "items": len(item_counts), "interactions": n},
        "sparsity": 1 - n / cells,
        "lengths": _spread(user_counts),
        "popularity": _spread(item_counts) | _heads(item_counts),
        "times": _times(frame[TIME].to_numpy(), users),
        "duplicates": _duplicates(users, items, frame[TIME].to_numpy()),
        "leave_one_out": _leave_one_out(users, items, names),
        **_contents(domain, pictures, pd.Index(names), item_counts),
        "curves": _curves(user_counts, item_counts),
    }


def _numbered(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Numbers without gaps in order of appearance [T], and how often each occurs."""
    numbers = pd.factorize(column.cat.codes.to_numpy())[0]
    return numbers, np.bincount(numbers)


def _spread(counts: np.ndarray) -> dict[str, float]:
    found = {name: float(np.quantile(counts, share)) for name, share in QUANTILES.items()}
    return {"mean": float(counts.mean()), **found}


def _heads(counts: np.ndarray) -> dict[str, float]:
    """Share of the interactions that the most popular items have."""
    ordered = np.sort(counts)[::-1]
    return {
        f"share of the top {share:.0%}": float(
            ordered[: max(1, round(share * len(ordered)))].sum() / ordered.sum()
        )
        for share in HEADS
    }


def _times(times: np.ndarray, users: np.ndarray) -> dict[str, float]:
    """First and last, and how many rows, and test targets, stand at the time of their user's row
    before."""
    same = (np.diff(users) == 0) & (np.diff(times) == 0)
    tied, _ = tied_tests(users, times)
    return {
        "first": float(times.min()),
        "last": float(times.max()),
        "ties": int(same.sum()),
        "tied test targets": tied,
    }


def _duplicates(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> dict[str, int]:
    """Rows beyond the first of a user and item, and of a user, item and time."""
    rows = pd.DataFrame({"user": users, "item": items, "time": times})
    repeated = rows.duplicated(["user", "item"]).to_numpy()
    return {
        "user and item": int(repeated.sum()),
        "user, item and time": int(rows.duplicated().sum()),
        "users with any": len(np.unique(users[repeated])),
    }


def _leave_one_out(users: np.ndarray, items: np.ndarray, names: np.ndarray) -> dict[str, Any]:
    """Sizes of the parts, and items that no training row has. Rows are in order of user, time."""
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
    """Which of the items have what, and rows of the `.item` file without interactions."""
    having: dict[str, pd.Index] = {}
    unused = missing = None
    path = domain.file("item")
    if path.is_file():
        with open(path, encoding="utf-8-sig") as handle:
            fields = header_fields(path, handle.readline().rstrip("\r\n"))
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


def _curves(user_counts: np.ndarray, item_counts: np.ndarray) -> dict[str, list[list[float]]]:
    """Points of the plots, few enough for a page whatever the size of the data."""
    ordered = np.sort(item_counts)[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), 400).round().astype(np.int64))
    lengths, users = np.unique(user_counts, return_counts=True)
    if len(lengths) > 400:
        edges = np.unique(np.geomspace(1, lengths[-1] + 1, 100).round().astype(np.int64))
        users = np.histogram(user_counts, edges)[0]
        lengths = edges[:-1]
    return {
        "popularity": [ranks.tolist(), ordered[ranks - 1].tolist()],
        "lengths": [lengths.tolist(), users.tolist()],
    }
