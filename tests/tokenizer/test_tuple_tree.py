"""The tree of used tuples against counting them one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recbole_qbert.tokenizer.semantic_id_trie import SemanticIDTrie

SIZES = (3, 2, 4)


@pytest.mark.parametrize("seed", range(5))
def test_counts_equal_those_of_a_set(seed: int) -> None:
    random = np.random.default_rng(seed)
    every = np.array(list(itertools.product(*map(range, SIZES))))
    tree, held = SemanticIDTrie(SIZES), set()
    for part in np.split(random.permutation(every)[:15], [4, 4, 10]):  # one addition is empty
        tree.add(part)
        held |= set(map(tuple, part.tolist()))
        for depth in range(len(SIZES)):
            prefixes = np.unique(every[:, :depth], axis=0)
            nodes = tree.find(prefixes)
            free = tree.free(depth, nodes)
            for prefix, node, row in zip(prefixes.tolist(), nodes, free, strict=True):
                below = [item for item in held if list(item[:depth]) == prefix]
                assert (node >= 0) == (bool(below) or depth == 0)
                if node >= 0:
                    assert tree.used[depth][node] == len(below)
                used = np.bincount([item[depth] for item in below], minlength=SIZES[depth])
                np.testing.assert_array_equal(row, np.prod(SIZES[depth + 1 :]) - used)


def test_counts_stop_short_of_overflow() -> None:
    tree = SemanticIDTrie((256,) * 9)  # 2**72 tuples
    tree.add(np.zeros((1, 9), dtype=np.int64))
    assert tree.places[0] == tree.places[1] == 2**62
    assert tree.free(0, np.array([0]))[0, :2].tolist() == [2**62 - 1, 2**62]
