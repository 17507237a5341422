"""What every encoder does: the inputs of a shard to vectors, and those to bytes.

b items of a shard, J parts of an item, D dimension.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.codec import quote


@dataclass(frozen=True)
class EncodedBatch:
    """What an encoder made of b inputs.

    Attributes:
        vectors: float32 or float16 [b, J, D], finite, zeros where `mask` is False. J and D are the
            same in all batches that have any part.
        mask: bool [b, J], which parts have a vector.
        reasons: b of them, why an item has no part at all, else "".
    """

    vectors: np.ndarray
    mask: np.ndarray
    reasons: list[str]


class Encoder(Protocol):
    """Turns inputs into vectors. Heavy weights are best loaded by the first `encode`."""

    def describe(self) -> dict[str, Any]:
        """JSON: name, revision, pooling, dtype, device, library versions: all that may change the
        vectors."""

    def encode(self, inputs: Sequence[Any]) -> EncodedBatch:
        """Vectors of the inputs of one shard, in their order."""


@dataclass(frozen=True)
class Shard:
    """A run of items that is encoded, and kept, as a whole."""

    number: int
    items: Sequence[str]
    inputs: Sequence[Any]


def encode_shard(encoder: Encoder, shard: Shard) -> bytes:
    """The shard's part file.

    Raises:
        InputError: a vector is not finite.
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
