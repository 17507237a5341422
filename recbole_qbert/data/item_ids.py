"""Item IDs that a model makes from training interactions alone: sequential and collaborative.

An ID is a sequence of tokens, numbers from 1 on; 0 follows the last token of a shorter ID. Internal
numbers of items play no role: items are taken in the order of their first training interaction, the
others by raw token. Shapes: N items (row 0 is padding), K tokens of the longest ID.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import qr, svd
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from threadpoolctl import threadpool_limits
from torch import Tensor

from recbole_qbert.data.dataset import PartialVectorsDataset, SemanticIDDataset

MAX_DEPTH = 8  # clusters are split so many times at most
DENSE_NODES = 500  # graphs up to this size are solved exactly, also with equal eigenvalues
MAX_RESTARTS = 1000  # of the iterative solver for larger graphs


class CollaborativeDataset(SemanticIDDataset):
    """Dataset whose training split has collaborative IDs as `item_tokens`, int64 [N, K]."""

    item_tokens: Tensor

    def build(self) -> list[Any]:
        """Build the splits, and the IDs from the training split."""
        splits = super().build()
        own_leaves = self.config["leaf_tokens"] == "item"
        splits[0].item_tokens = collaborative_ids(
            splits[0], self.config["n_clusters"], self.config["max_leaf"], own_leaves
        )
        return splits


class SequentialIDDataset(PartialVectorsDataset):
    """Dataset whose training split has sequential IDs as `item_tokens`, int64 [N, K]."""

    item_tokens: Tensor

    def build(self) -> list[Any]:
        """Build the splits, and the IDs from the training split."""
        splits = super().build()
        splits[0].item_tokens = sequential_ids(splits[0], self.config["id_base"])
        return splits


def training_order(train: SemanticIDDataset) -> np.ndarray:
    """Order the items by first training interaction, the others by raw token; int64 [N - 1]."""
    seen, first = np.unique(train.training_sequences()[0].numpy(), return_index=True)
    others = np.setdiff1d(np.arange(1, train.item_num), seen)
    tokens = np.asarray(train.field2id_token[train.iid_field][others], dtype=str)
    return np.concatenate([seen[first.argsort()], others[tokens.argsort(kind="stable")]])


def sequential_ids(train: SemanticIDDataset, base: int) -> Tensor:
    """Number the items in `training_order`; the tokens are the digits. int64 [N, K]

    All numbers have as many digits; digit d is token d + 1.
    """
    order = training_order(train)
    numbers = np.arange(len(order))
    tokens = [numbers % base + 1]
    while (numbers := numbers // base).any():
        tokens.insert(0, numbers % base + 1)
    return _of_items(np.stack(tokens, axis=1), order)


def collaborative_ids(
    train: SemanticIDDataset, n_clusters: int, max_leaf: int, own_leaves: bool
) -> Tensor:
    """Make collaborative IDs: paths in a tree of clusters of items that occur together.

    Hua et al., How to Index Item IDs for Recommendation Foundation Models, SIGIR-AP 2023. The
    weight of two items is the number of their pairs in training sequences. Spectral clustering
    splits the items in `n_clusters` clusters, and every cluster of more than `max_leaf` items
    again. The tokens of an item are those of its clusters, one for each node of the tree, and a
    leaf token, its number within the last cluster.

    Args:
        train: a training split.
        n_clusters: number of clusters of a split.
        max_leaf: most items of a cluster that is not split again.
        own_leaves: whether every item has a leaf token of its own; otherwise the clusters share
            them.

    Returns:
        int64 [N, K]. An item without a neighbor in the graph has one token, which no other has.
    """
    order = training_order(train)
    pairs = train.inter_matrix("csr")[:, order]
    graph = (pairs.T @ pairs).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    tokens = np.zeros((len(order), MAX_DEPTH + 1), dtype=np.int64)
    n_nodes = 0
    waiting = [(np.flatnonzero(graph.getnnz(axis=1)), 0)]
    for items, depth in waiting:  # grows
        labels = np.zeros(len(items), dtype=np.int64)
        if depth < MAX_DEPTH and (depth == 0 or len(items) > max_leaf):
            labels = _clusters(graph[items][:, items], n_clusters)
        clusters = np.unique(labels)
        if len(clusters) < 2:
            tokens[items, depth] = -1 - np.arange(len(items))  # numbered from n_nodes on below
            continue
        for label in clusters:
            n_nodes += 1
            cluster = items[labels == label]
            tokens[cluster, depth] = n_nodes
            waiting.append((cluster, depth + 1))
    rows, columns = np.nonzero(tokens < 0)
    leaves = np.arange(1, len(rows) + 1) if own_leaves else -tokens[rows, columns]
    tokens[rows, columns] = n_nodes + leaves
    alone = np.flatnonzero(tokens[:, 0] == 0)
    tokens[alone, 0] = tokens.max() + 1 + np.arange(len(alone))
    return _of_items(tokens[:, tokens.any(axis=0)], order)


def _clusters(graph: sp.csr_matrix, n_clusters: int) -> np.ndarray:
    """Split the n nodes of a graph in at most n - 1 clusters; int64 [n].

    Normalized cut (Shi and Malik) with the partition of Damle, Minden and Ying (2019), as in
    scikit-learn's `SpectralClustering(assign_labels="cluster_qr")`. That one factorizes the
    Laplacian, which takes a hundred times as long for graphs of thousands of items.
    """
    n_nodes = graph.shape[0]
    n_clusters = min(n_clusters, n_nodes - 1)
    if n_clusters < 2:
        return np.zeros(n_nodes, dtype=np.int64)
    scale = np.maximum(np.asarray(graph.sum(axis=1)).ravel(), 1.0) ** -0.5
    similar = sp.diags(scale) @ graph @ sp.diags(scale)
    # The rounding of sums depends on the number of threads.
    with threadpool_limits(limits=1):
        vectors = _top_eigenvectors(similar, n_clusters) * scale[:, None]  # [n, n_clusters]
        corners = qr(vectors.T, mode="r", pivoting=True)[1][:n_clusters]
        left, _, right = svd(vectors[corners].T)
        labels: np.ndarray = np.abs(vectors @ (left @ right)).argmax(axis=1)
    return labels


def _top_eigenvectors(matrix: sp.spmatrix, n_vectors: int) -> np.ndarray:
    """Return the eigenvectors of the largest eigenvalues of a symmetric matrix. [n, n_vectors]"""
    n_rows = matrix.shape[0]
    if n_rows > DENSE_NODES:
        start = np.random.default_rng(0).random(n_rows)
        # It does not converge if too many eigenvalues are equal.
        with contextlib.suppress(ArpackNoConvergence):
            found: np.ndarray = eigsh(
                matrix, n_vectors, which="LA", v0=start, maxiter=MAX_RESTARTS
            )[1]
            return found
    # LAPACK's drivers for some of the eigenvectors fail if too many eigenvalues are equal.
    found = np.linalg.eigh(matrix.toarray())[1][:, -n_vectors:]
    return found


def _of_items(tokens: np.ndarray, order: np.ndarray) -> Tensor:
    """Return the tokens [N - 1, K] of ordered items by item number. int64 [N, K]"""
    found = np.zeros((len(order) + 1, tokens.shape[1]), dtype=np.int64)
    found[order] = tokens
    return torch.from_numpy(found)
