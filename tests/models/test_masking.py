"""The masking schemes against plain loops, enumerated placements and exact probabilities."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_qbert.models.layers.masking import (
    SCHEMES,
    draw_masks,
    multi_region_mask,
    n_masked,
    random_mask,
    span_mask,
    tail_mask,
    valid_positions,
)

RATIOS = {"random": 0.3, "span": 0.3, "tail": 0.1, "multi_region": 0.15}


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _count(length: int, ratio: str) -> int:
    """`ratio` of `length`, rounded half up in exact arithmetic, from 1 to `length`."""
    return min(length, max(1, math.floor(Fraction(ratio) * length + Fraction(1, 2))))


def _runs(row: Sequence[bool]) -> list[tuple[int, int]]:
    """(start, size) of each maximal run of true values, by a plain loop."""
    runs: list[tuple[int, int]] = []
    for position, masked in enumerate(row):
        if masked and position and row[position - 1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        elif masked:
            runs.append((position, 1))
    return runs


def _patterns(mask: Tensor) -> Counter[str]:
    """How often each row pattern, like '0110', was drawn."""
    return Counter("".join("01"[masked] for masked in row) for row in mask.tolist())


def _assert_distribution(counts: Mapping[str, int], probability: Mapping[str, float]) -> None:
    """Nothing but the listed outcomes, and a chi-square within five deviations of its mean."""
    assert set(counts) <= set(probability)
    n = sum(counts.values())
    assert sum(probability.values()) == pytest.approx(1.0)
    square = sum((counts.get(k, 0) - n * p) ** 2 / (n * p) for k, p in probability.items())
    freedom = len(probability) - 1
    assert square <= freedom + 5 * math.sqrt(2 * freedom)


def _only(scheme: str, lengths: Tensor, max_length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    return draw_masks(lengths, max_length, {scheme: 1.0}, RATIOS, _seeded(seed))


def test_valid_positions_by_hand() -> None:
    """Exactly the first `length` positions of each row."""
    assert valid_positions(torch.tensor([1, 3, 2]), 3).tolist() == [
        [True, False, False],
        [True, True, True],
        [True, True, False],
    ]


def test_n_masked_rounds_half_up_exactly() -> None:
    """Every two-digit ratio and length against exact fractions, half-way cases included."""
    lengths = torch.arange(1, 201)
    for percent in range(1, 101):
        ratio = f"{percent}/100"
        wanted = [_count(length, ratio) for length in lengths.tolist()]
        assert n_masked(lengths, percent / 100).tolist() == wanted, ratio


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.1, {1: "1", 2: "01", 5: "00001", 14: "0" * 13 + "1", 15: "0" * 13 + "11"}),
        (0.5, {1: "1", 2: "01", 3: "011", 5: "00111", 6: "000111"}),
        (1.0, {1: "1", 2: "11", 7: "1111111"}),
    ],
)
def test_tail_by_hand(ratio: float, expected: dict[int, str]) -> None:
    """The last items, worked out by hand, and nothing behind a sequence's end."""
    mask = tail_mask(torch.tensor(list(expected)), 20, ratio).tolist()
    for row, pattern in zip(mask, expected.values(), strict=True):
        assert "".join("01"[masked] for masked in row) == pattern.ljust(20, "0")


@pytest.mark.parametrize("ratio", ["0.1", "0.3", "0.5", "1"])
def test_tail_is_the_last_m_of_every_length(ratio: str) -> None:
    """Lengths 1 to 20 against a loop over positions."""
    lengths = torch.arange(1, 21)
    for length, row in enumerate(tail_mask(lengths, 22, float(ratio)).tolist(), start=1):
        m = _count(length, ratio)
        assert row == [length - m <= position < length for position in range(22)]


@pytest.mark.parametrize("ratio", ["0.05", "0.3", "0.75", "1"])
def test_span_is_one_run_of_the_right_size(ratio: str) -> None:
    """One run, inside the sequence, and every start that fits is drawn equally often."""
    for length in range(1, 21):
        lengths = torch.full((1500,), length)
        mask = span_mask(lengths, 23, float(ratio), _seeded(length)).tolist()
        m = _count(length, ratio)
        starts: Counter[str] = Counter()
        for row in mask:
            ((start, size),) = _runs(row)
            assert size == m
            starts[str(start)] += 1
        fits = [str(start) for start in range(length - m + 1)]
        _assert_distribution(starts, dict.fromkeys(fits, 1 / len(fits)))


@pytest.mark.parametrize("ratio", ["0.01", "0.15", "0.5", "0.9", "1"])
@pytest.mark.parametrize("n_regions", [2, 3])
def test_multi_region_never_touches(ratio: str, n_regions: int) -> None:
    """Regions, total and evenness for every length from 1 to 20, by decomposing each row."""
    for length in range(1, 21):
        lengths = torch.full((60,), length)
        mask = multi_region_mask(lengths, 21, float(ratio), _seeded(length), n_regions)
        fit = next(r for r in range(n_regions, 0, -1) if 2 * r - 1 <= length)
        total = min(max(fit, _count(length, ratio)), length - fit + 1)
        for row in mask.tolist():
            runs = _runs(row)
            sizes = [size for _, size in runs]
            assert len(runs) == fit
            assert sum(sizes) == total
            assert max(sizes) - min(sizes) <= 1
            assert runs[-1][0] + runs[-1][1] <= length


@pytest.mark.parametrize(("length", "sizes"), [(3, (1, 1)), (6, (1, 1)), (7, (2, 2)), (8, (2, 1))])
def test_multi_region_is_uniform_over_placements(length: int, sizes: tuple[int, int]) -> None:
    """All ways to put the two runs down, enumerated by brute force, come equally often."""
    placements = []
    for first, second in itertools.product(range(length), repeat=2):
        if first + sizes[0] < second and second + sizes[1] <= length:
            inside = {*range(first, first + sizes[0]), *range(second, second + sizes[1])}
            placements.append("".join("01"[position in inside] for position in range(length)))
    lengths = torch.full((4000,), length)
    mask = multi_region_mask(lengths, length, sum(sizes) / length, _seeded(3))
    _assert_distribution(_patterns(mask), dict.fromkeys(placements, 1 / len(placements)))


def test_random_has_the_exact_distribution() -> None:
    """Three items at ratio 0.4: independent draws, an empty one replaced by a uniform single."""
    probability = {}
    for bits in itertools.product("01", repeat=3):
        hits = bits.count("1")
        if hits:
            extra = 0.6**3 / 3 if hits == 1 else 0.0
            probability["".join(bits)] = 0.4**hits * 0.6 ** (3 - hits) + extra
    mask = random_mask(torch.full((20000,), 3), 3, 0.4, _seeded(1))
    _assert_distribution(_patterns(mask), probability)


def test_random_masks_one_where_the_ratio_hits_none() -> None:
    """A ratio of nearly zero gives one item a row, each equally often."""
    mask = random_mask(torch.full((5000,), 5), 8, 1e-9, _seeded(2))
    single = {"0" * i + "1" + "0" * (7 - i): 0.2 for i in range(5)}
    _assert_distribution(_patterns(mask), single)


@pytest.mark.parametrize("ratio", [0.15, 0.3, 0.8])
def test_random_rate_on_long_rows(ratio: float) -> None:
    """The share of masked items lies within five binomial deviations of the ratio."""
    n = 200 * 1000
    mask = random_mask(torch.full((200,), 1000), 1000, ratio, _seeded(4))
    deviation = math.sqrt(ratio * (1 - ratio) / n)
    assert abs(mask.sum().item() / n - ratio) < 5 * deviation


def test_ratio_one_masks_everything_that_a_scheme_may() -> None:
    """`random`, `span` and `tail` take all items; padding stays."""
    lengths = torch.tensor([1, 4, 6])
    everything = valid_positions(lengths, 6)
    assert torch.equal(random_mask(lengths, 6, 1.0, _seeded()), everything)
    assert torch.equal(span_mask(lengths, 6, 1.0, _seeded()), everything)
    assert torch.equal(tail_mask(lengths, 6, 1.0), everything)


@pytest.mark.parametrize("length", [2, 3, 7, 20])
def test_next_item_is_uniform_over_prefixes(length: int) -> None:
    """The cut lies in [2, n], each equally often, and only the prefix's last item is masked."""
    drawn, mask = _only("next_item", torch.full((4000,), length), 21, seed=length)
    assert mask.tolist() == [[i == cut - 1 for i in range(21)] for cut in drawn.tolist()]
    cuts = Counter(str(cut) for cut in drawn.tolist())
    _assert_distribution(cuts, {str(c): 1 / (length - 1) for c in range(2, length + 1)})


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_single_item_is_masked(scheme: str) -> None:
    """Rows of length 1 are [mask], whatever the scheme."""
    lengths, mask = _only(scheme, torch.ones(50, dtype=torch.long), 3)
    assert lengths.tolist() == [1] * 50
    assert mask.tolist() == [[True, False, False]] * 50


@pytest.mark.parametrize("scheme", SCHEMES)
def test_seed_decides_the_draw(scheme: str) -> None:
    """The same generator state gives the same masks; another seed others, where chance plays."""
    lengths = torch.randint(1, 13, (200,), generator=_seeded(9))
    first, again = _only(scheme, lengths, 12, seed=5), _only(scheme, lengths, 12, seed=5)
    other = _only(scheme, lengths, 12, seed=6)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert torch.equal(first[1], other[1]) == (scheme == "tail")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_first_and_last_positions_are_reached(scheme: str) -> None:
    """Both ends are masked in some draw; `tail` and `next_item` reach only the end, by design."""
    lengths, mask = _only(scheme, torch.full((300,), 10), 12)
    at_end = mask.gather(1, lengths.unsqueeze(1) - 1)
    assert at_end.any()
    assert mask[:, 0].any() == (scheme not in ("tail", "next_item"))
    assert (lengths == 10).any()


def test_mix_weights_are_the_shares_of_the_schemes() -> None:
    """Ratios at which each scheme can be told from its mask; the shares fit the weights."""
    ratios = {"random": 1.0, "span": 0.5, "tail": 0.2, "multi_region": 0.4}
    mix = {"random": 1.0, "span": 3.0, "tail": 2.0, "multi_region": 0.5, "next_item": 1.5}
    lengths, mask = draw_masks(torch.full((8000,), 10), 10, mix, ratios, _seeded(7))
    name_of = {(10,): "random", (5,): "span", (2,): "tail", (2, 2): "multi_region"}
    name_of[(1,)] = "next_item"
    counts = Counter(name_of[tuple(size for _, size in _runs(row))] for row in mask.tolist())
    _assert_distribution(counts, {scheme: weight / 8 for scheme, weight in mix.items()})


@pytest.mark.parametrize("left_out", SCHEMES)
def test_a_zero_weight_is_never_drawn(left_out: str) -> None:
    """Zero and absent give the same draws, and neither looks for the scheme's ratio."""
    ratios = {scheme: ratio for scheme, ratio in RATIOS.items() if scheme != left_out}
    absent = {scheme: 1.0 for scheme in SCHEMES if scheme != left_out}
    lengths = torch.full((500,), 9)
    zero = draw_masks(lengths, 9, {**absent, left_out: 0.0}, ratios, _seeded(1))
    gone = draw_masks(lengths, 9, absent, ratios, _seeded(1))
    assert torch.equal(zero.mask, gone.mask) and torch.equal(zero.lengths, gone.lengths)
    assert (zero.lengths < 9).any() == (left_out != "next_item")


def test_given_lengths_stay_as_they_are() -> None:
    """`next_item` shortens a copy."""
    lengths = torch.full((40,), 8)
    drawn, _ = _only("next_item", lengths, 8)
    assert lengths.tolist() == [8] * 40
    assert drawn.tolist() != [8] * 40


_Masker = Callable[[Tensor, int, float, torch.Generator], Tensor]
_MASKERS: dict[str, _Masker] = {
    "random": random_mask,
    "span": span_mask,
    "tail": lambda lengths, width, ratio, _: tail_mask(lengths, width, ratio),
    "multi_region": multi_region_mask,
}


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=12),
    padding=st.integers(0, 3),
    ratio=st.floats(1e-6, 1.0),
    seed=st.integers(0, 2**31),
)
def test_every_scheme_masks_real_items_only(
    lengths: list[int], padding: int, ratio: float, seed: int
) -> None:
    """For any lengths and ratio: at least one item in each row, never a padded position."""
    width = max(lengths) + padding
    for masker in _MASKERS.values():
        mask = masker(torch.tensor(lengths), width, ratio, _seeded(seed))
        assert mask.shape == (len(lengths), width)
        for row, length in zip(mask.tolist(), lengths, strict=True):
            assert any(row[:length]) and not any(row[length:])


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=12),
    weights=st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=5, max_size=5).filter(any),
    ratio=st.floats(1e-6, 1.0),
    seed=st.integers(0, 2**31),
)
def test_draw_masks_keeps_its_promises(
    lengths: list[int], weights: list[float], ratio: float, seed: int
) -> None:
    """For any mix: masks inside the drawn lengths, which only `next_item` shortens."""
    mix = dict(zip(SCHEMES, weights, strict=True))
    ratios = dict.fromkeys(RATIOS, ratio)
    given_lengths = torch.tensor(lengths)
    drawn, mask = draw_masks(given_lengths, max(lengths), mix, ratios, _seeded(seed))
    for row, old, new in zip(mask.tolist(), lengths, drawn.tolist(), strict=True):
        assert any(row[:new]) and not any(row[new:])
        assert min(old, 2) <= new <= old
        if new < old:
            assert mix["next_item"] > 0 and _runs(row) == [(new - 1, 1)]
