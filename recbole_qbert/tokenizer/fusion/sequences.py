"""Training histories of users, as rows of the catalog.

Shapes: U users, T items of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingSequences:
    """Items of each user in time order, users with fewer than two left out.

    Attributes:
        items: rows of the catalog, int64, one user after another.
        starts: first place of each user.
        lengths: number of items of each user, at least 2.
    """

    items: Tensor
    starts: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, pairs: pd.DataFrame, names: Sequence[str]) -> TrainingSequences:
        """Number the items of `read_training_pairs` by their place in `names`."""
        rows = pd.Index(names).get_indexer(pd.Index(pairs["item_id"]))
        users = pd.factorize(pairs["user_id"], sort=True)[0]
        order = np.argsort(users, kind="stable")
        order = order[rows[order] >= 0]
        lengths = np.bincount(users[order])
        order = order[lengths[users[order]] > 1]
        lengths = lengths[lengths > 1]
        found = (rows[order], np.cumsum(lengths) - lengths, lengths)
        return cls(*(torch.from_numpy(each.astype(np.int64)) for each in found))

    def draw(self, n_users: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw users, with replacement, and a window of each as `windows` does; U may be 0."""
        if not len(self.starts):
            return torch.empty(0, most, dtype=torch.int64), self.lengths
        users = torch.randint(len(self.starts), (n_users,), generator=generator)
        return self.windows(users, most, generator)

    def windows(
        self, users: Tensor, most: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Draw a window of at most `most` successive items from the history of each user.

        Returns:
            [U, T], right-padded with the window's last item, and lengths [U].
        """
        lengths = self.lengths[users].clamp(max=most)
        places = (self.lengths[users] - lengths + 1) * torch.rand(len(users), generator=generator)
        steps = torch.minimum(torch.arange(int(lengths.max())), lengths.unsqueeze(1) - 1)
        return self.items[(self.starts[users] + places.long()).unsqueeze(1) + steps], lengths

    def users_of(self, n_items: int) -> Tensor:
        """Count the users who have each of the items. [n_items]"""
        user = torch.arange(len(self.lengths)).repeat_interleave(self.lengths)
        pairs = torch.unique(user * n_items + self.items)
        return torch.bincount(pairs % n_items, minlength=n_items)
