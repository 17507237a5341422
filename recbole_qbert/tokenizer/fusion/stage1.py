"""The kinds of stage 1: `injection`, the paper's, and `next_item`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from recbole_qbert.tokenizer.fusion.fit import Injector, Parts
from recbole_qbert.tokenizer.fusion.next_item import NextItemSettings
from recbole_qbert.tokenizer.fusion.next_item_fit import NextItemStage


class TrainedFusion(Protocol):
    """A trained stage 1; `Injector` and `NextItemStage` document the methods."""

    contents: np.ndarray
    history: list[dict[str, float]]

    def fuse(self, parts: Parts, queries: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """Return fused vectors and depths."""

    def queries_for(self, new: Parts, how: str) -> np.ndarray:
        """Estimate the queries of new items."""

    def contents_of(self, parts: Parts) -> np.ndarray:
        """Return the content vectors of items."""

    def state(self) -> dict[str, Any]:
        """Return the state for `save_checkpoint`."""


def load_stage1(state: Mapping[str, Any]) -> TrainedFusion:
    """Restore a stage 1 from its state."""
    kind = NextItemStage if state["fusion"] == NextItemSettings.section else Injector
    return kind.from_state(state)
