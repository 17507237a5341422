"""Excluding items from scores, and memory-efficient cross-entropy losses.

The scores [M, N] are by far the largest tensor of a training step. Therefore the functions here
work in place, and the losses have explicit gradients, to read and write the scores as few times as
possible.

Shapes: M masked positions, N items (column 0 is padding), E excluded items per row, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SCORES_AT_ONCE = 2**22  # per chunk of `linear_cross_entropy`: 16 MiB, partly held by CPU caches


def exclude_items(scores: Tensor, items: Tensor) -> Tensor:
    """Set padding and the listed items [M, E] to -inf in `scores` [M, N], in place; return them."""
    return scores.scatter_(1, F.pad(items, (1, 0)), -torch.inf)


def smoothed_cross_entropy(
    logits: Tensor, targets: Tensor, excluded: Tensor, smoothing: float
) -> Tensor:
    """Mean cross-entropy with label smoothing over the items that are not excluded.

    PyTorch's own `label_smoothing` spreads the mass over all columns, excluded ones included, and
    becomes infinite if any logit is -inf.

    Args:
        logits: [M, N]; modified in place as by `exclude_items`. Half-precision logits are copied
            to single precision and stay unchanged.
        targets: [M]; none is excluded.
        excluded: [M, E] item IDs; rows may be filled up with 0.
        smoothing: probability mass shared by all remaining items, in [0, 1).

    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    loss: Tensor
    loss, _ = _SmoothedCrossEntropy.apply(logits, targets, F.pad(excluded, (1, 0)), smoothing)
    return loss


class _SmoothedCrossEntropy(torch.autograd.Function):
    """Autograd function of `smoothed_cross_entropy`.

    With logits z, their softmax p and n items that are not excluded, the loss of a row is
    -log p_target + smoothing * (z_target - sum z / n). Its gradient is p - smoothing / n, minus
    1 - smoothing at the target, and 0 at excluded items.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, excluded: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        ctx.mark_dirty(logits)
        ctx.set_materialize_grads(False)
        own, ordered = targets.unsqueeze(1), excluded.sort(dim=1).values
        n_excluded = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1, keepdim=True)
        n_left = logits.size(1) - n_excluded  # [M, 1]
        total = logits.scatter_(1, excluded, 0.0).sum(dim=1, keepdim=True) if smoothing else 0.0
        logits.scatter_(1, excluded, -torch.inf)
        log_probability = F.log_softmax(logits, dim=1)
        loss = -log_probability.gather(1, own)
        if smoothing:
            loss += smoothing * (logits.gather(1, own) - total / n_left)
        ctx.save_for_backward(log_probability, own, excluded, n_left)
        ctx.smoothing = smoothing
        return loss.mean(), logits

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor | None, _: Any
    ) -> tuple[Tensor | None, None, None, None]:
        if gradient is None:  # the loss was not used; no zero gradient [M, N] is needed
            return None, None, None, None
        log_probability, own, excluded, n_left = ctx.saved_tensors
        found = log_probability.exp()
        if ctx.smoothing:
            found -= ctx.smoothing / n_left
            found.scatter_(1, excluded, 0.0)
        found.scatter_add_(1, own, torch.full_like(found[:, :1], ctx.smoothing - 1))
        return found.mul_(gradient / len(found)), None, None, None


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    shares: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of `hidden @ weight.T + bias`, on a CPU computed in chunks of rows.

    In chunks, the full logits [M, N] are never in memory.

    Args:
        hidden: [M, D].
        weight: [N, D].
        bias: [N], or None.
        targets: [M].
        shares: [M] weights of the positions in the sum; default 1 / M each, the mean.
    """
    if shares is None:
        shares = torch.full(targets.shape, 1 / len(targets), device=targets.device)
    if hidden.device.type != "cpu":
        losses = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none")
        return (losses * shares).sum()  # a product of matrices would round to half precision
    loss: Tensor = _LinearCrossEntropy.apply(hidden, weight, bias, targets, shares)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """Autograd function of `linear_cross_entropy`; computes the gradients with the loss.

    With p the softmax, the gradient of a position's logits is its share times p, minus its share
    at the target. It is computed while the chunk's scores are in memory; `backward` only scales.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        shares: Tensor,
    ) -> Tensor:
        n_rows = max(1, SCORES_AT_ONCE // len(weight))
        room = hidden.new_empty(min(n_rows, len(hidden)), len(weight))
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        of_bias = torch.zeros_like(bias) if bias is not None else None
        loss = hidden.new_zeros(())
        parts = (each.split(n_rows) for each in (hidden, of_hidden, targets, shares))
        for part, of_part, target, share in zip(*parts, strict=True):
            own, share = target.unsqueeze(1), share.unsqueeze(1)
            scores = torch.mm(part, weight.T, out=room[: len(part)])
            if bias is not None:
                scores += bias
            scores -= scores.amax(dim=1, keepdim=True)
            at_target = scores.gather(1, own)
            total = scores.exp_().sum(dim=1, keepdim=True)
            loss += ((total.log() - at_target) * share).sum()
            scores *= share / total
            scores.scatter_add_(1, own, -share)
            torch.mm(scores, weight, out=of_part)
            of_weight.addmm_(scores.T, part)
            if of_bias is not None:
                of_bias += scores.sum(dim=0)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        of_hidden, of_weight, of_bias = ctx.saved_tensors
        of_bias = of_bias * gradient if of_bias is not None else None
        return of_hidden * gradient, of_weight * gradient, of_bias, None, None
