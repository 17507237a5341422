"""Batches of a corpus: one domain each, domains drawn in balance.

A batch of one domain scores that domain's items alone, which is what the model is asked later, and
what keeps the softmax small. B rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.pretraining.corpus import TRAINING, VALID, Corpus, FieldNames


def domain_weights(users: Sequence[int], balance: float) -> Tensor:
    """Chance of each domain to be drawn: its users to the power `balance`, summing to 1.

    1 draws every user alike, 0 every domain alike.

    Raises:
        InputError: `balance` is not in [0, 1].
    """
    if not 0 <= balance <= 1:
        raise InputError(f"domain_balance: {balance} is not in [0, 1]")
    weights = torch.tensor(users, dtype=torch.float64) ** balance
    return weights / weights.sum()


class TrainingBatches:
    """An epoch is as many batches as there are users of all domains, or `steps` of them.

    Attributes:
        generator: source of all randomness; the trainer keeps its state to resume.
    """

    shuffle = True

    def __init__(
        self,
        corpus: Corpus,
        names: FieldNames,
        *,
        batch_size: int,
        length: int,
        balance: float,
        steps: int | None,
        seed: int,
    ):
        self.corpus, self.names = corpus, names
        self.batch_size, self.length = batch_size, length
        users = [len(part.users) for part in corpus.parts]
        self.weights = domain_weights(users, balance)
        self.steps = steps or math.ceil(sum(users) / batch_size)
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Interaction]:
        domains = torch.multinomial(self.weights, self.steps, True, generator=self.generator)
        queues = [self._shuffled(domain, int(n)) for domain, n in enumerate(self._counts(domains))]
        for domain in domains.tolist():
            users = next(queues[domain])
            yield self.corpus.batch(domain, users, TRAINING, self.length, self.names)

    def _counts(self, domains: Tensor) -> Tensor:
        """How many batches each domain gives in this epoch."""
        return torch.bincount(domains, minlength=len(self.corpus.parts))

    def _shuffled(self, domain: int, n_batches: int) -> Iterator[np.ndarray]:
        """So many batches of the domain's users: all in random order, then all again."""
        users = self.corpus.parts[domain].users
        size = min(self.batch_size, len(users))
        rounds = math.ceil(n_batches * size / len(users))
        orders = [torch.randperm(len(users), generator=self.generator) for _ in range(rounds)]
        drawn = users[torch.cat(orders).numpy()] if orders else users[:0]
        return iter([drawn[n * size : (n + 1) * size] for n in range(n_batches)])


class ValidRows(NamedTuple):
    """Which users of each domain the epoch is chosen by, in batches."""

    corpus: Corpus
    users: list[np.ndarray]  # one array a domain
    batch_size: int
    length: int
    names: FieldNames

    def batches(
        self, domain: int, process: int = 0, n_processes: int = 1
    ) -> Iterator[tuple[int, Interaction, tuple[Tensor, Tensor]]]:
        """Every `n_processes`-th batch: its first user's place, rows with the valid item as target,
        and what their users have seen."""
        users = self.users[domain]
        for first in range(process * self.batch_size, len(users), n_processes * self.batch_size):
            some = users[first : first + self.batch_size]
            rows = self.corpus.batch(domain, some, VALID, self.length, self.names)
            yield first, rows, self.corpus.seen_items(domain, some)


def valid_users(corpus: Corpus, at_most: int, seed: int) -> list[np.ndarray]:
    """A random sample of each domain's users, or all of them (`at_most` 0)."""
    chance = np.random.default_rng(seed)
    chosen = []
    for part in corpus.parts:
        n = min(at_most or len(part.users), len(part.users))
        chosen.append(np.sort(chance.choice(part.users, n, replace=False)))
    return chosen
