"""What users do with items, as vectors: a start for the ID vectors of stage 1.

Only training interactions count: of each user's items, in time order, the last two (the valid and
the test target of the leave-one-out protocol) are left out before anything is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from recbole_qbert.data.sequences import read_interactions

HELD_OUT = 2  # the last items of a user: test and valid
_POWER_ITERATIONS = 7


def training_pairs(inter_path: str | Path) -> pd.DataFrame:
    """Training interactions of an `.inter` file: columns `user_id` and `item_id`.

    User after user, each in time order.

    Raises:
        InputError: the file cannot be read, or a time is no number.
    """
    frame = read_interactions(inter_path)
    from_the_end = frame.groupby("user_id", observed=True).cumcount(ascending=False)
    return frame.loc[from_the_end >= HELD_OUT, ["user_id", "item_id"]].astype(object)


def cooccurrence(pairs: pd.DataFrame, items: Sequence[str]) -> sp.csr_matrix:
    """How many users have both items, [N, N], with an empty diagonal.

    Args:
        pairs: columns `user_id` and `item_id`; repeated pairs count once.
        items: N tokens; interactions with others are passed over.
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
    """Truncated SVD of the positive pointwise mutual information of co-occurrence.

    Args:
        counts: [N, N], symmetric.
        n_components: the most columns.
        seed: of the randomized SVD.

    Returns:
        float32 [N, D']: rows whose elements have a mean square of 1, as a random ID vector has;
        zeros for an item that co-occurs with none.
    """
    pointwise = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    information = np.log(
        pointwise.data * totals.sum() / (totals[pointwise.row] * totals[pointwise.col])
    )
    positive = sp.csr_matrix(
        (np.maximum(information, 0), (pointwise.row, pointwise.col)), shape=counts.shape
    )
    n_components = min(n_components, len(totals))
    with threadpool_limits(limits=1):  # sums over threads differ in their last bits
        left, singular, _ = randomized_svd(
            positive, n_components=n_components, n_iter=_POWER_ITERATIONS, random_state=seed
        )
    vectors = left * np.sqrt(singular)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # Rounding noise of an item without co-occurrence must not become a direction.
    alone = (totals == 0)[:, None] | (lengths < 1e-9)
    scaled = np.where(alone, 0.0, vectors / np.where(alone, 1.0, lengths)) * n_components**0.5
    return scaled.astype(np.float32)
