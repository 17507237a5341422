"""What a popularity discount costs and gives, for trained models: python -m benchmarks.tail --help.

The discount is a ranking term, so that one trained model is ranked with each value. Prints a
Markdown table: means over the runs, all of one data set; metrics rank unseen items.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from recbole_qbert.common.errors import InputError
from recbole_qbert.config.settings import RUN
from recbole_qbert.evaluation.groups import BY_TARGET, coverage, means_by_group
from recbole_qbert.evaluation.ranking import LIST_LENGTH, rank_targets, summarize
from recbole_qbert.experiments.evaluate import splits_of
from recbole_qbert.models.layers.popularity_terms import PopularityTerms, training_counts
from recbole_qbert.models.qbert4rec import QBERT4Rec
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.speedups.trimmed_forward import trimmed_scores

NDCG, HIT = f"unseen_ndcg@{LIST_LENGTH}", f"unseen_hit@{LIST_LENGTH}"
HEAD = ("valid NDCG@10", "NDCG@10", "HR@10", "coverage@10", *(group.name for group in BY_TARGET))


def frontier(run: Path, data_path: Path, discounts: list[float]) -> np.ndarray:
    """Rank the targets of a run's data set with each discount.

    Args:
        run: folder of a run or bundle of QBERT4Rec, or of a model that is derived from it.
        data_path: folder of the data sets.
        discounts: F values of `popularity_discount`.

    Returns:
        float [F, 8], the columns of `HEAD`; groups are HR@10 of test users by their target's number
        of training interactions, NaN for an empty group.

    Raises:
        InputError: the run is one of another model, or its data set cannot be read or has changed.
    """
    recommender = Recommender.load(run)
    model = recommender.model
    if not isinstance(model, QBERT4Rec):
        name = recommender.config["model"]
        raise InputError(f"{run}: {name} has no popularity_discount; give a run of QBERT4Rec")
    splits, config = splits_of(recommender, recommender.config["dataset"], data_path)
    tokens = splits.dataset.field2id_token[splits.dataset.iid_field][1:]
    if [*map(str, tokens)] != recommender.tokens:
        raise InputError(
            f"{run}: the data set in {data_path} has other items, or in another order; give that "
            "of the run"
        )
    counts = training_counts(splits.train._dataset, model.n_items)
    bonus = 0.0 if model.popularity_terms is None else model.popularity_terms.bonus
    rows = []
    for discount in discounts:
        model.popularity_terms = PopularityTerms(counts, bonus, discount, 0.0)
        score = trimmed_scores(model, config)
        found = [
            rank_targets(model, split, torch.device("cpu"), top_k=LIST_LENGTH, score=score)
            for split in (splits.valid, splits.test)
        ]
        valid, test = (summarize(each, config["metrics"], config["topk"]) for each in found)
        lists = found[1].lists
        assert lists is not None
        groups = means_by_group(HIT, found[1], counts.numpy()[lists.targets], BY_TARGET)
        share = coverage(lists.unseen, model.n_items - 1)
        rows.append([valid[NDCG], test[NDCG], test[HIT], share, *groups])
    return np.array(rows, dtype=np.float64)


def discounts_of(text: str) -> list[float]:
    """Parse numbers with commas between them, in the range of `popularity_discount`."""
    try:
        values = [float(each) for each in text.split(",")]
    except ValueError:
        raise InputError(f"discounts: {text!r} is not numbers with commas between them") from None
    for value in values:
        RUN.check({"popularity_discount": value})
    return values


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tail", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs with different seeds")
    parser.add_argument("--data_path", type=Path, default=Path("dataset"))
    parser.add_argument("--discounts", default="0,0.05,0.1,0.15,0.2,0.3,0.4,0.5")
    given = parser.parse_args()
    try:
        discounts = discounts_of(given.discounts)
        found = [frontier(run, given.data_path, discounts) for run in given.runs]
    except InputError as error:
        print(f"benchmarks.tail: {error}", file=sys.stderr)
        return 2
    print("| discount | " + " | ".join(HEAD) + " |")
    print("|---:" * (1 + len(HEAD)) + "|")
    for discount, row in zip(discounts, np.mean(found, axis=0), strict=True):
        cells = ("–" if np.isnan(each) else f"{each:.4f}".lstrip("0") for each in row)
        print(f"| {discount:g} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
