"""Item vectors from co-occurrence, the initial ID vectors of stage 1.

Only training interactions count. By default, the last two items of each user in time order (the
validation and the test target of the leave-one-out protocol) are removed before counting. With
`split: files` they are those of the training part of `prepare split`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.sequences import read_interactions

HELD_OUT = 2  # last items of each user: the validation and the test target
_POWER_ITERATIONS = 7


def training_pairs(inter_path: str | Path) -> pd.DataFrame:
    """Read `user_id` and `item_id` of the training interactions, grouped by user, in time order.

    Raises:
        InputError: the file cannot be read, or a timestamp is not a number.
    """
    frame = read_interactions(inter_path)
    from_the_end = frame.groupby("user_id", observed=True).cumcount(ascending=False)
    return frame.loc[from_the_end >= HELD_OUT, ["user_id", "item_id"]].astype(object)


def pairs_of_part(path: str | Path) -> pd.DataFrame:
    """Read `user_id` and `item_id` of the interactions of a training part of `prepare split`.

    A row has a target and the items before it. The rows of a user are in the order of time, so that
    the first one's history and all targets are the whole sequence. See `training_pairs`.

    Raises:
        InputError: the file cannot be read.
    """
    frame = read_columns(path, ["user_id", "item_id_list", "item_id"])
    first = frame.drop_duplicates("user_id")
    histories = first["item_id_list"].str.split(" ").rename("item_id").explode()
    before = first[["user_id"]].join(histories[histories != ""], how="inner")
    pairs = pd.concat([before, frame[["user_id", "item_id"]]], ignore_index=True)
    return pairs.sort_values("user_id", kind="stable", ignore_index=True)


def read_training_pairs(
    domains: Sequence[DatasetPaths], split: str = "leave_one_out"
) -> pd.DataFrame:
    """Read the training interactions of all domains; names are `<domain>/<token>`.

    Args:
        domains: the data sets.
        split: `leave_one_out`: `training_pairs` of `.inter`; `files`: `pairs_of_part` of
            `.train.inter`.

    Raises:
        InputError: a domain has no such file, or it is invalid.
    """
    suffix, read = inter_suffix(split), pairs_of_part if split == "files" else training_pairs
    frames = []
    for domain in domains:
        path = domain.file(suffix)
        if not path.is_file():
            add = "run `recbole-qbert prepare split`" if split == "files" else "add it"
            raise InputError(
                f"{path}: no such file, but co-occurrence in training, or fit_items: training, "
                f"requires it; {add}, or set --streams=content --fusion=injection "
                "--id_query=random --fit_items=all"
            )
        frames.append(f"{domain.name}/" + read(path))
    return pd.concat(frames, ignore_index=True)


def inter_suffix(split: str) -> str:
    """Return the suffix of the file that `read_training_pairs` reads."""
    return "train.inter" if split == "files" else "inter"


def cooccurrence(pairs: pd.DataFrame, items: Sequence[str]) -> sp.csr_matrix:
    """Count the users who have both items of each pair of items.

    Args:
        pairs: columns `user_id` and `item_id`; repeated pairs count once.
        items: N tokens; interactions with other items are ignored.

    Returns:
        Symmetric sparse [N, N] with an empty diagonal.
    """
    rows = pd.Index(items).get_indexer(pd.Index(pairs["item_id"]))
    users = pd.factorize(pairs["user_id"])[0]
    known = rows >= 0
    shape = (int(users.max(initial=-1)) + 1, len(items))
    ones = np.ones(int(known.sum()))
    matrix = sp.csr_matrix((ones, (users[known], rows[known])), shape=shape)
    matrix.data[:] = 1
    counts = (matrix.T @ matrix).tocsr()
    counts.setdiag(0)
    counts.eliminate_zeros()
    return counts


def cooccurrence_vectors(counts: sp.csr_matrix, n_components: int, seed: int) -> np.ndarray:
    """Compute item vectors by a truncated SVD of the positive pointwise mutual information.

    Args:
        counts: symmetric [N, N], from `cooccurrence`.
        n_components: largest number of columns D'.
        seed: seed of the randomized SVD.

    Returns:
        float32 [N, D']. The elements of a row have a mean square of 1, like a random ID vector;
        rows of items that co-occur with no other are zero.
    """
    pairs = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    information = np.log(pairs.data * totals.sum() / (totals[pairs.row] * totals[pairs.col]))
    positive = sp.csr_matrix((np.maximum(information, 0), (pairs.row, pairs.col)), counts.shape)
    n_components = min(n_components, len(totals))
    with threadpool_limits(limits=1):  # the rounding of sums depends on the number of threads
        left, singular, _ = randomized_svd(
            positive, n_components=n_components, n_iter=_POWER_ITERATIONS, random_state=seed
        )
    vectors = left * np.sqrt(singular)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Normalizing the rounding noise of an item without co-occurrence would give a random vector.
    alone = (totals == 0)[:, None] | (lengths < 1e-9)
    scaled = np.where(alone, 0.0, vectors / np.where(alone, 1.0, lengths)) * n_components**0.5
    return scaled.astype(np.float32)
