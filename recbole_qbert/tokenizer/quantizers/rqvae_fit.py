"""Training of the RQ-VAE.

The codebooks start from k-means on the whole catalog. Codes that no item uses are restarted. The
last epochs have no restarts (they are *settled*), and the best of them is selected: the one with
the fewest collisions, then the smallest reconstruction error.

The items are sorted by hash (`row_keys`), and each epoch has its own random generators. The result
therefore depends neither on the order of the rows nor on interruptions. All code runs on one
thread.

Shapes: N items, B items of a batch, D dimensions, E dimensions of a latent, K levels, S_k codes of
level k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.codec import level_letters
from recbole_qbert.tokenizer.quantizers.base import (
    BLOCK,
    count_collisions,
    one_thread,
    row_keys,
    usage,
)
from recbole_qbert.tokenizer.quantizers.rqkmeans import initial_codebooks
from recbole_qbert.tokenizer.quantizers.rqvae import (
    RQVAE,
    MovingCodebooks,
    RQVAEQuantizer,
    RQVAESettings,
    choose,
)
from recbole_qbert.tokenizer.stages import stage_hash
from recbole_qbert.training.resume import FitState

# A level after the first has collapsed if it uses less than this share of the codes that it could.
COLLAPSED_SHARE = 0.05
_EVALUATIONS = 20  # minimum number of evaluations, if there are as many epochs
_FINAL_RATE = 0.02  # share of the learning rate at the end of the cosine schedule
_SHUFFLE, _RESTART, _FILL = range(3)  # purposes of random generators


def fit_rqvae(
    vectors: np.ndarray,
    settings: RQVAESettings,
    seed: int,
    folder: Path | None = None,
    show_progress: bool = False,
) -> RQVAEQuantizer:
    """Train on all vectors and return the best settled epoch.

    Args:
        vectors: float32 [N, D], finite, N > 0.
        settings: settings of the RQ-VAE.
        seed: random seed.
        folder: folder for the state of an unfinished fit, which the next fit continues; None saves
            nothing.
        show_progress: whether to show a progress bar.

    Raises:
        InputError: the loss is not finite, or a codebook collapsed.
    """
    with one_thread():
        training = RQVAETraining(vectors, settings, seed)
        # `tokenize` may fit a second time with fewer levels; each fit has a state of its own.
        name = f"rqvae-{settings.n_levels}.training.safetensors"
        path = None if folder is None else folder / name
        kept = FitState(path, training.identity)
        state = kept.load()
        if state is None:
            training.start_codebooks()
        else:
            training.load(state)
        with Progress(
            desc="rqvae",
            unit="epoch",
            initial=training.epoch,
            total=training.n_epochs,
            disable=not show_progress,
        ) as bar:
            while training.epoch < training.n_epochs:
                loss = training.train_epoch()
                bar.update()
                collisions = training.latest.get("collisions")
                bar.set_postfix(loss=f"{loss:.4f}", collisions=collisions)
                kept.keep(training.state())
        quantizer = training.best_quantizer()
        check_collapse(quantizer.encode(vectors), settings.codebook_sizes, training.n_distinct)
    return quantizer


class RQVAETraining:
    """Training state of one fit.

    Attributes:
        network: the trained network.
        epoch: number of finished epochs.
        n_epochs: total number of epochs.
        n_distinct: number of distinct vectors.
        latest: `collisions` and `error` of the latest evaluation on the catalog.
        best: `collisions`, `error` and `weights` of the best settled evaluation.
        identity: hash of everything that the fit depends on.
    """

    def __init__(self, vectors: np.ndarray, settings: RQVAESettings, seed: int):
        keys = row_keys(vectors, seed)
        self.vectors, self.settings, self.seed = vectors, settings, seed
        self.order = np.argsort(keys, kind="stable")
        in_order = keys[self.order]
        self.n_distinct = 1 + int((in_order[1:] != in_order[:-1]).sum())
        facts = [settings.model_dump(), seed, list(vectors.shape)]
        self.identity = stage_hash(facts, [in_order])

        self.network = RQVAE(
            vectors.shape[1],
            settings.hidden_sizes,
            settings.code_size,
            settings.codebook_sizes,
            torch.Generator().manual_seed(seed),
        )
        if settings.standardize == "mean_std":
            shift, deviation = self._moments()
            self.network.shift.copy_(torch.from_numpy(shift))
            self.network.scale.copy_(torch.from_numpy(1 / deviation))
        self.moving: MovingCodebooks | None = None  # set when the codebooks are
        if settings.codebook_update == "ema":
            self.network.codebooks.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            [each for each in self.network.parameters() if each.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.n_epochs = settings.n_epochs(len(vectors))
        self.epoch = 0
        self.latest: dict[str, Any] = {}
        self.best: dict[str, Any] = {}

    @property
    def first_settled(self) -> int:
        """Number, from 1, of the first epoch without restarts, which may be selected."""
        settled = max(1, round(self.settings.settle_share * self.n_epochs))
        return self.n_epochs - settled + 1

    def start_codebooks(self) -> None:
        """Initialize the codebooks by residual k-means on (a sample of) the latents."""
        frozen = RQVAEQuantizer(self.network)
        latents = np.concatenate(
            [frozen.latents(self.vectors[rows]) for rows in self._blocks(self.order)]
        )
        found = initial_codebooks(latents, self.settings.codebook_sizes, self.seed)
        for codebook, centers in zip(self.network.codebooks, found, strict=True):
            # With fewer items than codes, the other codewords start near random centers.
            generator = self._generator(_FILL)
            fill = centers[generator.integers(len(centers), size=len(codebook) - len(centers))]
            fill = fill + 1e-3 * latents.std() * generator.standard_normal(fill.shape)
            words = np.concatenate([centers, fill]).astype(np.float32)
            codebook.data.copy_(torch.from_numpy(words))
        self._start_moving()

    def train_epoch(self) -> float:
        """Train for one epoch, restart dead codes, and evaluate if due; return the mean loss.

        Raises:
            InputError: the loss is not finite.
        """
        self.network.train()
        shuffled = self.order[self._generator(_SHUFFLE).permutation(len(self.order))]
        n_batches = self.settings.n_batches(len(shuffled))
        sizes = self.settings.codebook_sizes
        counts = [np.zeros(size, dtype=np.int64) for size in sizes]
        total = 0.0
        # Batches of nearly equal size, because a last batch of a few rows would be a noisy step.
        for step, rows in enumerate(np.array_split(shuffled, n_batches)):
            progress = (self.epoch + step / n_batches) / self.n_epochs
            loss, codes = self._step(rows, progress)
            total += loss * len(rows) / len(shuffled)
            for level, size in enumerate(sizes):
                counts[level] += np.bincount(codes[:, level], minlength=size)
        self.epoch += 1
        if not math.isfinite(total):
            raise InputError(
                f"rqvae: the loss is not finite in epoch {self.epoch} of {self.n_epochs}; "
                "decrease rqvae.learning_rate, or set rqvae.standardize to mean_std"
            )
        settled = self.epoch >= self.first_settled
        if self.settings.restart_dead_codes and not settled:
            self._restart([np.flatnonzero(count == 0) for count in counts])
        every = min(self.settings.eval_every, max(1, self.n_epochs // _EVALUATIONS))
        if self.epoch % every == 0 or self.epoch == self.n_epochs:
            self._evaluate(settled)
        return total

    def best_quantizer(self) -> RQVAEQuantizer:
        """Return the best settled epoch as a frozen quantizer; training cannot continue then."""
        self.network.load_state_dict(self.best["weights"])
        return RQVAEQuantizer(self.network)

    def state(self) -> dict[str, Any]:
        """Return the state for `load`. It has no generators: each epoch creates its own."""
        return {
            "weights": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "moving": self.moving and {"counts": self.moving.counts, "sums": self.moving.sums},
            "epoch": self.epoch,
            "latest": self.latest,
            "best": self.best,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""
        self.network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._start_moving()
        if self.moving is not None:
            self.moving.counts, self.moving.sums = (
                list(state["moving"][name]) for name in ("counts", "sums")
            )
        self.epoch, self.latest, self.best = state["epoch"], state["latest"], state["best"]

    def _step(self, rows: np.ndarray, progress: float) -> tuple[float, np.ndarray]:
        """Make one optimizer step; return the loss and the codes [B, K] of the batch."""
        cosine = (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)
        batch = self.network.standardize(torch.from_numpy(self.vectors[rows]))
        losses = self.network.losses(batch, self.settings)
        loss = losses.reconstruction + losses.quantization
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.moving is not None:
            self.moving.update(losses.codes, losses.residuals)
        return float(loss.detach()), losses.codes.numpy()

    @torch.no_grad()
    def _restart(self, dead: Sequence[np.ndarray]) -> None:
        """Set each level's dead codewords to residuals of random items, and reset their moments."""
        if not any(len(codes) for codes in dead):
            return
        generator = self._generator(_RESTART)
        n_rows = min(len(self.order), max(self.settings.codebook_sizes))
        rows = self.order[generator.choice(len(self.order), n_rows, replace=False)]
        frozen = RQVAEQuantizer(self.network)
        residual = torch.from_numpy(frozen.latents(self.vectors[rows]))
        for level, (codebook, codes) in enumerate(zip(self.network.codebooks, dead, strict=True)):
            nearest = codebook[choose(residual, codebook)]
            where = torch.from_numpy(codes)
            words = residual[torch.from_numpy(generator.integers(n_rows, size=len(codes)))]
            codebook[where] = words
            moments = self.optimizer.state.get(codebook, {})
            for name in ("exp_avg", "exp_avg_sq"):
                if name in moments:
                    moments[name][where] = 0.0
            if self.moving is not None:
                self.moving.restart(level, where, words)
            residual = residual - nearest

    def _evaluate(self, settled: bool) -> None:
        """Evaluate on the whole catalog; save the weights if settled and best so far."""
        frozen = RQVAEQuantizer(self.network)
        codes = frozen.encode(self.vectors)
        # Summed in hash order, so that its rounding does not depend on the order of the rows.
        n_levels = [self.settings.n_levels]
        error = sum(
            frozen.squared_errors(self.vectors[rows], codes[rows], n_levels)[0]
            for rows in self._blocks(self.order)
        )
        self.latest = {"collisions": count_collisions(codes), "error": error}
        if settled and (not self.best or _merit(self.latest) < _merit(self.best)):
            weights = {name: value.clone() for name, value in self.network.state_dict().items()}
            self.best = {**self.latest, "weights": weights}

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute the mean and the standard deviation of each dimension, float64 [D].

        A constant dimension gets the largest standard deviation, or 1 if all are constant.
        """
        blocks, n_items = self._blocks(self.order), len(self.order)
        mean = sum(self.vectors[rows].sum(axis=0, dtype=np.float64) for rows in blocks) / n_items
        squares = sum(((self.vectors[rows] - mean) ** 2).sum(axis=0) for rows in blocks)
        deviation = np.sqrt(squares / n_items)
        # Dividing a constant dimension by its own deviation would amplify rounding errors.
        constant = deviation <= 1e-5 * deviation.max()
        return mean, np.where(constant, deviation.max() or 1.0, deviation)

    def _start_moving(self) -> None:
        if self.settings.codebook_update == "ema":
            codebooks: list[Tensor] = list(self.network.codebooks)
            self.moving = MovingCodebooks(codebooks, self.settings.ema_decay)

    @staticmethod
    def _blocks(rows: np.ndarray) -> list[np.ndarray]:
        return [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]

    def _generator(self, purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, purpose])


def _merit(evaluation: dict[str, Any]) -> tuple[int, float]:
    return evaluation["collisions"], evaluation["error"]


def check_collapse(codes: np.ndarray, sizes: Sequence[int], n_distinct: int) -> None:
    """Check that each level of codes [N, K] after the first uses enough of its S_k codes.

    With few distinct vectors per code of the first level, later levels may use few codes.

    Raises:
        InputError: a level hardly uses more than one code.
    """
    for level, size in enumerate(sizes[1:], 1):
        of_level = usage(codes[:, level], size)
        could_use = min(size, n_distinct // sizes[0])
        least = COLLAPSED_SHARE * could_use
        # A single used code is a collapse if the level could separate vectors.
        alone = could_use > 1 and of_level["used"] < 2
        if alone or (of_level["used"] < least and of_level["perplexity"] < least):
            raise InputError(
                f"rqvae: level {level_letters(level)} collapsed: {of_level['used']} of {size} "
                f"codes are used, perplexity {of_level['perplexity']:.1f}; decrease "
                "rqvae.learning_rate or rqvae.beta, set rqvae.codebook_update to ema, or use "
                "rqkmeans"
            )
