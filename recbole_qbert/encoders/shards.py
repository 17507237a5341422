"""Encoder interface, and encoding of one shard of items into the bytes of a part file.

Shapes: b items of a shard, J parts of an item, D dimensions.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.codec import quote


@dataclass(frozen=True)
class EncodedBatch:
    """Vectors of b inputs.

    Attributes:
        vectors: float32 or float16 [b, J, D], finite, zeros where `mask` is False. J and D are
            equal in all batches that have at least one part.
        mask: bool [b, J], True for parts that have a vector.
        reasons: b strings, the reason why an item has no part, or "".
    """

    vectors: np.ndarray
    mask: np.ndarray
    reasons: list[str]


class Encoder(Protocol):
    """Interface of encoders. Large weights should be loaded by the first `encode`."""

    def describe(self) -> dict[str, Any]:
        """Return a JSON object with everything that may change the vectors.

        For example name, revision, pooling, dtype, device and library versions.
        """

    def encode(self, inputs: Sequence[Any]) -> EncodedBatch:
        """Encode the inputs of one shard, in their order."""


class Shard(NamedTuple):
    """Consecutive items that are encoded and stored together."""

    number: int
    items: Sequence[str]
    inputs: Sequence[Any]


def encode_shard(encoder: Encoder, shard: Shard) -> bytes:
    """Encode a shard and return the bytes of its part file (`.npz`).

    Raises:
        InputError: a vector is not finite.
        ValueError: the encoder returned the wrong shapes.
    """
    batch = encoder.encode(shard.inputs)
    vectors, mask, n = batch.vectors, batch.mask, len(shard.items)
    if vectors.shape[:2] != mask.shape or not len(mask) == len(batch.reasons) == n:
        raise ValueError(
            f"the encoder gave vectors {vectors.shape}, mask {mask.shape} and "
            f"{len(batch.reasons)} reasons for {n} inputs"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=(1, 2)))
    if len(bad):
        raise InputError(
            f"item {quote(shard.items[bad[0]])}: the encoder's vector is not finite; "
            "use dtype float32 or bfloat16"
        )
    buffer = io.BytesIO()
    np.savez(buffer, vectors=vectors, mask=mask, reasons=np.array(batch.reasons, dtype=np.str_))
    return buffer.getvalue()
