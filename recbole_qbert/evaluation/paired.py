"""Is one model better than another, or lucky? A paired test over the users both were tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import ttest_rel, wilcoxon

from recbole_qbert.errors import InputError, preview
from recbole_qbert.evaluation.ranking import METRICS, RANKS_FILE, UNSEEN, per_row, read_ranks
from recbole_qbert.evaluation.results import RunResult, read_results


@dataclass(frozen=True)
class Comparison:
    """Two paired tests over users; each user's value is its mean over the seeds.

    Attributes:
        metric: such as `unseen_ndcg@10`.
        left: mean of the first model over users and seeds.
        right: that of the second one.
        p_value: of the t-test, two-sided.
        p_ranks: of Wilcoxon's signed-rank test, users without a difference left out; two-sided.
        n_users: users both were tested on.
        n_seeds: runs of the first and of the second model.
    """

    metric: str
    left: float
    right: float
    p_value: float
    p_ranks: float
    n_users: int
    n_seeds: tuple[int, int]

    @property
    def change(self) -> float:
        """Of the first model over the second one, in per cent."""
        return (self.left / self.right - 1) * 100 if self.right else float("inf")

    def __str__(self) -> str:
        return (
            f"{self.metric}: {self.left:.4f} against {self.right:.4f} ({self.change:+.1f} %), "
            f"p = {self.p_value:.2g} (paired t-test) and {self.p_ranks:.2g} (Wilcoxon) over "
            f"{self.n_users:,} users, means over {self.n_seeds[0]} and {self.n_seeds[1]} seeds"
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
    users, (ours,) = values_by_user(left, [metric])
    others, (theirs,) = values_by_user(right, [metric])
    if not np.array_equal(users, others):
        raise InputError("the runs tested other users; compare runs on the same data")
    return paired_tests(metric, ours, theirs, (len(left), len(right)))


def paired_tests(
    metric: str, ours: np.ndarray, theirs: np.ndarray, n_seeds: tuple[int, int]
) -> Comparison:
    """Both tests of two models' values for the same users [U]; p is 1 where no user differs."""
    differ = bool(np.any(ours != theirs))
    return Comparison(
        metric=metric,
        left=float(ours.mean()),
        right=float(theirs.mean()),
        p_value=float(ttest_rel(ours, theirs).pvalue) if differ else 1.0,
        p_ranks=float(wilcoxon(ours, theirs).pvalue) if differ else 1.0,
        n_users=len(ours),
        n_seeds=n_seeds,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: adjusted p-values, in the order given.

    The smallest of m is multiplied by m, the next one by m - 1, ...; none gets smaller than the one
    before it, nor larger than 1.
    """
    adjusted, floor = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def values_by_user(
    runs: Sequence[RunResult], metrics: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Test users, sorted [U], and each one's means over the runs [metrics, U].

    Raises:
        InputError: test ranks that are not there, or of other users.
    """
    total, users = np.zeros(0), None
    for run in runs:
        path = Path(run.folder) / RANKS_FILE
        ranks, _ = read_ranks(path)
        order = np.argsort(ranks.users, kind="stable")
        values = np.stack([per_row(metric, ranks)[order] for metric in metrics])
        if users is None:
            users, total = ranks.users[order], values
        elif np.array_equal(users, ranks.users[order]):
            total = total + values
        else:
            raise InputError(f"{path}: other users than the first run's; compare like with like")
    assert users is not None  # no caller gives no run
    # Sums of the same values in another order differ in the last bits, which is no difference.
    return users, np.round(total / len(runs), 12)
