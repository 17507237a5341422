"""Top-k of code scores: three methods beside sorted scores in double precision.

Scores may differ from those by rounding: 1e-5 of the sum of the largest code scores. Where codes
and queries are small whole numbers and there are neither norms nor rows, every sum is exact, and
the items must be the same, ties included.
"""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from recbole_qbert.common.errors import InputError
from recbole_qbert.topk import index, scan
from recbole_qbert.topk.index import ItemIndex

COMPILED = importlib.util.find_spec("numba") is not None
METHODS = ["dense", "codes"] + ["pruned"] * COMPILED
needs_numba = pytest.mark.skipif(not COMPILED, reason="numba is not installed")


class Catalog:
    """A random catalog, and its scores worked out item by item in double precision."""

    def __init__(
        self,
        seed: int,
        n_items: int,
        sizes: list[int],
        width: int = 8,
        rows: bool = False,
        cosine: bool = False,
        per_level: bool = False,
        whole: bool = False,
        used: float = 1.0,
        terms: bool = False,
    ):
        rng = np.random.default_rng(seed)
        # A power makes some codes frequent; `used` leaves the upper codes of each level without
        # items.
        drawn = rng.random((n_items, len(sizes))) ** rng.choice([1, 3])
        self.codes = torch.from_numpy((drawn * used * np.array(sizes)).astype(np.int64))
        draw = (lambda shape: rng.integers(-3, 4, shape)) if whole else rng.standard_normal
        made = lambda *shape: torch.from_numpy(np.asarray(draw(shape), np.float32))  # noqa: E731
        self.tables = [made(size, width) for size in sizes]
        self.rows = made(n_items, width) if rows else None
        self.terms = made(n_items) * 2 if terms else None
        self.index = ItemIndex(self.codes, self.tables, self.rows, cosine, per_level, self.terms)
        own = [table[codes] for table, codes in zip(self.tables, self.codes.T, strict=True)]
        vectors = (torch.cat(own, 1) if per_level else sum(own)).double()  # type: ignore[union-attr]
        vectors = vectors if self.rows is None else vectors + self.rows
        self.vectors = F.normalize(vectors, dim=1) if cosine else vectors
        self.made = made

    def queries(self, n: int) -> Tensor:
        return self.made(n, self.index.width)


def expected(
    catalog: Catalog,
    queries: Tensor,
    k: int,
    excluded: tuple[Tensor, Tensor] | None = None,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort all items by score, then by number. Also returns all scores."""
    scores = queries.double() @ catalog.vectors.T
    if catalog.terms is not None:
        scores += catalog.terms
    if allowed is not None:
        scores[:, ~allowed] = -torch.inf
    if excluded is not None:
        scores[excluded] = -torch.inf
    values, items = scores.sort(dim=1, descending=True, stable=True)
    items[values == -torch.inf] = -1
    values, items = values[:, :k], items[:, :k]
    missing = (0, k - values.size(1))
    return F.pad(values, missing, value=-torch.inf), F.pad(items, missing, value=-1), scores


def check(catalog: Catalog, queries: Tensor, k: int, method: str, **restrictions: object) -> None:
    """Compare a method with `expected`; exact items where all scores are whole."""
    values, items = catalog.index.top_k(queries, k, method=method, **restrictions)  # type: ignore
    want, want_items, scores = expected(catalog, queries, k, **restrictions)  # type: ignore
    assert values.dtype == torch.float32 and items.dtype == torch.int64
    assert values.shape == items.shape == (len(queries), k)
    tolerance = 1e-5 * float(catalog.index.code_scores(queries).abs().amax(2).sum(1).max() + 1)
    torch.testing.assert_close(values.double(), want, rtol=0, atol=tolerance)
    assert ((items >= 0) == (want_items >= 0)).all()
    # The items have these scores, and none stands twice.
    own = scores.gather(1, items.clamp(min=0)).where(items >= 0, -torch.inf)
    torch.testing.assert_close(values.double(), own, rtol=0, atol=tolerance)
    assert all(
        len(row) == len(set(row)) for row in ([i for i in r if i >= 0] for r in items.tolist())
    )
    if not queries.frac().any() and catalog.index.norms is None:
        assert (items == want_items).all()


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 400),
    sizes=st.lists(st.sampled_from([1, 2, 3, 4, 17, 300]), min_size=1, max_size=12),
    k=st.integers(1, 30),
    n_queries=st.integers(1, 5),
    flags=st.tuples(*[st.booleans()] * 6),
)
def test_methods_rank_as_sorted_scores(
    method: str,
    seed: int,
    n_items: int,
    sizes: list[int],
    k: int,
    n_queries: int,
    flags: tuple[bool, ...],
) -> None:
    """Any numbers of levels, codes and items; ties, k > N, excluded and allowed items."""
    rows, cosine, per_level, whole, restricted, terms = flags
    kind = (rows and not per_level, cosine, per_level, whole)
    catalog = Catalog(seed, n_items, sizes, 8, *kind, terms=terms)
    rng = np.random.default_rng(seed)
    restrictions: dict[str, object] = {}
    if restricted:
        n_pairs = int(rng.integers(0, 2 * n_items))
        pairs = (rng.integers(0, n, n_pairs) for n in (n_queries, n_items))
        restrictions["excluded"] = tuple(map(torch.from_numpy, pairs))
        restrictions["allowed"] = torch.from_numpy(rng.random(n_items) < rng.random())
    check(catalog, catalog.queries(n_queries), k, method, **restrictions)


# Sizes at which runs have two levels, one level and none, with empty runs in between.
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("n_items", "sizes", "used"),
    [
        (5000, [4, 4, 9, 4], 1.0),
        (5000, [24, 20, 3], 0.6),
        (20000, [16, 1024, 3, 700, 2, 9], 0.8),
        (9000, [8] * 12, 1.0),
        (3000, [2], 1.0),
        (3000, [2, 2], 1.0),
        (4000, [40] * 7, 1.0),
    ],
)
@pytest.mark.parametrize(
    "kind", ["sum", "cosine", "hybrid", "cosine hybrid", "per level", "terms", "cosine terms"]
)
def test_methods_rank_catalogs_in_runs(
    method: str, n_items: int, sizes: list[int], used: float, kind: str
) -> None:
    """One query and several; wide rows, so that components beyond those in 8 bits matter."""
    flags = {"rows": "hybrid" in kind, "cosine": "cosine" in kind, "per_level": kind == "per level"}
    flags["terms"] = "terms" in kind
    for whole in (False, True):
        catalog = Catalog(7, n_items, sizes, 40, **flags, whole=whole, used=used)
        for n_queries in (1, 3):
            check(catalog, catalog.queries(n_queries), 10, method)
        allowed = torch.arange(n_items) % 5 > 0
        seen = expected(catalog, queries := catalog.queries(2), 20)[1]
        pairs = (torch.tensor([0] * 20), seen[0])
        check(catalog, queries, 10, method, excluded=pairs, allowed=allowed)


@pytest.mark.parametrize("method", METHODS)
def test_scores_of_one_sign_with_norms(method: str) -> None:
    """All scores negative: the largest norm wins, and bounds change their side."""
    catalog = Catalog(3, 5000, [6, 5, 7], cosine=True, rows=True)
    direction = catalog.vectors.mean(dim=0).float()
    shifted = [table + 4 * F.normalize(direction, dim=0) for table in catalog.tables]
    catalog.index = ItemIndex(catalog.codes, shifted, catalog.rows, cosine=True)
    own = [table[codes] for table, codes in zip(shifted, catalog.codes.T, strict=True)]
    catalog.vectors = F.normalize((sum(own) + catalog.rows).double(), dim=1)  # type: ignore
    for sign in (1.0, -1.0):
        query = sign * direction.unsqueeze(0)
        assert float((catalog.vectors @ query[0].double()).mul(sign).min()) > 0
        check(catalog, query, 10, method)


@pytest.mark.parametrize("method", METHODS)
def test_a_long_vector_is_the_best_of_negative_scores(method: str) -> None:
    """Items of first code 0 have the highest sums, but those of code 1 and long vectors win."""
    first, last = torch.arange(800) % 4, torch.arange(800) // 4 % 2
    codes = torch.stack([first, torch.zeros_like(first), last * (first > 0)], dim=1)
    lengths = torch.tensor([[0.0, 0.1], [0.0, 30.0]])
    downhill = torch.stack([-1 - torch.arange(4) / 10, torch.zeros(4)], dim=1)
    long_first = ItemIndex(codes, [downhill, torch.zeros(1, 2), lengths], cosine=True)
    values, items = long_first.top_k(torch.tensor([[1.0, 0.0]]), 5, method=method)
    assert items.tolist() == [[5, 13, 21, 29, 37]]
    assert values.tolist()[0] == pytest.approx([-1.1 / (1.1**2 + 30**2) ** 0.5] * 5)


@pytest.mark.parametrize("method", METHODS)
def test_equal_scores_rank_by_number(method: str) -> None:
    """All items have the same codes: items 0, 1, ..., without the excluded ones."""
    index_of_one = ItemIndex(torch.zeros(3000, 3, dtype=torch.long), [torch.ones(1, 2)] * 3)
    pairs = (torch.zeros(2, dtype=torch.long), torch.tensor([0, 2]))
    values, items = index_of_one.top_k(torch.ones(1, 2), 4, pairs, method=method)
    assert items.tolist() == [[1, 3, 4, 5]] and values.tolist() == [[6.0] * 4]


@pytest.mark.parametrize("method", METHODS)
def test_an_item_without_a_vector_scores_zero(method: str) -> None:
    """A vector of zeros has no direction; its norm must not divide by zero."""
    tables = [torch.tensor([[0.0, 0.0], [1.0, 0.0]])]
    catalog = ItemIndex(torch.tensor([[0], [1]]), tables, cosine=True)
    values, items = catalog.top_k(torch.tensor([[-1.0, 0.0]]), 2, method=method)
    assert items.tolist() == [[0, 1]] and values.tolist() == [[0.0, -1.0]]


@pytest.mark.parametrize("method", ["dense", "codes"])
def test_scores_in_parts(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of seven items give what one part gives, ties over their borders included."""
    catalog = Catalog(5, 100, [3, 3], whole=True)
    monkeypatch.setattr(scan, "SCORES_AT_ONCE", 21)
    for k in (1, 6, 8, 40, 100):
        check(catalog, catalog.queries(3), k, method)


@needs_numba
def test_threads_share_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two and three threads, for one query, for several and for more than threads."""
    from recbole_qbert.topk import pruned

    monkeypatch.setattr(pruned, "ALONE", 0)
    for n_threads in (2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        for whole in (False, True):
            catalog = Catalog(n_threads, 9000, [8, 8, 8, 8], rows=True, whole=whole, used=0.8)
            for n_queries in (1, 2, 7):
                check(catalog, catalog.queries(n_queries), 10, "pruned")


@needs_numba
def test_runs_below_the_bound_are_not_read() -> None:
    """Norms near 0 would lift items of runs that cannot reach the best five, if they were read."""
    catalog = Catalog(11, 40_000, [16] * 4, cosine=True)
    query = catalog.queries(1)
    values, items = catalog.index.top_k(query, 5, method="pruned")
    scores = catalog.index.code_scores(query)[0]
    layout = catalog.index._sorted.sorted
    codes = [torch.from_numpy(own.astype(int)) for own in layout.codes]
    base = scores[0][codes[0]] + scores[1][codes[1]]
    least = torch.from_numpy(layout.least_norms)[codes[0] * 16 + codes[1]]
    # The first run is searched before there is a bound.
    unread = base + scores[2:].amax(dim=1).sum() < values[0, -1] * least
    unread &= codes[0] != scores[0].argmax()
    total = base + scores[2][codes[2]] + scores[3][codes[3]]
    assert unread.float().mean() > 0.2 and (unread & (total > 0)).any()
    layout.norms[unread.numpy()] = 1e-9
    again = catalog.index.top_k(query, 5, method="pruned")
    assert torch.equal(again[0], values) and torch.equal(again[1], items)


def test_auto_chooses_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product for few items and for long lists; without numba, codes where it would not fit."""
    catalog = Catalog(1, 50, [2, 3])
    assert catalog.index.method_for(1, 10) == "dense"
    monkeypatch.setattr(index, "FEWEST", 10)
    for compiles, k, matrix, method in (
        (True, 10, 1 << 24, "pruned"),
        (True, 10, 100, "pruned"),
        (True, 2000, 1 << 24, "dense"),
        (True, 2000, 100, "codes"),
        (False, 10, 1 << 24, "dense"),
        (False, 10, 100, "codes"),
    ):
        monkeypatch.setattr(ItemIndex, "_compiles", lambda self, value=compiles: value)
        monkeypatch.setattr(index, "MATRIX", matrix)
        assert catalog.index.method_for(1, k) == method
    monkeypatch.setattr(ItemIndex, "_compiles", lambda self: True)
    monkeypatch.setattr(index, "MATRIX", 1 << 24)
    assert Catalog(1, 50, [2, 3], rows=True).index.method_for(64, 10) == "dense"


def test_without_numba_codes_ranks_with_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, the same result; `auto` says nothing."""
    monkeypatch.setattr(ItemIndex, "_compiles", lambda self: False)
    catalog = Catalog(2, 60, [4, 4])
    query = catalog.queries(2)
    with pytest.warns(UserWarning, match="pruned needs numba") as noted:
        found = catalog.index.top_k(query, 5, method="pruned")
    assert len(noted) == 1 and "\n" not in str(noted[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = catalog.index.top_k(query, 5, method="codes")
        catalog.index.top_k(query, 5)
    assert all(torch.equal(*both) for both in zip(found, again, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": torch.tensor([[0, 3]])}, "codes: level 2 is not within 0 to 2"),
        ({"codes": torch.tensor([[-1, 0]])}, "codes: level 1 is not within 0 to 255"),
        ({"codes": torch.zeros(2, 3, dtype=torch.long)}, r"codes: \(2, 3\) is not items x 2"),
        ({"codes": torch.zeros(0, 2, dtype=torch.long)}, r"codes: \(0, 2\) is not items x 2"),
        ({"rows": torch.zeros(2, 4)}, "rows: not one vector"),
        ({"rows": torch.full((1, 4), torch.nan)}, "not finite"),
        ({"terms": torch.zeros(2)}, r"terms: \(2,\) is not one number for each item"),
        ({"queries": torch.full((1, 4), torch.inf)}, "queries: not finite"),
        ({"queries": torch.zeros(1, 5)}, r"queries: \(1, 5\) is not queries x 4"),
        ({"k": 0}, "k: 0 is not a whole number of at least 1"),
        ({"method": "prune"}, "did you mean 'pruned'"),
        ({"allowed": torch.ones(2, dtype=torch.bool)}, "allowed: not one boolean an item"),
        ({"excluded": (torch.tensor([0]), torch.tensor([1]))}, "excluded: a number is not within"),
        ({"excluded": (torch.tensor([1]), torch.tensor([0]))}, "excluded: a number is not within"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    """In one line, before anything is scored; compiled code does not check its indices."""
    arguments: dict[str, object] = {
        "codes": torch.tensor([[255, 2]], dtype=torch.uint8),
        "rows": None,
        "terms": None,
        "queries": torch.zeros(1, 4),
    }
    arguments |= change
    tables = [torch.zeros(256, 4), torch.zeros(3, 4)]
    with pytest.raises(InputError, match=message):
        names = ("codes", "rows", "terms", "queries")
        codes, rows, terms, queries = (arguments.pop(name) for name in names)
        ItemIndex(codes, tables, rows, terms=terms).top_k(queries, **arguments)  # type: ignore
