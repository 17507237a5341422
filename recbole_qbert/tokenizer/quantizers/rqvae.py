"""The RQ-VAE of Q-BERT4Rec, equations 6 to 9: the network, its losses, and its frozen form.

B items of a batch, D dimension of a vector h, E of a latent z, K levels, S_k codes of level k.
Levels count from 0.

    z = encoder(h)         r_0 = z,  e_k = the codeword nearest to r_k,  r_{k+1} = r_k - e_k   (6)
    L_recon = |h - decoder(sum of e_k)|^2                                                      (7)
    L_rq = sum over k of  |sg[r_k] - e_k|^2  +  beta |r_k - sg[e_k]|^2                         (8)
    L = L_recon + L_rq                                                                         (9)

The paper leaves three things open. z^(k) of eq. 8 is read as the residual that enters the level,
and codewords taken off before are constants in it. The squared lengths are divided by their number
of dimensions (`norm: mean`, as in MQL4GRec), so that beta means the same for all D and E, or not
(`norm: sum`, as printed). h is standardized first, since eq. 9 depends on its scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.tokenizer.quantizers.base import Quantizer, decoded_sum, greedy

SINKHORN_ITERATIONS = 50
_TINY = 1e-6


@dataclass(frozen=True)
class LossSettings:
    """What eqs. 7 to 9 are made of; `RQVAESettings` explains each."""

    beta: float
    norm: str
    rq_reduce: str
    gradient: str
    sinkhorn_epsilon: float


@dataclass(frozen=True)
class Losses:
    """Of one batch: means over its items.

    Attributes:
        reconstruction: eq. 7, a scalar.
        quantization: eq. 8, a scalar.
        codes: int64 [B, K].
        residuals: K tensors [B, E], r_k without gradients.
    """

    reconstruction: Tensor
    quantization: Tensor
    codes: Tensor
    residuals: list[Tensor]


class RQVAE(nn.Module):
    """Encoder, decoder, codebooks, and the fixed affine map that standardizes h."""

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        dimension: int,
        hidden_sizes: Sequence[int],
        code_size: int,
        codebook_sizes: Sequence[int],
        generator: torch.Generator | None = None,
    ):
        """Random weights from `generator`; all codewords are zero."""
        super().__init__()
        widths = [dimension, *hidden_sizes, code_size]
        self.encoder = _mlp(widths, generator)
        self.decoder = _mlp(widths[::-1], generator)
        self.codebooks = nn.ParameterList(
            [nn.Parameter(torch.zeros(size, code_size)) for size in codebook_sizes]
        )
        self.register_buffer("shift", torch.zeros(dimension))
        self.register_buffer("scale", torch.ones(dimension))

    def standardize(self, vectors: Tensor) -> Tensor:
        """h as the network sees it, [B, D]."""
        return (vectors - self.shift) * self.scale

    def restore(self, standardized: Tensor) -> Tensor:
        """The inverse of `standardize`."""
        return standardized / self.scale + self.shift

    def losses(self, standardized: Tensor, settings: LossSettings) -> Losses:
        """Eqs. 6 to 8 for [B, D]; their sum is eq. 9."""
        latent = self.encoder(standardized)
        entering, quantized = latent, torch.zeros_like(latent)
        terms, codes, residuals = [], [], []
        for level, codebook in enumerate(self.codebooks):
            residuals.append(entering.detach())
            is_last = level == len(self.codebooks) - 1
            epsilon = settings.sinkhorn_epsilon if is_last else 0.0
            codes.append(choose(residuals[-1], codebook.detach(), epsilon))
            codeword = codebook[codes[-1]]
            terms.append(
                squared_length(residuals[-1] - codeword, settings.norm)
                + settings.beta * squared_length(entering - codeword.detach(), settings.norm)
            )
            entering = entering - codeword.detach()
            quantized = quantized + codeword.detach()
        stacked = torch.stack(terms)
        decoded = self.decoder(pass_gradient(latent, quantized, settings.gradient))
        return Losses(
            reconstruction=squared_length(standardized - decoded, settings.norm),
            quantization=stacked.sum() if settings.rq_reduce == "sum" else stacked.mean(),
            codes=torch.stack(codes, dim=1),
            residuals=residuals,
        )


def squared_length(rows: Tensor, norm: str) -> Tensor:
    """Mean over the rows of [B, d] of their squared length, divided by d where `norm` is mean."""
    squares = rows.square()
    return squares.mean() if norm == "mean" else squares.sum(dim=1).mean()


def choose(residual: Tensor, codebook: Tensor, epsilon: float = 0.0) -> Tensor:
    """The nearest codeword of each row, int64 [B]; with `epsilon` all codewords in equal shares.

    Args:
        residual: [B, E].
        codebook: [S, E].
        epsilon: of `sinkhorn`; 0 leaves each row free.
    """
    lengths = residual.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
    distances = torch.addmm(lengths, residual, codebook.T, alpha=-2)
    return sinkhorn(distances, epsilon).argmax(dim=1) if epsilon else distances.argmin(dim=1)


def sinkhorn(distances: Tensor, epsilon: float, n_iterations: int = SINKHORN_ITERATIONS) -> Tensor:
    """A plan that gives every row one share and every column an equal one, near ones preferred.

    Args:
        distances: [B, S]; centered and scaled to [-1, 1] first, so that `epsilon` has no unit.
        epsilon: the smaller, the closer to the nearest.
        n_iterations: rows and columns are scaled in turn this often, the columns last.

    Returns:
        float64 [B, S], not negative; columns sum to 1 / S, rows to about 1 / B.
    """
    lowest, highest = distances.min(), distances.max()
    middle = (highest + lowest) / 2
    scaled = ((distances - middle) / (highest - middle + 1e-5)).double()
    # A factor of a row changes nothing; this one keeps the largest entry of each at 1.
    kernel = torch.exp((scaled.min(dim=1, keepdim=True).values - scaled) / epsilon)
    n_rows, n_columns = kernel.shape
    # Scaling vectors in place of the matrix: a product with a vector is all that a step costs.
    of_column = kernel.new_ones(n_columns)
    for _ in range(n_iterations):
        of_row = 1 / (n_rows * (kernel @ of_column).clamp(min=1e-300))
        of_column = 1 / (n_columns * (of_row @ kernel).clamp(min=1e-300))
    return of_row[:, None] * kernel * of_column


def pass_gradient(latent: Tensor, quantized: Tensor, how: str) -> Tensor:
    """`quantized` [B, E] in the forward pass, with a gradient for `latent` [B, E] in the backward.

    `ste` copies the gradient. `rotation` (Fifty et al., 2410.06424) turns and stretches it by the
    map that takes z to its quantized form, held constant.
    """
    if how == "ste":
        return latent + (quantized - latent).detach()
    with torch.no_grad():
        length = latent.norm(dim=1, keepdim=True).clamp(min=_TINY)
        stretch = quantized.norm(dim=1, keepdim=True) / length
        start, end = latent / length, F.normalize(quantized, dim=1, eps=_TINY)
        between = F.normalize(start + end, dim=1, eps=_TINY)
    along = (latent * between).sum(dim=1, keepdim=True) * between
    turned = latent - 2 * along + 2 * (latent * start).sum(dim=1, keepdim=True) * end
    return stretch * turned


class MovingCodebooks:
    """Codewords as moving means of what chose them, not by gradient (`codebook_update: ema`).

    n_c <- decay n_c + (1 - decay) (rows that chose c), and likewise the sum of those rows; the
    codeword is the sum over the count, which Laplace smoothing keeps above zero.
    """

    def __init__(self, codebooks: Sequence[Tensor], decay: float, smoothing: float = 1e-5):
        """Start as if every codeword had been chosen once, by itself."""
        self.codebooks, self.decay, self.smoothing = codebooks, decay, smoothing
        self.counts = [book.new_ones(len(book)) for book in codebooks]
        self.sums = [book.detach().clone() for book in codebooks]

    @torch.no_grad()
    def update(self, codes: Tensor, residuals: Sequence[Tensor]) -> None:
        """One batch: codes int64 [B, K], residuals K times [B, E]."""
        for level, book in enumerate(self.codebooks):
            counts, sums = self.counts[level], self.sums[level]
            chosen = codes[:, level]
            n_chosen = torch.bincount(chosen, minlength=len(book)).to(counts.dtype)
            added = torch.zeros_like(sums).index_add_(0, chosen, residuals[level])
            counts.lerp_(n_chosen, 1 - self.decay)
            sums.lerp_(added, 1 - self.decay)
            total = counts.sum()
            smooth = (counts + self.smoothing) / (total + len(book) * self.smoothing) * total
            book.copy_(sums / smooth[:, None])

    def restart(self, level: int, codes: Tensor, codewords: Tensor) -> None:
        """Begin again for some codes [m] with codewords [m, E]."""
        self.counts[level][codes] = 1.0
        self.sums[level][codes] = codewords

    def state(self) -> dict[str, Any]:
        """For `load`."""
        return {"counts": self.counts, "sums": self.sums}

    def load(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        self.counts, self.sums = list(state["counts"]), list(state["sums"])


class RQVAEQuantizer(Quantizer):
    """A trained RQ-VAE, frozen. Latents are float32; the search among codewords is float64."""

    method = "rqvae"

    def __init__(self, network: RQVAE):
        self.network = network.eval()
        self.codebooks = [book.detach().numpy() for book in network.codebooks]
        self.codebook_sizes = tuple(len(book) for book in self.codebooks)
        self.dimension = len(network.shift)

    def latents(self, block: np.ndarray) -> np.ndarray:
        """z of float32 [n, D], float32 [n, E]."""
        with torch.no_grad():
            standardized = self.network.standardize(torch.from_numpy(block))
            latents: np.ndarray = self.network.encoder(standardized).numpy()
        return latents

    def _search(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return greedy(self.latents(block), self.codebooks, max(self.codebook_sizes))

    def _decode(self, codes: np.ndarray) -> np.ndarray:
        quantized = decoded_sum(codes, self.codebooks).astype(np.float32)
        with torch.no_grad():
            decoded = self.network.restore(self.network.decoder(torch.from_numpy(quantized)))
        return decoded.numpy()

    def state(self) -> dict[str, Any]:
        """For `load_quantizer`."""
        hidden = [layer.out_features for layer in self.network.encoder if _is_linear(layer)]
        return {
            "method": self.method,
            "dimension": self.dimension,
            "hidden_sizes": hidden[:-1],
            "code_size": hidden[-1],
            "codebook_sizes": list(self.codebook_sizes),
            "weights": dict(self.network.state_dict()),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RQVAEQuantizer:
        """The inverse of `state`."""
        names = ("dimension", "hidden_sizes", "code_size", "codebook_sizes")
        shape = {name: state[name] for name in names}
        # The weights are replaced at once; a generator of its own leaves torch's alone.
        network = RQVAE(**shape, generator=torch.Generator())
        network.load_state_dict(state["weights"])
        return cls(network)


def _mlp(widths: Sequence[int], generator: torch.Generator | None) -> nn.Sequential:
    """Linear layers with ReLU between them; Xavier weights as in MQL4GRec."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        # Without `skip_init`, weights would be drawn from torch's global state first.
        linear = torch.nn.utils.skip_init(nn.Linear, before, after)
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [nn.ReLU(), linear] if layers else [linear]
    return nn.Sequential(*layers)


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear)
