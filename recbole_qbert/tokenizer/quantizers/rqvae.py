"""RQ-VAE of Q-BERT4Rec, equations 6 to 9: settings, network, losses, and the frozen quantizer.

Shapes: B items of a batch, n vectors, D dimensions of a vector h, E dimensions of a latent z, K
levels, S_k codes of level k. Levels count from 0.

    z = encoder(h)         r_0 = z,  e_k = the codeword nearest to r_k,  r_{k+1} = r_k - e_k   (6)
    L_recon = |h - decoder(sum of e_k)|^2                                                      (7)
    L_rq = sum over k of  |sg[r_k] - e_k|^2  +  beta |r_k - sg[e_k]|^2                         (8)
    L = L_recon + L_rq                                                                         (9)

The paper leaves three points open:

- z^(k) of eq. 8 is read as the residual r_k that enters level k. The codewords subtracted before
  are constants in it.
- With `norm: mean`, squared norms are divided by their number of dimensions, as in MQL4GRec, so
  that beta has the same meaning for all D and E. With `norm: sum`, they are not divided, as printed
  in the paper.
- h is standardized first, because eq. 9 depends on its scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_qbert.config.settings import Chance, Count, Weight, Width
from recbole_qbert.tokenizer.quantizers.base import Quantizer, decoded_sum, greedy
from recbole_qbert.tokenizer.stages import QuantizerSettings

SINKHORN_ITERATIONS = 50
_TINY = 1e-6


class RQVAESettings(QuantizerSettings):
    """Settings of the RQ-VAE; `properties/tokenize.yaml` documents each."""

    section: ClassVar[str] = "rqvae"
    hidden_sizes: list[Width]
    code_size: Width
    standardize: Literal["mean_std", "none"]
    beta: Weight
    norm: Literal["mean", "sum"]
    rq_reduce: Literal["sum", "mean"]
    gradient: Literal["ste", "rotation"]
    codebook_update: Literal["gradient", "ema"]
    ema_decay: Chance
    sinkhorn_epsilon: Chance
    epochs: Count
    max_steps: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(ge=1e-9, le=10)]
    weight_decay: Weight
    restart_dead_codes: bool
    settle_share: Chance
    eval_every: Count

    def n_epochs(self, n_items: int) -> int:
        """Return the number of epochs for N items, limited by `epochs` and `max_steps`."""
        return max(1, min(self.epochs, math.ceil(self.max_steps / self.n_batches(n_items))))

    def n_batches(self, n_items: int) -> int:
        """Return the number of steps per epoch."""
        return math.ceil(n_items / self.batch_size)


@dataclass(frozen=True)
class Losses:
    """Losses of one batch, means over its items, and its codes.

    Attributes:
        reconstruction: eq. 7, a scalar.
        quantization: eq. 8, a scalar.
        codes: int64 [B, K].
        residuals: K tensors r_k [B, E], without gradients.
    """

    reconstruction: Tensor
    quantization: Tensor
    codes: Tensor
    residuals: list[Tensor]


class RQVAE(nn.Module):
    """Network of encoder, decoder, codebooks and a fixed affine map that standardizes h."""

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
        """Initialize random weights and zero codewords.

        Args:
            dimension: D.
            hidden_sizes: widths of the encoder between D and E; the decoder mirrors them.
            code_size: E.
            codebook_sizes: K sizes S_k.
            generator: random generator of the weights; None for PyTorch's global one.
        """
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
        """Standardize vectors h [B, D] for the encoder."""
        return (vectors - self.shift) * self.scale

    def restore(self, standardized: Tensor) -> Tensor:
        """Invert `standardize`."""
        return standardized / self.scale + self.shift

    def losses(self, standardized: Tensor, settings: RQVAESettings) -> Losses:
        """Compute eqs. 6 to 8 for standardized vectors [B, D]; the sum of both losses is eq. 9."""
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
    """Compute the mean squared norm of the rows of [B, d], divided by d if `norm` is `mean`."""
    squares = rows.square()
    return squares.mean() if norm == "mean" else squares.sum(dim=1).mean()


def choose(residual: Tensor, codebook: Tensor, epsilon: float = 0.0) -> Tensor:
    """Choose a codeword of a codebook [S, E] for each residual [B, E]; return int64 [B].

    It is the nearest or, with an `epsilon` above 0, one of a balanced assignment (`sinkhorn`).
    """
    lengths = residual.square().sum(dim=1, keepdim=True) + codebook.square().sum(dim=1)
    distances = torch.addmm(lengths, residual, codebook.T, alpha=-2)
    return sinkhorn(distances, epsilon).argmax(dim=1) if epsilon else distances.argmin(dim=1)


def sinkhorn(distances: Tensor, epsilon: float, n_iterations: int = SINKHORN_ITERATIONS) -> Tensor:
    """Compute an entropy-regularized transport plan of rows to columns, by Sinkhorn iterations.

    All rows have equal mass, as have all columns. Small distances are preferred.

    Args:
        distances: [B, S]; centered and scaled to [-1, 1] first, so that `epsilon` has no unit.
        epsilon: regularization; the smaller, the closer to the nearest columns.
        n_iterations: number of iterations, each of which scales the rows, then the columns.

    Returns:
        float64 [B, S], not negative; columns sum to 1 / S, rows to about 1 / B.
    """
    lowest, highest = distances.min(), distances.max()
    middle = (highest + lowest) / 2
    scaled = ((distances - middle) / (highest - middle + 1e-5)).double()
    # The plan does not depend on factors of rows; this one makes the largest entry of each row 1.
    kernel = torch.exp((scaled.min(dim=1, keepdim=True).values - scaled) / epsilon)
    n_rows, n_columns = kernel.shape
    # Updating scaling vectors instead of the matrix makes an iteration two matrix-vector products.
    of_column = kernel.new_ones(n_columns)
    for _ in range(n_iterations):
        of_row = 1 / (n_rows * (kernel @ of_column).clamp(min=1e-300))
        of_column = 1 / (n_columns * (of_row @ kernel).clamp(min=1e-300))
    return of_row[:, None] * kernel * of_column


def pass_gradient(latent: Tensor, quantized: Tensor, how: str) -> Tensor:
    """Return `quantized` [B, E], with a gradient that flows to `latent` [B, E].

    `ste` copies the gradient (straight-through estimator). `rotation` (Fifty et al., arXiv
    2410.06424) rotates and scales it by the linear map from z to its quantized form, held constant.
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
    """Update of codewords by exponential moving averages (`codebook_update: ema`), not gradients.

    For each code c, n_c <- decay n_c + (1 - decay) (number of rows that chose c). The sum of these
    rows is averaged in the same way. The codeword is the sum divided by the count; Laplace
    smoothing keeps the count above zero.

    Attributes:
        codebooks: K tensors [S_k, E], updated in place.
        counts: K tensors [S_k], initially 1.
        sums: K tensors [S_k, E], initially the codewords.
    """

    def __init__(self, codebooks: Sequence[Tensor], decay: float, smoothing: float = 1e-5):
        self.codebooks, self.decay, self.smoothing = codebooks, decay, smoothing
        self.counts = [book.new_ones(len(book)) for book in codebooks]
        self.sums = [book.detach().clone() for book in codebooks]

    @torch.no_grad()
    def update(self, codes: Tensor, residuals: Sequence[Tensor]) -> None:
        """Update the codebooks with one batch: codes int64 [B, K], and K residuals [B, E]."""
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
        """Reset the averages of some codes [m] of a level to codewords [m, E]."""
        self.counts[level][codes] = 1.0
        self.sums[level][codes] = codewords


class RQVAEQuantizer(Quantizer):
    """Frozen RQ-VAE. Latents are float32; the search for codewords is float64."""

    method = "rqvae"

    def __init__(self, network: RQVAE):
        self.network = network.eval()
        self.codebooks = [book.detach().numpy() for book in network.codebooks]
        self.codebook_sizes = tuple(len(book) for book in self.codebooks)
        self.dimension = len(network.shift)

    def latents(self, block: np.ndarray) -> np.ndarray:
        """Compute the latents z, float32 [n, E], of vectors float32 [n, D]."""
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
        """Return the complete state, for `load_quantizer`."""
        linear = [layer for layer in self.network.encoder if isinstance(layer, nn.Linear)]
        hidden = [layer.out_features for layer in linear]
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
        """Restore a quantizer from the result of `state`."""
        names = ("dimension", "hidden_sizes", "code_size", "codebook_sizes")
        shape = {name: state[name] for name in names}
        # The random weights are overwritten. A new generator avoids changing torch's global state.
        network = RQVAE(**shape, generator=torch.Generator())
        network.load_state_dict(state["weights"])
        return cls(network)


def _mlp(widths: Sequence[int], generator: torch.Generator | None) -> nn.Sequential:
    """Create linear layers with ReLU between them, and Xavier weights as in MQL4GRec."""
    layers: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        # `skip_init` avoids drawing weights from torch's global generator.
        linear = torch.nn.utils.skip_init(nn.Linear, before, after)
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [nn.ReLU(), linear] if layers else [linear]
    return nn.Sequential(*layers)
