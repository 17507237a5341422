"""Training batches that keep a user's histories together, for causal models.

A causal model computes all prefixes of a sequence at once; see `trimmed_forward`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import recbole.data.utils
import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction

from recbole_qbert.compat.recbole import wrap_once


def install() -> None:
    """Let RecBole use `UserTrainDataLoader` for `batch_by: user`. Repeated calls change nothing."""
    wrap_once(recbole.data.utils, "get_dataloader", _get_dataloader)


def _get_dataloader(original: Any, config: Any, phase: str) -> Any:
    if phase == "train" and config["batch_by"] == "user":
        return UserTrainDataLoader
    return original(config, phase)


class UserTrainDataLoader(TrainDataLoader):
    """RecBole's training batches, except that the prefixes of a user's sequence stay together.

    The rows of an epoch and the batch size are RecBole's. Groups of rows are shuffled instead of
    rows. A group holds the rows of a user whose histories are complete. A history that is cut to
    its last MAX_ITEM_LIST_LENGTH items is not a prefix of another one, so its row is a group of its
    own. Batch boundaries may split a group.
    """

    def __init__(self, config: Any, dataset: Any, sampler: Any, shuffle: bool = False):
        super().__init__(config, dataset, sampler, shuffle=False)
        self._shuffle_groups = shuffle
        users = dataset.inter_feat[dataset.uid_field]  # [rows]
        alone = dataset.inter_feat[dataset.item_list_length_field] == dataset.max_item_list_len
        number = torch.where(alone, int(users.max()) + 1 + torch.arange(len(users)), users)
        self._groups = number.unique(return_inverse=True)[1]
        self._order = np.arange(len(dataset))

    def __iter__(self) -> Iterator[Interaction]:
        if self._shuffle_groups:
            place = torch.randperm(int(self._groups.max()) + 1, generator=self.generator)
            self._order = place[self._groups].argsort(stable=True).numpy()
        batches: Iterator[Interaction] = super().__iter__()
        return batches

    def collate_fn(self, index: Any) -> Interaction:
        """Return the rows at these positions of the epoch's order."""
        batch: Interaction = super().collate_fn(self._order[index])
        return batch
