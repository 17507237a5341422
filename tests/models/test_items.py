"""The item matrices against plain loops, and scores against sums of code logits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from recbole_qbert.models.layers.item_representation import (
    REPRESENTATIONS,
    CodesPlusRow,
    FlattenItems,
    ItemRepresentation,
    SumOfCodes,
    build_representation,
)

SIZES = (3, 4, 5)
OFFSETS = (0, 3, 7)
N_ITEMS = 41


def _item_codes() -> Tensor:
    """Vocabulary rows of 40 items with different tuples; the padding item's are all zero."""
    tuples = list(itertools.product(*map(range, SIZES)))[7 : 7 + N_ITEMS - 1]
    rows = [[code + offset for code, offset in zip(t, OFFSETS, strict=True)] for t in tuples]
    return torch.tensor([[0] * len(SIZES), *rows])


def _build(
    name: str,
    hidden_size: int = 6,
    word_init: str = "codes",
    init: float = 0.02,
    item_codes: Tensor | None = None,
    code_dropout: float = 0.0,
    row_dropout: float = 0.0,
) -> ItemRepresentation:
    torch.manual_seed(0)
    return build_representation(
        name,
        n_items=N_ITEMS,
        hidden_size=hidden_size,
        item_codes=_item_codes() if item_codes is None else item_codes,
        codebook_sizes=SIZES,
        word_init=word_init,
        init=init,
        code_dropout=code_dropout,
        row_dropout=row_dropout,
    )


def test_compose_is_the_sum_of_code_vectors() -> None:
    """Every element of the matrix by a plain loop over levels."""
    items = _build("compose")
    assert isinstance(items, SumOfCodes)
    table, matrix = items.table.weight.tolist(), items().tolist()
    for row, codes in zip(matrix[1:], _item_codes()[1:].tolist(), strict=True):
        wanted = [sum(table[code][d] for code in codes) for d in range(6)]
        assert row == pytest.approx(wanted, abs=1e-7)


def test_flatten_is_the_concatenation_of_code_vectors() -> None:
    """A row is its K code vectors side by side, unchanged."""
    items = _build("flatten")
    assert isinstance(items, FlattenItems)
    assert items.tokens_per_item == 3
    table, matrix = items.table.weight.tolist(), items().tolist()
    for row, codes in zip(matrix[1:], _item_codes()[1:].tolist(), strict=True):
        assert row == list(itertools.chain.from_iterable(table[code] for code in codes))


@pytest.mark.parametrize("name", REPRESENTATIONS)
@pytest.mark.parametrize("train", [False, True])
def test_padding_is_zeros_and_trains_no_code(name: str, train: bool) -> None:
    """The padding item's codes are 0, as are those of real items: its row must not be their sum."""
    items = _build(name, code_dropout=0.5, row_dropout=0.5).train(train)
    for matrix in (items(), items(torch.tensor([0, 3, 5]))):
        assert not matrix[0].any()
        matrix[0].sum().backward(retain_graph=True)
    assert all(each.grad is None or not each.grad.any() for each in items.parameters())


def test_hybrid_starts_as_compose_and_adds_rows() -> None:
    """Rows of some items only, too: those asked for, padding first."""
    items, composed = _build("hybrid"), _build("compose")()
    assert isinstance(items, CodesPlusRow)
    assert torch.equal(items(), composed)
    own = torch.randn(N_ITEMS - 1, 6)
    items.rows.data.copy_(own)
    wanted = [composed[0].tolist()]
    wanted += [(composed[item] + own[item - 1]).tolist() for item in range(1, N_ITEMS)]
    assert items().tolist() == wanted
    asked = [0, 7, 3, 40]
    assert items(torch.tensor(asked)).tolist() == [wanted[item] for item in asked]


def test_row_dropout_drops_whole_rows_in_training_only() -> None:
    items = _build("hybrid", row_dropout=0.75)
    assert isinstance(items, CodesPlusRow)
    items.rows.data.fill_(1.0)
    composed = _build("compose")().detach()
    assert torch.equal(items.eval()()[1:], composed[1:] + 1)
    items.train()
    torch.manual_seed(1)
    added = (items().detach() - composed)[1:]
    kept = added[:, 0] > 2
    assert torch.allclose(added, kept.unsqueeze(1) * torch.full((1, 6), 4.0), atol=1e-6)
    assert 0.1 < kept.float().mean() < 0.4


@pytest.mark.parametrize("name", ["compose", "flatten"])
def test_score_is_the_sum_of_code_logits(name: str) -> None:
    """`hidden @ matrix.T` equals adding up each level's own logits, item by item."""
    items = _build(name, init=1.0)
    assert isinstance(items, SumOfCodes | FlattenItems)
    matrix = items()
    hidden = torch.randn(4, matrix.size(1))
    scores = (hidden @ matrix.T).tolist()
    table = items.table.weight.tolist()
    for row, state in zip(scores, hidden.tolist(), strict=True):
        for item, codes in enumerate(_item_codes()[1:].tolist(), start=1):
            wanted = 0.0
            for level, code in enumerate(codes):
                part = state[level * 6 : level * 6 + 6] if name == "flatten" else state
                wanted += sum(a * b for a, b in zip(part, table[code], strict=True))
            assert row[item] == pytest.approx(wanted, abs=1e-4)


def test_word_rows_start_closer_the_more_codes_they_share() -> None:
    """Squared distances follow 2 D init^2 (K - shared) / K; none shared is as far as random."""
    width, init = 4096, 0.02
    matrix = _build("word", hidden_size=width, init=init)().detach()
    codes = _item_codes()
    distance: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for one, two in itertools.combinations(range(1, N_ITEMS), 2):
        shared = int((codes[one] == codes[two]).sum())
        distance[shared].append((matrix[one] - matrix[two]).square().sum().item())
    for shared, found in distance.items():
        wanted = 2 * width * init**2 * (3 - shared) / 3
        assert found == pytest.approx([wanted] * len(found), rel=0.25)
    assert max(distance[2]) < min(distance[1])
    assert max(distance[1]) < min(distance[0])


@pytest.mark.parametrize(("name", "word_init"), [("id", "codes"), ("word", "random")])
def test_random_rows_know_nothing_of_codes(name: str, word_init: str) -> None:
    """Other codes, or the same codes for all, change nothing; all pairs are equally far."""
    rows = _build(name, hidden_size=4096, word_init=word_init)().detach()
    same = torch.ones(N_ITEMS, 3, dtype=torch.long)
    assert torch.equal(rows, _build(name, 4096, word_init, item_codes=same)().detach())
    assert rows[0].eq(0).all()
    for one, two in itertools.combinations(range(1, N_ITEMS), 2):
        wanted = 2 * 4096 * 0.02**2
        assert (rows[one] - rows[two]).square().sum().item() == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_elements_start_with_the_asked_deviation(name: str) -> None:
    """All representations give item vectors of the same scale, whatever K is."""
    matrix = _build(name, hidden_size=2000, init=0.05)()[1:]
    assert matrix.std().item() == pytest.approx(0.05, rel=0.12)
    assert matrix.mean().item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_size_and_shape(name: str) -> None:
    """Code tables do not grow with the catalog, rows do."""
    items = _build(name)
    owned = sum(parameter.numel() for parameter in items.parameters())
    rows = (N_ITEMS - 1) * (name in ("word", "id", "hybrid"))
    codes = sum(SIZES) * (name in ("compose", "flatten", "hybrid"))
    assert owned == (rows + codes) * 6
    assert items().shape == (N_ITEMS, items.tokens_per_item * 6)
    assert items.tokens_per_item == (3 if name == "flatten" else 1)


@pytest.mark.parametrize("name", ["word", "id"])
def test_padding_row_starts_at_zero(name: str) -> None:
    """Whatever the other rows start from."""
    assert _build(name)()[0].tolist() == [0.0] * 6


@pytest.mark.parametrize("name", ["compose", "flatten"])
def test_code_loss_against_a_loop(name: str) -> None:
    """Each code against the others of its level, from the hidden vector that stands for it."""
    items = _build(name, init=0.5)
    hidden = torch.randn(4, 6 * items.tokens_per_item, generator=torch.Generator().manual_seed(1))
    chosen = [1, 7, 40, 7]
    rows, table = _item_codes(), items.table.weight.detach()
    terms = []
    for vector, item in zip(hidden, chosen, strict=True):
        for level, (first, size) in enumerate(zip(OFFSETS, SIZES, strict=True)):
            own = vector if name == "compose" else vector[6 * level : 6 * level + 6]
            logits = [float(own @ table[first + code]) for code in range(size)]
            target = int(rows[item, level]) - first
            terms.append(math.log(math.fsum(map(math.exp, logits))) - logits[target])
    loss = items.code_loss(hidden, torch.tensor(chosen), lambda left, right: left @ right.T)
    assert loss.item() == pytest.approx(math.fsum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize("name", ["compose", "flatten"])
def test_code_dropout_drops_whole_codes_in_training_only(name: str) -> None:
    """Each item's vector is made of 0 or 1 / (1 - p) times its codes' vectors, half of them."""
    items = _build(name, init=0.5, code_dropout=0.5)
    whole = _build(name, init=0.5)()
    assert torch.equal(items.eval()(), whole)
    items.train()
    torch.manual_seed(1)
    matrix, codes = items().detach(), items.table.weight.detach()[_item_codes()]
    counts = []
    for row, vectors in zip(matrix, codes, strict=True):
        fits = []
        for weights in itertools.product((0.0, 2.0), repeat=len(SIZES)):
            parts = vectors * torch.tensor(weights).unsqueeze(1)
            made = parts.sum(dim=0) if name == "compose" else parts.flatten()
            if torch.allclose(row, made, atol=1e-6):
                fits.append(sum(weights) / 2)
        assert len(fits) == 1
        counts += fits
    assert 0.35 < sum(counts) / (len(counts) * len(SIZES)) < 0.65


@pytest.mark.parametrize("name", ["word", "id"])
def test_rows_have_no_code_loss(name: str) -> None:
    loss = _build(name).code_loss(torch.ones(2, 6), torch.tensor([1, 2]), torch.matmul)
    assert loss.item() == 0


def test_unknown_names_and_missing_codes_are_refused() -> None:
    """The builder names what is wrong."""
    with pytest.raises(ValueError, match="'sum' is unknown"):
        _build("sum")
    for name in ("compose", "hybrid", "word", "flatten"):
        with pytest.raises(ValueError, match="needs item codes"):
            build_representation(
                name,
                n_items=5,
                hidden_size=4,
                item_codes=None,
                codebook_sizes=(),
                word_init="codes",
                init=0.02,
            )


def test_items_interface_has_no_matrix_of_its_own() -> None:
    """The base class is only an interface."""
    with pytest.raises(NotImplementedError):
        ItemRepresentation()()
