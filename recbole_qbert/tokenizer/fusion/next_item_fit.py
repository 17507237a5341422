"""Training of the stage 1 that learns the next item, and its application to items.

Each step takes the histories of some users. It scores all items or, in a larger catalog, those of
the histories and a random sample of others, with the correction of `sample_catalog`. The last two
items of each user, the validation and the test target, are in no history.

Shapes: N training items, n items, A dimensions of a co-occurrence vector, D_m dimensions of a
modality, D hidden, M modalities, S depths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.nearest import measurable
from recbole_qbert.common.progress import Progress
from recbole_qbert.models.layers.catalog_sample import sample_catalog
from recbole_qbert.tokenizer.fusion.fit import Parts, center, queries_of_new
from recbole_qbert.tokenizer.fusion.next_item import (
    Inputs,
    NextItemFusion,
    NextItemSettings,
    pooled,
)
from recbole_qbert.tokenizer.fusion.sequences import TrainingSequences
from recbole_qbert.tokenizer.quantizers.base import one_thread
from recbole_qbert.tokenizer.stages import stage_hash
from recbole_qbert.training.resume import FitState

WARMUP_STEPS, WARMUP_SHARE = 40, 0.1  # the smaller one of both
LEAST_BATCHES, LEAST_USERS = 6, 16  # steps of an epoch, and users of a step, in a small data set
LARGEST_GRADIENT = 5.0
_BLOCK = 4096  # items fused at once at inference


@dataclass
class NextItemStage:
    """Frozen stage 1 after training.

    Attributes:
        model: the trained network.
        centers: for each modality, the mean of the normalized vectors [D_m] of the training items.
        behavior: co-occurrence vectors of the training items, float32 [N, A].
        contents: result of `contents_of` for the training items, float32 [N, M * D].
        history: for each epoch, the mean value of each loss term.
    """

    model: NextItemFusion
    centers: dict[str, np.ndarray]
    behavior: np.ndarray
    contents: np.ndarray
    history: list[dict[str, float]]

    def __post_init__(self) -> None:
        self.model.eval()

    def fuse(self, parts: Parts, queries: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """Fuse the parts of the training items or, with behavior vectors [n, A], of any items.

        Returns:
            Fused vectors h, float32 [n, D], and the depth of each item, int64 [n]: the mean of the
            depths 1 to S, weighted by their shares and rounded.
        """
        behavior = self.behavior if queries is None else queries
        fused, depths = [], []
        with one_thread(), torch.no_grad():
            for start in range(0, len(behavior), _BLOCK):
                block = slice(start, start + _BLOCK)
                found = self.model(torch.from_numpy(behavior[block]), self.inputs(parts, block))
                fused.append(found.vectors)
                depths.append(found.shares @ torch.arange(1.0, found.shares.size(1) + 1))
        return torch.cat(fused).numpy(), torch.cat(depths).round().long().numpy()

    def queries_for(self, new: Parts, how: str) -> np.ndarray:
        """Estimate the behavior vectors of new items, float32 [n, A]; see `queries_of_new`."""
        return queries_of_new(self.behavior, self.contents, self.contents_of(new), how)

    def contents_of(self, parts: Parts) -> np.ndarray:
        """Compute content vectors, float32 [n, M * D]; those of a missing modality are zeros.

        A modality is projected to the D directions from which it is reconstructed.
        """
        blocks, model = [], self.model
        weights = {name: model.get_parameter(f"decoders.{name}.weight") for name in self.centers}
        with one_thread(), torch.no_grad():
            for start in range(0, len(next(iter(parts.values()))[0]), _BLOCK):
                inputs = self.inputs(parts, slice(start, start + _BLOCK))
                projected = [
                    normalize(pooled(*inputs[name]) @ weight, dim=1)
                    for name, weight in weights.items()
                ]
                blocks.append(torch.cat(projected, dim=1))
        return torch.cat(blocks).numpy()

    def inputs(self, parts: Parts, rows: Any) -> Inputs:
        """Center the vectors of rows, and scale each part to length 1."""
        found = {}
        for name, mean in self.centers.items():
            vectors, present = (each[rows] for each in parts[name])
            unit = normalize(torch.from_numpy(measurable(vectors)), dim=2)
            centered = unit - torch.from_numpy(mean)
            found[name] = (normalize(centered, dim=2), torch.from_numpy(present))
        return found

    def state(self) -> dict[str, Any]:
        """Return the state for `save_checkpoint` and `from_state`."""
        return {
            "fusion": NextItemSettings.section,
            "settings": self.model.settings.model_dump(),
            "dimensions": {name: len(mean) for name, mean in self.centers.items()},
            "weights": dict(self.model.state_dict()),
            "centers": self.centers,
            "behavior": self.behavior,
            "contents": self.contents,
            "history": self.history,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> NextItemStage:
        """Restore a stage from the result of `state`."""
        behavior, settings = state["behavior"], NextItemSettings(**state["settings"])
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
            model = NextItemFusion(behavior.shape[1], state["dimensions"], settings)
        model.load_state_dict(state["weights"])
        return cls(model, state["centers"], behavior, state["contents"], state["history"])


def fit_next_item(
    parts: Parts,
    behavior: np.ndarray,
    sequences: TrainingSequences,
    settings: NextItemSettings,
    *,
    seed: int,
    folder: Path | None = None,
    show_progress: bool = False,
) -> NextItemStage:
    """Train on all items and on the training histories, on one thread.

    All that a step draws depends on the seed and its number, so that a continued run ends as one
    that was never stopped.

    Args:
        parts: see `Parts`; float32, in a fixed order of the items.
        behavior: co-occurrence vectors [N, A] of length 1, or zeros.
        sequences: the training histories.
        settings: settings of the model and of the optimizer.
        seed: seed of the weights and of all draws.
        folder: folder for the state of an unfinished run, which the next run continues.
        show_progress: whether to show a progress bar.

    Raises:
        InputError: no item has a vector, no user has two training interactions, or the loss is not
            finite.
    """
    if not any(present.any() for _, present in parts.values()):
        raise InputError("stage 1: no item has a vector; compute embeddings of these items")
    if not len(sequences.starts):
        raise InputError(
            "stage 1: no user has two training interactions to learn from; set "
            "--fusion=injection, or leave fused out of streams"
        )
    arrays = [array for pair in parts.values() for array in pair]
    arrays += [behavior, sequences.items.numpy(), sequences.lengths.numpy()]
    path = None if folder is None else folder / "stage1.training.safetensors"
    kept = FitState(path, stage_hash([settings.model_dump(), seed, list(parts)], arrays))
    with one_thread(), torch.random.fork_rng(devices=[]):
        training = _Fit(parts, behavior, sequences, settings, seed)
        state = kept.load()
        if state is not None:
            training.load(state)
        done = {"initial": training.step, "total": training.n_steps}
        with Progress(desc="stage 1", unit="step", disable=not show_progress, **done) as bar:
            while training.step < training.n_steps:
                total = training.advance()
                bar.update()
                bar.set_postfix(loss=f"{total:.4f}")
                if not np.isfinite(total):
                    raise InputError(
                        f"stage 1: the loss is not finite in step {training.step}; decrease "
                        "next_item.learning_rate, or increase next_item.temperature"
                    )
                kept.keep(training.state())
    stage = training.stage
    stage.model.eval()
    stage.contents = stage.contents_of(parts)
    return stage


class _Fit:
    """State of one fit."""

    def __init__(
        self,
        parts: Parts,
        behavior: np.ndarray,
        sequences: TrainingSequences,
        settings: NextItemSettings,
        seed: int,
    ):
        self.parts, self.sequences, self.settings, self.seed = parts, sequences, settings, seed
        self.n_items, self.step = len(behavior), 0
        n_users = len(sequences.starts)
        most = max(LEAST_USERS, -(-n_users // LEAST_BATCHES))
        most = min(most, settings.users_per_step)
        self.n_batches = -(-n_users // most)  # steps of an epoch
        self.n_steps = min(settings.epochs * self.n_batches, settings.max_steps)
        torch.manual_seed(seed)
        dimensions = {name: pair[0].shape[2] for name, pair in parts.items()}
        model = NextItemFusion(behavior.shape[1], dimensions, settings)
        centers = {name: center(*pair) for name, pair in parts.items()}
        self.stage = NextItemStage(model, centers, behavior, np.empty((0, 0), np.float32), [])
        rate, decay = settings.learning_rate, settings.weight_decay
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
        absent = _log_absence(sequences.users_of(self.n_items), n_users, n_users / self.n_batches)
        self.log_absence = torch.cat([torch.zeros(1), absent])  # [N + 1], padding first

    def advance(self) -> float:
        """Make one step; return its loss."""
        model, settings = self.stage.model.train(), self.settings
        epoch, batch = divmod(self.step, self.n_batches)
        first = self.seed << 32  # of the seeds of all draws; there are fewer than 2 ** 31 steps
        order = torch.Generator().manual_seed(first + (1 << 31) + epoch)
        users = torch.randperm(len(self.sequences.starts), generator=order)
        users = users.tensor_split(self.n_batches)[batch]
        torch.manual_seed(first + self.step)
        draw, log_chance = torch.default_generator, None
        places, lengths = self.sequences.windows(users, settings.history + 1, draw)
        rows: Any = slice(None)
        if self.n_items > settings.scored_items:
            places, scored, chance = sample_catalog(
                places + 1, settings.scored_items, self.log_absence, draw
            )
            places, rows, log_chance = places - 1, (scored[1:] - 1).numpy(), chance[1:]
        inputs = self.stage.inputs(self.parts, rows)
        behavior = torch.from_numpy(self.stage.behavior[rows])
        fused = model(behavior, inputs).vectors
        terms = model.loss(fused, inputs, places, lengths, log_chance)
        loss = torch.stack(list(terms.values())).sum()
        warm = min(1.0, (self.step + 1) / min(WARMUP_STEPS, 1 + WARMUP_SHARE * self.n_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * warm * (1 - self.step / self.n_steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self._record({**terms, "total": loss}, batch)
        self.step += 1
        return float(loss.detach())

    def _record(self, terms: Mapping[str, Tensor], batch: int) -> None:
        """Add the terms of a step to the means of its epoch."""
        history = self.stage.history
        if not batch:
            history.append(dict.fromkeys(terms, 0.0))
        for name, value in terms.items():
            history[-1][name] += (float(value.detach()) - history[-1][name]) / (batch + 1)

    def state(self) -> dict[str, Any]:
        """Return the state for `load`."""
        return {
            "weights": dict(self.stage.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "history": self.stage.history,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.stage.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.stage.history[:] = state["history"]


def _log_absence(users: Tensor, n_users: int, n_drawn: float) -> Tensor:
    """Compute the log-probability that none of an item's users [N] is among the drawn ones. [N]

    They are drawn without replacement. Windows leave out items of long histories, which is ignored.
    """
    others = (n_users - users).double()
    left = others - n_drawn + 1  # users who are neither drawn nor the item's, plus one
    found = others.add(1).lgamma() - left.lgamma()
    whole = torch.tensor([n_users + 1.0, n_users - n_drawn + 1.0], dtype=torch.float64).lgamma()
    return (found - whole[0] + whole[1]).where(left > 0, -torch.inf).float()
