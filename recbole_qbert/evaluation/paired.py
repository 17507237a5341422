"""Is one model better than another, or lucky? A paired test over the users both were tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import ttest_rel

from recbole_qbert.errors import InputError, preview
from recbole_qbert.evaluation.ranking import METRICS, UNSEEN, Ranks, per_row
from recbole_qbert.evaluation.results import RunResult, read_results


@dataclass(frozen=True)
class Comparison:
    """A paired t-test over users; each user's value is its mean over the seeds.

    Attributes:
        metric: such as `unseen_ndcg@10`.
        left: mean of the first model over users and seeds.
        right: that of the second one.
        p_value: two-sided.
        n_users: users both were tested on.
        n_seeds: runs of the first and of the second model.
    """

    metric: str
    left: float
    right: float
    p_value: float
    n_users: int
    n_seeds: tuple[int, int]

    def __str__(self) -> str:
        change = (self.left / self.right - 1) * 100 if self.right else float("inf")
        return (
            f"{self.metric}: {self.left:.4f} against {self.right:.4f} ({change:+.1f} %), "
            f"p = {self.p_value:.2g} (paired t-test over {self.n_users:,} users, "
            f"means over {self.n_seeds[0]} and {self.n_seeds[1]} seeds)"
        )


def read_runs(name: str) -> list[RunResult]:
    """All runs of `results.jsonl:MODEL`, MODEL as in the tables: `QBERT4Rec (pretrained: A)`.

    Raises:
        InputError: no such file, or no run of the model in it, or several with one seed.
    """
    path, colon, model = name.rpartition(":")
    if not colon or not path:
        raise InputError(f"'{name}': write the results file, a colon and the model's name")
    results = read_results(path)
    runs = [run for run in results if run.title == model]
    if not runs:
        known = preview(sorted({run.title for run in results}))
        raise InputError(f"{path}: no run of {model} in it; it has {known or 'none'}")
    if len({run.seed for run in runs}) < len(runs):
        raise InputError(
            f"{path}: several runs of {model} with one seed; keep one setting a results file"
        )
    return runs


def compare(left: Sequence[RunResult], right: Sequence[RunResult], metric: str) -> Comparison:
    """Paired t-test of two models' runs on one data set.

    Raises:
        InputError: an unknown metric, other data, or test ranks that are not there.
    """
    kind, at, k = metric.removeprefix(UNSEEN).partition("@")
    if kind not in METRICS or not at or not k.isdigit() or int(k) < 1:
        raise InputError(f"metric {metric!r}: write ndcg@10, unseen_hit@5, ...")
    if {(run.dataset, run.counts["test rows"]) for run in [*left, *right]} != {
        (left[0].dataset, left[0].counts["test rows"])
    }:
        raise InputError("the runs are not of one data set with one split; compare like with like")
    users, ours = _by_user(left, metric)
    others, theirs = _by_user(right, metric)
    if not np.array_equal(users, others):
        raise InputError("the runs tested other users; compare runs on the same data")
    return Comparison(
        metric=metric,
        left=float(ours.mean()),
        right=float(theirs.mean()),
        p_value=float(ttest_rel(ours, theirs).pvalue),
        n_users=len(users),
        n_seeds=(len(left), len(right)),
    )


def _by_user(runs: Sequence[RunResult], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Test users [U], sorted, and each one's mean over the runs [U]."""
    columns, users = [], None
    for run in runs:
        path = Path(run.folder) / "test_ranks.npz"
        if not path.is_file():
            raise InputError(f"{path}: no such file; the run's folder must be where it was made")
        with np.load(path) as stored:
            ranks = Ranks(stored["users"], stored["raw"], stored["unseen"])
        order = np.argsort(ranks.users, kind="stable")
        if users is not None and not np.array_equal(users, ranks.users[order]):
            raise InputError(f"{path}: other users than the first run's; compare like with like")
        users = ranks.users[order]
        columns.append(per_row(metric, ranks)[order])
    assert users is not None  # read_runs gives at least one
    return users, np.mean(columns, axis=0)
