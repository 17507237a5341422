"""The best items: a plain sort of all scores gives the same, with exclusions and equal scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bundles import bundled
from conftest import N_ITEMS, Tiny

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.ragged import compacted
from recbole_qbert.serving.histories import Histories, grouped, offsets_of
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.serving.scoring import batch_of, rows_at_once, scores_of, top_k
from recbole_qbert.topk.index import ItemIndex
from recbole_qbert.topk.scan import best


def plain_top(
    scores: list[float], history: list[int], k: int, exclude_seen: bool, allowed: set[int]
) -> list[tuple[int, float]]:
    """IDs and scores, by a sort in Python."""
    left = [
        (-score, item)
        for item, score in enumerate(scores)
        if item in allowed and score > -np.inf and not (exclude_seen and item in history)
    ]
    return [(item, -score) for score, item in sorted(left)[:k]]


@pytest.mark.parametrize("model", ["Popularity", "BigramChain", "SASRec", "QBERT4Rec"])
def test_a_sort_of_all_scores_gives_the_same(tiny: Tiny, model: str) -> None:
    """Popularity and BigramChain have many equal scores."""
    recommender = Recommender.load(bundled(tiny, model)[2])
    draw = np.random.default_rng(0)
    lists = [draw.integers(1, N_ITEMS + 1, n).tolist() for n in (1, 2, 3, 8, 9, 20, 29)]
    histories = Histories(np.concatenate(lists), offsets_of(np.array([*map(len, lists)])))
    scores = scores_of(recommender.model, recommender.config, *histories.last_items(8)).tolist()
    for allowed in (range(1, N_ITEMS + 1), [3, 7, 8, 9, 30], [5]):
        mask = torch.zeros(N_ITEMS + 1, dtype=torch.bool)
        mask[[*allowed]] = True
        for exclude_seen in (True, False):
            for k in (1, 5, N_ITEMS):
                settings: Any = (recommender.model, recommender.config, histories, k, exclude_seen)
                found = top_k(*settings, mask)
                if len(allowed) == N_ITEMS:
                    again = top_k(*settings)
                    assert (again.items == found.items).all()
                for row, history in enumerate(lists):
                    expected = plain_top(scores[row], history, k, exclude_seen, {*allowed})
                    n = len(expected)
                    items, values = found.items[row].tolist(), found.scores[row].tolist()
                    assert [*zip(items[:n], values[:n], strict=True)] == expected
                    assert items[n:] == [0] * (k - n)


@pytest.mark.parametrize("model", ["TIGER", "P5CID"])
def test_a_search_fills_its_lists(tiny: Tiny, model: str) -> None:
    """Five beams: seen items, few candidates and long lists need more. All are scored exactly."""
    few: dict[str, Any] = {"beam_size": 5, "topk": [5], "valid_metric": "NDCG@5", "epochs": 1}
    recommender = Recommender.load(bundled(tiny, model, **few)[2])
    draw = np.random.default_rng(0)
    lists = [(draw.permutation(N_ITEMS)[:n] + 1).tolist() for n in (1, 3, 8, 9, 20, 29)]
    histories = Histories(np.concatenate(lists), offsets_of(np.array([*map(len, lists)])))
    batch = batch_of(recommender.model, recommender.config, *histories.last_items(8))
    with torch.no_grad():
        exact = recommender.model.exact_scores(batch).tolist()
    for allowed in (range(1, N_ITEMS + 1), [3, 7, 8, 9, 30], [5]):
        mask = torch.zeros(N_ITEMS + 1, dtype=torch.bool)
        mask[[*allowed]] = True
        for exclude_seen in (True, False):
            for k in (1, 5, 9, N_ITEMS):
                settings: Any = (recommender.model, recommender.config, histories, k, exclude_seen)
                found = top_k(*settings, mask)
                for row, history in enumerate(lists):
                    expected = plain_top(exact[row], history, k, exclude_seen, {*allowed})
                    n = len(expected)
                    items, values = found.items[row].tolist(), found.scores[row].tolist()
                    assert all(items[:n]) and items[n:] == [0] * (k - n)
                    left = {*allowed} - ({*history} if exclude_seen else set())
                    assert {*items[:n]} <= left and len({*items[:n]}) == n
                    assert values[:n] == pytest.approx([exact[row][i] for i in items[:n]], abs=1e-4)
                    if len(allowed) < N_ITEMS or k == N_ITEMS:
                        assert items[:n] == [item for item, _ in expected]
    assert recommender.model.beam_size == 5


@pytest.mark.parametrize("model", ["QBERT4Rec", "BBQRec", "IDBERT4Rec"])
@pytest.mark.parametrize("method", ["codes", "pruned"])
def test_search_by_codes(
    tiny: Tiny, model: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the index chooses, lists are the same; IDBERT4Rec has no codes and no index."""
    if method == "pruned":
        pytest.importorskip("numba")
    recommender = Recommender.load(bundled(tiny, model)[2])
    draw = np.random.default_rng(1)
    lists = [[f"i{n}" for n in draw.integers(0, N_ITEMS, length)] for length in (1, 2, 8, 9, 29)]
    settings: list[dict[str, Any]] = [{}, {"exclude_seen": False}, {"candidates": ["i3", "i7"]}]
    plain = [recommender.recommend(lists, k=6, **each) for each in settings]
    asked: list[int] = []

    def choose(index: Any, n_queries: int, k: int) -> str:
        asked.append(n_queries)
        return method

    monkeypatch.setattr(ItemIndex, "method_for", choose)
    for found, each in zip(plain, settings, strict=True):
        again = recommender.recommend(lists, k=6, **each)
        for one, other in zip(found, again, strict=True):
            assert [item for item, _ in one] == [item for item, _ in other]
            assert [score for _, score in one] == pytest.approx([s for _, s in other], abs=1e-4)
    assert bool(asked) == (model != "IDBERT4Rec")


def test_equal_scores_at_the_end_of_a_list() -> None:
    """Which of them are taken does not depend on the rows beside."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (200, 50), generator=draw).float()
    scores[:, 0] = -torch.inf
    scores[scores == 0] = -torch.inf
    for k in (1, 7, 30, 49):
        values, items = best(scores.clone(), k)
        order = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(values, order.values[:, :k])
        real = values > -torch.inf
        assert torch.equal(items[real], order.indices[:, :k][real])


def test_candidates_by_token(tiny: Tiny) -> None:
    recommender = Recommender.load(bundled(tiny, "SASRec")[2])
    history = [["i1", "i2"]]
    (whole,) = recommender.recommend(history, k=30)
    some = {"i9", "i4", "i2", "i20"}
    (found,) = recommender.recommend(history, k=30, candidates=[*some])
    assert found == [each for each in whole if each[0] in some]
    (found,) = recommender.recommend(history, k=30, exclude=["i9", "i4"])
    assert found == [each for each in whole if each[0] not in ("i9", "i4")]
    (found,) = recommender.recommend(history, k=30, candidates=[*some], exclude=["i9", "i4"])
    assert [item for item, _ in found] == ["i20"]
    with pytest.warns(UserWarning, match=r"^candidates and exclude: items unknown .* \(2\): 'x'"):
        (found,) = recommender.recommend(history, k=3, candidates=["x", "i4"], exclude=["y"])
    assert [item for item, _ in found] == ["i4"]
    for candidates, exclude in ((["x"], []), ([], []), (["i4"], ["i4"])):
        with pytest.raises(InputError, match="^candidates: none is known to the model and not"):
            recommender.recommend(history, k=3, candidates=candidates, exclude=exclude)
    with pytest.raises(InputError, match="^exclude: it has all items of the model"):
        recommender.recommend(history, k=3, exclude=[item for item, _ in whole] + ["i1", "i2"])


def test_grouping_is_that_of_a_plain_loop() -> None:
    draw = np.random.default_rng(3)
    for timed in (True, False):
        users, items = draw.integers(0, 12, 300), draw.integers(0, 40, 300)
        users[users == 5] = 6  # a user without rows
        times = draw.integers(0, 9, 300) if timed else None
        lists: list[list[int]] = [[] for _ in range(12)]
        rows = range(300) if times is None else sorted(range(300), key=lambda row: times[row])
        for row in rows:
            if items[row]:
                lists[users[row]].append(int(items[row]))
        found = grouped(users, items, 12, times)
        assert [part.tolist() for part in np.split(found.items, found.offsets[1:-1])] == lists
        padded, lengths = found.last_items(6)
        for row, history in enumerate(lists):
            assert padded[row, : lengths[row]].tolist() == history[-6:]
            assert not padded[row, lengths[row] :].any()
        part = found.part(3, 8)
        assert len(part) == 5
        assert part.items.tolist() == [item for history in lists[3:8] for item in history]
        assert part.lengths.tolist() == [*map(len, lists[3:8])]
        assert found.without_empty().lengths.tolist() == [len(each) for each in lists if each]


def test_zeros_move_behind_the_items() -> None:
    rows = torch.tensor([[0, 3, 0, 4], [1, 2, 3, 4], [0, 0, 0, 0]])
    found, lengths = compacted(rows)
    assert found.tolist() == [[3, 4, 0, 0], [1, 2, 3, 4], [0, 0, 0, 0]]
    assert lengths.tolist() == [2, 4, 0]


def test_titles_are_in_the_bundle(tiny: Tiny) -> None:
    folder = bundled(tiny, "SASRec")[2]
    recommender = Recommender.load(folder)
    assert recommender.titles is not None
    named = dict(zip(recommender.tokens, recommender.titles, strict=True))
    assert named == {f"i{number}": f"Thing {number}" for number in range(N_ITEMS)}
    (tiny.folder / "toy.item").unlink()
    assert Recommender.load(bundled(tiny, "SASRec")[2]).titles is None


def test_rows_at_once_of_long_lists() -> None:
    """An index that makes all scores, as for long lists, is limited like a model without one."""

    class Index:
        def method_for(self, n_queries: int, k: int) -> str:
            return "pruned" if k <= 1000 else "codes" if k <= 100_000 else "dense"

    n_items = 1 << 20
    assert rows_at_once(n_items, 1000, Index()) == 1024  # type: ignore[arg-type]
    assert rows_at_once(n_items, 1 << 16, Index()) == 256  # type: ignore[arg-type]
    assert rows_at_once(n_items, 1 << 17, Index()) == 16  # type: ignore[arg-type]
    assert rows_at_once(n_items, 1, None) == 16
