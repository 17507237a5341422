"""Item vectors that are computed once for an evaluation, or for all requests of a service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor


class KeepsItems:
    """Mixin of a model that keeps its item vectors until `train` or `eval` is called again."""

    training: bool
    parameters: Callable[[], Iterator[Tensor]]
    buffers: Callable[[], Iterator[Tensor]]
    _kept: Tensor | None = None
    _kept_at = -1

    def kept_items(self, make: Callable[[], Tensor]) -> Tensor:
        """Return `make()`, or its result of before. It must depend on weights and buffers alone.

        In training, where gradients are needed, and in mixed precision it is made each time.
        Between two calls of `eval`, changes of the weights in place are seen, as PyTorch counts
        them; changes of their `.data` are not.
        """
        mixed = any(map(torch.is_autocast_enabled, ("cpu", "cuda")))
        if self.training or torch.is_grad_enabled() or mixed:
            return make()
        tensors = chain(self.parameters(), self.buffers())
        now = sum(each._version for each in tensors if not each.is_inference())
        if self._kept is None or self._kept_at != now:
            self._kept, self._kept_at = make(), now
        return self._kept

    def forget_items(self) -> None:
        """Let the next call of `kept_items` make them again, and free their memory."""
        self._kept = None

    def train(self, mode: bool = True) -> Any:
        """Set the mode; `eval` calls this, too."""
        self.forget_items()
        return super().train(mode)  # type: ignore[misc]

    def _apply(self, *arguments: Any, **named: Any) -> Any:
        self.forget_items()  # they may be on another device now
        return super()._apply(*arguments, **named)  # type: ignore[misc]
