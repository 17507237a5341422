"""The model without the five flaws of RecBole's BERT4Rec."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from toy_model import EQUAL_MIX, MAX_LENGTH, Recorder, batch_of, small_model

from recbole_qbert.models import qbert4rec as qbert4rec_module
from recbole_qbert.models.layers import encoder as encoder_module
from recbole_qbert.models.layers.item_representation import REPRESENTATIONS
from recbole_qbert.models.layers.masking import SCHEMES, MaskDraw


def _labels(scheme: str, monkeypatch: pytest.MonkeyPatch, draws: int = 30) -> set[int]:
    """All items that were a label in some draw of the sequence 7 8 9 | 10."""
    model = small_model(mask_mix={scheme: 1.0})
    recorder = Recorder(monkeypatch)
    for _ in range(draws):
        model.calculate_loss(batch_of([[7, 8, 9]], [10]))
    return {target for targets in recorder.targets for target in targets}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_flaw_1_the_last_training_item_is_a_label(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RecBole masks the history only; here the row's own item is predicted under each scheme."""
    assert 10 in _labels(scheme, monkeypatch)


def test_flaw_1_the_last_training_item_learns() -> None:
    """One step on `tail`, whose only label is the last item, raises that item's score alone."""
    model = small_model(item_representation="id", mask_mix={"tail": 1.0}, exclude_visible="off")
    batch = batch_of([[7, 8, 9]], [10])
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
    model = small_model()
    mask = torch.tensor([[True, False, False, False]])
    monkeypatch.setattr(qbert4rec_module, "draw_masks", lambda lengths, *_: MaskDraw(lengths, mask))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = model.calculate_loss(batch_of([[7, 8, 9]], [10]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1 and losses[-1] < 0.1


@pytest.mark.parametrize("length", [1, 3, MAX_LENGTH - 1])
def test_flaw_3_a_short_history_keeps_its_oldest_item(length: int) -> None:
    """RecBole always drops the oldest; here another oldest item gives other scores."""
    model = small_model(exclude_visible="off").eval()
    history = list(range(1, length + 1))
    scores = [
        model.full_sort_predict(batch_of([[oldest, *history[1:]]], [1]))[0, 1:]
        for oldest in (1, 15)
    ]
    assert not torch.allclose(scores[0], scores[1], atol=1e-3)


def test_flaw_3_a_full_history_drops_its_oldest_item_only() -> None:
    """The mask takes the oldest item's place; the second-oldest still counts."""
    model = small_model(exclude_visible="off").eval()
    full = list(range(1, MAX_LENGTH + 1))
    histories = [full, [15, *full[1:]], [1, 15, *full[2:]], full[1:]]
    scores = model.full_sort_predict(batch_of(histories, [1] * 4))[:, 1:]
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
    ("small", "fewest"), [(encoder_module.CPU_GROUPED + 4, encoder_module.CPU_GROUPED), (8, 1000)]
)
@pytest.mark.parametrize("task", ["calculate_loss", "full_sort_predict", "predict"])
def test_flaw_4_no_python_loop_over_rows(
    task: str, small: int, fewest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 rows take as many Python calls and lines as a few, on both paths of the encoder."""
    monkeypatch.setattr(encoder_module, "CPU_GROUPED", fewest)
    model = small_model(mask_mix=EQUAL_MIX, exclude_visible="on")
    steps = []
    for rows in (small, small, 512):  # the first run pays for what torch loads late
        histories = [list(range(1, MAX_LENGTH + 1))] * rows
        batch = batch_of(histories, [9] * rows)
        steps.append(_python_steps(lambda batch=batch: getattr(model, task)(batch)))  # type: ignore[misc]
    assert abs(steps[2] - steps[1]) <= 0.01 * steps[1]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_flaw_5_no_batch_without_a_label(representation: str, scheme: str) -> None:
    """Single items and ratios that round to no item still give a finite loss and gradient."""
    model = small_model(
        item_representation=representation,
        mask_mix={scheme: 1.0},
        mask_ratios=dict.fromkeys(SCHEMES[:-1], 1e-6),
        exclude_visible="on",
    )
    batches: list[list[list[int]]] = [[[]], [[5]], [[5], [], [6, 7]], [[]] * 20]
    for histories in batches:
        model.zero_grad()
        loss = model.calculate_loss(batch_of(histories, [3] * len(histories)))
        loss.backward()
        assert loss.isfinite() and loss > 0
        for parameter in model.parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all()
