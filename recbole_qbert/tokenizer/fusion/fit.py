"""Training of stage 1, and its application to training items and to new items.

Shapes: N training items, n items, M modalities, J parts of a modality, D_m dimensions of a
modality, D hidden size, S maximum depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.nearest import nearest_items, unit_rows
from recbole_qbert.common.progress import Progress
from recbole_qbert.tokenizer.fusion.model import CrossModalInjection, InjectionSettings
from recbole_qbert.tokenizer.quantizers.base import one_thread
from recbole_qbert.tokenizer.stages import stage_hash
from recbole_qbert.training.resume import FitState

N_NEIGHBORS = 10
_BLOCK = 4096  # items fused at once at inference

Parts = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Maps each modality to its vectors [N, J, D_m] and a mask bool [N, J], True for parts with one."""


@dataclass
class Injector:
    """Frozen stage 1 after training.

    Attributes:
        model: the trained blocks, projections and queries [N, D].
        centers: for each modality, the mean vector [D_m] of the training items.
        contents: result of `contents_of` for the training items, float32 [N, M * D].
        history: for each epoch, the value of each loss term.
    """

    model: CrossModalInjection
    centers: dict[str, np.ndarray]
    contents: np.ndarray
    history: list[dict[str, float]]

    def __post_init__(self) -> None:
        self.model.eval()

    @one_thread()
    def fuse(self, parts: Parts, queries: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """Fuse the parts of the training items or, with `queries` [n, D], of any items.

        Returns:
            Fused vectors h, float32 [n, D], and the depth of each item, int64 [n], from 1 to S.
        """
        query = self.model.query.detach() if queries is None else torch.from_numpy(queries)
        centered = to_tensors(parts, self.centers)
        fused, depths = [], []
        with torch.no_grad():
            for start in range(0, len(query), _BLOCK):
                block = slice(start, start + _BLOCK)
                injected = self.model(query[block], take(centered, block), hard=True)
                fused.append(injected.fused)
                depths.append(injected.depth_probability.argmax(dim=1) + 1)
        return torch.cat(fused).numpy(), torch.cat(depths).numpy()

    def queries_for(self, new: Parts, how: str) -> np.ndarray:
        """Estimate the ID vectors of new items, float32 [n, D]; see `queries_of_new`."""
        trained = self.model.query.detach().numpy()
        return queries_of_new(trained, self.contents, self.contents_of(new), how)

    def contents_of(self, parts: Parts) -> np.ndarray:
        """Compute the content vectors of items, float32 [n, M * D]; see the function."""
        return contents_of(self.model, to_tensors(parts, self.centers))

    def state(self) -> dict[str, Any]:
        """Return the state for `save_checkpoint` and `from_state`."""
        dimensions = {name: layer.in_features for name, layer in self.model.projections.items()}
        return {
            "fusion": InjectionSettings.section,
            "settings": self.model.settings.model_dump(),
            "n_items": len(self.model.query),
            "dimensions": dimensions,
            "weights": dict(self.model.state_dict()),
            "centers": self.centers,
            "contents": self.contents,
            "history": self.history,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Injector:
        """Restore an injector from the result of `state`."""
        settings = InjectionSettings(**state["settings"])
        with torch.random.fork_rng(devices=[]):  # its random weights are replaced
            model = CrossModalInjection(state["n_items"], state["dimensions"], settings)
        model.load_state_dict(state["weights"])
        return cls(model, state["centers"], state["contents"], state["history"])


def queries_of_new(
    trained: np.ndarray, contents: np.ndarray, found: np.ndarray, how: str
) -> np.ndarray:
    """Estimate the vectors of new items, which have no trained ones.

    Args:
        trained: [N, D] vectors of the training items, or of these and of others after them.
        contents: [N, C] their contents.
        found: [n, C] contents of the new items.
        how: `mean`: the mean of all training items | `neighbors`: that of the 10 which are nearest
            in content (cosine), or `mean` for an item whose contents are zeros.

    Returns:
        [n, D].
    """
    mean = trained.mean(axis=0, keepdims=True)
    if how == "mean":
        return np.repeat(mean, len(found), axis=0)
    rows, _ = nearest_items(contents, N_NEIGHBORS, found)
    return np.where(found.any(axis=1, keepdims=True), trained[rows].mean(axis=1), mean)


@one_thread()
def fit_injector(
    parts: Parts,
    settings: InjectionSettings,
    *,
    seed: int,
    queries: np.ndarray | None = None,
    folder: Path | None = None,
    show_progress: bool = False,
) -> Injector:
    """Train stage 1 on all items.

    The result depends on the order of the items; callers sort them by token.

    Args:
        parts: see `Parts`; float32.
        settings: settings of the model and of the optimizer.
        seed: seed of the weights, the random queries and the batches.
        queries: initial ID vectors [N, D'], D' <= D, such as those of `cooccurrence_vectors`;
            columns from D' on start at zero. None for random ones.
        folder: folder for the state of an unfinished run, which the next run continues.
        show_progress: whether to show a progress bar.

    Raises:
        InputError: no item has a vector, or the loss is not finite.
    """
    n_items = len(next(iter(parts.values()))[0])
    if not any(present.any() for _, present in parts.values()):
        raise InputError("stage 1: no item has a vector; compute embeddings of these items")
    centers = {name: center(*pair) for name, pair in parts.items()}
    centered = to_tensors(parts, centers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        dimensions = {name: pair[0].shape[2] for name, pair in parts.items()}
        model = CrossModalInjection(n_items, dimensions, settings)
    if queries is not None:
        with torch.no_grad():
            model.query.zero_()
            model.query[:, : queries.shape[1]] = torch.from_numpy(queries)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []

    path = None if folder is None else folder / "stage1.training.safetensors"
    arrays = [array for pair in parts.values() for array in pair]
    arrays += [] if queries is None else [queries]
    kept = FitState(path, stage_hash([settings.model_dump(), seed, list(parts)], arrays))
    state = kept.load()
    if state is not None:
        model.load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        history = state["history"]
    done = {"initial": len(history), "total": settings.epochs}
    bar = Progress(desc="stage 1", unit="epoch", disable=not show_progress, **done)
    with bar:
        while len(history) < settings.epochs:
            history.append(_train_epoch(model, optimizer, centered, settings.batch_size, generator))
            total = history[-1]["total"]
            bar.update()
            bar.set_postfix(loss=f"{total:.4f}")
            if not np.isfinite(total):
                raise InputError(
                    f"stage 1: the loss is not finite in epoch {len(history)}; decrease "
                    "injection.learning_rate, or increase injection.temperature"
                )
            state = {"weights": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
            kept.keep({**state, "generator": generator.get_state(), "history": history})
    return Injector(model, centers, contents_of(model, centered), history)


@one_thread()
def contents_of(
    model: CrossModalInjection, parts: Mapping[str, tuple[Tensor, Tensor]]
) -> np.ndarray:
    """Compute the content vectors of items, float32 [n, M * D].

    They are the projected modalities, normalized and concatenated; zeros for a missing one.
    """
    blocks = []
    with torch.no_grad():
        for name, projection in model.projections.items():  # in the order of the training
            vectors, present = parts[name]
            projected = projection(vectors) * present.unsqueeze(2)
            blocks.append(unit_rows(projected.sum(dim=1).numpy()))
    return np.concatenate(blocks, axis=1)


def to_tensors(parts: Parts, centers: Mapping[str, np.ndarray]) -> dict[str, tuple[Tensor, Tensor]]:
    """Normalize the vectors, subtract the centers, and convert them to tensors.

    Pretrained encoders map all items into a narrow cone. Subtracting its axis leaves the
    differences between items.
    """
    tensors = {}
    for name, (vectors, present) in parts.items():
        unit = _unit_parts(vectors) - centers[name]
        tensors[name] = (torch.from_numpy(unit), torch.from_numpy(present))
    return tensors


def take(parts: Mapping[str, tuple[Tensor, Tensor]], rows: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Select rows of each modality."""
    return {name: (vectors[rows], present[rows]) for name, (vectors, present) in parts.items()}


def _unit_parts(vectors: np.ndarray) -> np.ndarray:
    n_items, n_parts, dimension = vectors.shape
    return unit_rows(vectors.reshape(-1, dimension)).reshape(n_items, n_parts, dimension)


def center(vectors: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Compute the mean of the normalized present vectors, [D_m]; zeros if there are none."""
    if not present.any():
        return np.zeros(vectors.shape[2], dtype=np.float32)
    return _unit_parts(vectors)[present].mean(axis=0, dtype=np.float64).astype(np.float32)


def _train_epoch(
    model: CrossModalInjection,
    optimizer: torch.optim.Optimizer,
    parts: Mapping[str, tuple[Tensor, Tensor]],
    batch_size: int,
    generator: torch.Generator,
) -> dict[str, float]:
    """Train for one epoch; return the mean of each loss term over the items, and `total`."""
    order = torch.randperm(len(model.query), generator=generator)
    # Batches of nearly equal size, because InfoNCE needs negatives in the last batch too.
    n_batches = max(1, round(len(order) / batch_size))
    sums: dict[str, float] = {}
    for rows in order.tensor_split(n_batches):
        terms = model.loss(model.query[rows], take(parts, rows))
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        for name, value in {**terms, "total": loss}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(rows) / len(order)
    return sums
