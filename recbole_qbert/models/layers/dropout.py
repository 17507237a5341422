"""Dropout with cheaper random masks on a CPU than PyTorch's (results/speed.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DRAWS_PER_WORD = 4  # 16-bit draws in one 64-bit random word


class Dropout(nn.Dropout):
    """`nn.Dropout` with masks cut from 64-bit random words on a CPU.

    PyTorch draws each element's mask separately on a CPU. Here one word gives four 16-bit draws, so
    the probability is exact to 2 ** -17. On other devices, and in evaluation, this is `nn.Dropout`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Zero each element with probability p and scale the others by 1 / (1 - p)."""
        if not self.training or self.p in (0.0, 1.0) or input.device.type != "cpu":
            return super().forward(input)
        n_words = -(-input.numel() // DRAWS_PER_WORD)
        words = torch.empty(n_words, dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[: input.numel()].view(input.shape)
        keep = draws >= round(self.p * 2**16) - 2**15
        return input * keep.to(input.dtype).mul_(1 / (1 - self.p))
