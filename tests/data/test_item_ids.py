"""IDs made from training interactions: a plain recursion, by hand, and any numbering."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import N_ITEMS, Row, Tiny, timed_rows
from sklearn.cluster import SpectralClustering

from recbole_qbert.data import item_ids
from recbole_qbert.experiments.splits import load_splits

IDs = dict[str, tuple[int, ...]]


def ids_of(tiny: Tiny, model: str = "P5CID", **settings: Any) -> IDs:
    """The tokens of every item by its raw token, without padding."""
    train = load_splits(tiny.make_config(model, **settings)).train._dataset
    rows, names = train.item_tokens.tolist(), train.field2id_token["item_id"]
    assert not any(rows[0]) and len(rows) == train.item_num
    for row in rows:
        assert all(row[: len(row) - row.count(0)])  # zeros follow the last token
    assert any(row[-1] for row in rows)
    kept = [tuple(token for token in row if token) for row in rows[1:]]
    return dict(zip(names[1:].tolist(), kept, strict=True))


def training(sequences: Mapping[str, Sequence[str]]) -> list[list[str]]:
    return [list(sequence[:-2]) for sequence in sequences.values()]


def groups_of(ids: IDs) -> set[frozenset[str]]:
    """The items below every node of the tree."""
    found = defaultdict(set)
    for item, tokens in ids.items():
        for depth in range(1, len(tokens)):
            found[tokens[:depth]].add(item)
    return {frozenset(items) for items in found.values()}


def plain_groups(
    sequences: Sequence[Sequence[str]], n_clusters: int, max_leaf: int
) -> set[frozenset[str]]:
    """The same by a recursion over a dense matrix of pairs, counted one by one."""
    order = list(dict.fromkeys(itertools.chain(*sequences)))
    weight: Counter[tuple[str, str]] = Counter()
    for sequence in sequences:
        for one, two in itertools.combinations(sequence, 2):
            if one != two:
                weight[one, two] += 1
                weight[two, one] += 1
    found = set()

    def split(items: list[str], depth: int) -> None:
        n_parts = min(n_clusters, len(items) - 1)
        if depth == 8 or (depth and len(items) <= max_leaf) or n_parts < 2:
            return
        matrix = np.array([[float(weight[one, two]) for two in items] for one in items])
        clustering = SpectralClustering(
            n_parts, affinity="precomputed", assign_labels="cluster_qr", random_state=0
        )
        labels = clustering.fit_predict(matrix)
        if len(set(labels)) < 2:
            return
        for label in set(labels):
            part = [item for item, own in zip(items, labels, strict=True) if own == label]
            found.add(frozenset(part))
            split(part, depth + 1)

    split([item for item in order if any(weight[item, other] for other in order)], 0)
    return found


@pytest.mark.filterwarnings("ignore:Graph is not fully connected")
@pytest.mark.parametrize(("n_clusters", "max_leaf"), [(3, 4), (2, 3), (5, 10), (20, 500)])
def test_the_tree_is_that_of_a_plain_recursion(tiny: Tiny, n_clusters: int, max_leaf: int) -> None:
    ids = ids_of(tiny, n_clusters=n_clusters, max_leaf=max_leaf)
    assert len(ids) == len(set(ids.values())) == N_ITEMS
    groups = groups_of(ids)
    assert groups == plain_groups(training(tiny.sequences), n_clusters, max_leaf)
    assert len({tokens[0] for tokens in ids.values()}) > 1


@pytest.mark.parametrize("leaf_tokens", ["shared", "item"])
def test_tokens_of_nodes_and_leaves(tiny: Tiny, leaf_tokens: str) -> None:
    """A node's token is of one node; leaf tokens count the items of a cluster, or are of one item.

    Every token of the vocabulary is in use.
    """
    ids = ids_of(tiny, n_clusters=2, max_leaf=3, leaf_tokens=leaf_tokens)
    nodes = defaultdict(set)
    leaves = defaultdict(list)
    for tokens in ids.values():
        for depth, token in enumerate(tokens[:-1]):
            nodes[token].add(tokens[:depth])
        leaves[tokens[:-1]].append(tokens[-1])
    assert all(len(places) == 1 for places in nodes.values())
    last = [tokens[-1] for tokens in ids.values()]
    assert not nodes.keys() & set(last)
    assert sorted({*nodes, *last}) == list(range(1, max(last) + 1))
    if leaf_tokens == "item":
        assert len(set(last)) == N_ITEMS
    else:
        first = len(nodes) + 1
        for numbers in leaves.values():
            assert sorted(numbers) == list(range(first, first + len(numbers)))
            assert len(numbers) <= 3
        assert len(leaves) > 5


def disconnected(*sizes: int) -> sp.csr_matrix:
    """Complete graphs of these sizes, without an edge between them."""
    return sp.block_diag([np.ones((size, size)) - np.eye(size) for size in sizes]).tocsr()


@pytest.mark.parametrize("sizes", [(300, 5, 5, 5, 350), (5, 300, 350), (2,) * 300], ids=str)
def test_large_graphs_in_parts(sizes: tuple[int, ...]) -> None:
    """As many clusters as parts are the parts; it also ends where many eigenvalues are equal."""
    graph = disconnected(*sizes)
    parts = np.repeat(np.arange(len(sizes)), sizes)
    labels = item_ids._clusters(graph, len(sizes))
    pairs = set(zip(parts.tolist(), labels.tolist(), strict=True))
    assert len(pairs) == len(set(labels)) == len(sizes)
    more = item_ids._clusters(graph, 20)
    assert 1 < len(set(more)) <= 20 and len(more) == sum(sizes)


def test_both_solvers_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The iterative one for large graphs, and the dense one."""
    draw = np.random.default_rng(2)
    groups = np.repeat(np.arange(6), 30)
    chance = np.where(groups[:, None] == groups, 0.4, 0.02)
    half = np.triu(draw.random(chance.shape) < chance, 1).astype(float)
    graph = sp.csr_matrix(half + half.T)
    expected = item_ids._clusters(graph, 6)
    assert len(set(expected)) == 6
    monkeypatch.setattr(item_ids, "DENSE_NODES", 0)
    np.testing.assert_array_equal(item_ids._clusters(graph, 6), expected)


def blocks(n_users: int = 60) -> dict[str, list[str]]:
    """Users who each stay within one of three sets of ten items, but for their last two items."""
    draw, sequences = random.Random(4), {}
    for user in range(n_users):
        own = draw.sample([f"i{10 * (user % 3) + place}" for place in range(10)], 6)
        other = draw.sample([f"i{10 * ((user + 1) % 3) + place}" for place in range(10)], 2)
        sequences[f"u{user}"] = own + other
    return sequences


def test_items_that_occur_together_share_a_cluster(tiny: Tiny) -> None:
    """Three sets of items without a common user; the targets, which mix them, do not count."""
    tiny.write_inter(timed_rows(blocks()))
    ids = ids_of(tiny, n_clusters=3, max_leaf=10)
    groups = groups_of(ids)
    assert groups == {frozenset(f"i{10 * k + n}" for n in range(10)) for k in range(3)}
    assert {len(tokens) for tokens in ids.values()} == {2}


def test_items_without_a_neighbor_have_a_token_of_their_own(tiny: Tiny) -> None:
    """Items that are targets alone, and one whose users have no other training item."""
    more = {"a": ["i1", "i2", "new1", "new2"], "b": ["solo", "solo", "new3", "i1"]}
    tiny.write_inter(timed_rows(blocks() | more))
    tiny.remove_semantic_ids()
    ids = ids_of(tiny, n_clusters=3, max_leaf=10)
    assert len(ids) == N_ITEMS + 4
    private = [ids[item] for item in ("new1", "new2", "new3", "solo")]
    assert {len(tokens) for tokens in private} == {1} and len(set(private)) == 4
    others = {token for item, tokens in ids.items() if item[:1] == "i" for token in tokens}
    assert not others & {tokens[0] for tokens in private}


def test_without_any_pair_all_tokens_are_private(tiny: Tiny) -> None:
    sequences = {f"u{n}": [f"i{n}", f"i{n}", "i0", "i1"] for n in range(N_ITEMS)}
    tiny.write_inter(timed_rows(sequences))
    assert sorted(ids_of(tiny).values()) == [(token,) for token in range(1, N_ITEMS + 1)]


def named(rows: Sequence[Row], names: Mapping[str, str]) -> list[Row]:
    return [(user, names[item], time) for user, item, time in rows]


@pytest.mark.parametrize(
    ("model", "settings"), [("P5CID", {}), ("P5CID", {"leaf_tokens": "item"}), ("VIP5", {})]
)
def test_numbers_and_names_of_items_play_no_role(
    tiny: Tiny, model: str, settings: dict[str, Any]
) -> None:
    """The same users and sequences; the file has their rows in another order, or other names."""
    rows = timed_rows(tiny.sequences)
    tiny.write_inter(rows)
    expected = ids_of(tiny, model, **settings)
    by_user = [list(group) for _, group in itertools.groupby(rows, key=lambda row: row[0])]
    tiny.write_inter([row for group in by_user for row in reversed(group)])
    assert ids_of(tiny, model, **settings) == expected
    if model == "P5CID":
        items = list(expected)
        names = dict(zip(items, random.Random(1).sample(items, len(items)), strict=True))
        tiny.write_inter(named(rows, names))
        found = ids_of(tiny, model, **settings)
        assert {item: found[names[item]] for item in items} == expected


@pytest.mark.parametrize("model", ["P5CID", "VIP5"])
def test_targets_change_no_id(tiny: Tiny, model: str) -> None:
    """All validation and test items are others; the internal numbers stay."""
    found = []
    for shift in (0, 11):
        moved = {
            user: sequence[:-2]
            + [f"i{(int(item[1:]) + shift) % N_ITEMS}" for item in sequence[-2:]]
            for user, sequence in tiny.sequences.items()
        }
        tiny.write_inter(timed_rows(moved))
        found.append(ids_of(tiny, model))
    assert found[0] == found[1]


@pytest.mark.parametrize("base", [2, 10, 30, 1000])
def test_sequential_ids_are_digits_of_the_rank(tiny: Tiny, base: int) -> None:
    """By Python's own division; items that are not in training come last, by name."""
    sequences = {"a": ["i7", "i3", "i9", "i4"], "b": ["i3", "i5", "i7", "i20", "i10"]}
    # Two training items each, both known by then.
    sequences |= {f"u{n}": ["i3", "i7", f"i{n}", f"i{n}"] for n in range(N_ITEMS)}
    tiny.write_inter(timed_rows(sequences))
    ids = ids_of(tiny, "VIP5", id_base=base)
    order = ["i7", "i3", "i5"]
    order += sorted(ids.keys() - {*order})
    assert len(order) == N_ITEMS
    for rank, item in enumerate(order):
        digits, rest = [], rank
        for _ in ids[item]:
            digits.insert(0, rest % base + 1)
            rest //= base
        assert ids[item] == tuple(digits) and rest == 0
    n_digits = {len(tokens) for tokens in ids.values()}
    assert n_digits == {len(np.base_repr(N_ITEMS - 1, base)) if base <= 36 else 1}
