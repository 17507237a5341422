"""The model's scores and loss against plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from toy_model import (
    EQUAL_MIX,
    MAX_LENGTH,
    N_ITEMS,
    SIZES,
    Recorder,
    ToyDataset,
    batch_of,
    small_model,
    toy_histories,
)

from recbole_qbert.data.dataset import TrainingRows
from recbole_qbert.models.layers.catalog_sample import log_absence, sample_catalog
from recbole_qbert.models.layers.item_representation import REPRESENTATIONS, CodeItems, ItemRows
from recbole_qbert.models.layers.masking import draw_masks
from recbole_qbert.models.qbert4rec import QBERT4Rec

OFFSETS = (0, 3, 7)


# A model small enough for plain Python -----------------------------------------------------------


def _normalized(vector: list[float]) -> list[float]:
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
    if isinstance(model.items, ItemRows):
        return [model.items().tolist()[item]]
    assert isinstance(model.items, CodeItems)
    table = model.items.table.weight.tolist()
    codes = ToyDataset().item_codes
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
        _normalized(_added(vector, table[number]))
        for vector, number in zip(tokens, numbers, strict=True)
    ]
    seen = [_normalized(vector) for vector in inputs] if norm == "pre" else inputs
    mean = _averaged(seen)
    state: list[float] = []
    for vector in inputs[-model.tokens_per_item :]:
        hidden = _normalized(_added(vector, mean))
        state += _normalized(hidden) if norm == "post" else hidden
    return [
        _dot(state, [x for vector in _item_tokens(model, item) for x in vector])
        for item in range(N_ITEMS)
    ]


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_scores_of_an_averaging_model(representation: str, order: str, norm: str) -> None:
    """Uniform attention and no feed-forward: all scores computed again in plain Python."""
    model = small_model(
        item_representation=representation,
        position_order=order,
        layer_norm=norm,
        n_layers=1,
        exclude_visible="off",
    ).eval()
    _make_averaging(model)
    histories = toy_histories()
    scores = model.full_sort_predict(batch_of(histories, [1] * len(histories)))
    for row, history in zip(scores.tolist(), histories, strict=True):
        wanted = _averaging_scores(model, history, order, norm)
        assert row[0] == -math.inf
        assert row[1:] == pytest.approx(wanted[1:], abs=2e-5)


def test_scores_with_the_numbers_written_out() -> None:
    """Mask vector 1 2 3 4 and a block that adds nothing: the hidden vector is known by hand."""
    model = small_model(item_representation="id", n_layers=1, hidden_size=4, exclude_visible="off")
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
    scores = model.eval().full_sort_predict(batch_of([[7, 8]], [1]))[0].tolist()
    assert scores[1:6] == pytest.approx([-1.341641, 0.0, 2.683282, 0.894427, 0.0], abs=1e-5)


# Scores and loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_loss_falls_on_a_tiny_pattern(representation: str) -> None:
    """Two sequences, 30 Adam steps: better than knowing only which sequence it is (log 6)."""
    model = small_model(item_representation=representation)
    batch = batch_of([[1, 2, 3, 4, 5], [11, 12, 13, 14, 15]] * 10, [6, 16] * 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = model.calculate_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(math.isfinite, losses))
    assert sum(losses[-5:]) < 0.4 * sum(losses[:5])
    assert sum(losses[-5:]) / 5 < math.log(6) - 0.5


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("exclude", ["on", "off"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_predict_is_a_column_of_full_sort(representation: str, exclude: str, score: str) -> None:
    """Every item of the catalog, padding and excluded ones (minus infinity) included."""
    changes = {"item_representation": representation, "exclude_visible": exclude, "score": score}
    model = small_model(**changes).eval()
    histories = toy_histories()
    n_infinite = 0
    for item in range(N_ITEMS):
        batch = batch_of(histories, [item] * len(histories))
        one, column = model.predict(batch), model.full_sort_predict(batch)[:, item]
        assert torch.equal(one.isinf(), column.isinf())
        assert torch.allclose(one, column, atol=1e-4)
        n_infinite += int(one.isinf().sum())
    visible = sum(len(set(h[1:] if len(h) == MAX_LENGTH else h)) for h in histories)
    assert n_infinite == len(histories) + visible * (exclude == "on")


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_full_sort_ranks_like_scoring_item_by_item(representation: str) -> None:
    """Each history alone, unpadded, each item's score from its code vectors: same ranking."""
    model = small_model(item_representation=representation, exclude_visible="on").eval()
    histories = toy_histories()
    found = model.full_sort_predict(batch_of(histories, [1] * len(histories)))
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


@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_cosine_scores_against_a_loop(representation: str) -> None:
    """Each score is the cosine of the two vectors over the temperature."""
    model = small_model(item_representation=representation, score="cosine", temperature=0.2)
    model.eval()
    batch = batch_of(toy_histories(), list(range(1, 21)))
    with torch.no_grad():
        matrix = model.items()
        hidden, _ = model._next_item_state(batch, matrix)
        scores = model.full_sort_predict(batch)
    for row, vector in enumerate(hidden.double()):
        for item in range(1, N_ITEMS):
            other = matrix[item].double()
            cosine = float(vector @ other / (vector.norm() * other.norm()))
            assert scores[row, item].item() == pytest.approx(cosine / 0.2, abs=1e-4)


def test_the_code_loss_is_added_with_its_weight() -> None:
    """At the same masks, which the seed decides."""
    losses = []
    for weight in (0.0, 0.5, 1.0):
        model = small_model(code_loss_weight=weight)
        torch.manual_seed(3)
        losses.append(model.calculate_loss(batch_of(toy_histories(), list(range(1, 21)))).item())
    assert losses[0] < losses[1]
    assert losses[2] - losses[0] == pytest.approx(2 * (losses[1] - losses[0]), rel=1e-4)


def test_a_small_catalog_holds_the_batch_and_a_sample() -> None:
    """Numbers within it mean the same items; chances are those of the batch and of the sample."""
    absence = torch.tensor([0.0, 0.5, 0.3, 0.0, 0.9, 0.1, 0.2, 0.2, 0.4, 1.0, 0.05])
    batch = torch.tensor([[3, 5, 0], [2, 5, 9]])
    numbered, scored, log_chance = sample_catalog(
        batch, 3, absence.log(), torch.Generator().manual_seed(5)
    )
    assert {0, 2, 3, 5, 9} < set(scored.tolist()) and len(scored) <= 8
    assert torch.equal(scored[numbered], batch) and scored.tolist() == sorted(scored.tolist())
    wanted = 1 - 0.7 * absence[scored]
    assert log_chance.exp().tolist() == pytest.approx(wanted.tolist())


@pytest.mark.parametrize(("n_rows", "batch_size"), [(12, 12), (400, 1), (300, 40)])
@pytest.mark.parametrize("next_item", [0.0, 0.7, 1.0])
def test_chances_are_how_often_an_item_is_scored(
    n_rows: int, batch_size: int, next_item: float
) -> None:
    """Batches drawn and cut as in training, and the items that each step scores, counted.

    Rows of 1 to 8 items, the later ones of rarer kinds, so that cuts fall on rare items above all;
    some rows hold an item twice.
    """
    draws = torch.Generator().manual_seed(n_rows)
    lengths = torch.randint(1, 9, (n_rows,), generator=draws)
    places = torch.arange(8)
    kinds = torch.randint(1, 6, (n_rows, 8), generator=draws)
    items = (kinds + 5 * places).masked_fill(places >= lengths.unsqueeze(1), 0)
    items[::7, 2] = torch.where(lengths[::7] > 2, items[::7, 0], 0)
    rows = TrainingRows(
        items[items > 0], lengths, torch.full((n_rows,), batch_size / n_rows).double()
    )
    absence = log_absence(rows, 41, next_item)
    mix = {"next_item": next_item, "tail": 1 - next_item}
    seen, n_draws = torch.zeros(41), 3000
    for _ in range(n_draws):
        batch = torch.randperm(n_rows, generator=draws)[:batch_size]
        left, _ = draw_masks(lengths[batch], 8, mix, {"tail": 0.3}, draws)
        cut = items[batch].masked_fill(places >= left.unsqueeze(1), 0)
        _, scored, _ = sample_catalog(cut, 6, absence, draws)
        seen[scored] += 1
    expected = 1 - (1 - 6 / 40) * absence.exp()
    # Four standard deviations of a share of 3,000 draws.
    assert (seen[1:] / n_draws - expected[1:]).abs().max() < 4 * math.sqrt(0.25 / n_draws)


@pytest.mark.parametrize("exclude", ["on", "off"])
def test_the_sampled_softmax_by_a_loop(exclude: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of the items that were drawn, less the logarithm of their chance.

    The items of a row are in its sample for certain: nothing is taken off their scores.
    """
    settings = {"exclude_visible": exclude, "mask_mix": {"tail": 1.0}, "code_loss_weight": 0.5}
    model = small_model(**settings, softmax_samples=4)
    assert "log_absence" not in model.state_dict()
    batch = batch_of([[3, 5, 9], [2, 5]], [1, 7])
    recorder = Recorder(monkeypatch)
    torch.manual_seed(3)
    drawn = model.draw_batch(batch)
    assert drawn.rows is not None and drawn.log_chance is not None
    scored = drawn.rows.tolist()
    assert {0, 1, 2, 3, 5, 7, 9} < set(scored) and len(scored) < N_ITEMS
    loss = model.batch_loss(drawn)
    (logits,), (targets,) = recorder.logits, recorder.targets
    matrix = model.items().detach()
    hidden = model.forward(drawn.items, drawn.lengths, drawn.mask, drawn.matrix).detach()
    terms = []
    for row, vector, target in zip(logits, hidden, targets, strict=True):
        history = [3, 5, 9] if scored[target] == 1 else [2, 5]
        assert scored[target] in (1, 7)
        for place, item in enumerate(scored):
            wanted = float(vector @ matrix[item])
            if item not in (scored[target], *history):
                wanted -= float(drawn.log_chance[place])
            left_out = (0, *history) if exclude == "on" else (0,)
            wanted = -math.inf if item in left_out else wanted
            assert row[place].item() == pytest.approx(wanted, abs=1e-4)
        values = row.tolist()
        terms.append(math.log(math.fsum(map(math.exp, values))) - values[target])
    real = torch.tensor([scored[target] for target in targets])
    codes = model.items.code_loss(hidden, real, model._score).detach()
    wanted = math.fsum(terms) / len(terms) + 0.5 * float(codes)
    assert loss.item() == pytest.approx(wanted, rel=1e-4)


def test_as_many_samples_as_items_are_the_whole_softmax() -> None:
    losses = []
    for samples in (0, N_ITEMS - 1):
        torch.manual_seed(3)
        model = small_model(softmax_samples=samples)
        losses.append(model.calculate_loss(batch_of(toy_histories(), list(range(1, 21)))).item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("samples", [0, 4])
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_half_precision_gives_nearly_the_same_loss(score: str, samples: int) -> None:
    """What `enable_amp` does on a GPU: every gradient is there, and finite."""
    model = small_model(score=score, softmax_samples=samples, item_representation="hybrid")
    batch = batch_of(toy_histories(), list(range(1, 21)))
    losses = []
    for half in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(model.calculate_loss(batch))
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.05)
    losses[1].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_loss_is_the_mean_over_all_masked_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded logits, through plain floats, give the returned loss."""
    model = small_model(mask_mix=EQUAL_MIX, exclude_visible="on")
    recorder = Recorder(monkeypatch)
    histories = toy_histories()
    loss = model.calculate_loss(batch_of(histories, list(range(1, 21)))).item()
    (logits,), (targets,), (draw,) = recorder.logits, recorder.targets, recorder.draws
    assert len(targets) == draw.mask.sum().item()
    terms = []
    for row, target in zip(logits.tolist(), targets, strict=True):
        terms.append(math.log(math.fsum(map(math.exp, row))) - row[target])
    assert loss == pytest.approx(math.fsum(terms) / len(terms), rel=1e-5)


# Top-k by codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["dot", "cosine"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("exclude", ["on", "off"])
def test_the_item_index_has_the_scores_of_the_whole_catalog(
    representation: str, score: str, exclude: str
) -> None:
    """`queries` and `item_index` give the best items of `full_sort_predict`, one number lower."""
    settings = {"item_representation": representation, "score": score, "exclude_visible": exclude}
    model = small_model(**settings).eval()
    index = model.item_index()
    assert (index is None) == (representation in ("id", "word"))
    if index is None:
        return
    if representation == "hybrid":  # rows start at 0
        torch.nn.init.normal_(model.items.rows)
        index = model.item_index()
    batch = batch_of(toy_histories(), [1] * 20)
    with torch.no_grad():
        want = model.full_sort_predict(batch)[:, 1:]
    queries, visible = model.queries(batch)
    rows, columns = visible.nonzero(as_tuple=True)
    excluded = (rows, visible[rows, columns] - 1)
    for method in ("dense", "codes", "auto"):
        values, items = index.top_k(queries, 5, excluded, method=method)
        torch.testing.assert_close(values, want.topk(5, dim=1).values)
        torch.testing.assert_close(want.gather(1, items), values)
