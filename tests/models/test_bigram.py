"""The Markov control against a plain loop, and on the released Instruments sequences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.models.bigram import BigramChain, count_pairs

INSTRUMENTS = (
    Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "Instruments"
) / "Instruments.inter"
CONFIG: dict[str, Any] = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": 20,
    "device": "cpu",
}
SEQUENCES = [[], [1, 2, 3, 2], [2, 3], [], [5], [3, 2, 3, 4], [1, 2]]
N_ITEMS = 8


class _Dataset:
    """The three things the model asks of a RecBole dataset."""

    def __init__(self, sequences: list[list[int]], item_num: int) -> None:
        self.sequences = sequences
        self.item_num = item_num

    def num(self, field: str) -> int:
        assert field == "item_id"
        return self.item_num

    def training_sequences(self) -> tuple[Tensor, Tensor]:
        flat = [item for sequence in self.sequences for item in sequence]
        lengths = torch.tensor([0, *map(len, self.sequences)])
        return torch.tensor(flat, dtype=torch.long), torch.cumsum(lengths, dim=0)


def _model(
    sequences: list[list[int]] = SEQUENCES, item_num: int = N_ITEMS, tie_break: str = "first"
) -> BigramChain:
    return BigramChain(CONFIG | {"tie_break": tie_break}, _Dataset(sequences, item_num))


def _batch(histories: list[list[int]], candidates: list[int] | None = None) -> Interaction:
    width = max(map(len, histories)) + 2
    content = {
        "item_id_list": torch.tensor([row + [0] * (width - len(row)) for row in histories]),
        "item_length": torch.tensor([len(row) for row in histories]),
    }
    if candidates is not None:
        content["item_id"] = torch.tensor(candidates)
    return Interaction(content)


def _expected(last: int, tie_break: str) -> list[int]:
    """All items, best first; ties that no rule breaks by item id."""
    pairs = [pair for sequence in SEQUENCES for pair in pairwise(sequence)]
    count = Counter(pairs)
    popularity = Counter(item for sequence in SEQUENCES for item in sequence)

    def key(item: int) -> tuple[float, ...]:
        if (last, item) not in count:
            return (0, popularity[item], -item)
        rule = -pairs.index((last, item)) if tie_break == "first" else popularity[item]
        return (count[last, item], rule, -item)

    return sorted(range(1, N_ITEMS), key=key, reverse=True)


@pytest.mark.parametrize("tie_break", ["first", "popularity"])
def test_ranking_equals_a_plain_loop(tie_break: str) -> None:
    # 5 and 7 have no successor; the empty history falls back on popularity.
    histories = [[1], [5, 2], [1, 2, 3], [4, 5], [7], [], [2, 3, 2, 2]]
    scores = _model(tie_break=tie_break).full_sort_predict(_batch(histories))
    assert scores.shape == (len(histories), N_ITEMS)
    for row, history in zip(scores, histories, strict=True):
        ranked = row[1:].argsort(descending=True, stable=True) + 1
        assert ranked.tolist() == _expected(history[-1] if history else 0, tie_break)


@pytest.mark.parametrize("tie_break", ["first", "popularity"])
def test_the_best_score_is_the_number_of_followers(tie_break: str) -> None:
    """Ranks among the followers of one item stay exact, however many pairs there are."""
    scores = _model(tie_break=tie_break).full_sort_predict(_batch([[1], [2], [3]]))
    # Behind 1: 2; behind 2: 3; behind 3: 2 twice and 4 once. The others score below 1.
    found = [{item: row[item].item() for item in range(8) if row[item] >= 1} for row in scores]
    assert found == [{2: 1.0}, {3: 1.0}, {4: 1.0, 2: 2.0}]


def test_unknown_tie_break_is_refused() -> None:
    with pytest.raises(InputError, match="tie_break: 'random' is none of first, popularity"):
        _model(tie_break="random")


def test_predict_agrees_with_full_sort() -> None:
    model = _model()
    pairs = [(last, item) for last in range(N_ITEMS) for item in range(N_ITEMS)]
    batch = _batch([[1, last] for last, _ in pairs], [item for _, item in pairs])
    full = model.full_sort_predict(batch)
    picked = full[torch.arange(len(pairs)), batch["item_id"]]
    torch.testing.assert_close(model.predict(batch), picked, rtol=0, atol=0)


def test_one_transition_outweighs_any_popularity() -> None:
    model = _model([[1, 2]] + [[3]] * 500, 4)
    assert model.full_sort_predict(_batch([[1]])).argmax().item() == 2
    assert model.full_sort_predict(_batch([[2]])).argmax().item() == 3


def test_no_pair_spans_two_sequences() -> None:
    items = torch.tensor([1, 2, 3, 4, 1, 2])
    keys, counts, first = count_pairs(items, torch.tensor([0, 0, 2, 3, 3, 4, 6, 6]), 10)
    assert (keys.tolist(), counts.tolist(), first.tolist()) == ([12], [2], [0])


def test_sequences_without_pairs() -> None:
    model = _model([[1], [2], [2]], 4)
    batch = _batch([[1], [3]], [2, 1])
    expected = torch.tensor([[0, 1 / 3, 2 / 3, 0]] * 2)
    torch.testing.assert_close(model.full_sort_predict(batch), expected)
    torch.testing.assert_close(model.predict(batch), torch.tensor([2 / 3, 1 / 3]))


def test_loss_is_zero_and_differentiable() -> None:
    model = _model()
    loss = model.calculate_loss(_batch([[1]]))
    loss.backward()
    assert loss.item() == 0.0
    assert [parameter.grad.tolist() for parameter in model.parameters()] == [[0.0]]


def test_state_dict_keeps_the_counts(tmp_path: Path) -> None:
    model = _model()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    restored = _model()
    for buffer in restored.buffers():
        buffer.zero_()
    restored.load_state_dict(torch.load(tmp_path / "model.pth", weights_only=True))
    batch = _batch([[1], [2], [3]])
    torch.testing.assert_close(restored.full_sort_predict(batch), model.full_sort_predict(batch))


def _instruments() -> list[list[int]]:
    """Whole sequences of the released data, item ids from 1; skips where it is absent."""
    if not INSTRUMENTS.exists():
        pytest.skip(f"{INSTRUMENTS} is absent")
    histories: dict[str, list[tuple[float, int]]] = {}
    for line in INSTRUMENTS.read_text(encoding="utf-8").splitlines()[1:]:
        user, item, position = line.split("\t")
        histories.setdefault(user, []).append((float(position), int(item) + 1))
    return [[item for _, item in sorted(history)] for history in histories.values()]


def _figures(ranked: Iterable[list[int]], targets: list[int]) -> list[float]:
    """HR@1, HR@5, HR@10 and NDCG@10 of ten-item lists."""
    places = [
        top.index(target) if target in top else math.inf
        for top, target in zip(ranked, targets, strict=True)
    ]
    hit_rates = [sum(place < k for place in places) / len(places) for k in (1, 5, 10)]
    gains = [1 / math.log2(place + 2) for place in places if place < 10]
    return [*hit_rates, sum(gains) / len(places)]


def _plain_lists(sequences: list[list[int]], popularity_breaks_ties: bool) -> Iterator[list[int]]:
    """Ten items each: the followers of the last item by count, then the most popular items.

    Equal counts go by popularity, as in the model, or by which pair occurred first.
    """
    followers: dict[int, Counter[int]] = {}
    popularity: Counter[int] = Counter()
    for sequence in sequences:
        popularity.update(sequence[:-2])
        for last, following in pairwise(sequence[:-2]):
            followers.setdefault(last, Counter())[following] += 1
    popular = sorted(popularity, key=lambda item: (-popularity[item], item))
    rank = {item: place for place, item in enumerate(popular)}
    for sequence in sequences:
        counts = followers.get(sequence[-2], Counter())
        ties = sorted(counts, key=rank.__getitem__) if popularity_breaks_ties else list(counts)
        top = sorted(ties, key=lambda item: -counts[item])[:10]
        fill = (item for item in popular if item not in counts)
        yield top + list(islice(fill, 10 - len(top)))


@pytest.mark.parametrize(
    ("tie_break", "figures"),
    [
        ("first", [0.0472, 0.0782, 0.0899, 0.0676]),  # those of the data's README
        ("popularity", [0.0480, 0.0811, 0.0962, 0.0704]),
    ],
)
def test_instruments_figures(tie_break: str, figures: list[float]) -> None:
    """Leave-one-out test on the released data, model and plain loop alike."""
    sequences = _instruments()
    targets = [sequence[-1] for sequence in sequences]
    plain = _figures(_plain_lists(sequences, tie_break == "popularity"), targets)
    assert plain == pytest.approx(figures, abs=5e-5)

    item_num = max(map(max, sequences)) + 1
    model = _model([sequence[:-2] for sequence in sequences], item_num, tie_break)
    ranked: list[list[int]] = []
    for start in range(0, len(sequences), 2048):
        histories = [[sequence[-2]] for sequence in sequences[start : start + 2048]]
        scores = model.full_sort_predict(_batch(histories))
        ranked.extend(scores.topk(10, dim=1).indices.tolist())
    # topk picks freely among items equal in count and popularity.
    assert _figures(ranked, targets) == pytest.approx(plain, abs=2e-4)
