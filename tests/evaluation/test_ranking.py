"""Ranks against a plain loop, metrics against hand-worked numbers and RecBole's own."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny
from recbole.data.interaction import Interaction
from recbole.evaluator import Evaluator
from recbole.evaluator import register as recbole_metrics
from recbole.evaluator.collector import Collector
from rich.console import Console
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.evaluation import ranking
from recbole_qbert.evaluation.printing import print_tables
from recbole_qbert.evaluation.ranking import (
    METRICS,
    TITLES,
    Lists,
    Ranks,
    best_items,
    check_ranked,
    metric_names,
    per_row,
    rank_targets,
    read_ranks,
    register_metric,
    save_ranks,
    summarize,
    target_ranks,
)
from recbole_qbert.evaluation.results import metric_title
from recbole_qbert.experiments.run import run_model

NONE_SEEN = (torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))


def _pairs(seen: list[list[int]]) -> tuple[Tensor, Tensor]:
    rows = [row for row, items in enumerate(seen) for _ in items]
    return torch.tensor(rows, dtype=torch.long), torch.tensor(
        [item for items in seen for item in items], dtype=torch.long
    )


def _by_loop(scores: list[float], target: int, seen: set[int]) -> int:
    """1 and the other candidates that are not strictly worse than the target."""
    rank = 1
    for item in range(1, len(scores)):
        if item == target or item in seen:
            continue
        strictly_worse = scores[item] < scores[target]
        rank += not strictly_worse
    return rank


def _case(seed: int, kind: str) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Scores [40, 25] of one kind, targets, and seen items with repeats, some the target."""
    chance = torch.Generator().manual_seed(seed)
    scores = torch.randn(40, 25, generator=chance)
    if kind == "ties":
        scores = scores.round()
    if kind == "infinite":
        scores[torch.rand(40, 25, generator=chance) < 0.4] = -math.inf
    if kind == "not a number":
        scores[torch.rand(40, 25, generator=chance) < 0.4] = math.nan
    targets = torch.randint(1, 25, (40,), generator=chance)
    seen = [
        torch.randint(1, 25, (row % 9,), generator=chance).tolist()
        + [int(targets[row])] * (row % 2)
        for row in range(40)
    ]
    return scores, targets, seen


@pytest.mark.parametrize("kind", ["distinct", "ties", "infinite", "not a number"])
@pytest.mark.parametrize("seed", range(5))
def test_ranks_against_a_loop(kind: str, seed: int) -> None:
    """Both columns, item by item; the padding column never counts, whatever it holds."""
    scores, targets, seen = _case(seed, kind)
    scores[:, 0] = [math.inf, math.nan, -math.inf, 0.0, 9.0][seed]
    before = scores.clone()
    raw, unseen = target_ranks(scores, targets, _pairs(seen))
    for row in range(40):
        target, values = int(targets[row]), scores[row].tolist()
        assert raw[row].item() == _by_loop(values, target, set())
        assert unseen[row].item() == _by_loop(values, target, set(seen[row]))
    assert torch.equal(scores.nan_to_num(7e9), before.nan_to_num(7e9))


@pytest.mark.parametrize(
    ("row", "rank"),
    [
        ([0.0, 5.0, 4.0, 3.0], 1),
        ([9.0, 2.0, 4.0, 3.0], 3),
        ([0.0, 4.0, 4.0, 3.0], 2),  # a tie counts against the target
        ([0.0, 1.0, 1.0, 1.0], 3),  # a model that scores all alike gets no hit
        ([0.0, math.nan, 4.0, 3.0], 3),
        ([0.0, 5.0, math.nan, 3.0], 2),
        ([0.0, -math.inf, 4.0, 3.0], 3),
        ([0.0, -math.inf, -math.inf, 3.0], 3),
        ([0.0, math.nan, -math.inf, 1.0], 3),
    ],
)
def test_worst_case_ranks_by_hand(row: list[float], rank: int) -> None:
    """Item 1 among three items: ties, no numbers and minus infinity."""
    raw, unseen = target_ranks(torch.tensor([row]), torch.tensor([1]), NONE_SEEN)
    assert raw.tolist() == unseen.tolist() == [rank]


def test_a_row_without_a_finite_score_is_marked() -> None:
    """Padding's score does not count."""
    scores = torch.tensor([[5.0, math.nan, -math.inf, math.inf], [math.nan, 1.0, 2.0, -math.inf]])
    raw, _ = target_ranks(scores, torch.tensor([1, 1]), NONE_SEEN)
    assert raw.tolist() == [0, 2]
    with pytest.raises(InputError, match="diverged"):
        check_ranked(raw.numpy())
    check_ranked(raw.numpy()[1:])


def test_a_user_who_has_seen_everything_gets_no_hit() -> None:
    """Scores of minus infinity are no fault there; those that are no numbers are one everywhere."""
    low = [-math.inf] * 3
    scores = torch.tensor(
        [[0.0, *low], [0.0, 9.0, 1.0, 1.0], [0.0, 1.0, math.nan, 1.0], [0.0, *low]]
    )
    scores[2, 1:] = math.nan
    seen = _pairs([[1, 2, 3, 1], [3, 2, 1], [1, 2, 3], [2, 2, 2, 3]])
    raw, unseen = target_ranks(scores, torch.tensor([1, 1, 1, 1]), seen)
    assert raw.tolist() == [3, 1, 0, 0]
    assert unseen.tolist() == [3, 3, 3, 1]


def test_seen_items_leave_the_second_column_only() -> None:
    """Item 4 behind 1, 2 and 3: seen ones go, twice seen counts once, the target stays."""
    scores = torch.tensor([[0.0, 9.0, 8.0, 7.0, 6.0, 5.0]] * 4)
    seen = _pairs([[1, 3], [1, 1, 2, 3, 5], [4], [4, 2, 4]])
    raw, unseen = target_ranks(scores, torch.tensor([4] * 4), seen)
    assert raw.tolist() == [4] * 4
    assert unseen.tolist() == [2, 1, 4, 3]


def _ranks(raw: list[int], unseen: list[int]) -> Ranks:
    return Ranks(np.arange(1, len(raw) + 1), np.array(raw), np.array(unseen))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("hit@1", [1, 0, 0, 0]),
        ("hit@10", [1, 1, 1, 0]),
        ("recall@10", [1, 1, 1, 0]),
        ("precision@1", [1, 0, 0, 0]),
        ("precision@10", [0.1, 0.1, 0.1, 0]),
        ("ndcg@1", [1, 0, 0, 0]),
        ("ndcg@10", [1, 1 / math.log2(3), 0.5, 0]),
        ("ndcg@11", [1, 1 / math.log2(3), 0.5, 1 / math.log2(12)]),
        ("mrr@10", [1, 1 / 2, 1 / 3, 0]),
        ("mrr@2", [1, 1 / 2, 0, 0]),
        ("map@11", [1, 1 / 2, 1 / 3, 1 / 11]),
    ],
)
def test_metrics_of_ranks_1_2_3_11(name: str, values: list[float]) -> None:
    """Each row's value by hand, in either column, and the mean without rounding."""
    ranks = _ranks([1, 2, 3, 11], [50] * 4)
    assert per_row(name, ranks).tolist() == pytest.approx(values, rel=1e-12)
    assert per_row("unseen_" + name, ranks).tolist() == [0.0] * 4
    swapped = _ranks([50] * 4, [1, 2, 3, 11])
    assert per_row("unseen_" + name, swapped).tolist() == pytest.approx(values, rel=1e-12)
    metric, k = name.split("@")
    summary = summarize(ranks, [metric.upper()], [int(k)])
    assert summary == {name: pytest.approx(sum(values) / 4, rel=1e-12), "unseen_" + name: 0.0}


def test_metric_names_keep_the_order() -> None:
    """Metrics outside, cut-offs inside, lower case."""
    assert metric_names(["NDCG", "Hit"], [5, 1]) == ["ndcg@5", "ndcg@1", "hit@5", "hit@1"]


def _recbole_result(
    scores: Tensor, targets: Tensor, topk: list[int], monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """The same metrics through RecBole's collector and evaluator."""
    monkeypatch.setattr(np, "float", float, raising=False)  # RecBole's Config does this
    config: dict[str, Any] = {
        "metrics": list(METRICS),
        "topk": topk,
        "metric_decimal_place": 12,
        "eval_args": {"mode": "full"},
        "device": "cpu",
    }
    collector = Collector(config)
    rows = torch.arange(len(targets))
    collector.eval_batch_collect(scores, None, rows, targets)
    return dict(Evaluator(config).evaluate(collector.get_data_struct()))


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_recboles(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tie-free scores, raw and with seen items masked as RecBole masks them."""
    chance = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(60, generator=chance) for _ in range(80)])
    scores = order.float()
    targets = torch.randint(1, 60, (80,), generator=chance)
    seen = [
        [i for i in torch.randint(1, 60, (row % 20,), generator=chance).tolist() if i != target]
        for row, target in enumerate(targets.tolist())
    ]
    topk = [1, 5, 10, 20]
    raw, unseen = target_ranks(scores, targets, _pairs(seen))
    ranks = Ranks(np.arange(80), raw.numpy(), unseen.numpy())
    ours = summarize(ranks, list(METRICS), topk)
    theirs = scores.clone()
    theirs[:, 0] = -math.inf
    found = _recbole_result(theirs, targets, topk, monkeypatch)
    assert found == pytest.approx({k: v for k, v in ours.items() if k in found}, abs=1e-11)
    theirs[_pairs(seen)] = -math.inf
    without_seen = _recbole_result(theirs, targets, topk, monkeypatch)
    assert {f"unseen_{k}": v for k, v in without_seen.items()} == pytest.approx(
        {k: v for k, v in ours.items() if k.startswith("unseen_")}, abs=1e-11
    )
    assert set(ours) == {*found, *(f"unseen_{k}" for k in without_seen)}


class _SeenDataset:
    """Tells the seen items of a batch by its users."""

    uid_field = "user_id"
    item_num = 25

    def __init__(self, seen: list[list[int]]) -> None:
        self.seen = seen

    def seen_items(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        return _pairs([self.seen[user] for user in interaction["user_id"].tolist()])


class _Loader:
    """Batches of seven users, as RecBole's full-sort loader gives them."""

    def __init__(self, targets: Tensor, seen: list[list[int]]) -> None:
        self.targets = targets
        self._dataset = _SeenDataset(seen)

    def __iter__(self) -> Iterator[tuple[Interaction, None, None, Tensor]]:
        for users in torch.arange(len(self.targets)).split(7):
            yield Interaction({"user_id": users}), None, None, self.targets[users]


class _Table(torch.nn.Module):
    """A model that looks its scores up, and gives them flat as some of RecBole's do."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = scores

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        assert not self.training and not torch.is_grad_enabled()
        return self.scores[interaction["user_id"]].flatten()


@pytest.mark.parametrize("scores_at_once", [1, 75, 10**6])
def test_rank_targets_joins_the_batches(
    monkeypatch: pytest.MonkeyPatch, scores_at_once: int
) -> None:
    """Rows in the loader's order, the last batch shorter, every rank that of the plain loop."""
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", scores_at_once)
    scores, targets, seen = _case(8, "ties")
    wrapped: list[int] = []

    def count(batches: Any) -> Iterator[Any]:
        for batch in batches:
            wrapped.append(len(batch[0]))
            yield batch

    loader: Any = _Loader(targets, seen)
    ranks = rank_targets(_Table(scores), loader, torch.device("cpu"), count)
    assert wrapped == [7, 7, 7, 7, 7, 5]
    assert ranks.users.tolist() == list(range(40))
    for row, target in enumerate(targets.tolist()):
        values = scores[row].tolist()
        assert ranks.raw[row] == _by_loop(values, target, set())
        assert ranks.unseen[row] == _by_loop(values, target, set(seen[row]))


@pytest.mark.parametrize("kind", ["distinct", "infinite"])
def test_best_items_against_a_loop(kind: str) -> None:
    """Best first, and the target is in a list exactly when its rank says so."""
    scores, targets, seen = _case(6, kind)
    scores[:, 0] = math.inf
    before = scores.clone()
    lists = best_items(scores, targets, _pairs(seen), 7)
    ranks = target_ranks(scores, targets, _pairs(seen))
    assert torch.equal(scores, before)
    for row, target in enumerate(targets.tolist()):
        for found, rank, left_out in zip(lists, ranks, ([], seen[row]), strict=True):
            items = [n for n in range(1, 25) if n == target or n not in left_out]
            items = [n for n in items if scores[row, n] > -math.inf]
            expected = sorted(items, key=lambda n: -scores[row, n].item())[:7]
            assert found[row].tolist() == expected + [0] * (7 - len(expected))
            if scores[row, target] > -math.inf:
                assert (target in expected) == (rank[row].item() <= 7)


def test_more_places_than_items() -> None:
    """A list of ten of a catalog of two."""
    scores = torch.tensor([[9.0, 1.0, 2.0]])
    raw, unseen = best_items(scores, torch.tensor([1]), _pairs([[2]]), 10)
    assert raw.tolist() == [[2, 1] + [0] * 8]
    assert unseen.tolist() == [[1] + [0] * 9]


def test_lists_are_joined_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over batches, to a file and back; without lists nothing else changes."""
    scores, targets, seen = _case(8, "distinct")
    loader: Any = _Loader(targets, seen)
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", 60)
    plain = rank_targets(_Table(scores), loader, torch.device("cpu"))
    ranks = rank_targets(_Table(scores), loader, torch.device("cpu"), top_k=10)
    assert plain.lists is None and ranks.lists is not None
    for left, right in zip(plain[:3], ranks[:3], strict=True):
        assert np.array_equal(left, right)
    raw, unseen = best_items(scores, targets, _pairs(seen), 10)
    expected = Lists(targets.numpy(), np.array([*map(len, seen)]), raw.numpy(), unseen.numpy())
    for left, right in zip(ranks.lists, expected, strict=True):
        assert np.array_equal(left, right)

    counts = np.arange(25)
    save_ranks(tmp_path / "r.npz", ranks, counts)
    again, stored = read_ranks(tmp_path / "r.npz")
    assert stored is not None and np.array_equal(stored, counts)
    assert again.lists is not None
    for left, right in zip([*ranks[:3], *ranks.lists], [*again[:3], *again.lists], strict=True):
        assert np.array_equal(left, right)


def test_files_without_lists_and_files_of_others(tmp_path: Path) -> None:
    """Those of earlier versions still tell the ranks."""
    path = tmp_path / "r.npz"
    np.savez(path, users=[3, 4], raw=[1, 2], unseen=[1, 1])
    ranks, counts = read_ranks(path)
    assert ranks.raw.tolist() == [1, 2]
    assert ranks.lists is None and counts is None
    np.savez(path, users=[3, 4])
    with pytest.raises(InputError, match="r.npz: not a file of ranks"):
        read_ranks(path)
    path.write_bytes(b"PK\x03\x04broken")
    with pytest.raises(InputError, match="r.npz: not a file of ranks"):
        read_ranks(path)
    with pytest.raises(InputError, match="gone.npz: no such file"):
        read_ranks(tmp_path / "gone.npz")


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_diverged_model_is_an_error(value: float) -> None:
    """A row without any finite score is no ranking."""
    scores, targets, seen = _case(9, "distinct")
    scores[12, 1:] = value
    loader: Any = _Loader(targets, seen)
    with pytest.raises(InputError, match="diverged"):
        rank_targets(_Table(scores), loader, torch.device("cpu"))


def test_a_registered_metric_is_computed_in_both_rankings(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By this package and accepted by RecBole's `Config`; a name belongs to one function."""
    tables = (METRICS, TITLES, recbole_metrics.metric_types, recbole_metrics.metric_information)
    for table in (*tables, recbole_metrics.metrics_dict):
        for name in ("rbp", "own"):  # removes the entries after the test
            monkeypatch.setitem(table, name, None)
            monkeypatch.delitem(table, name)

    def halves(rank: np.ndarray, k: int) -> np.ndarray:
        return np.where(rank <= k, 0.5**rank, 0.0)

    register_metric("RBP", halves)
    register_metric("rbp", halves)
    ranks = Ranks(np.arange(3), np.array([1, 2, 9]), np.array([1, 1, 3]))
    found = summarize(ranks, ["RBP"], [5])
    assert found == {"rbp@5": (0.5 + 0.25) / 3, "unseen_rbp@5": (0.5 + 0.5 + 0.125) / 3}
    config = tiny.make_config("Popularity", metrics=["RBP"], valid_metric="unseen_RBP@10")
    stream = io.StringIO()
    result = run_model(config, Console(file=stream, width=200))
    print_tables([result], Console(file=stream, width=200))
    shown = stream.getvalue()
    assert "valid unseen_RBP@10 " in shown  # the line of an epoch
    assert " RBP@10 " in shown and " unseen_RBP@10 " in shown and "rbp" not in shown
    assert metric_title("rbp@5") == metric_title("RBP@5") == "RBP@5"
    assert config["metrics"] == ["RBP"]
    for name in ("rbp", "ndcg", "GAUC"):
        with pytest.raises(InputError, match="already registered"):
            register_metric(name, lambda rank, k: rank)
    for name in ("", "a@b", "unseen_x"):
        with pytest.raises(InputError, match="use letters"):
            register_metric(name, halves)
