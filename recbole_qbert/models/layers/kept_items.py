"""Item vectors that are computed once, as long as the weights that they depend on stay."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


class KeepsItems(nn.Module):
    """Model that keeps its item vectors between the batches of an evaluation or of a service."""

    _kept: Tensor | None = None
    _kept_at = -1

    def kept_items(self, make: Callable[[], Tensor]) -> Tensor:
        """Return `make()`, or its result of before. It must depend on weights and buffers alone.

        In training, and where gradients are needed, it is made each time. PyTorch counts the
        changes of a tensor in place, so that any change of the weights is seen.
        """
        if self.training or torch.is_grad_enabled():
            return make()
        tensors = chain(self.parameters(), self.buffers())
        now = sum(each._version for each in tensors if not each.is_inference())
        if self._kept is None or self._kept_at != now:
            self._kept, self._kept_at = make(), now
        return self._kept

    def _apply(self, *arguments: Any, **named: Any) -> Any:
        self._kept = None  # it may be on another device now
        return super()._apply(*arguments, **named)
