"""Prefix tree of the semantic IDs in use, with the number of free tuples per subtree."""

from __future__ import annotations

import math

import numpy as np

# Upper bound of the counted places of a subtree, so that the counts fit int64.
_MANY = 1 << 62


class SemanticIDTrie:
    """Prefix tree of the tuples in use, with the number of tuples below each node.

    A node of depth d stands for a prefix of d codes. The nodes of each depth are numbered in the
    order of their creation. A child is found by its key, parent number * S + code, in a sorted
    array.

    Shapes: K levels, S_k codes of level k, n nodes or tuples, G nodes.

    Attributes:
        sizes: S_k, K of them.
        places: K + 1 capacities, the number of tuples that a node of each depth can hold, at most
            2**62.
        used: K + 1 arrays of the number of tuples in use below each node, by node number.
    """

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.places = [min(math.prod(sizes[depth:]), _MANY) for depth in range(len(sizes) + 1)]
        none = np.empty(0, dtype=np.int64)
        self.used = [np.zeros(1, dtype=np.int64)] + [none] * len(sizes)
        self._keys = [none] * len(sizes)  # sorted
        self._numbers = [none] * len(sizes)  # node number of each key

    def find(self, prefixes: np.ndarray) -> np.ndarray:
        """Return the node numbers [n] of prefixes [n, d], -1 for prefixes not in use."""
        node = np.zeros(len(prefixes), dtype=np.int64)
        for level in range(prefixes.shape[1]):
            node = self.child(level, node, prefixes[:, level])
        return node

    def child(self, level: int, node: np.ndarray, code: np.ndarray) -> np.ndarray:
        """Return the children [n] for codes [n] of nodes [n] of depth `level`, -1 if not in use."""
        keys = self._keys[level]
        wanted = node * self.sizes[level] + code  # negative for node -1, hence not found
        place = np.searchsorted(keys, wanted)
        known = place < len(keys)
        known[known] = keys[place[known]] == wanted[known]
        result = np.full(len(node), -1, dtype=np.int64)
        result[known] = self._numbers[level][place[known]]
        return result

    def free(self, level: int, node: np.ndarray) -> np.ndarray:
        """Count the free tuples below each child of nodes [G] of depth `level`, int64 [G, S]."""
        size = self.sizes[level]
        free = np.full((len(node), size), self.places[level + 1], dtype=np.int64)
        lower = np.searchsorted(self._keys[level], node * size)
        upper = np.searchsorted(self._keys[level], (node + 1) * size)
        n_children = upper - lower  # 0 for node -1, because keys are not negative
        parent = np.repeat(np.arange(len(node)), n_children)
        ends = np.cumsum(n_children)
        children = np.arange(len(parent)) + (lower - ends + n_children)[parent]
        code = self._keys[level][children] - node[parent] * size
        free[parent, code] -= self.used[level + 1][self._numbers[level][children]]
        return free

    def add(self, tuples: np.ndarray) -> None:
        """Add tuples [n, K] that are distinct and not yet in use."""
        self.used[0] += len(tuples)
        node = np.zeros(len(tuples), dtype=np.int64)
        for level, size in enumerate(self.sizes):
            keys, at, n_below = np.unique(
                node * size + tuples[:, level], return_inverse=True, return_counts=True
            )
            numbers = self.child(level, keys // size, keys % size)
            new = np.flatnonzero(numbers < 0)
            numbers[new] = np.arange(len(new)) + len(self.used[level + 1])
            places = np.searchsorted(self._keys[level], keys[new])
            self._keys[level] = np.insert(self._keys[level], places, keys[new])
            self._numbers[level] = np.insert(self._numbers[level], places, numbers[new])
            self.used[level + 1] = np.pad(self.used[level + 1], (0, len(new)))
            self.used[level + 1][numbers] += n_below
            node = numbers[at]
