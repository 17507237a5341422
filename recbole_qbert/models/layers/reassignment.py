"""Reassignment of pretrained code vectors to the codes of another quantizer.

Hou et al., Learning Vector-Quantized Item Representation for Transferable Sequential Recommenders,
WWW 2023 (VQ-Rec), section 2.4: in each level, the vectors of a new domain's codes are a permutation
of the pretrained ones. The permutation is relaxed by Gumbel-Sinkhorn (Mena et al., ICLR 2018).

Shapes: K levels, C codes per level, D hidden.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn


class CodeReassignment(nn.Module):
    """Assignment of the K * C pretrained code vectors to as many codes, level by level.

    With `learned`, the assignment is the permutation of the largest sum in the doubly stochastic
    matrix that Sinkhorn iterations make of the logits. Its gradient is that of this matrix
    (straight-through). No noise is added, because it would outweigh the small logits.

    With `random`, it is what the released code of VQ-Rec computes: the logits have a standard
    deviation of 1, each call in training adds new Gumbel noise, and each code takes the vector
    with the largest entry in its row. This is no permutation, because several codes may take one
    vector, and the released code has no gradient here, so that the logits are never learned.
    """

    def __init__(
        self, n_levels: int, size: int, how: str, iterations: int, temperature: float, init: float
    ):
        super().__init__()
        self.how, self.iterations, self.temperature = how, iterations, temperature
        self.logits = nn.Parameter(torch.empty(n_levels, size, size))
        # At a learning rate of .001, 215 steps find a hidden permutation of 128 codes from logits
        # of standard deviation .02; from logits of 1, 800 steps find 8 % of it.
        nn.init.normal_(self.logits, std=1.0 if how == "random" else init)

    def forward(self, table: Tensor) -> Tensor:
        """Return the vectors of the new codes [K * C, D] from the pretrained ones [K * C, D]."""
        with torch.autocast(table.device.type, enabled=False):  # vectors must not be rounded
            return self._reassigned(table)

    def _reassigned(self, table: Tensor) -> Tensor:
        levels, size, _ = self.logits.shape
        soft = self._soft()
        chosen = self._matching(soft) if self.how == "learned" else soft.argmax(dim=2)  # [K, C]
        rows = chosen + size * torch.arange(levels, device=chosen.device).unsqueeze(1)
        taken = table[rows.flatten()]
        if self.how == "random":
            # The logits get gradients of 0, without which a backward pass would fail.
            return taken + 0.0 * self.logits.sum()
        zero = soft - soft.detach()  # has the gradient of `soft`
        return taken + (zero @ table.view(levels, size, -1)).view_as(table)

    def _soft(self) -> Tensor:
        """Return a matrix for each level whose columns sum to 1, and whose rows nearly do."""
        found: Tensor = self.logits
        if self.how == "random" and self.training:
            uniform = torch.rand_like(found).clamp(min=1e-6, max=1 - 1e-6)
            found = found - (-uniform.log()).log()
        found = found / self.temperature
        for _ in range(self.iterations):
            found = found.log_softmax(dim=2).log_softmax(dim=1)
        return found.exp()

    @staticmethod
    def _matching(soft: Tensor) -> Tensor:
        """Return the permutation of largest sum in each matrix [K, C, C], int64 [K, C]."""
        levels = soft.detach().double().nan_to_num().cpu().numpy()
        found = [linear_sum_assignment(level, maximize=True)[1] for level in levels]
        return torch.stack([torch.from_numpy(each) for each in found]).to(soft.device)
