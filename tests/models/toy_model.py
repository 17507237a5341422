"""A small model on items made by hand, what it is fed and what its loss saw."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import shipped_files
from recbole_qbert.data.dataset import TrainingRows
from recbole_qbert.data.semid import SemanticIDCodec
from recbole_qbert.models import qbert4rec as qbert4rec_module
from recbole_qbert.models.layers.masking import SCHEMES, MaskDraw, draw_masks
from recbole_qbert.models.qbert4rec import QBERT4Rec

SIZES = (3, 4, 3)
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
# The plain model, which a test by hand can follow; each test adds what it is about.
SMALL: dict[str, Any] = {
    "item_representation": "compose",
    "row_dropout_prob": 0.5,
    "code_dropout_prob": 0.0,
    "code_loss_weight": 0.0,
    "label_smoothing": 0.0,
    "score": "dot",
    "mask_context": "none",
    "mask_mix": {"span": 1.0, "tail": 1.0, "multi_region": 1.0, "next_item": 3.0},
    "position_order": "forward",
    "softmax_samples": 0,
    "train_batch_size": 20,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_size": 16,
    "inner_size": 24,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "initializer_range": 0.3,
}
EQUAL_MIX = dict.fromkeys(SCHEMES, 1.0)


class ToyDataset:
    """What the model asks of a dataset."""

    dataset_name = "toy"

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

    def training_rows(self, batch_size: int, max_length: int) -> TrainingRows:
        """Item i ends one row of three items for each i that is even."""
        items = torch.tensor([[1, 2 * i + 1, 2 * i] for i in range(1, self.n_items // 2)])
        chance = torch.full((len(items),), min(1.0, batch_size / len(items)))
        return TrainingRows(items.flatten(), torch.full((len(items),), 3), chance.double())


def shipped_settings(model: str) -> dict[str, Any]:
    """The shipped defaults of a model, over those of all models."""
    defaults: dict[str, Any] = {}
    for path in shipped_files(model, "", use_tuned=False):
        defaults |= load_yaml(path)
    return defaults


def small_settings(model: str = "QBERT4Rec", **changes: Any) -> dict[str, Any]:
    """The shipped settings in small sizes, without dropout; what is given wins."""
    return {**shipped_settings(model), **HOST_KEYS, **SMALL, **changes}


def small_model(repeats: bool = True, **changes: Any) -> QBERT4Rec:
    """A model of the toy data set, the same at every call."""
    torch.manual_seed(0)
    return QBERT4Rec(small_settings(**changes), ToyDataset(repeats=repeats))


def batch_of(histories: Sequence[Sequence[int]], items: Sequence[int]) -> Interaction:
    """Histories, padded to MAX_LENGTH, and the item after each."""
    rows = [[*history, *[0] * (MAX_LENGTH - len(history))] for history in histories]
    return Interaction(
        {
            "item_id_list": torch.tensor(rows),
            "item_length": torch.tensor([len(history) for history in histories]),
            "item_id": torch.tensor(items),
        }
    )


def toy_histories(rows: int = 20) -> list[list[int]]:
    """Lengths 0 to MAX_LENGTH, items with repeats; 20 rows take the encoder's grouped path."""
    chance = torch.Generator().manual_seed(rows)
    drawn = torch.randint(1, N_ITEMS, (rows, MAX_LENGTH), generator=chance).tolist()
    return [row[: number % (MAX_LENGTH + 1)] for number, row in enumerate(drawn)]


class Recorder:
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
