"""Full-ranking evaluation with two ranks per row, from one pass over the scores.

Each row has one relevant item, so every metric is a function of that item's rank. Two ranks are
computed: among all items (as in the paper), and without the items that the user has already seen
(`unseen_`). Items whose score equals the target's count as ranked before it, so that a model with
equal scores for all items gets no hits. Shapes: B rows, N items, S seen (row, item) pairs.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.evaluator import register as recbole_metrics
from recbole.evaluator.base_metric import TopkMetric
from recbole.utils import EvaluatorType
from torch import Tensor
from torch.nn.functional import pad

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import write_npz
from recbole_qbert.common.process_group import sum_over_processes, world

UNSEEN = "unseen_"
RANKS_FILE = "test_ranks.npz"  # in a run's folder
LIST_LENGTH = 10  # best items stored per test row
SCORES_AT_ONCE = 1 << 27  # 512 MiB: rows of a batch are scored in parts if it has more scores
Pairs = tuple[Tensor, Tensor]  # row numbers and item IDs
Fill = Callable[[Any, Tensor, Pairs], Tensor]  # of a batch, its scores [B, N] and its seen items

# With one relevant item, recall equals hit, and average precision and MRR are 1 / rank.
METRICS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "hit": lambda rank, k: (rank <= k).astype(float),
    "recall": lambda rank, k: (rank <= k).astype(float),
    "precision": lambda rank, k: (rank <= k) / k,
    "ndcg": lambda rank, k: np.where(rank <= k, 1.0 / np.log2(rank + 1.0), 0.0),
    "mrr": lambda rank, k: np.where(rank <= k, 1.0 / rank, 0.0),
    "map": lambda rank, k: np.where(rank <= k, 1.0 / rank, 0.0),
}
# Names of metrics in tables.
TITLES = {
    "hit": "HR",
    "recall": "Recall",
    "precision": "Precision",
    "ndcg": "NDCG",
    "mrr": "MRR",
    "map": "MAP",
}


def register_metric(name: str, function: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Register a metric, which `metrics` and `valid_metric` may then name in any case.

    RecBole looks up metrics by name too, so its tables get an entry, which is never called.

    Args:
        name: name of the metric, without `@`; tables show it as it is given.
        function: maps the targets' ranks [rows], counted from 1, and k to values [rows]. Larger
            values must be better.

    Raises:
        InputError: the name is not a word, or belongs to another metric.
    """
    title, name = name, name.lower()
    if not name.isidentifier() or name.startswith(UNSEEN):
        raise InputError(f"metric {name!r}: use letters, digits and _ only")
    if METRICS.get(name) is function:
        return
    if name in METRICS or name in recbole_metrics.metrics_dict:
        raise InputError(f"metric {name}: this name is already registered; choose another")
    METRICS[name], TITLES[name] = function, title
    recbole_metrics.metric_types[name] = EvaluatorType.RANKING
    recbole_metrics.metric_information[name] = TopkMetric.metric_need
    recbole_metrics.metrics_dict[name] = TopkMetric


class Lists(NamedTuple):
    """Targets and top-k lists of the test rows.

    A list contains 0 where there are fewer candidates. Which of several items with equal scores
    enter at its end is undefined.
    """

    targets: np.ndarray  # [rows] item IDs
    history: np.ndarray  # [rows] number of items before the target
    raw: np.ndarray  # [rows, k] best of all items, best first
    unseen: np.ndarray  # [rows, k] best of the unseen items and the target, best first
    cold: np.ndarray | None = None  # bool [rows], whether `cold_items` drew the target


class Ranks(NamedTuple):
    """Rank of each row's target, counted from 1. Arrays of shape [rows]."""

    users: np.ndarray  # internal user IDs
    raw: np.ndarray  # among all items
    unseen: np.ndarray  # among the unseen items and the target
    lists: Lists | None = None
    credited: np.ndarray | None = None  # of the target's group among all groups of items


def target_ranks(scores: Tensor, targets: Tensor, seen: Pairs) -> tuple[Tensor, Tensor]:
    """Compute the targets' ranks among all items and among unseen items.

    If a user has seen every item, no unseen item can be recommended; the second rank of that target
    is then the last one, N - 1.

    Args:
        scores: [B, N]; column 0 is padding and ignored.
        targets: [B] item IDs.
        seen: row numbers [S] and item IDs [S] of the items that each row's user has seen. Pairs
            may repeat; a seen target remains a candidate.

    Returns:
        Two int64 tensors [B]. 0 in the first marks a row whose scores are all infinite or NaN;
        `check_ranked` detects these after the ranks of all processes are collected.
    """
    n_items = scores.size(1) - 1
    own = scores.gather(1, targets.unsqueeze(1))  # [B, 1]
    ahead = ~(scores < own)  # includes the target itself, and NaN scores
    ahead[:, 0] = False
    ranked = torch.isfinite(scores[:, 1:]).any(dim=1)
    nothing_new = saw_all(seen, len(scores), n_items)
    if nothing_new.any():  # a model may exclude all seen items without having diverged
        ranked[nothing_new] |= ~scores[nothing_new, 1:].isnan().any(dim=1)
    raw = ahead.sum(dim=1) * ranked
    ahead[seen] = False
    unseen = ahead.scatter_(1, targets.unsqueeze(1), True).sum(dim=1)
    return raw, unseen.masked_fill(nothing_new, n_items)


def saw_all(seen: Pairs, n_rows: int, n_items: int) -> Tensor:
    """Return which of B rows' users have seen all of `n_items` items, the target too; bool [B]."""
    rows, items = seen
    full = torch.bincount(rows, minlength=n_rows) >= n_items
    if full.any():
        own = full[rows]
        pairs = torch.unique(rows[own] * (n_items + 1) + items[own])
        full = torch.bincount(pairs // (n_items + 1), minlength=n_rows) >= n_items
    return full


def check_ranked(raw: np.ndarray) -> None:
    """Raise an `InputError` if a rank is the mark 0 of `target_ranks`: the model has diverged."""
    if not raw.all():
        raise InputError(
            "a row of scores has no finite value: the model has diverged; lower learning_rate"
        )


def best_items(scores: Tensor, targets: Tensor, seen: Pairs, k: int) -> tuple[Tensor, Tensor]:
    """Return the best k of all items and of unseen items, where a seen target is a candidate.

    Takes scores [B, N] and the arguments of `target_ranks`. Returns two int64 tensors [B, k] of
    item IDs, best first; 0 after the last candidate.
    """
    own = scores.gather(1, targets.unsqueeze(1))
    candidates = scores.clone()
    candidates[:, 0] = -math.inf
    raw = _best(candidates, k)
    candidates[seen] = -math.inf
    return raw, _best(candidates.scatter_(1, targets.unsqueeze(1), own), k)


def _best(scores: Tensor, k: int) -> Tensor:
    """Return the columns of the k highest scores [B, k]; 0 for a score of -inf or no column."""
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
    by_codes: Callable[..., tuple[Tensor, ...]] | None = None,
    groups: Tensor | None = None,
    fill: Fill | None = None,
) -> Ranks:
    """Rank the target of every row of a full-sort loader.

    In a distributed run each process ranks its share of the batches, and all return all ranks.

    Args:
        model: a RecBole model; set to evaluation mode. If it scores some items only, it can have a
            method `fill_candidates(interaction, scores, seen)`, which returns scores of more items
            where they are too few; see `models.layers.beam_ranking`.
        loader: RecBole's loader of a `SemanticIDDataset`.
        device: device of the model.
        wrap: wraps the loader, for a progress bar.
        top_k: length of the lists of best items; 0 for no lists.
        score: replacement for the model's `full_sort_predict(interaction) -> [B, N]`.
        by_codes: replacement for scores, which takes a batch, its targets, the seen pairs and
            `top_k`; see `indexed_ranks.ranks_by_codes`.
        groups: group of each item [N], 0 for padding; each group is then also ranked by its best
            item (`Ranks.credited`).
        fill: replacement for the model's `fill_candidates`.

    Raises:
        InputError: the scores of a row are all infinite or NaN.
    """
    model.eval()
    score = score or model.full_sort_predict
    fill = fill or getattr(model, "fill_candidates", None)
    process, n_processes = world()
    # Each part is [3, B], the fields of `Ranks`, or with lists [5 + 2 * top_k, B], followed by
    # the fields of `Lists`. With groups, their ranks are the last row. Batches of other processes
    # are zeros, so that the sum collects all.
    parts = []
    n_fields = 3 + (2 + 2 * top_k if top_k else 0) + (groups is not None)
    dataset = loader._dataset  # `loader.dataset` depends on a global flag of RecBole
    step = max(1, SCORES_AT_ONCE // dataset.item_num)
    for number, (interaction, _, _, targets) in enumerate(wrap(loader)):
        if number % n_processes != process:
            parts.append(torch.zeros(n_fields, len(targets), dtype=torch.long, device=device))
            continue
        rows, items = (each.to(device) for each in dataset.seen_items(interaction))
        targets, interaction = targets.to(device), interaction.to(device)
        if by_codes is not None:
            found = by_codes(interaction, targets, (rows, items), top_k)
        else:
            found = _ranks_by_scores(
                score, fill, interaction, targets, (rows, items), top_k, groups, step
            )
        fields = [interaction[dataset.uid_field], *found[:2]]
        if top_k:
            fields += [targets, torch.bincount(rows, minlength=len(targets))]
            fields += [*found[2].T, *found[3].T]
        if groups is not None:
            fields.append(found[-1])
        parts.append(torch.stack(fields))
    together = sum_over_processes(torch.cat(parts, dim=1)).cpu().numpy()
    check_ranked(together[1])
    users, own_raw, own_unseen = together[:3]
    lists = None
    if top_k:
        best = together[5 : 5 + 2 * top_k].T
        lists = Lists(together[3], together[4], best[:, :top_k], best[:, top_k:])
    credited = None if groups is None else together[-1]
    return Ranks(users, own_raw, own_unseen, lists, credited)


def _group_ranks(scores: Tensor, targets: Tensor, groups: Tensor) -> Tensor:
    """Return the rank of each target's group among all groups, each by its best item. [B]"""
    best = scores.new_full((len(scores), int(groups.max()) + 1), -math.inf)
    best.scatter_reduce_(1, groups.expand(len(scores), -1), scores, "amax")
    nothing = targets.new_zeros(0)
    return target_ranks(best, groups[targets], (nothing, nothing))[0]


def _ranks_by_scores(
    score: Callable[[Any], Tensor],
    fill: Fill | None,
    interaction: Any,
    targets: Tensor,
    seen: Pairs,
    top_k: int,
    groups: Tensor | None,
    step: int,
) -> tuple[Tensor, ...]:
    """Return the results of `target_ranks`, `best_items` (if `top_k` is not 0) and `_group_ranks`.

    The rows are scored `step` at a time.
    """
    found = []
    for start in range(0, len(targets), step):
        part = slice(start, start + step)
        inside = (seen[0] >= start) & (seen[0] < start + step)
        known = seen[0][inside] - start, seen[1][inside]
        own = targets[part]
        batch = interaction[part] if step < len(targets) else interaction
        scores = score(batch).view(len(own), -1)
        if fill is not None:
            scores = fill(batch, scores, known)
        results = [*target_ranks(scores, own, known)]
        if top_k:
            results += best_items(scores, own, known, top_k)
        if groups is not None:
            results.append(_group_ranks(scores, own, groups))
        found.append(results)
    return tuple(torch.cat(each) for each in zip(*found, strict=True))


def with_cold(ranks: Ranks, cold_items: np.ndarray | None) -> Ranks:
    """Mark the rows whose target is in `cold_items`, bool [N]; None: leave the ranks unchanged."""
    if cold_items is None or ranks.lists is None:
        return ranks
    return ranks._replace(lists=ranks.lists._replace(cold=cold_items[ranks.lists.targets]))


def save_ranks(path: str | Path, ranks: Ranks, item_counts: np.ndarray) -> None:
    """Save ranks with lists, and the items' numbers of training occurrences [N], as `.npz`."""
    assert ranks.lists is not None
    *own_lists, cold = ranks.lists
    targets, history, top, unseen_top = (part.astype(np.int32) for part in own_lists)
    lists = dict(targets=targets, history=history, top=top, unseen_top=unseen_top)
    lists |= {} if cold is None else {"cold": cold}
    own = dict(users=ranks.users, raw=ranks.raw, unseen=ranks.unseen)
    write_npz(path, **own, **lists, item_counts=item_counts)


def read_ranks(path: str | Path) -> tuple[Ranks, np.ndarray | None]:
    """Read a file of `save_ranks`: the ranks, and the training counts of all items [N].

    Files of older versions have neither lists nor counts; both are None then.

    Raises:
        InputError: the file is missing, or is not a file of ranks.
    """
    try:
        with np.load(path) as stored:
            ranks = Ranks(stored["users"], stored["raw"], stored["unseen"])
            if "targets" not in stored:
                return ranks, None
            fields = ("targets", "history", "top", "unseen_top")
            lists = Lists(*(stored[name] for name in fields))
            lists = lists._replace(cold=stored.get("cold"))
            return ranks._replace(lists=lists), stored["item_counts"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; was the run's folder moved?") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a file of ranks ({error}); repeat the run") from None


def metric_names(metrics: Sequence[str], topk: Sequence[int]) -> list[str]:
    """Return metric names such as `hit@1`, in the given order; both rankings use them."""
    return [f"{metric.lower()}@{k}" for metric in metrics for k in topk]


def metric_key(text: str) -> str:
    """Return the name of a metric as results store it: `HR@10` -> `hit@10`."""
    return re.sub(rf"^({UNSEEN})?hr@", r"\1hit@", text.lower())


def per_row(name: str, ranks: Ranks) -> np.ndarray:
    """Compute one metric for every row, [rows]. `unseen_ndcg@10` excludes seen items."""
    column = ranks.unseen if name.startswith(UNSEEN) else ranks.raw
    metric, k = name.removeprefix(UNSEEN).split("@")
    return METRICS[metric](column, int(k))


def summarize(ranks: Ranks, metrics: Sequence[str], topk: Sequence[int]) -> dict[str, float]:
    """Return the unrounded means of all metrics in both rankings, by names as `unseen_ndcg@10`."""
    names = metric_names(metrics, topk)
    names += [UNSEEN + name for name in names]
    return {name: math.fsum(per_row(name, ranks)) / len(ranks.raw) for name in names}
