"""Batches of a corpus, each of one domain, with balanced sampling of the domains.

A batch of one domain scores only that domain's items, as after pretraining. This also keeps the
softmax small.

Shapes: B rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.pretraining.corpus import TRAINING, VALID, Corpus, FieldNames


def domain_weights(users: Sequence[int], balance: float) -> Tensor:
    """Return the sampling probability of each domain, proportional to users ** balance.

    A `balance` of 1 samples users uniformly, 0 samples domains uniformly.
    """
    weights = torch.tensor(users, dtype=torch.float64) ** balance
    return weights / weights.sum()


class TrainingBatches:
    """Loader of training batches.

    An epoch has `steps` batches or, with None, as many as all users of all domains fill.

    Attributes:
        generator: source of all randomness; the trainer saves its state to resume.
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
        counts = torch.bincount(domains, minlength=len(self.corpus.parts)).tolist()
        queues = [self._shuffled(domain, n) for domain, n in enumerate(counts)]
        for domain in domains.tolist():
            users = next(queues[domain])
            yield self.corpus.batch(domain, users, TRAINING, self.length, self.names)

    def _shuffled(self, domain: int, n_batches: int) -> Iterator[np.ndarray]:
        """Return `n_batches` batches of users, from repeated random permutations of all users."""
        users = self.corpus.parts[domain].users
        size = min(self.batch_size, len(users))
        rounds = math.ceil(n_batches * size / len(users))
        orders = [torch.randperm(len(users), generator=self.generator) for _ in range(rounds)]
        drawn = users[torch.cat(orders).numpy()] if orders else users[:0]
        return iter([drawn[n * size : (n + 1) * size] for n in range(n_batches)])


class ValidRows(NamedTuple):
    """Validation users of each domain, in batches."""

    corpus: Corpus
    users: list[np.ndarray]  # one array per domain
    batch_size: int
    length: int
    names: FieldNames

    def batches(
        self, domain: int, process: int = 0, n_processes: int = 1
    ) -> Iterator[tuple[int, Interaction, tuple[Tensor, Tensor]]]:
        """Yield every `n_processes`-th batch of a domain, starting with batch `process`.

        Yields:
            The position of the batch's first user in `users`, the rows with their validation
            targets, and the training items of their users, see `Corpus.seen_items`.
        """
        users = self.users[domain]
        for first in range(process * self.batch_size, len(users), n_processes * self.batch_size):
            some = users[first : first + self.batch_size]
            rows = self.corpus.batch(domain, some, VALID, self.length, self.names)
            yield first, rows, self.corpus.seen_items(domain, some)


def valid_users(corpus: Corpus, at_most: int, seed: int) -> list[np.ndarray]:
    """Sample at most `at_most` users of each domain, or all users with `at_most` 0."""
    rng = np.random.default_rng(seed)
    every = [part.users for part in corpus.parts]
    sizes = [min(at_most or len(users), len(users)) for users in every]
    return [np.sort(rng.choice(*pair, replace=False)) for pair in zip(every, sizes, strict=True)]
