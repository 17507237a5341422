"""Settings of the RQ-VAE."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recbole_qbert.tokenizer.quantizers.rqvae import LossSettings
from recbole_qbert.tokenizer.stage_settings import QuantizerSettings, setting


@dataclass(frozen=True)
class RQVAESettings(QuantizerSettings):
    """Settings of the RQ-VAE.

    Attributes:
        hidden_sizes: widths of the encoder between D and E; the decoder mirrors them.
        code_size: E.
        standardize: `mean_std` (each dimension to mean 0 and deviation 1), `none`.
        beta: weight of the commitment in eq. 8. The paper names no value and MQL4GRec takes 0.25;
            at 1 an eighth as many different items collide.
        norm: `mean` divides squared lengths by their number of dimensions, `sum` does not.
        rq_reduce: `sum` (eq. 8) or `mean` over the levels.
        gradient: past the quantizer: `ste` (straight through) or `rotation`.
        codebook_update: `gradient` (eq. 8) or `ema` (moving means).
        ema_decay: of the moving means.
        sinkhorn_epsilon: above 0, the last level's codes are given out in equal shares within a
            training batch, the more freely the larger it is (MQL4GRec: 0.003).
        epochs: the most passes over the items.
        max_steps: the most optimizer steps, rounded up to whole epochs; the fewer of both count.
        batch_size: items a step.
        learning_rate: of AdamW, at the start; it falls to a fiftieth along a cosine.
        weight_decay: of AdamW.
        restart_dead_codes: whether codes that no item chose in an epoch move to random residuals.
        settle_share: share of the epochs, the last ones, that have no restarts and of which one
            is chosen.
        eval_every: epochs between looks at the whole catalog; more often where epochs are few.
    """

    hidden_sizes: tuple[int, ...] = setting("rqvae.hidden_sizes", low=1)
    code_size: int = setting("rqvae.code_size", low=1)
    standardize: str = setting("rqvae.standardize", choices=("mean_std", "none"))
    beta: float = setting("rqvae.beta", low=0)
    norm: str = setting("rqvae.norm", choices=("mean", "sum"))
    rq_reduce: str = setting("rqvae.rq_reduce", choices=("sum", "mean"))
    gradient: str = setting("rqvae.gradient", choices=("ste", "rotation"))
    codebook_update: str = setting("rqvae.codebook_update", choices=("gradient", "ema"))
    ema_decay: float = setting("rqvae.ema_decay", low=0, high=1)
    sinkhorn_epsilon: float = setting("rqvae.sinkhorn_epsilon", low=0, high=1)
    epochs: int = setting("rqvae.epochs", low=1)
    max_steps: int = setting("rqvae.max_steps", low=1)
    batch_size: int = setting("rqvae.batch_size", low=1)
    learning_rate: float = setting("rqvae.learning_rate", low=1e-9, high=10)
    weight_decay: float = setting("rqvae.weight_decay", low=0)
    restart_dead_codes: bool = setting("rqvae.restart_dead_codes")
    settle_share: float = setting("rqvae.settle_share", low=0, high=1)
    eval_every: int = setting("rqvae.eval_every", low=1)

    def n_epochs(self, n_items: int) -> int:
        """Epochs that training takes."""
        return max(1, min(self.epochs, math.ceil(self.max_steps / self.n_batches(n_items))))

    def n_batches(self, n_items: int) -> int:
        """Steps of an epoch."""
        return math.ceil(n_items / self.batch_size)

    def loss(self) -> LossSettings:
        """What the losses need."""
        return LossSettings(
            self.beta, self.norm, self.rq_reduce, self.gradient, self.sinkhorn_epsilon
        )
