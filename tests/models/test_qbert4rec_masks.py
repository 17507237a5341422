"""What the model sees of a sequence and what it may answer: masks, the appended item, exclusion."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_model import EQUAL_MIX, MAX_LENGTH, N_ITEMS, Recorder, batch_of, small_model

from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.models.layers.item_representation import REPRESENTATIONS
from recbole_qbert.models.layers.masking import append_item
from recbole_qbert.models.qbert4rec import previous_visible

# Masked items ------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["none", "previous"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_masked_items_do_not_leak_into_the_input(representation: str, context: str) -> None:
    """Other items at masked positions give the same hidden vectors."""
    model = small_model(item_representation=representation, mask_context=context)
    items = torch.randint(1, N_ITEMS, (4, 6), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([6, 4, 1, 5])
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[0, [0, 3]] = mask[1, 3] = mask[2, 0] = mask[3, 2] = True
    matrix = model.items()
    other = torch.where(mask, (items + 3) % N_ITEMS, items)
    hidden = model.forward(items, lengths, mask, matrix)
    assert hidden.shape == (5, matrix.size(1))
    assert torch.equal(hidden, model.forward(other, lengths, mask, matrix))


@pytest.mark.parametrize("rows", [4, 30])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_what_stands_behind_a_sequence_has_no_influence(representation: str, rows: int) -> None:
    """Any items in place of the padding give the same hidden vectors."""
    model = small_model(item_representation=representation, position_order="backward").eval()
    chance = torch.Generator().manual_seed(rows)
    items, other = torch.randint(1, N_ITEMS, (2, rows, MAX_LENGTH), generator=chance)
    lengths = torch.randint(1, MAX_LENGTH + 1, (rows,), generator=chance)
    real = torch.arange(MAX_LENGTH) < lengths.unsqueeze(1)
    mask = torch.arange(MAX_LENGTH) == lengths.unsqueeze(1) - 1
    assert not real.all()
    clean = model.forward(items.masked_fill(~real, 0), lengths, mask, model.items())
    dirty = model.forward(torch.where(real, items, other), lengths, mask, model.items())
    assert torch.equal(clean, dirty)


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
    model = small_model(item_representation=representation, mask_context="previous")
    read: list[Tensor] = []

    def encoder(
        vectors: Tensor, lengths: Tensor, tokens: Tensor, wanted: Tensor, codes: Tensor | None
    ) -> Tensor:
        assert codes is None
        read.append(vectors)
        return vectors[wanted[0]]

    monkeypatch.setattr(model.encoder, "forward", encoder)
    items, mask = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[False, True, False, True]])
    matrix, size = model.items(), model.tokens_per_item
    model.forward(items, torch.tensor([4]), mask, matrix)
    rows = matrix.view(N_ITEMS, size, -1)
    expected = [rows[5], model.mask_token + rows[5], rows[7], model.mask_token + rows[7]]
    assert torch.allclose(read[0], torch.cat(expected))


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
    model = small_model(repeats, exclude_visible=_yaml_value(text, tmp_path)).eval()
    full = list(range(1, MAX_LENGTH + 1))
    histories = [[5, 9, 5], [2], [], full]
    scores = model.full_sort_predict(batch_of(histories, [1] * 4))
    visible: list[set[int]] = [{5, 9}, {2}, set(), set(full[1:])]  # a full history drops its oldest
    for row, gone in zip(scores, visible, strict=True):
        infinite = {item for item in range(N_ITEMS) if row[item] == -math.inf}
        assert infinite == ({0, *gone} if excluded else {0})


@pytest.mark.parametrize("exclude", ["on", "off"])
def test_training_excludes_visible_items_but_never_a_target(
    exclude: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sequences full of repeats: each masked position's excluded set against plain sets."""
    model = small_model(mask_mix=EQUAL_MIX, exclude_visible=exclude)
    recorder = Recorder(monkeypatch)
    histories = [[3, 5, 3, 7], [4, 4, 4], [1, 2, 1, 2, 1, 2, 1], [6], [9, 8, 9, 8, 9, 8, 9, 8]]
    last = [3, 4, 2, 6, 9]
    repeated_targets = 0
    for _ in range(40):
        model.calculate_loss(batch_of(histories, last))
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
