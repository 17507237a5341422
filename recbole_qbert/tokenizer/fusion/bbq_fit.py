"""Training of the stream `bbq`, and its application to training items and to new items.

Each step takes a share of the catalog and the training histories of some users. The last two items
of each user, the validation and the test target, are in no history.

Shapes: N training items, n items, S segments, E dimensions of a latent, D_m dimensions of a
modality, K levels, S_k codes of level k, U users of a step, T items of a history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.progress import Progress
from recbole_qbert.tokenizer.fusion.bbq import BBQSettings, BehaviorBinding, Inputs
from recbole_qbert.tokenizer.fusion.fit import queries_of_new, take
from recbole_qbert.tokenizer.fusion.sequences import TrainingSequences
from recbole_qbert.tokenizer.quantizers.base import one_thread
from recbole_qbert.tokenizer.quantizers.rqkmeans import initial_codebooks
from recbole_qbert.tokenizer.quantizers.rqvae import choose
from recbole_qbert.tokenizer.quantizers.shared import SharedResidual
from recbole_qbert.tokenizer.stages import stage_hash
from recbole_qbert.training.resume import FitState

SETTLED_SHARE = 0.25  # share of the epochs, at the end, without restarts of dead codes
_BLOCK = 4096  # items encoded at once at inference

Modalities = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Maps each modality to its vectors float32 [n, D_m] and a mask bool [n]."""


@dataclass
class Binder:
    """Frozen encoders, vectors z_ID and codebooks after training.

    Attributes:
        model: the trained network.
        shifts: for each modality, the mean vector [D_m] of the training items.
        scales: for each modality, the number by which centered vectors are multiplied.
        history: for each epoch, the value of each loss term.
        contents: result of `contents_of` for the training items; empty during training.
    """

    model: BehaviorBinding
    shifts: dict[str, np.ndarray]
    scales: dict[str, float]
    history: list[dict[str, float]]
    contents: np.ndarray

    def __post_init__(self) -> None:
        self.model.eval()

    @property
    def quantizer(self) -> SharedResidual:
        """The codebooks, which quantize the result of `latents`."""
        books = [book.detach().numpy() for book in self.model.codebooks]
        return SharedResidual(books, len(self.shifts) + 1)

    def latents(self, modalities: Modalities, identity: np.ndarray | None = None) -> np.ndarray:
        """Compute the latents of the training items or, with their z_ID [n, E], of any items.

        Returns:
            float32 [n, S * E].
        """
        own = self.model.identity.detach() if identity is None else torch.from_numpy(identity)
        inputs = self.inputs(modalities)
        blocks = []
        with one_thread(), torch.no_grad():
            for start in range(0, len(own), _BLOCK):
                block = slice(start, start + _BLOCK)
                behavior = self.model.encode(take(inputs, block)).behavior
                blocks.append(self.model.segments(behavior, own[block]).flatten(1))
        return torch.cat(blocks).numpy()

    def identity_for(self, new: Modalities, how: str) -> np.ndarray:
        """Estimate z_ID of new items, float32 [n, E]; see `queries_of_new`."""
        trained = self.model.identity.detach().numpy()
        return queries_of_new(trained, self.contents, self.contents_of(new), how)

    def contents_of(self, modalities: Modalities) -> np.ndarray:
        """Compute the modalities' behavior latents, zeros for a missing one. [n, (S - 1) E]"""
        present = np.stack([modalities[name][1] for name in self.shifts], axis=1)
        size = self.model.identity.size(1)
        none = np.zeros((len(present), size), np.float32)
        return self.latents(modalities, none)[:, :-size] * np.repeat(present, size, axis=1)

    def inputs(self, modalities: Modalities) -> Inputs:
        """Standardize the vectors; those of items without the modality are zero, the mean."""
        inputs = {}
        for name, shift in self.shifts.items():
            vectors, present = modalities[name]
            there = torch.from_numpy(present)
            scaled = torch.from_numpy((vectors - shift) * np.float32(self.scales[name]))
            inputs[name] = (scaled * there[:, None], there)
        return inputs

    def state(self) -> dict[str, Any]:
        """Return the state for `save_checkpoint` and `from_state`."""
        return {
            "settings": self.model.settings.model_dump(),
            "n_items": len(self.model.identity),
            "codebook_sizes": [len(book) for book in self.model.codebooks],
            "weights": dict(self.model.state_dict()),
            "modalities": list(self.shifts),  # their order is that of the segments
            "shifts": self.shifts,
            "scales": self.scales,
            "history": self.history,
            "contents": self.contents,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Binder:
        """Restore a binder from the result of `state`."""
        names = state["modalities"]
        shifts, scales = ({name: state[of][name] for name in names} for of in ("shifts", "scales"))
        dimensions = {name: len(shift) for name, shift in shifts.items()}
        settings = BBQSettings(**state["settings"])
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
            model = BehaviorBinding(state["n_items"], dimensions, state["codebook_sizes"], settings)
        model.load_state_dict(state["weights"])
        return cls(model, shifts, scales, state["history"], state["contents"])


def fit_binder(
    modalities: Modalities,
    sequences: TrainingSequences,
    codebook_sizes: Sequence[int],
    settings: BBQSettings,
    *,
    seed: int,
    queries: np.ndarray | None = None,
    folder: Path | None = None,
    show_progress: bool = False,
) -> Binder:
    """Train on all items and on the training histories, on one thread.

    Args:
        modalities: vectors of N items, at least one modality.
        sequences: the training histories.
        codebook_sizes: K sizes S_k.
        settings: settings of the model and of the optimizers.
        seed: seed of the weights and the batches.
        queries: initial z_ID [N, D'], D' <= E, from `cooccurrence_vectors`; None for random ones.
        folder: folder for the state of an unfinished run, which the next run continues.
        show_progress: whether to show a progress bar.

    Raises:
        InputError: the loss is not finite.
    """
    arrays = [array for pair in modalities.values() for array in pair]
    arrays += [sequences.items.numpy(), sequences.lengths.numpy()]
    arrays += [] if queries is None else [queries]
    facts = [settings.model_dump(), list(codebook_sizes), seed, list(modalities)]
    path = None if folder is None else folder / "bbq.training.safetensors"
    kept = FitState(path, stage_hash(facts, arrays))
    with one_thread():
        training = _Training(modalities, sequences, codebook_sizes, settings, seed, queries)
        history = training.binder.history
        state = kept.load()
        if state is None:
            training.start_codebooks(seed)
        else:
            training.load(state)
        done = {"initial": len(history), "total": settings.epochs}
        with Progress(desc="bbq", unit="epoch", disable=not show_progress, **done) as bar:
            while len(history) < settings.epochs:
                history.append(training.epoch())
                bar.update()
                bar.set_postfix(loss=f"{history[-1]['total']:.4f}")
                if not np.isfinite(history[-1]["total"]):
                    raise InputError(
                        f"streams: bbq: the loss is not finite in epoch {len(history)}; decrease "
                        "bbq.learning_rate, or increase bbq.temperature"
                    )
                kept.keep(training.state())
        training.model.settle(training.inputs)
    training.binder.contents = training.binder.contents_of(modalities)
    return training.binder


class _Training:
    """Training state of one fit."""

    def __init__(
        self,
        modalities: Modalities,
        sequences: TrainingSequences,
        codebook_sizes: Sequence[int],
        settings: BBQSettings,
        seed: int,
        queries: np.ndarray | None,
    ):
        self.settings, self.sequences = settings, sequences
        shifts, scales = {}, {}
        for name, (vectors, present) in modalities.items():
            shifts[name], scales[name] = _moments(vectors[present], vectors.shape[1])
        self.n_items = len(next(iter(modalities.values()))[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            dimensions = {name: len(shift) for name, shift in shifts.items()}
            self.model = BehaviorBinding(self.n_items, dimensions, codebook_sizes, settings)
        if queries is not None:
            with torch.no_grad():
                self.model.identity.zero_()
                self.model.identity[:, : queries.shape[1]] = torch.from_numpy(queries)
        self.binder = Binder(self.model, shifts, scales, [], np.empty((0, 0), np.float32))
        self.inputs = self.binder.inputs(modalities)
        named = list(self.model.named_parameters())
        gaussians = [each for name, each in named if name.startswith("gaussians.")]
        others = [each for name, each in named if not name.startswith("gaussians.")]

        def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            rate, decay = settings.learning_rate, settings.weight_decay
            return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)

        self.optimizer, self.of_gaussians = adam(others), adam(gaussians)
        self.generator = torch.Generator().manual_seed(seed)

    def start_codebooks(self, seed: int) -> None:
        """Initialize the shared codebooks by residual k-means on all latents."""
        latents = self._latents()
        sizes = [len(book) for book in self.model.codebooks]
        found = initial_codebooks(latents.numpy(), sizes, seed)
        for book, centers in zip(self.model.codebooks, found, strict=True):
            book.data[: len(centers)] = torch.from_numpy(centers).to(book.dtype)
        fewer = zip(found, sizes, strict=True)
        self._restart([torch.arange(len(centers), size) for centers, size in fewer])

    def epoch(self) -> dict[str, float]:
        """Train for one epoch; return the mean of each loss term over the items, and `total`."""
        self.model.train()
        order = torch.randperm(self.n_items, generator=self.generator)
        n_batches = max(1, round(self.n_items / self.settings.batch_size))
        counts = [torch.zeros(len(book), dtype=torch.int64) for book in self.model.codebooks]
        sums: dict[str, float] = {}
        for share in order.tensor_split(n_batches):
            terms, codes = self._step(share)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value * len(share) / len(order)
            for count, chosen in zip(counts, codes.T, strict=True):
                count.add_(torch.bincount(chosen, minlength=len(count)))
        if len(self.binder.history) + 1 <= (1 - SETTLED_SHARE) * self.settings.epochs:
            self._restart([(count == 0).nonzero().squeeze(1) for count in counts])
        self.model.eval()
        return sums

    def state(self) -> dict[str, Any]:
        """Return the state for `load`."""
        return {
            "weights": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "of_gaussians": self.of_gaussians.state_dict(),
            "generator": self.generator.get_state(),
            "history": self.binder.history,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.of_gaussians.load_state_dict(state["of_gaussians"])
        self.generator.set_state(state["generator"])
        self.binder.history[:] = state["history"]

    def _step(self, share: Tensor) -> tuple[dict[str, float], Tensor]:
        """Make one step of both optimizers; return the loss terms and the codes."""
        most, users = self.settings.history + 1, self.settings.users_per_step
        sequences, lengths = self.sequences.draw(users, most, self.generator)
        rows = torch.unique(torch.cat([share, sequences.flatten()]))
        inputs = take(self.inputs, rows)
        latents = self.model.encode(inputs)
        surprise = self.model.surprise(latents, inputs)
        self.of_gaussians.zero_grad(set_to_none=True)  # also those of the loss of the step before
        surprise.backward()
        self.of_gaussians.step()
        places = torch.searchsorted(rows, sequences)
        chance = torch.rand(len(rows), len(inputs), generator=self.generator)
        kept = chance >= self.settings.specific_dropout
        terms, codes = self.model.loss(latents, inputs, rows, places, lengths, kept)
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.optimizer.step()
        found = {name: float(value.detach()) for name, value in {**terms, "total": total}.items()}
        return found, codes

    @torch.no_grad()
    def _latents(self) -> Tensor:
        """Compute all latents that exist, [m, E], in the order of items and segments."""
        trains = self.model.training
        self.model.settle(self.inputs)
        self.model.eval()
        behavior = self.model.encode(self.inputs).behavior
        stacked = self.model.segments(behavior, self.model.identity)
        self.model.train(trains)
        masks = [present for _, present in self.inputs.values()]
        return stacked[torch.stack([*masks, torch.ones_like(masks[0])], dim=1)]

    @torch.no_grad()
    def _restart(self, dead: Sequence[Tensor]) -> None:
        """Set each level's dead codewords to residuals of random latents."""
        if not any(len(codes) for codes in dead):
            return
        residual = self._latents()
        for codebook, codes in zip(self.model.codebooks, dead, strict=True):
            drawn = torch.randint(len(residual), (len(codes),), generator=self.generator)
            codebook[codes] = residual[drawn]
            residual = residual - codebook[choose(residual, codebook)]


def _moments(vectors: np.ndarray, dimension: int) -> tuple[np.ndarray, float]:
    """Return the mean [D_m] of vectors, and 1 over the root of their mean variance."""
    if not len(vectors):
        return np.zeros(dimension, np.float32), 1.0
    mean = vectors.mean(axis=0, dtype=np.float64)
    deviation = float(np.sqrt(((vectors - mean) ** 2).mean()))
    return mean.astype(np.float32), 1.0 / deviation if deviation > 1e-6 else 1.0
