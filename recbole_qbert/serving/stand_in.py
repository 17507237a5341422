"""`StandIn`: a dataset without data, from which a model can be rebuilt.

When RecBole's models are built, they read field sizes, item features and other attributes of their
dataset. A `StandIn` with a real dataset as source records these attributes. A `StandIn` without one
answers from the record. It has no interactions and no users. N items, padding included.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.dataset import TrainingRows
from recbole_qbert.data.semid import SemanticIDTable
from recbole_qbert.registry import model_entry

_IDS = frozenset({FeatureType.TOKEN, FeatureType.TOKEN_SEQ})
_SOURCES = frozenset(source.value for source in FeatureSource)


def _each(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function that applies `function` to every value of a mapping."""
    return lambda content: {key: function(value) for key, value in content.items()}


# RecBole's attributes that are not plain values, or that hold user data, which is not recorded:
# conversions of an attribute to its record and back.
CONVERSIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "field2type": (_each(lambda kind: kind.value), _each(FeatureType)),
    "field2source": (
        _each(lambda source: getattr(source, "value", source)),
        _each(lambda name: FeatureSource(name) if name in _SOURCES else name),
    ),
    "field2id_token": (_each(len), _each(range)),  # only sizes; no tokens of users
    "item_feat": (
        lambda columns: None if columns is None else dict(columns.interaction),
        lambda columns: None if columns is None else Interaction(columns),
    ),
    "inter_feat": (
        lambda columns: {name: values[:0] for name, values in columns.interaction.items()},
        Interaction,
    ),
    "user_feat": (lambda _: None, lambda _: None),
}


def stand_in(
    config: Any,
    tokens: list[str],
    semantic_ids: SemanticIDTable | None,
    notes: dict[str, Any],
    source: Any = None,
) -> Any:
    """Build a `StandIn` that is also an instance of the dataset class of the config's model.

    `tokens` and `semantic_ids` are those of the real items, without padding. `notes` is the record:
    attribute -> tensor or JSON value. With `source`, the real dataset, new entries are added to it.
    """
    dataset = model_entry(config["model"]).dataset
    return type("StandIn", (StandIn, dataset), {})(config, tokens, semantic_ids, notes, source)


class StandIn:
    """Dataset without data; see the module docstring."""

    def __init__(
        self,
        config: Any,
        tokens: list[str],
        semantic_ids: SemanticIDTable | None,
        notes: dict[str, Any],
        source: Any,
    ):
        self.notes, self.source = notes, source
        self.config, self.logger = config, getLogger()
        self.semantic_ids, self.item_codes = semantic_ids, None
        self._flat: dict[str, Tensor] = {}
        if semantic_ids is not None:
            self.item_codes = torch.zeros(len(tokens) + 1, semantic_ids.n_levels, dtype=torch.long)
            self.item_codes[1:] = torch.from_numpy(semantic_ids.codes_for(tokens))
        self.field2id_token = self._noted("field2id_token")
        self.field2id_token[self.iid_field] = np.array(["[PAD]", *tokens], dtype=object)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._noted(name)
        setattr(self, name, value)
        return value

    def _noted(self, name: str) -> Any:
        """Return an attribute from the record, adding it from the source if it is missing."""
        record, restore = CONVERSIONS.get(name, (lambda value: value,) * 2)
        if name not in self.notes:
            if self.source is None:
                raise AttributeError(f"the record of the data set has no {name!r}")
            self.notes[name] = record(getattr(self.source, name))
        return restore(self.notes[name])

    def get_item_feature(self) -> Interaction:
        """Return the item features [N, ...]; an `InputError` names one of a wrong size."""
        columns: Interaction = super().get_item_feature()  # type: ignore[misc]
        for field, column in columns.interaction.items():
            ids = self.field2type[field] in _IDS
            size = len(self.field2id_token[field]) if ids else 0
            n_items = len(self.field2id_token[self.iid_field])
            if len(column) != n_items or (ids and not 0 <= column.min() <= column.max() < size):
                raise InputError(f"the item feature {field} does not match its recorded size")
        return columns

    def training_sequences(self) -> tuple[Tensor, Tensor]:
        """Return no sequences: no items, and the offset 0."""
        return torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long)

    def training_repeats(self) -> bool:
        """Return the real dataset's answer, and record it if there is a source."""
        if self.source is not None:
            self.notes["repeats"] = bool(self.source.training_repeats())
        return bool(self.repeats)

    def training_rows(self, batch_size: int, max_length: int) -> TrainingRows:
        """Return no rows, because only training needs them."""
        none = torch.zeros(0, dtype=torch.long)
        return TrainingRows(none, none, none.double())
