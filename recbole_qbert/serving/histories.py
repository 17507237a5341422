"""Histories of several users as flat arrays of internal item IDs.

Shapes: B histories, S items in all, R rows of a table, L columns of padded rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_qbert.data.dataset import ragged_arange


@dataclass(frozen=True, eq=False)
class Histories:
    """Histories, one after another.

    Attributes:
        items: int [S], internal IDs from 1, oldest first.
        offsets: int64 [B + 1]; history b is `items[offsets[b]:offsets[b + 1]]`.
    """

    items: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Number of items of each history, int64 [B]."""
        return np.diff(self.offsets)

    def part(self, start: int, end: int) -> Histories:
        """Return the histories from `start` to before `end`."""
        bounds = self.offsets[start : end + 1]
        return Histories(self.items[bounds[0] : bounds[-1]], bounds - bounds[0])

    def without_empty(self) -> Histories:
        """Return the histories that have items."""
        lengths = self.lengths
        return Histories(self.items, offsets_of(lengths[lengths > 0]))

    def flat(self) -> tuple[Tensor, Tensor]:
        """Return the row and the ID of each item, int64 [S] each."""
        rows = np.repeat(np.arange(len(self)), self.lengths)
        return torch.from_numpy(rows), torch.from_numpy(self.items.astype(np.int64))

    def last_items(self, width: int) -> tuple[Tensor, Tensor]:
        """Return the last `width` items of each history, right-padded [B, width], and lengths."""
        ends = torch.from_numpy(self.offsets[1:])
        lengths = torch.from_numpy(self.lengths).clamp(max=width)
        places = ragged_arange(ends - lengths, lengths).numpy()
        padded = torch.zeros(len(self), width, dtype=torch.long)
        padded[torch.arange(width) < lengths.unsqueeze(1)] = torch.from_numpy(
            self.items[places].astype(np.int64)
        )
        return padded, lengths


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return the offsets of rows that follow one another, int64 [B + 1]."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def grouped(
    users: np.ndarray, items: np.ndarray, n_users: int, times: np.ndarray | None = None
) -> Histories:
    """Group the rows of a table by user, without the rows of item 0.

    Args:
        users: int [R], from 0 to `n_users` - 1.
        items: int [R], internal IDs; 0 is an unknown item.
        n_users: number of histories B; some may be empty.
        times: [R]; rows of equal times keep their order. None: the rows are in order of time.
    """
    known = items > 0
    if not known.all():
        users, items = users[known], items[known]
        times = None if times is None else times[known]
    keys = (users,) if times is None else (times, users)
    order = np.lexsort(keys)  # stable
    return Histories(items[order], offsets_of(np.bincount(users, minlength=n_users)))
