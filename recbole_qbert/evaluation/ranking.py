"""Full-ranking evaluation in two columns, from one pass over the scores.

Each row has one relevant item, so every metric is a function of that item's rank. Two ranks are
kept: among all items (the paper's column) and with the items the user has already seen taken out
(`unseen_`). Items with the target's very score count as ranked before it: a model that scores all
items alike gets no hit. B rows, N items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor

from recbole_qbert.distributed import sum_over_processes, world
from recbole_qbert.errors import InputError

UNSEEN = "unseen_"

# One relevant item: recall is hit, average precision and MRR are 1 / rank.
METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "hit": lambda rank, k: (rank <= k).astype(float),
    "recall": lambda rank, k: (rank <= k).astype(float),
    "precision": lambda rank, k: (rank <= k) / k,
    "ndcg": lambda rank, k: np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0),
    "mrr": lambda rank, k: np.where(rank <= k, 1.0 / rank, 0.0),
    "map": lambda rank, k: np.where(rank <= k, 1.0 / rank, 0.0),
}


class Ranks(NamedTuple):
    """Rank of each row's target, counted from 1. Arrays of shape [rows]."""

    users: np.ndarray  # internal user ids
    raw: np.ndarray  # among all items
    unseen: np.ndarray  # among the items the user has not seen, and the target


def target_ranks(
    scores: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Ranks of the targets among all items and among unseen ones.

    Args:
        scores: [B, N]; column 0 is padding and ignored.
        targets: [B] item ids.
        seen: row numbers [S] and item ids [S] of what each row's user has seen; a pair may occur
            more than once, and a seen target stays a candidate.

    Returns:
        two int64 tensors [B].
    """
    own = scores.gather(1, targets.unsqueeze(1))  # [B, 1]
    ahead = ~(scores < own)  # the target itself included; a score that is no number counts as ahead
    ahead[:, 0] = False
    raw = ahead.sum(dim=1)
    ahead[seen] = False
    return raw, ahead.scatter_(1, targets.unsqueeze(1), True).sum(dim=1)


@torch.no_grad()
def rank_targets(
    model: Any,
    loader: FullSortEvalDataLoader,
    device: torch.device,
    wrap: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Ranks:
    """Rank every row's target of a full-sort loader.

    Of several processes each ranks its share of the batches, and all return all ranks.

    Args:
        model: anything with `full_sort_predict(interaction) -> [B, N]`.
        loader: RecBole's loader over a `SemanticIDDataset`.
        device: where the model lies.
        wrap: put around the loader, for a progress bar.

    Raises:
        InputError: a row's scores are all infinite or no numbers.
    """
    model.eval()
    process, n_processes = world()
    parts = []  # [3, B] each, the fields of `Ranks`
    dataset = loader._dataset  # `loader.dataset` is answered by a global flag of RecBole's
    for number, (interaction, _, _, targets) in enumerate(wrap(loader)):
        if number % n_processes != process:
            parts.append(torch.zeros(3, len(targets), dtype=torch.long, device=device))
            continue
        rows, items = dataset.seen_items(interaction)
        scores = model.full_sort_predict(interaction.to(device)).view(len(targets), -1)
        ranks = target_ranks(scores, targets.to(device), (rows.to(device), items.to(device)))
        users = interaction[dataset.uid_field].to(device)
        # Rank 0 marks a row that cannot be ranked, so that all processes learn of it.
        ranked = torch.isfinite(scores[:, 1:]).any(dim=1)
        parts.append(torch.stack([users, ranks[0] * ranked, ranks[1]]))
    together = sum_over_processes(torch.cat(parts, dim=1))
    if not together[1].all():
        raise InputError("a row of scores has no finite value: the model has diverged")
    return Ranks(*together.cpu().numpy())


def metric_names(metrics: Sequence[str], topk: Sequence[int]) -> list[str]:
    """`hit@1`, ... in the order asked; both columns' names share them."""
    return [f"{metric.lower()}@{k}" for metric in metrics for k in topk]


def per_row(name: str, ranks: Ranks) -> np.ndarray:
    """One metric's value for every row. `unseen_ndcg@10` is the seen-excluded column. [rows]"""
    column = ranks.unseen if name.startswith(UNSEEN) else ranks.raw
    metric, k = name.removeprefix(UNSEEN).split("@")
    return METRICS[metric](column, int(k))


def summarise(ranks: Ranks, metrics: Sequence[str], topk: Sequence[int]) -> dict[str, float]:
    """Means over rows of every metric in both columns, unrounded."""
    names = metric_names(metrics, topk)
    names += [UNSEEN + name for name in names]
    return {name: math.fsum(per_row(name, ranks)) / len(ranks.raw) for name in names}
