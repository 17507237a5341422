"""Full-ranking evaluation in two columns, from one pass over the scores.

Each row has one relevant item, so every metric is a function of that item's rank. Two ranks are
kept: among all items (the paper's column) and with the items the user has already seen taken out
(`unseen_`). Items with the target's very score count as ranked before it: a model that scores all
items alike gets no hit. B rows, N items.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from torch import Tensor
from torch.nn.functional import pad

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import write_npz
from recbole_qbert.common.process_group import sum_over_processes, world

UNSEEN = "unseen_"
RANKS_FILE = "test_ranks.npz"  # in a run's folder
LIST_LENGTH = 10  # best items that are kept of each test row

# One relevant item: recall is hit, average precision and MRR are 1 / rank.
METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "hit": lambda rank, k: (rank <= k).astype(float),
    "recall": lambda rank, k: (rank <= k).astype(float),
    "precision": lambda rank, k: (rank <= k) / k,
    "ndcg": lambda rank, k: np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0),
    "mrr": lambda rank, k: np.where(rank <= k, 1.0 / rank, 0.0),
    "map": lambda rank, k: np.where(rank <= k, 1.0 / rank, 0.0),
}


class Lists(NamedTuple):
    """What ranks alone do not tell: the targets and the best k items of each row.

    A list holds 0 where there are fewer candidates; which of several items with one score come in
    at its end is left open.
    """

    targets: np.ndarray  # item ids [rows]
    history: np.ndarray  # items before the target [rows]
    raw: np.ndarray  # the best of all items, best first [rows, k]
    unseen: np.ndarray  # the best of the items the user has not seen, and the target [rows, k]


class Ranks(NamedTuple):
    """Rank of each row's target, counted from 1. Arrays of shape [rows]."""

    users: np.ndarray  # internal user ids
    raw: np.ndarray  # among all items
    unseen: np.ndarray  # among the items the user has not seen, and the target
    lists: Lists | None = None


def target_ranks(
    scores: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Ranks of the targets among all items and among unseen ones.

    To a user who has seen every item nothing unseen can be recommended: that target is last in the
    second column.

    Args:
        scores: [B, N]; column 0 is padding and ignored.
        targets: [B] item ids.
        seen: row numbers [S] and item ids [S] of what each row's user has seen; a pair may occur
            more than once, and a seen target stays a candidate.

    Returns:
        two int64 tensors [B]. 0 in the first marks a row whose scores are all infinite or no
        numbers; `check_ranked` is for when those of all processes are together.
    """
    n_items = scores.size(1) - 1
    own = scores.gather(1, targets.unsqueeze(1))  # [B, 1]
    ahead = ~(scores < own)  # the target itself included; a score that is no number counts as ahead
    ahead[:, 0] = False
    ranked = torch.isfinite(scores[:, 1:]).any(dim=1)
    nothing_new = saw_all(seen, len(scores), n_items)
    if nothing_new.any():  # a model may leave all of them out, and has not diverged
        ranked[nothing_new] |= ~scores[nothing_new, 1:].isnan().any(dim=1)
    raw = ahead.sum(dim=1) * ranked
    ahead[seen] = False
    unseen = ahead.scatter_(1, targets.unsqueeze(1), True).sum(dim=1)
    return raw, unseen.masked_fill(nothing_new, n_items)


def saw_all(seen: tuple[Tensor, Tensor], n_rows: int, n_items: int) -> Tensor:
    """Rows whose user has seen every item, the target included; bool [B].

    Args:
        seen: as in `target_ranks`.
        n_rows: B.
        n_items: without padding.
    """
    rows, items = seen
    full = torch.bincount(rows, minlength=n_rows) >= n_items
    if full.any():
        own = full[rows]
        pairs = torch.unique(rows[own] * (n_items + 1) + items[own])
        full = torch.bincount(pairs // (n_items + 1), minlength=n_rows) >= n_items
    return full


def check_ranked(raw: np.ndarray) -> None:
    """Refuse ranks among which are marks of `target_ranks`.

    Raises:
        InputError: there are such.
    """
    if not raw.all():
        raise InputError("a row of scores has no finite value: the model has diverged")


def best_items(
    scores: Tensor, targets: Tensor, seen: tuple[Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor]:
    """The best k of all items and of unseen ones, as `target_ranks` counts them.

    Args:
        scores: [B, N].
        targets: [B].
        seen: as there.
        k: length of the lists.

    Returns:
        two int64 tensors [B, k] of item ids, best first; 0 behind the last candidate.
    """
    own = scores.gather(1, targets.unsqueeze(1))
    candidates = scores.clone()
    candidates[:, 0] = -math.inf
    raw = _best(candidates, k)
    candidates[seen] = -math.inf
    return raw, _best(candidates.scatter_(1, targets.unsqueeze(1), own), k)


def _best(scores: Tensor, k: int) -> Tensor:
    """Columns of the k highest scores [B, k]; 0 where a score is -inf or there is no column."""
    values, items = scores.topk(min(k, scores.size(1)), dim=1)
    return pad(items.masked_fill(values == -math.inf, 0), (0, k - items.size(1)))


@torch.no_grad()
def rank_targets(
    model: Any,
    loader: FullSortEvalDataLoader,
    device: torch.device,
    wrap: Callable[[Iterable[Any]], Iterable[Any]] = iter,
    top_k: int = 0,
    score: Callable[[Any], Tensor] | None = None,
) -> Ranks:
    """Rank every row's target of a full-sort loader.

    Of several processes each ranks its share of the batches, and all return all ranks.

    Args:
        model: a model of RecBole's.
        loader: RecBole's loader over a `SemanticIDDataset`.
        device: where the model lies.
        wrap: put around the loader, for a progress bar.
        top_k: length of the lists of best items; 0 keeps none.
        score: in place of the model's `full_sort_predict(interaction) -> [B, N]`.

    Raises:
        InputError: a row's scores are all infinite or no numbers.
    """
    model.eval()
    score = score or model.full_sort_predict
    process, n_processes = world()
    # [3, B] each, the fields of `Ranks`; with lists [5 + 2 x top_k, B], theirs behind them.
    parts = []
    n_fields = 3 + (2 + 2 * top_k if top_k else 0)
    dataset = loader._dataset  # `loader.dataset` is answered by a global flag of RecBole's
    for number, (interaction, _, _, targets) in enumerate(wrap(loader)):
        if number % n_processes != process:
            parts.append(torch.zeros(n_fields, len(targets), dtype=torch.long, device=device))
            continue
        rows, items = (each.to(device) for each in dataset.seen_items(interaction))
        targets = targets.to(device)
        scores = score(interaction.to(device)).view(len(targets), -1)
        ranks = target_ranks(scores, targets, (rows, items))
        users = interaction[dataset.uid_field].to(device)
        fields = [users, *ranks]
        if top_k:
            fields += [targets, torch.bincount(rows, minlength=len(targets))]
            raw, unseen = best_items(scores, targets, (rows, items), top_k)
            fields += [*raw.T, *unseen.T]
        parts.append(torch.stack(fields))
    together = sum_over_processes(torch.cat(parts, dim=1)).cpu().numpy()
    check_ranked(together[1])
    users, own_raw, own_unseen = together[:3]
    lists = None
    if top_k:
        best = together[5:].T  # [rows, 2 x top_k]
        lists = Lists(together[3], together[4], best[:, :top_k], best[:, top_k:])
    return Ranks(users, own_raw, own_unseen, lists)


def save_ranks(path: str | Path, ranks: Ranks, item_counts: np.ndarray) -> None:
    """Each row's two ranks and lists, for paired tests, buckets and coverage.

    Args:
        path: `.npz` file.
        ranks: with lists.
        item_counts: how often each item occurs in training [N].
    """
    assert ranks.lists is not None
    targets, history, top, unseen_top = (part.astype(np.int32) for part in ranks.lists)
    write_npz(
        path,
        users=ranks.users,
        raw=ranks.raw,
        unseen=ranks.unseen,
        targets=targets,
        history=history,
        top=top,
        unseen_top=unseen_top,
        item_counts=item_counts,
    )


def read_ranks(path: str | Path) -> tuple[Ranks, np.ndarray | None]:
    """What `save_ranks` wrote, and the training counts of all items [N].

    Files from before there were lists have neither lists nor counts.

    Raises:
        InputError: missing, or no such file.
    """
    try:
        with np.load(path) as stored:
            ranks = Ranks(stored["users"], stored["raw"], stored["unseen"])
            if "targets" not in stored:
                return ranks, None
            fields = ("targets", "history", "top", "unseen_top")
            lists = Lists(*(stored[name] for name in fields))
            return ranks._replace(lists=lists), stored["item_counts"]
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; the run's folder must be where it was made"
        ) from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not the ranks of a run ({error}); make it again") from None


def metric_names(metrics: Sequence[str], topk: Sequence[int]) -> list[str]:
    """`hit@1`, ... in the order asked; both columns' names share them."""
    return [f"{metric.lower()}@{k}" for metric in metrics for k in topk]


def per_row(name: str, ranks: Ranks) -> np.ndarray:
    """One metric's value for every row. `unseen_ndcg@10` is the seen-excluded column. [rows]"""
    column = ranks.unseen if name.startswith(UNSEEN) else ranks.raw
    metric, k = name.removeprefix(UNSEEN).split("@")
    return METRICS[metric](column, int(k))


def summarize(ranks: Ranks, metrics: Sequence[str], topk: Sequence[int]) -> dict[str, float]:
    """Means over rows of every metric in both columns, unrounded."""
    names = metric_names(metrics, topk)
    names += [UNSEEN + name for name in names]
    return {name: math.fsum(per_row(name, ranks)) / len(ranks.raw) for name in names}
