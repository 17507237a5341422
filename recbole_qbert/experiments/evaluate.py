"""Evaluation of a bundle on a data set, as `run` evaluates its models.

Shapes: B rows, L history, N items of the data set with padding, M items of the bundle with padding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.output import counted
from recbole_qbert.common.process import quiet_recbole
from recbole_qbert.common.progress import Progress
from recbole_qbert.common.ragged import compacted
from recbole_qbert.data.codec import quote
from recbole_qbert.data.loading import StrictDataset
from recbole_qbert.evaluation.indexed_ranks import ranks_by_codes
from recbole_qbert.evaluation.ranking import Fill, Pairs, metric_names, rank_targets, summarize
from recbole_qbert.experiments.splits import Splits, load_dataset, split_dataset
from recbole_qbert.registry import model_entry
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.serving.scoring import batch_of, scores_of
from recbole_qbert.speedups.trimmed_forward import trimmed_scores
from recbole_qbert.training.checkpoint import config_from_json, config_to_json


class Evaluation(NamedTuple):
    """Unrounded metrics in both rankings, by names such as `unseen_ndcg@10`."""

    names: list[str]  # metrics without `unseen_`, in the configured order
    valid: dict[str, float]
    test: dict[str, float]
    notes: list[str]  # remarks on the data that a reader must know


def evaluate(
    recommender: Recommender,
    dataset: str,
    data_path: str | Path,
    batch_size: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Rank the valid and test targets of a data set.

    Filters, split, metrics and history length are those of the run that made the bundle. On the
    data set and device of that run, the metrics equal the recorded ones.

    Args:
        recommender: the loaded bundle.
        dataset: name of the data set.
        data_path: folder that holds `<dataset>/`. Only the interactions are read.
        batch_size: users per batch; None for that of the run.
        progress: whether to show a progress bar.

    Raises:
        InputError: the data cannot be read, or no item of the data set is known to the bundle.
    """
    splits, config = splits_of(recommender, dataset, data_path, batch_size)
    score, by_codes, fill, notes = _scores(recommender, splits.dataset)

    def metrics_of(split: Any) -> dict[str, float]:
        bar = {"total": len(split), "desc": "Evaluate", "unit": "step", "leave": False}
        ranks = rank_targets(
            recommender.model,
            split,
            recommender.config["device"],
            lambda batches: Progress(batches, disable=not progress, **bar),
            score=score,
            by_codes=by_codes,
            fill=fill,
        )
        return summarize(ranks, config["metrics"], config["topk"])

    names = metric_names(config["metrics"], config["topk"])
    notes = [*splits.dataset.notes, *notes]
    return Evaluation(names, metrics_of(splits.valid), metrics_of(splits.test), notes)


def splits_of(
    recommender: Recommender, dataset: str, data_path: str | Path, batch_size: int | None = None
) -> tuple[Splits, Config]:
    """Split a data set as the run that made the bundle did; see `evaluate`. Also its config."""
    quiet_recbole()
    content = config_to_json(recommender.config)
    content["dataset"] = dataset
    content["keys"] |= {
        "data_path": str(data_path),
        "use_gpu": False,
        "semantic_id_file": None,
        "item_vectors": None,
    }
    if batch_size is not None:
        content["keys"]["eval_batch_size"] = batch_size
    config = config_from_json(content)
    own_class = _interactions_of(model_entry(config["model"]).dataset)
    return split_dataset(load_dataset(own_class, config), config), config


def _interactions_of(dataset: type) -> type:
    """Return a class of a model's data set that reads neither semantic IDs nor item vectors.

    The bundle has its own, and those of another data set need not fit.
    """
    return type(dataset.__name__, (dataset,), {"_load_data": StrictDataset._load_data})


def _scores(
    recommender: Recommender, dataset: Any
) -> tuple[
    Callable[[Interaction], Tensor],
    Callable[..., tuple[Tensor, ...]] | None,
    Fill | None,
    list[str],
]:
    """Return what `rank_targets` needs for a data set, and remarks.

    These are a function that scores its items [B, N], `ranks_by_codes`, and a replacement for the
    model's `fill_candidates`.

    Items that the bundle does not know are left out of the last L items of a history, and have the
    score -inf. If no item is left, all scores are 0, so that every item ties with the target.
    """
    model, config = recommender.model, recommender.config
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    if tokens == recommender.tokens:
        return trimmed_scores(model, config), ranks_by_codes(model), None, []
    ids, lost = recommender.ids_of(pa.array(tokens, pa.string()))
    if len(lost) == len(tokens):
        raise InputError(
            f"dataset {dataset.dataset_name}: none of its items is known to the bundle "
            f"({preview([*map(quote, lost)], 3)}); give the data set that the bundle is for"
        )
    own = torch.cat([torch.zeros(1, dtype=torch.long), torch.from_numpy(ids).long()])  # [N]

    on_device = own.to(config["device"])

    def histories(interaction: Interaction) -> tuple[Tensor, Tensor, Tensor]:
        """Return items and lengths in the bundle's numbers, and which rows have none."""
        items, lengths = compacted(own[interaction[model.ITEM_SEQ].cpu()])
        empty = lengths == 0
        items[empty, 0], lengths[empty] = 1, 1
        return items, lengths, empty

    def score(interaction: Interaction) -> Tensor:
        items, lengths, empty = histories(interaction)
        scores = scores_of(model, config, items, lengths)[:, on_device]
        scores[empty.to(scores.device)] = 0.0
        return scores.masked_fill_(on_device == 0, -torch.inf)

    def fill(interaction: Interaction, scores: Tensor, seen: Pairs) -> Tensor:
        """Translate a batch for `fill_candidates`; items that are not ranked count as seen."""
        items, lengths, _ = histories(interaction)
        batch = batch_of(model, config, items, lengths)
        wide = scores.new_full((len(scores), model.n_items), -torch.inf)
        wide[:, on_device] = scores
        wide[:, 0] = -torch.inf
        absent = torch.ones(model.n_items, dtype=torch.bool, device=scores.device)
        absent[on_device], absent[0] = False, False
        others = absent.nonzero().squeeze(1)
        known = on_device[seen[1]] > 0
        rows = torch.arange(len(scores), device=scores.device).repeat_interleave(len(others))
        hidden = (
            torch.cat([seen[0][known], rows]),
            torch.cat([on_device[seen[1][known]], others.repeat(len(scores))]),
        )
        found: Tensor = model.fill_candidates(batch, wide, hidden)[:, on_device]
        return found.masked_fill(on_device == 0, -torch.inf)

    others = len(recommender.tokens) - (len(tokens) - len(lost))
    notes = []
    if lost:
        notes.append(
            f"{len(lost):,} of {len(tokens):,} items are unknown to the bundle "
            f"({preview([*map(quote, lost)], 3)}); they are left out of histories, and a target "
            "among them ranks last"
        )
    if others:
        are = counted(others, "item of the bundle is", "items of the bundle are")
        notes.append(f"{are} not in the data set and not ranked")
    return score, None, fill if hasattr(model, "fill_candidates") else None, notes
