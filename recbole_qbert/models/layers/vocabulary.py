"""Rows of the code table of a data set's semantic IDs, and the identity of their vocabulary."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from recbole_qbert.common.errors import InputError


def vocabulary_rows(
    dataset: Any, reader: str, flags: str = "", others: str = ""
) -> tuple[Tensor, tuple[int, ...]]:
    """Return codes plus level offsets [N, K], all zero for padding, and the K codebook sizes.

    Args:
        dataset: a `SemanticIDDataset`, or any object with its `item_codes` and `codec`.
        reader: the model or setting that needs semantic IDs, for the message.
        flags: flags of `tokenize` that it needs, for the message.
        others: other remedies, for the message.

    Raises:
        InputError: the data set has no semantic IDs.
    """
    codes = getattr(dataset, "item_codes", None)
    if codes is None:
        name = dataset.dataset_name
        raise InputError(
            f"{reader} needs semantic IDs and {name} has none; `recbole-qbert tokenize "
            f"--dataset={name}{flags}` makes them (or set semantic_id_file{others})"
        )
    rows = codes + torch.tensor(dataset.codec.offsets)
    rows[0] = 0
    return rows, tuple(dataset.codec.codebook_sizes)


def vocabulary_hash(dataset: Any) -> Tensor:
    """Return the SHA-256 of the name of the code vocabulary, uint8 [32]."""
    vocabulary = getattr(getattr(dataset, "semantic_ids", None), "vocabulary", "")
    return torch.tensor(list(hashlib.sha256(vocabulary.encode()).digest()), dtype=torch.uint8)
