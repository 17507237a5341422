"""The numbers of a report: worked out by hand, and against plain loops on random data."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score
from toy_items import Toy

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.reports.inspection.catalog import Catalog, ItemGroup, open_catalog, spread
from recbole_qbert.reports.inspection.facts import Facts, gather_facts
from recbole_qbert.reports.inspection.neighbors import (
    agreement,
    choose_examples,
    example,
    open_space,
)
from recbole_qbert.reports.inspection.sections import Limits, item_tree
from recbole_qbert.reports.inspection.usage import group_purity


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """The eight items' files."""
    return Toy(tmp_path).write()


def _random_catalog(folder: Path, n: int = 150, n_levels: int = 4, size: int = 5) -> Catalog:
    draw = np.random.default_rng(8)
    codes = np.unique(draw.integers(0, size, (2 * n, n_levels)), axis=0)
    codes = codes[draw.permutation(len(codes))[:n]]
    table = SemanticIDTable(tuple(f"r{row}" for row in range(n)), codes, (size,) * n_levels)
    write_semantic_ids(folder / "random.semid", table, {})
    return open_catalog(folder / "random.semid")


def _full(toy: Toy, **settings: Any) -> Facts:
    given = {
        "item_path": toy.item,
        "title_field": "title",
        "category_field": "kind",
        "embeddings": {"circle": toy.vectors},
    }
    return gather_facts(toy.semid, **(given | settings))


def test_usage_by_hand(toy: Toy) -> None:
    facts = gather_facts(toy.semid)
    a, b, c = facts.usage.to_dict("records")
    # Level a: 4, 2, 1 and 1 items; entropy in bits 1/2 * 1 + 1/4 * 2 + 2 * 1/8 * 3 = 1.75.
    assert (a["level"], a["codes"], a["used"], a["share used"]) == ("a", 4, 4, 1.0)
    assert (a["most common"], a["its items"]) == ("a_0", 4)
    assert a["perplexity"] == pytest.approx(2**1.75)
    assert (b["used"], b["its items"], b["most common"]) == (3, 5, "b_0")
    assert (c["used"], c["its items"], c["most common"]) == (3, 5, "c_0")
    one, two, three = facts.depths.itertuples(index=False, name=None)
    assert one == ("a", 4, 2, 2 / 8, pytest.approx((4 * 3 + 2 * 1) / 8), 4)
    assert two == ("a b", 5, 2, 2 / 8, pytest.approx(6 / 8), 2)
    assert three == ("a b c", 8, 8, 1.0, 0.0, 1)
    assert facts.sizes.to_dict("list") == {
        "items in the group": ["1", "2", "3-4"], "a": [2, 1, 1], "a..b": [2, 3, 0],
        "a..c": [8, 0, 0],
    }  # fmt: skip


def test_group_sizes(tmp_path: Path) -> None:
    sizes = [1, 2, 3, 4, 5, 8, 9, 16]
    codes = np.array([(group, n) for group, size in enumerate(sizes) for n in range(size)])
    items = tuple(map(str, range(len(codes))))
    write_semantic_ids(tmp_path / "s.semid", SemanticIDTable(items, codes, (8, 16)), {})
    found = gather_facts(tmp_path / "s.semid").sizes
    assert found["items in the group"].tolist() == ["1", "2", "3-4", "5-8", "9-16"]
    assert found["a"].tolist() == [1, 1, 2, 2, 2]


def test_sidecar_report(toy: Toy) -> None:
    found = {"collisions": 3, "moved": 2, "moved_per_level": [0, 0, 2]}
    assert gather_facts(toy.semid).build == found
    Path(f"{toy.semid}.json").unlink()
    assert gather_facts(toy.semid).build == {}


def test_purity_by_hand(toy: Toy) -> None:
    found = _full(toy).purity
    assert found is not None
    assert (found.n_items, found.n_without, found.n_categories) == (7, 1, 2)
    assert (found.largest, found.largest_share) == ("x", pytest.approx(4 / 7))
    # Shared a: x x x y | y y | one item alone.
    assert found.groupings.index.tolist() == ["a", "a b", "a b c", "b alone", "c alone"]
    one, two, three, b, _ = found.groupings.to_dict("records")
    assert (one["groups"], one["items"], one["single"]) == (2, 6, 1)
    assert one["purity"] == pytest.approx(5 / 6)
    groups = math.log(3) - 2 / 3 * math.log(2)
    cells = 1 / 2 * math.log(2) + 1 / 6 * math.log(6) + 1 / 3 * math.log(3)
    information = groups + math.log(2) - cells
    assert one["NMI"] == pytest.approx(information / ((groups + math.log(2)) / 2))
    # Shared a b: x x | x y | y y.
    assert (two["groups"], two["purity"]) == (3, pytest.approx(5 / 6))
    assert (three["groups"], three["single"]) == (0, 7)
    assert math.isnan(three["purity"]) and math.isnan(three["NMI by chance"])
    # Level b alone: x x y y | x y | one alone.
    assert (b["items"], b["single"], b["purity"]) == (6, 1, 0.5)


def test_chance_is_the_exact_expectation() -> None:
    # Four of x x x y y y against two: the pair is of one kind in 6 of 15 draws (purity 5/6, else
    # 1/2).
    found = group_purity(
        np.array([7, 7, 7, 7, 2, 2]), np.array([0, 0, 0, 1, 1, 1]), 0, n_permutations=3000
    )
    assert found["purity by chance"] == pytest.approx(6 / 15 * 5 / 6 + 9 / 15 / 2, abs=0.01)
    assert found["purity"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("n_groups", [1, 6, 40])
def test_purity_matches_a_plain_loop(n_groups: int) -> None:
    draw = np.random.default_rng(n_groups)
    groups, kinds = draw.integers(0, n_groups, 120), draw.integers(0, 4, 120)
    found = group_purity(groups, kinds, 1, 2)
    sizes = Counter(groups.tolist())
    kept = [row for row in range(120) if sizes[groups[row]] > 1]
    right = 0
    for group in {groups[row] for row in kept}:
        right += max(Counter(kinds[row] for row in kept if groups[row] == group).values())
    assert found["purity"] == pytest.approx(right / len(kept))
    assert found["NMI"] == pytest.approx(normalized_mutual_info_score(kinds[kept], groups[kept]))
    assert (found["items"], found["single"]) == (len(kept), 120 - len(kept))
    assert found == group_purity(groups, kinds, 1, 2)


def test_one_group_of_one_category_is_perfect() -> None:
    found = group_purity(np.zeros(3, dtype=int), np.full(3, 2), 0, 2)
    assert (found["purity"], found["NMI"], found["purity by chance"]) == (1.0, 1.0, 1.0)


def test_agreement_by_hand(toy: Toy) -> None:
    catalog = open_catalog(toy.semid)
    found = agreement(open_space("circle", toy.vectors, catalog), catalog, 0, n_nearest=2)
    # The two nearest: i0 i1 i2 have each other, i3 i4 i5 too; i6 has i7 i5, i7 has i6 i5.
    # Of the sixteen share a: two each of i0 i1 i2, one each of i4 i5; a b: one of i0 i1 i4 i5.
    assert (found.n_items, found.n_asked, found.n_nearest) == (8, 8, 2)
    assert found.shared == pytest.approx((8 / 16, 4 / 16, 0))
    assert found.shared_chance == pytest.approx((14 / 56, 6 / 56, 0))
    # By code i0 has i1, then i2 or i3 with odds 1/2; i4 has i5, then any of six; i6 any of seven.
    by_item = [1 + 1 / 2, 1 + 1 / 2, 2 / 2, 0, 1 + 1 / 6, 1 + 1 / 6, 2 * 2 / 7, 2 * 2 / 7]
    assert found.overlap == pytest.approx(sum(by_item) / 16)
    assert found.overlap_chance == pytest.approx(2 / 7)


def test_agreement_matches_a_plain_loop(tmp_path: Path) -> None:
    catalog, k = _random_catalog(tmp_path), 7
    items = [item for row, item in enumerate(catalog.items) if row % 5]
    points = np.random.default_rng(2).normal(size=(len(items), 6)).astype(np.float32)
    np.savez(tmp_path / "v.npz", items=np.array(items), vectors=points)
    codes = catalog.codes[catalog.rows_of(items)].tolist()
    shared, chance, overlap = np.zeros(4), np.zeros(4), 0.0
    for one, point in enumerate(points):
        others = [other for other in range(len(items)) if other != one]
        cosines = {o: point @ points[o] / math.dist(points[o], [0] * 6) for o in others}
        nearest = sorted(others, key=lambda o: -cosines[o])[:k]  # noqa: B023
        equal = {o: [codes[o][:d] == codes[one][:d] for d in range(1, 5)] for o in others}
        shared += np.mean([equal[o] for o in nearest], axis=0)
        chance += np.mean([equal[o] for o in others], axis=0)
        length = {o: sum(equal[o]) for o in others}
        for o in nearest:
            nearer = sum(length[p] > length[o] for p in others)
            tied = sum(length[p] == length[o] for p in others)
            overlap += min(1.0, max(0.0, (k - nearer) / tied)) / k
    found = agreement(open_space("v", tmp_path / "v.npz", catalog), catalog, 0, k)
    n = len(items)
    assert found.shared == pytest.approx(shared / n)
    assert found.shared_chance == pytest.approx(chance / n)
    assert found.overlap == pytest.approx(overlap / n)


def test_agreement_of_a_sample_and_of_few_items(toy: Toy) -> None:
    catalog = open_catalog(toy.semid)
    space = open_space("circle", toy.vectors, catalog)
    sample = agreement(space, catalog, 4, max_asked=3)
    assert (sample.n_asked, sample.n_items, sample.n_nearest) == (3, 8, 7)
    assert sample == agreement(space, catalog, 4, max_asked=3)
    # Seven nearest of seven others are everybody: no more than chance, and all overlap.
    everybody = agreement(space, catalog, 0)
    assert everybody.shared == pytest.approx(everybody.shared_chance)
    assert everybody.overlap == everybody.overlap_chance == 1.0


def test_examples(toy: Toy) -> None:
    catalog = open_catalog(toy.semid)
    space = open_space("circle", toy.vectors, catalog)
    found = example(catalog, [space], 4)
    assert (found.item, found.codes) == ("i4", "a_1 b_0 c_0")
    assert found.text == "other items that share a: 1, a..b: 1"
    by_code, by_circle = ([(card.item, card.note) for card in one.cards] for one in found.lists)
    assert by_code == [("i5", "2/3")]
    cosines = [f"{math.cos(math.radians(angle)):.2f}" for angle in (1, 2, 38, 40, 41)]
    shared = ["0/3", "2/3", "0/3", "0/3", "0/3"]
    notes = [f"{cosine}  {levels}" for cosine, levels in zip(cosines, shared, strict=True)]
    assert by_circle == list(zip(["i3", "i5", "i2", "i1", "i0"], notes, strict=True))
    # Nearest by code: i1 shares two codes, i2 one and the last, i3 one.
    (by_code_0,) = example(catalog, [], 0).lists
    assert [card.item for card in by_code_0.cards] == ["i1", "i2", "i3"]


def test_examples_have_vectors_where_they_can(toy: Toy) -> None:
    catalog = open_catalog(toy.semid)
    np.savez(toy.vectors, items=["i2", "i5", "i6", "none"], vectors=np.eye(4)[:, :3] * 1e30)
    space = open_space("few", toy.vectors, catalog)
    assert space.rows.tolist() == [2, 5, 6]  # the zero vector and the unknown item are gone
    assert np.isfinite(space.vectors).all()
    assert choose_examples(catalog, [space], None, 9) == [2, 5, 6]
    assert choose_examples(catalog, [space], ItemGroup(1, 0, 2), 9) == [0, 1]
    by_few = example(catalog, [space], 0).lists[1]
    assert (by_few.title, by_few.cards, by_few.missing) == ("by few", (), "no embedding")


def test_spread() -> None:
    assert spread(range(10), 2) == [2, 7]
    assert spread([4, 9], 3) == [4, 9]


def test_a_tree_accounts_for_every_item(tmp_path: Path) -> None:
    catalog = _random_catalog(tmp_path)
    for limits in (Limits(2, 3, 2), Limits(1, 0, 4), Limits(99, 99, 4)):
        for group in catalog.subgroups(catalog.root):
            queue, n_items = [("", item_tree(catalog, group, limits))], 0
            for above, tree in queue:
                prefix = f"{above} {tree.prefix}".strip()
                found = catalog.find(prefix)
                assert found.size == tree.size
                assert sum(c.size for c in tree.children) + len(tree.cards) + tree.n_hidden == (
                    tree.size
                )
                for card in tree.cards:
                    (row,) = catalog.rows_of([card.item])
                    assert found.start <= row < found.end
                    assert f"{prefix} {card.note}".strip() == catalog.codes_text(row)
                queue += [(prefix, child) for child in tree.children]
                n_items += len(tree.cards) + tree.n_hidden
            assert n_items == group.size


@pytest.mark.parametrize(
    ("vectors", "items", "message"),
    [
        ([[0.0], [1.0]], ["i0", "i1"], "1 item of toy.semid with a vector that is not zero"),
        ([[1.0], [1.0]], ["a", "b"], r"has no item of toy.semid \(which has 'i0'"),
    ],
)
def test_unusable_embeddings(
    toy: Toy, vectors: list[list[float]], items: list[str], message: str
) -> None:
    np.savez(toy.vectors, items=np.array(items), vectors=np.array(vectors))
    with pytest.raises(InputError, match=message):
        _full(toy)
