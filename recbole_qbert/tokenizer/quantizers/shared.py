"""Residual quantizer with one set of codebooks for all segments of a vector (stream `bbq`).

Shapes: n vectors of dimension D = S E, S segments of E dimensions, K levels per segment, S_k codes
of level k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_qbert.tokenizer.quantizers.base import Quantizer, decoded_sum, greedy


@dataclass(frozen=True, eq=False)
class SharedResidual(Quantizer):
    """Learned codebooks of E dimensions; an ID has the K codes of each segment, one after another.

    Attributes:
        codebooks: K arrays, float32 [S_k, E].
        n_segments: S.
    """

    codebooks: list[np.ndarray]
    n_segments: int
    method = "bbq"

    @property
    def dimension(self) -> int:  # type: ignore[override]
        """D."""
        return self.n_segments * int(self.codebooks[0].shape[1])

    @property
    def codebook_sizes(self) -> tuple[int, ...]:  # type: ignore[override]
        """S times the K sizes S_k."""
        return tuple(len(book) for book in self.codebooks) * self.n_segments

    def _search(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        segments = block.reshape(len(block) * self.n_segments, -1)
        codes, distances = greedy(segments, self.codebooks, max(self.codebook_sizes))
        n_levels = len(self.codebook_sizes)
        return codes.reshape(len(block), n_levels), distances.reshape(len(block), n_levels, -1)

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        decoded = np.zeros((self.n_segments, len(codes), self.codebooks[0].shape[1]))
        n_levels = len(self.codebooks)
        for segment in range(-(-codes.shape[1] // n_levels)):
            own = codes[:, segment * n_levels : (segment + 1) * n_levels]
            decoded[segment] = decoded_sum(own, self.codebooks)
        return decoded.transpose(1, 0, 2).reshape(len(codes), -1).astype(np.float32)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SharedResidual:
        """Restore a quantizer from the result of `state`."""
        return cls(list(state["codebooks"]), int(state["n_segments"]))
