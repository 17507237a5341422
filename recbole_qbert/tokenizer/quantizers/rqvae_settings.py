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
        standardize: `mean_std` (each dimension to mean 0 and standard deviation 1) or `none`.
        beta: weight of the commitment loss in eq. 8. The paper states no value, and MQL4GRec uses
            0.25; with 1, an eighth as many distinct items collide.
        norm: `mean` divides squared norms by their number of dimensions, `sum` does not.
        rq_reduce: `sum` (eq. 8) or `mean` over the levels.
        gradient: gradient through the quantizer: `ste` (straight-through) or `rotation`.
        codebook_update: `gradient` (eq. 8) or `ema` (exponential moving averages).
        ema_decay: decay of the moving averages.
        sinkhorn_epsilon: if above 0, the codes of the last level are assigned in equal shares
            within a training batch, less strictly the larger it is (MQL4GRec: 0.003).
        epochs: largest number of epochs.
        max_steps: largest number of optimizer steps, rounded up to whole epochs; the lower of both
            limits holds.
        batch_size: items per step.
        learning_rate: initial learning rate of AdamW; a cosine schedule lowers it to a fiftieth.
        weight_decay: weight decay of AdamW.
        restart_dead_codes: whether codes that no item chose in an epoch move to random residuals.
        settle_share: share of the epochs, at the end, that have no restarts and may be selected.
        eval_every: epochs between evaluations on the whole catalog; fewer if there are few epochs.
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
        """Return the number of epochs for N items, limited by `epochs` and `max_steps`."""
        return max(1, min(self.epochs, math.ceil(self.max_steps / self.n_batches(n_items))))

    def n_batches(self, n_items: int) -> int:
        """Return the number of steps per epoch."""
        return math.ceil(n_items / self.batch_size)

    def loss(self) -> LossSettings:
        """Return the settings of the losses."""
        return LossSettings(
            self.beta, self.norm, self.rq_reduce, self.gradient, self.sinkhorn_epsilon
        )
