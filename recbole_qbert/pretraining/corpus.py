"""Training sequences of several data sets ("domains") in one catalog, without merging files.

An item has two numbers. Within its domain d, it is 1 to N_d, in the order of `<ds>.semid`. In the
joint catalog, its row is that number plus `domain_starts[d]`. Row 0 is padding in both. Domains
whose semantic-ID files name the same vocabulary share code embeddings. In each level, the codes of
distinct vocabularies are concatenated.

The last item of a user with n items (the test target) is not read. The second to last item is the
validation target, and the first n - 2 are for training. Users with fewer than 4 items are left out
(RecBole trains on them, too).

Shapes: B rows, L positions, K levels, N items of all domains, N_d items of domain d, C dimension of
a modality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted
from recbole_qbert.common.ragged import ranges
from recbole_qbert.data.dataset import TrainingRows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embedding_kinds import common_kind
from recbole_qbert.data.embeddings import join, mean_of_parts, read_embeddings
from recbole_qbert.data.semid import SemanticIDCodec, SemanticIDTable, read_semantic_ids
from recbole_qbert.data.sequences import Sequences, open_sequences
from recbole_qbert.models.qbert4rec import DOMAIN_FIELD

TRAINING, VALID = 1, 0  # number of a user's known items after the target
FEWEST_ITEMS = 4  # minimum items of a user, including the test and the validation target


class Part(NamedTuple):
    """One domain of a corpus."""

    name: str
    sequences: Sequences
    ids: SemanticIDTable
    number_of: np.ndarray  # int32, number 1..N_d of each item of the sequences
    users: np.ndarray  # int64, users with enough items

    def training_items(self, users: np.ndarray, last: int | None = None) -> tuple[np.ndarray, ...]:
        """Return the numbers [T] of the (`last`) training items of users, and their lengths [R]."""
        start, end = self.sequences.offsets[users], self.sequences.offsets[users + 1] - TRAINING
        lengths = np.maximum(end - start, 0)
        lengths = lengths if last is None else np.minimum(lengths, last)
        source = ranges(end - lengths, end)
        return self.number_of[self.sequences.items[source]].astype(np.int64), lengths


class FieldNames(NamedTuple):
    """Names of a batch's columns in the model's config."""

    items: str
    length: str
    target: str


class Corpus:
    """Joint data set of several domains, with the interface that QBERT4Rec needs.

    Attributes:
        parts: the domains.
        vocabularies: distinct vocabularies, in order of appearance.
        item_codes: int64 [1 + N, K]; the codes of vocabulary v at level k start at
            v * codebook_sizes[k].
        codebook_sizes: K sizes, of one vocabulary.
        domain_starts: [domains + 1], number of items in the domains before each one.
        item_feat: float32 [1 + N, C] of each modality, the mean vector of an item's parts, zeros if
            it has none.
        encoders: description of each modality's encoder; None if the tables have none.

    Raises:
        InputError: a file is invalid, codebook sizes differ, the tables of a modality are of
            different encoders, or a domain has no user with enough items.
    """

    def __init__(self, domains: Sequence[DatasetPaths], modalities: Sequence[str] = ()):
        self.parts = [_read_part(domain) for domain in domains]
        sizes = {part.ids.codebook_sizes for part in self.parts}
        if len(sizes) > 1:
            listed = ", ".join(f"{part.name} {part.ids.codebook_sizes}" for part in self.parts)
            raise InputError(
                f"semantic IDs: codebook sizes differ ({listed}); tokenize the data sets together"
            )
        (self.codebook_sizes,) = sizes
        self.vocabularies = list(dict.fromkeys(part.ids.vocabulary for part in self.parts))
        counts = [part.ids.n_items for part in self.parts]
        self.domain_starts = [0, *np.cumsum(counts).tolist()]
        blocks = [np.zeros((1, len(self.codebook_sizes)), np.int64)]
        for part in self.parts:
            place = self.vocabularies.index(part.ids.vocabulary)
            blocks.append(part.ids.codes + place * np.array(self.codebook_sizes))
        self.item_codes = torch.from_numpy(np.concatenate(blocks))
        self.item_feat: dict[str, Tensor] = {}
        self.encoders: dict[str, Any] = {}
        self._missing: list[str] = []  # a line for each table that lacks items
        for modality in modalities:
            self._read_vectors(domains, modality)

    def _read_vectors(self, domains: Sequence[DatasetPaths], modality: str) -> None:
        """Read the tables `<domain>.<modality>.npz`."""
        paths = [domain.file(f"{modality}.npz") for domain in domains]
        tables = {
            part.name: read_embeddings(path) for part, path in zip(self.parts, paths, strict=True)
        }
        kind = common_kind(modality, tables)
        blocks = [np.zeros((1, kind.shape[1]), np.float32)]
        for part, path in zip(self.parts, paths, strict=True):
            vectors, present, coverage = join(tables[part.name], part.ids.items, str(path))
            blocks.append(mean_of_parts(vectors, present))
            if coverage.missing:
                self._missing.append(f"{path.name}: {coverage}")
        self.item_feat[modality] = torch.from_numpy(np.concatenate(blocks))
        self.encoders[modality] = kind.encoder

    @property
    def field2seqlen(self) -> dict[str, int]:
        """Dimension C of each modality. RecBole's models query it by this name."""
        return {name: vectors.size(1) for name, vectors in self.item_feat.items()}

    @property
    def codec(self) -> SemanticIDCodec:
        """Codec of the concatenated codes of all vocabularies."""
        return SemanticIDCodec(tuple(len(self.vocabularies) * size for size in self.codebook_sizes))

    def num(self, field: str) -> int:
        """Return 1 + N. RecBole's models query the number of items by field name."""
        return self.domain_starts[-1] + 1

    def training_repeats(self) -> bool:
        """Return whether any training sequence contains an item twice."""
        for part in self.parts:
            numbers, lengths = part.training_items(np.arange(part.sequences.n_users))
            users = np.repeat(np.arange(len(lengths)), lengths)
            pairs = users * (part.ids.n_items + 1) + numbers
            if len(np.unique(pairs)) < len(pairs):
                return True
        return False

    def training_sequences(self) -> tuple[Tensor, Tensor]:
        """Return all training items [T], user by user, and where each user's end. [users + 1]"""
        items, lengths = self._training_items()
        offsets = np.concatenate([np.zeros(1, np.int64), lengths]).cumsum()
        return torch.from_numpy(items), torch.from_numpy(offsets)

    def training_rows(self, batch_size: int, max_length: int) -> TrainingRows:
        """Collect the last `max_length` training items of each user.

        The inclusion probability of a row assumes batches of one domain.
        """
        items, lengths = self._training_items(max_length)
        counts = np.array([len(part.users) for part in self.parts])
        chance = np.repeat(np.minimum(1.0, batch_size / counts), counts)
        return TrainingRows(*map(torch.from_numpy, (items, lengths, chance)))

    def _training_items(self, last: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the (`last`) training items [T] of all users, and their number. [users]"""
        items, lengths = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for part, start in zip(self.parts, self.domain_starts, strict=False):
            numbers, row_lengths = part.training_items(part.users, last)
            items.append(numbers + start)
            lengths.append(row_lengths)
        return np.concatenate(items), np.concatenate(lengths)

    def batch(
        self, domain: int, users: np.ndarray, after: int, length: int, names: FieldNames
    ) -> Interaction:
        """Build a batch of users of one domain.

        Args:
            domain: number of the part.
            users: [B], users of that part.
            after: `TRAINING` or `VALID`.
            length: L; longer histories lose their oldest items.
            names: names of the columns.

        Returns:
            Histories [B, L], right-padded, their lengths [B], targets [B], the domain [B].
        """
        part = self.parts[domain]
        flat, offsets = part.sequences.items, part.sequences.offsets
        target = offsets[users + 1] - 1 - after
        lengths = np.minimum(target - offsets[users], length)
        place = np.arange(length)
        source = np.where(place < lengths[:, None], (target - lengths)[:, None] + place, -1)
        history = np.where(source >= 0, part.number_of[flat[source]], 0)
        return Interaction(
            {
                names.items: torch.from_numpy(history.astype(np.int64)),
                names.length: torch.from_numpy(lengths),
                names.target: torch.from_numpy(part.number_of[flat[target]].astype(np.int64)),
                DOMAIN_FIELD: torch.full((len(users),), domain),
            }
        )

    def seen_items(self, domain: int, users: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return all S training items of some users: rows [S] and items [S] within the domain."""
        numbers, lengths = self.parts[domain].training_items(users)
        rows = np.repeat(np.arange(len(users)), lengths)
        return torch.from_numpy(rows), torch.from_numpy(numbers)

    def describe(self) -> list[str]:
        """Return one line of statistics per domain, and a line on which domains share codes."""
        lines = [
            f"{part.name}: {counted(len(part.users), 'user')}, "
            f"{counted(part.ids.n_items, 'item')}, "
            f"{int(part.sequences.lengths[part.users].sum()) - len(part.users):,} training "
            "interactions"
            for part in self.parts
        ]
        groups = [
            " and ".join(part.name for part in self.parts if part.ids.vocabulary == vocabulary)
            for vocabulary in self.vocabularies
        ]
        if len(groups) > 1:
            lines.append(
                f"no codes are shared between {', '.join(groups)}; tokenize the data sets together "
                "to share codes"
            )
        return lines + self._missing


def _read_part(domain: DatasetPaths) -> Part:
    """Read a domain's sequences and semantic IDs, and join them by raw item token."""
    sequences = open_sequences(domain.file("inter"))
    ids = read_semantic_ids(domain.file("semid"))
    number_of = ids.rows_for(sequences.tokens) + 1
    users = np.flatnonzero(sequences.lengths + 1 >= FEWEST_ITEMS)
    if not len(users):
        raise InputError(
            f"{domain.file('inter')}: no user has {FEWEST_ITEMS} interactions, the minimum for "
            "training, validation and test; add interactions or leave the data set out"
        )
    return Part(domain.name, sequences, ids, number_of.astype(np.int32), users)
