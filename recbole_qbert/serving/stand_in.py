"""The data set that a model is built from again, without the data: `StandIn`.

RecBole's models ask their data set for sizes of fields, item features and more when they are built.
A `StandIn` takes the answers from the real data set and notes them; another one gives the same
answers from the notes. It has no interactions and no users. N items, padding included.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from typing import Any, NamedTuple

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


class _Conversion(NamedTuple):
    """How an attribute is noted, and what is made of the note."""

    note: Callable[[Any], Any]
    value: Callable[[Any], Any]


def _each(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda content: {key: function(value) for key, value in content.items()}


# Those of RecBole's attributes that are no plain values, or hold what is nobody's business.
CONVERSIONS = {
    "field2type": _Conversion(_each(lambda kind: kind.value), _each(FeatureType)),
    "field2source": _Conversion(
        _each(lambda source: getattr(source, "value", source)),
        _each(lambda name: FeatureSource(name) if name in _SOURCES else name),
    ),
    "field2id_token": _Conversion(_each(len), _each(range)),  # tokens of users stay where they are
    "item_feat": _Conversion(
        lambda columns: None if columns is None else dict(columns.interaction),
        lambda columns: None if columns is None else Interaction(columns),
    ),
    "inter_feat": _Conversion(
        lambda columns: {name: values[:0] for name, values in columns.interaction.items()},
        Interaction,
    ),
    "user_feat": _Conversion(lambda _: None, lambda _: None),
}


def stand_in(
    config: Any,
    tokens: list[str],
    semantic_ids: SemanticIDTable | None,
    notes: dict[str, Any],
    source: Any = None,
) -> Any:
    """A `StandIn` that is also of the data set class of the config's model, for its methods.

    Args:
        config: the model's.
        tokens: of the real items.
        semantic_ids: with all of these items, where the data set had any.
        notes: answers by attribute, tensors and what JSON knows; new ones are added.
        source: the real data set; without it the notes are all there is.
    """
    dataset = model_entry(config["model"]).dataset
    return type("StandIn", (StandIn, dataset), {})(config, tokens, semantic_ids, notes, source)


class StandIn:
    """See the module's header."""

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
        conversion = CONVERSIONS.get(name)
        if name not in self.notes:
            if self.source is None:
                raise AttributeError(f"no {name!r} was noted of the data set")
            value = getattr(self.source, name)
            self.notes[name] = conversion.note(value) if conversion else value
        note = self.notes[name]
        return conversion.value(note) if conversion else note

    def get_item_feature(self) -> Interaction:
        """The columns of the items, [N, ...] each."""
        columns: Interaction = super().get_item_feature()  # type: ignore[misc]
        for field, column in columns.interaction.items():
            ids = self.field2type[field] in _IDS
            size = len(self.field2id_token[field]) if ids else 0
            n_items = len(self.field2id_token[self.iid_field])
            if len(column) != n_items or (ids and not 0 <= column.min() <= column.max() < size):
                raise InputError(f"the item feature {field} does not fit its sizes")
        return columns

    def training_sequences(self) -> tuple[Tensor, Tensor]:
        """No item of no user."""
        return torch.zeros(0, dtype=torch.long), torch.zeros(1, dtype=torch.long)

    def training_repeats(self) -> bool:
        """As the real data set says."""
        if self.source is not None:
            self.notes["repeats"] = bool(self.source.training_repeats())
        return bool(self.repeats)

    def training_rows(self, batch_size: int, max_length: int) -> TrainingRows:
        """None: what training alone asks for, which ended."""
        none = torch.zeros(0, dtype=torch.long)
        return TrainingRows(none, none, none.double())
