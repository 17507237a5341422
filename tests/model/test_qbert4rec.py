"""The model against plain-Python scores, and without the five flaws of RecBole's BERT4Rec."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.config import load_yaml, shipped_files
from recbole_qbert.data.semid import SemanticIDCodec
from recbole_qbert.errors import InputError
from recbole_qbert.model import encoder as encoder_module
from recbole_qbert.model import qbert4rec as qbert4rec_module
from recbole_qbert.model.items import REPRESENTATIONS, CodeItems, WordItems
from recbole_qbert.model.masking import SCHEMES, MaskDraw, append_item, draw_masks
from recbole_qbert.model.qbert4rec import IDBERT4Rec, QBERT4Rec, previous_visible

SIZES = (3, 4, 3)
OFFSETS = (0, 3, 7)
N_ITEMS = 21
MAX_LENGTH = 8
HOST_KEYS: dict[str, Any] = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": MAX_LENGTH,
    "device": "cpu",
}
SMALL: dict[str, Any] = {
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 16,
    "inner_size": 24,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
EQUAL_MIX = dict.fromkeys(SCHEMES, 1.0)


class _Dataset:
    """What the model asks of a dataset."""

    def __init__(
        self, n_items: int = N_ITEMS, sizes: tuple[int, ...] = SIZES, repeats: bool = True
    ) -> None:
        tuples = itertools.islice(itertools.product(*map(range, sizes)), 3, n_items + 2)
        self.n_items = n_items
        self.item_codes: Tensor | None = torch.tensor([[0] * len(sizes), *tuples])
        self.codec = SemanticIDCodec(sizes)
        self.repeats = repeats

    def num(self, field: str) -> int:
        assert field == "item_id"
        return self.n_items

    def training_repeats(self) -> bool:
        return self.repeats


def _shipped(model: str) -> dict[str, Any]:
    """The shipped defaults of a model, over those of all models."""
    defaults: dict[str, Any] = {}
    for path in shipped_files(model, "", use_tuned=False):
        defaults |= load_yaml(path)
    return defaults


def _config(model: str = "QBERT4Rec", **changes: Any) -> dict[str, Any]:
    return {**_shipped(model), **HOST_KEYS, **SMALL, **changes}


def _model(repeats: bool = True, **changes: Any) -> QBERT4Rec:
    torch.manual_seed(0)
    return QBERT4Rec(_config(**changes), _Dataset(repeats=repeats))


def _batch(histories: Sequence[Sequence[int]], items: Sequence[int]) -> Interaction:
    rows = [[*history, *[0] * (MAX_LENGTH - len(history))] for history in histories]
    return Interaction(
        {
            "item_id_list": torch.tensor(rows),
            "item_length": torch.tensor([len(history) for history in histories]),
            "item_id": torch.tensor(items),
        }
    )


def _histories(rows: int = 20) -> list[list[int]]:
    """Lengths 0 to MAX_LENGTH, items with repeats; 20 rows take the encoder's grouped path."""
    chance = torch.Generator().manual_seed(rows)
    drawn = torch.randint(1, N_ITEMS, (rows, MAX_LENGTH), generator=chance).tolist()
    return [row[: number % (MAX_LENGTH + 1)] for number, row in enumerate(drawn)]


class _Recorder:
    """The draws, logits and targets of every loss, taken down on the way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.items: list[list[int]] = []
        self.draws: list[MaskDraw] = []
        self.logits: list[Tensor] = []
        self.targets: list[list[int]] = []
        original_loss = qbert4rec_module.smoothed_cross_entropy

        def draw(*args: Any) -> MaskDraw:
            self.draws.append(draw_masks(*args))
            return self.draws[-1]

        def loss(logits: Tensor, targets: Tensor, excluded: Tensor, smoothing: float) -> Tensor:
            found = original_loss(logits, targets, excluded, smoothing)
            self.logits.append(logits.detach())
            self.targets.append(targets.tolist())
            return found

        monkeypatch.setattr(qbert4rec_module, "draw_masks", draw)
        monkeypatch.setattr(qbert4rec_module, "smoothed_cross_entropy", loss)


# A model small enough for plain Python -----------------------------------------------------------


def _normalised(vector: list[float]) -> list[float]:
    mean = sum(vector) / len(vector)
    variance = sum((x - mean) ** 2 for x in vector) / len(vector)
    return [(x - mean) / math.sqrt(variance + 1e-12) for x in vector]


def _added(one: list[float], two: list[float]) -> list[float]:
    return [a + b for a, b in zip(one, two, strict=True)]


def _averaged(vectors: list[list[float]]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def _dot(one: list[float], two: list[float]) -> float:
    return sum(a * b for a, b in zip(one, two, strict=True))


def _make_averaging(model: QBERT4Rec) -> None:
    """Turn the one block into x + mean over all positions: uniform attention, no feed-forward."""
    (block,) = model.encoder.blocks.layers
    width = block.self_attn.embed_dim
    with torch.no_grad():
        for parameter in (block.linear2.weight, block.linear2.bias, block.self_attn.out_proj.bias):
            parameter.zero_()
        block.self_attn.in_proj_weight.zero_()
        block.self_attn.in_proj_weight[2 * width :] = torch.eye(width)
        block.self_attn.in_proj_bias.zero_()
        block.self_attn.out_proj.weight.copy_(torch.eye(width))


def _item_tokens(model: QBERT4Rec, item: int) -> list[list[float]]:
    """The vectors an item is read as, put together from the model's parameters by plain loops."""
    if isinstance(model.items, WordItems):
        return [model.items().tolist()[item]]
    assert isinstance(model.items, CodeItems)
    table = model.items.table.weight.tolist()
    codes = _Dataset().item_codes
    assert codes is not None
    row = codes[item].tolist() if item else [0] * len(SIZES)
    vectors = [table[code + offset * (item > 0)] for code, offset in zip(row, OFFSETS, strict=True)]
    if model.item_representation == "flatten":
        return vectors
    return [[sum(column) for column in zip(*vectors, strict=True)]]


def _averaging_scores(model: QBERT4Rec, history: list[int], order: str, norm: str) -> list[float]:
    """Every item's score after a history, of a model that `_make_averaging` changed."""
    kept = history[1:] if len(history) == MAX_LENGTH else history
    tokens = [vector for item in kept for vector in _item_tokens(model, item)]
    tokens += model.mask_token.tolist()
    table = model.encoder.position_embedding.weight.tolist()
    numbers = list(range(len(tokens)))
    if order == "backward":
        numbers.reverse()
    inputs = [
        _normalised(_added(vector, table[number]))
        for vector, number in zip(tokens, numbers, strict=True)
    ]
    seen = [_normalised(vector) for vector in inputs] if norm == "pre" else inputs
    mean = _averaged(seen)
    state: list[float] = []
    for vector in inputs[-model.tokens_per_item :]:
        hidden = _normalised(_added(vector, mean))
        state += _normalised(hidden) if norm == "post" else hidden
    return [
        _dot(state, [x for vector in _item_tokens(model, item) for x in vector])
        for item in range(N_ITEMS)
    ]


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_scores_of_an_averaging_model(representation: str, order: str, norm: str) -> None:
    """Uniform attention and no feed-forward: all scores computed again in plain Python."""
    model = _model(
        item_representation=representation,
        position_order=order,
        layer_norm=norm,
        n_layers=1,
        exclude_visible="off",
    ).eval()
    _make_averaging(model)
    histories = _histories()
    scores = model.full_sort_predict(_batch(histories, [1] * len(histories)))
    for row, history in zip(scores.tolist(), histories, strict=True):
        wanted = _averaging_scores(model, history, order, norm)
        assert row[0] == -math.inf
        assert row[1:] == pytest.approx(wanted[1:], abs=2e-5)


def test_scores_with_the_numbers_written_out() -> None:
    """Mask vector 1 2 3 4 and a block that adds nothing: the hidden vector is known by hand."""
    model = _model(item_representation="id", n_layers=1, hidden_size=4, exclude_visible="off")
    _make_averaging(model)
    (block,) = model.encoder.blocks.layers
    rows = model.items.rows  # of items 1, 2, ...: padding owns none
    with torch.no_grad():
        block.self_attn.out_proj.weight.zero_()
        model.encoder.position_embedding.weight.zero_()
        model.mask_token.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
        rows.zero_()
        rows[0] = torch.tensor([1.0, 0.0, 0.0, 0.0])
        rows[1] = torch.tensor([1.0, 1.0, 1.0, 1.0])
        rows[2] = torch.tensor([0.0, 0.0, 0.0, 2.0])
        rows[3] = torch.tensor([0.0, -1.0, 1.0, 0.0])
    # (1 2 3 4) less 2.5, over the root of 1.25: -1.341641 -0.447214 0.447214 1.341641
    scores = model.eval().full_sort_predict(_batch([[7, 8]], [1]))[0].tolist()
    assert scores[1:6] == pytest.approx([-1.341641, 0.0, 2.683282, 0.894427, 0.0], abs=1e-5)


# Scores and loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_loss_falls_on_a_tiny_pattern(representation: str) -> None:
    """Two sequences, 30 Adam steps: better than knowing only which sequence it is (log 6)."""
    model = _model(item_representation=representation)
    batch = _batch([[1, 2, 3, 4, 5], [11, 12, 13, 14, 15]] * 10, [6, 16] * 10)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = model.calculate_loss(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])
    assert sum(losses[-5:]) / 5 < math.log(6) - 0.5


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("exclude", ["on", "off"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_predict_is_a_column_of_full_sort(representation: str, exclude: str, score: str) -> None:
    """Every item of the catalogue, padding and excluded ones (minus infinity) included."""
    changes = {"item_representation": representation, "exclude_visible": exclude, "score": score}
    model = _model(**changes).eval()
    histories = _histories()
    n_infinite = 0
    for item in range(N_ITEMS):
        batch = _batch(histories, [item] * len(histories))
        one, column = model.predict(batch), model.full_sort_predict(batch)[:, item]
        assert torch.equal(one.isinf(), column.isinf())
        assert torch.allclose(one, column, atol=1e-4)
        n_infinite += int(one.isinf().sum())
    visible = sum(len(set(h[1:] if len(h) == MAX_LENGTH else h)) for h in histories)
    assert n_infinite == len(histories) + visible * (exclude == "on")


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_full_sort_ranks_like_scoring_item_by_item(representation: str) -> None:
    """Each history alone, unpadded, each item's score from its code vectors: same ranking."""
    model = _model(item_representation=representation, exclude_visible="on").eval()
    histories = _histories()
    found = model.full_sort_predict(_batch(histories, [1] * len(histories)))
    for row, history in zip(found, histories, strict=True):
        kept = history[1:] if len(history) == MAX_LENGTH else history
        items = torch.tensor([[*kept, 0]])
        mask = torch.arange(items.size(1)).unsqueeze(0) == len(kept)
        hidden = model.forward(items, torch.tensor([items.size(1)]), mask, model.items())
        state = hidden[0].tolist()
        scores = {
            item: _dot(state, [x for vector in _item_tokens(model, item) for x in vector])
            for item in range(1, N_ITEMS)
            if item not in kept
        }
        ranking = [item for item in row.argsort(descending=True).tolist() if row[item] > -math.inf]
        assert ranking == sorted(scores, key=lambda item: -scores[item])
        assert [row[item].item() for item in ranking] == pytest.approx(
            [scores[item] for item in ranking], abs=1e-4
        )


@pytest.mark.parametrize("context", ["none", "previous"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_masked_items_do_not_leak_into_the_input(representation: str, context: str) -> None:
    """Other items at masked positions give the same hidden vectors."""
    model = _model(item_representation=representation, mask_context=context)
    items = torch.randint(1, N_ITEMS, (4, 6), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([6, 4, 1, 5])
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[0, [0, 3]] = mask[1, 3] = mask[2, 0] = mask[3, 2] = True
    matrix = model.items()
    other = torch.where(mask, (items + 3) % N_ITEMS, items)
    hidden = model.forward(items, lengths, mask, matrix)
    assert hidden.shape == (5, matrix.size(1))
    assert torch.equal(hidden, model.forward(other, lengths, mask, matrix))


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_cosine_scores_against_a_loop(representation: str) -> None:
    """Each score is the cosine of the two vectors over the temperature."""
    model = _model(item_representation=representation, score="cosine", temperature=0.2)
    model.eval()
    batch = _batch(_histories(), list(range(1, 21)))
    with torch.no_grad():
        matrix = model.items()
        hidden, _ = model._next_item_state(batch, matrix)
        scores = model.full_sort_predict(batch)
    for row, vector in enumerate(hidden.double()):
        for item in range(1, N_ITEMS):
            other = matrix[item].double()
            cosine = float(vector @ other / (vector.norm() * other.norm()))
            assert scores[row, item].item() == pytest.approx(cosine / 0.2, abs=1e-4)


def test_previous_visible_by_hand() -> None:
    items = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 0], [3, 3, 4, 9]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0]]).bool()
    expected = [[5, 6, 6, 6], [0, 6, 6, 0], [0, 0, 4, 9]]
    assert previous_visible(items, mask).tolist() == expected


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_a_mask_may_hold_the_item_before_it(
    representation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the encoder reads: at masks the mask token plus that item's vectors, else the items'."""
    model = _model(item_representation=representation, mask_context="previous")
    read: list[Tensor] = []

    def encoder(vectors: Tensor, lengths: Tensor, tokens: Tensor) -> Tensor:
        read.append(vectors)
        return vectors

    monkeypatch.setattr(model.encoder, "forward", encoder)
    items, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[False, True, False, True]])
    matrix, size = model.items(), model.tokens_per_item
    model.forward(items, torch.tensor([4]), mask, matrix)
    rows = matrix.view(N_ITEMS, size, -1)
    expected = [rows[5], model.mask_token + rows[5], rows[7], model.mask_token + rows[7]]
    assert torch.allclose(read[0][0], torch.cat(expected))


def test_the_code_loss_is_added_with_its_weight() -> None:
    """At the same masks, which the seed decides."""
    losses = []
    for weight in (0.0, 0.5, 1.0):
        model = _model(code_loss_weight=weight)
        torch.manual_seed(3)
        losses.append(model.calculate_loss(_batch(_histories(), list(range(1, 21)))).item())
    assert losses[0] < losses[1]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-4)


def test_loss_is_the_mean_over_all_masked_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded logits, through plain floats, give the returned loss."""
    model = _model(mask_mix=EQUAL_MIX, exclude_visible="on")
    recorder = _Recorder(monkeypatch)
    histories = _histories()
    loss = model.calculate_loss(_batch(histories, list(range(1, 21)))).item()
    (logits,), (targets,), (draw,) = recorder.logits, recorder.targets, recorder.draws
    assert len(targets) == draw.mask.sum().item()
    terms = []
    for row, target in zip(logits.tolist(), targets, strict=True):
        terms.append(math.log(math.fsum(map(math.exp, row))) - row[target])
    assert loss == pytest.approx(math.fsum(terms) / len(terms), rel=1e-5)


# Appending an item -------------------------------------------------------------------------------


def _appended(history: list[int], item: int, width: int) -> tuple[list[int], int]:
    row = list(history)
    if len(row) == width:
        row.pop(0)
    row.append(item)
    return row + [0] * (width - len(row)), len(row)


@settings(max_examples=60, deadline=None)
@given(
    histories=st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=6),
    item=st.integers(0, 9),
)
def test_append_item_against_a_loop(histories: list[list[int]], item: int) -> None:
    """Empty, partly filled and full histories; the given tensors stay as they were."""
    items = torch.tensor([row + [0] * (5 - len(row)) for row in histories])
    lengths = torch.tensor([len(row) for row in histories])
    before = items.clone(), lengths.clone()
    found, found_lengths = append_item(items, lengths, torch.full_like(lengths, item))
    wanted = [_appended(row, item, 5) for row in histories]
    assert found.tolist() == [row for row, _ in wanted]
    assert found_lengths.tolist() == [length for _, length in wanted]
    assert torch.equal(items, before[0]) and torch.equal(lengths, before[1])


def test_append_item_by_hand() -> None:
    """An empty, a short and a full history."""
    items = torch.tensor([[0, 0, 0], [4, 0, 0], [5, 6, 7]])
    found, lengths = append_item(items, torch.tensor([0, 1, 3]), torch.tensor([1, 2, 3]))
    assert found.tolist() == [[1, 0, 0], [4, 2, 0], [6, 7, 3]]
    assert lengths.tolist() == [1, 2, 3]


# exclude_visible ---------------------------------------------------------------------------------


def _yaml_value(text: str, folder: Path) -> Any:
    path = folder / "user.yaml"
    path.write_text(f"exclude_visible: {text}\n", encoding="utf-8")
    return load_yaml(path)["exclude_visible"]


@pytest.mark.parametrize(
    ("text", "repeats", "excluded"),
    [
        ("auto", True, False),
        ("auto", False, True),
        ("on", True, True),
        ("'on'", True, True),
        ("off", False, False),
        ("'off'", False, False),
        ("true", True, True),
        ("false", False, False),
    ],
)
def test_visible_items_are_minus_infinity_iff_on(
    text: str, repeats: bool, excluded: bool, tmp_path: Path
) -> None:
    """As a user's YAML gives the setting, where bare on and off are booleans."""
    model = _model(repeats, exclude_visible=_yaml_value(text, tmp_path)).eval()
    full = list(range(1, MAX_LENGTH + 1))
    histories = [[5, 9, 5], [2], [], full]
    scores = model.full_sort_predict(_batch(histories, [1] * 4))
    visible: list[set[int]] = [{5, 9}, {2}, set(), set(full[1:])]  # a full history drops its oldest
    for row, gone in zip(scores, visible, strict=True):
        infinite = {item for item in range(N_ITEMS) if row[item] == -math.inf}
        assert infinite == ({0, *gone} if excluded else {0})


@pytest.mark.parametrize("exclude", ["on", "off"])
def test_training_excludes_visible_items_but_never_a_target(
    exclude: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences full of repeats: each masked position's excluded set against plain sets."""
    model = _model(mask_mix=EQUAL_MIX, exclude_visible=exclude)
    recorder = _Recorder(monkeypatch)
    histories = [[3, 5, 3, 7], [4, 4, 4], [1, 2, 1, 2, 1, 2, 1], [6], [9, 8, 9, 8, 9, 8, 9, 8]]
    last = [3, 4, 2, 6, 9]
    repeated_targets = 0
    for _ in range(40):
        model.calculate_loss(_batch(histories, last))
        draw, logits = recorder.draws[-1], recorder.logits[-1]
        expected = []
        for history, item, mask, length in zip(
            histories, last, draw.mask.tolist(), draw.lengths.tolist(), strict=True
        ):
            row = _appended(history, item, MAX_LENGTH)[0][:length]
            visible = {row[i] for i in range(length) if not mask[i]}
            for i in range(length):
                if mask[i]:
                    repeated_targets += row[i] in visible
                    expected.append({0} | (visible - {row[i]} if exclude == "on" else set()))
        found = [{i for i in range(N_ITEMS) if row[i] == -math.inf} for row in logits]
        assert found == expected
        targets = torch.tensor(recorder.targets[-1])
        assert logits.gather(1, targets.unsqueeze(1)).isfinite().all()
    assert repeated_targets > 100


# Sizes and refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_items", "millions"), [(6250, 3.71), (9416, 4.51), (13839, 5.64)])
def test_size_is_that_of_the_paper(n_items: int, millions: float) -> None:
    """Table 6: `word` at the shipped defaults, within 0.5 %."""
    config = {**_shipped("QBERT4Rec"), **HOST_KEYS, "item_representation": "word"}
    config["MAX_ITEM_LIST_LENGTH"] = 50
    model = QBERT4Rec(config, _Dataset(n_items + 1, (256,) * 4))
    found = sum(parameter.numel() for parameter in model.parameters())
    rows, positions, mask, norm = n_items, 50, 1, 2
    assert found == (rows + positions + mask + norm) * 256 + 2_108_416
    assert abs(found / 1e6 - millions) <= 0.005 * millions


@pytest.mark.parametrize(("representation", "tokens"), [("compose", 1), ("flatten", 3)])
def test_size_of_code_models_is_free_of_the_catalogue(representation: str, tokens: int) -> None:
    """10 items or 30: the same parameters; `flatten` has K mask vectors and K times the places."""
    config = _config(item_representation=representation)
    sizes = [
        sum(p.numel() for p in QBERT4Rec(config, _Dataset(n_items)).parameters())
        for n_items in (10, 30)
    ]
    attention, feed_forward = 4 * (16 * 16 + 16), 16 * 24 + 24 + 24 * 16 + 16
    blocks = 2 * (attention + feed_forward + 2 * 2 * 16)
    vectors = sum(SIZES) + tokens + tokens * MAX_LENGTH + 2
    assert sizes == [blocks + vectors * 16] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_representation": "sum"}, "item_representation: 'sum' is none of"),
        ({"mask_mix": {"spam": 1.0}}, "mask_mix: scheme: 'spam' is none of"),
        ({"mask_ratios": {"spam": 0.5}}, "mask_ratios: scheme: 'spam' is none of"),
        ({"mask_mix": {}}, "mask_mix: weights must be >= 0 and one of them positive"),
        ({"mask_mix": {"span": 0.0, "tail": 0}}, "one of them positive"),
        ({"mask_mix": {"span": 2.0, "tail": -1.0}}, "weights must be >= 0"),
        ({"mask_mix": {"span": 1.0}, "mask_ratios": {"tail": 0.1}}, "span is in mask_mix and"),
        ({"mask_mix": {"tail": 1.0}, "mask_ratios": {"tail": 0.0}}, "needs a ratio in"),
        ({"mask_mix": {"tail": 1.0}, "mask_ratios": {"tail": 1.1}}, "needs a ratio in"),
        ({"hidden_size": 15}, "hidden_size 15 is not a multiple of n_heads 2"),
        ({"exclude_visible": "never"}, "exclude_visible: 'never' is none of auto, on, off"),
        ({"position_order": "up"}, "position_order: 'up' is none of"),
        ({"score": "cos"}, "score: 'cos' is none of dot, cosine"),
        ({"score": "cosine", "temperature": 0}, "temperature: 0.0 is not above 0"),
        ({"mask_context": "next"}, "mask_context: 'next' is none of none, previous"),
        ({"code_dropout_prob": 1}, "code_dropout_prob: 1.0 is not in [0, 1)"),
        ({"code_loss_weight": -0.5}, "code_loss_weight: -0.5 is below 0"),
        ({"layer_norm": "none"}, "layer_norm: 'none' is none of"),
        ({"word_init": "code"}, "word_init: 'code' is none of codes, random"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    """Each names its key and what is wrong."""
    with pytest.raises(InputError, match=re.escape(message)):
        _model(**changes)


def test_next_item_needs_no_ratio_and_zero_weights_none_either() -> None:
    """Only schemes that are drawn must have a ratio."""
    model = _model(mask_mix={"next_item": 1.0, "span": 0.0}, mask_ratios={})
    assert model.calculate_loss(_batch([[1, 2, 3]], [4])).isfinite()


@pytest.mark.parametrize("representation", ["compose", "word", "flatten"])
def test_codes_are_needed_by_all_but_id(representation: str) -> None:
    """A dataset without semantic IDs is refused with the two ways out."""
    dataset = _Dataset()
    dataset.item_codes = None
    with pytest.raises(InputError, match="set semantic_id_file, or item_representation: id"):
        QBERT4Rec(_config(item_representation=representation), dataset)


def test_the_id_control_is_built_without_codes() -> None:
    """`IDBERT4Rec` with its shipped settings."""
    dataset = _Dataset()
    dataset.item_codes = None
    model = IDBERT4Rec(_config("IDBERT4Rec"), dataset)
    assert model.items().shape == (N_ITEMS, 16)
    assert model.calculate_loss(_batch([[1, 2]], [3])).isfinite()


def test_building_leaves_the_codes_and_warns_of_nothing(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """The dataset's codes stay codes; torch is made to repeat warnings it gives only once."""
    dataset = _Dataset()
    assert dataset.item_codes is not None
    before = dataset.item_codes.clone()
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        QBERT4Rec(_config(), dataset)
    finally:
        torch.set_warn_always(always)
    assert torch.equal(dataset.item_codes, before)
    assert not recwarn.list


# What RecBole's BERT4Rec does wrong --------------------------------------------------------------


def _labels(scheme: str, monkeypatch: pytest.MonkeyPatch, draws: int = 30) -> set[int]:
    """All items that were a label in some draw of the sequence 7 8 9 | 10."""
    model = _model(mask_mix={scheme: 1.0})
    recorder = _Recorder(monkeypatch)
    for _ in range(draws):
        model.calculate_loss(_batch([[7, 8, 9]], [10]))
    return {target for targets in recorder.targets for target in targets}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_flaw_1_the_last_training_item_is_a_label(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RecBole masks the history only; here the row's own item is predicted under each scheme."""
    assert 10 in _labels(scheme, monkeypatch)


def test_flaw_1_the_last_training_item_learns() -> None:
    """One step on `tail`, whose only label is the last item, raises that item's score alone."""
    model = _model(item_representation="id", mask_mix={"tail": 1.0}, exclude_visible="off")
    batch = _batch([[7, 8, 9]], [10])
    before = model.full_sort_predict(batch)[0].softmax(dim=0).detach()
    model.calculate_loss(batch).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.01 * parameter.grad
    after = model.full_sort_predict(batch)[0].softmax(dim=0)
    assert (after - before).argmax().item() == 10


@pytest.mark.parametrize("scheme", ["random", "span", "multi_region"])
def test_flaw_2_position_0_enters_the_loss(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole drops position 0 (`masked_index > 0`); here every item of a sequence is a label."""
    assert _labels(scheme, monkeypatch, draws=60) == {7, 8, 9, 10}


def test_flaw_2_a_label_at_position_0_has_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only position 0 masked: the loss is that item's, and training on it finds the item."""
    model = _model()
    mask = torch.tensor([[True, False, False, False]])
    monkeypatch.setattr(qbert4rec_module, "draw_masks", lambda lengths, *_: MaskDraw(lengths, mask))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = model.calculate_loss(_batch([[7, 8, 9]], [10]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] > 1 and losses[-1] < 0.1


@pytest.mark.parametrize("length", [1, 3, MAX_LENGTH - 1])
def test_flaw_3_a_short_history_keeps_its_oldest_item(length: int) -> None:
    """RecBole always drops the oldest; here another oldest item gives other scores."""
    model = _model(exclude_visible="off").eval()
    history = list(range(1, length + 1))
    scores = [
        model.full_sort_predict(_batch([[oldest, *history[1:]]], [1]))[0, 1:] for oldest in (1, 15)
    ]
    assert not torch.allclose(scores[0], scores[1], atol=1e-3)


def test_flaw_3_a_full_history_drops_its_oldest_item_only() -> None:
    """The mask takes the oldest item's place; the second-oldest still counts."""
    model = _model(exclude_visible="off").eval()
    full = list(range(1, MAX_LENGTH + 1))
    histories = [full, [15, *full[1:]], [1, 15, *full[2:]], full[1:]]
    scores = model.full_sort_predict(_batch(histories, [1] * 4))[:, 1:]
    assert torch.allclose(scores[0], scores[1], atol=1e-5)
    assert torch.allclose(scores[0], scores[3], atol=1e-5)
    assert not torch.allclose(scores[0], scores[2], atol=1e-3)


def _python_steps(run: Callable[[], object]) -> int:
    """Function calls and lines that Python executes in `run`."""
    steps = 0

    def trace(*_: Any) -> Any:
        nonlocal steps
        steps += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return steps


@pytest.mark.parametrize(
    ("small", "groups"), [(2 * encoder_module.CPU_GROUPS + 4, encoder_module.CPU_GROUPS), (8, 1000)]
)
@pytest.mark.parametrize("task", ["calculate_loss", "full_sort_predict", "predict"])
def test_flaw_4_no_python_loop_over_rows(
    task: str, small: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 rows take as many Python calls and lines as a few, on both paths of the encoder."""
    monkeypatch.setattr(encoder_module, "CPU_GROUPS", groups)
    model = _model(mask_mix=EQUAL_MIX, exclude_visible="on")
    steps = []
    for rows in (small, small, 512):  # the first run pays for what torch loads late
        histories = [list(range(1, MAX_LENGTH + 1))] * rows
        batch = _batch(histories, [9] * rows)
        steps.append(_python_steps(lambda batch=batch: getattr(model, task)(batch)))  # type: ignore[misc]
    assert abs(steps[2] - steps[1]) <= 0.01 * steps[1]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_flaw_5_no_batch_without_a_label(representation: str, scheme: str) -> None:
    """Single items and ratios that round to no item still give a finite loss and gradient."""
    model = _model(
        item_representation=representation,
        mask_mix={scheme: 1.0},
        mask_ratios=dict.fromkeys(SCHEMES[:-1], 1e-6),
        exclude_visible="on",
    )
    batches: list[list[list[int]]] = [[[]], [[5]], [[5], [], [6, 7]], [[]] * 20]
    for histories in batches:
        model.zero_grad()
        loss = model.calculate_loss(_batch(histories, [3] * len(histories)))
        loss.backward()
        assert loss.isfinite() and loss > 0
        for parameter in model.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all()
