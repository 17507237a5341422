"""Paired significance tests of two models over the users that both were tested on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import ttest_rel, wilcoxon

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.output import counted
from recbole_qbert.evaluation.comparable import differences, numberings
from recbole_qbert.evaluation.ranking import METRICS, UNSEEN, metric_key, per_row
from recbole_qbert.evaluation.results import (
    NONE,
    RunResult,
    choose,
    differing_settings,
    group_runs,
    metric_title,
    ranks_of,
    read_results,
)

RESULTS_FILE = "results.jsonl"  # in checkpoint_dir, beside the runs' folders <dataset>/<run>


@dataclass(frozen=True)
class SignificanceResult:
    """Result of two paired tests over users; a user's value is the mean over rows and seeds."""

    metric: str  # such as `unseen_ndcg@10`
    left: float  # mean of the first model over users and seeds
    right: float  # mean of the second model
    p_value: float  # two-sided, of the t-test
    p_ranks: float  # two-sided, of Wilcoxon's signed-rank test, without users of equal values
    n_users: int  # users that both models were tested on
    n_seeds: tuple[int, int]  # runs of the first and of the second model
    names: tuple[str, str] = ("", "")  # of the models; with `@` and digits of a folder if equal
    dataset: str = ""
    settings: tuple[str, str] = ("", "")  # settings that differ, if the models have one name

    @property
    def change(self) -> float:
        """Relative difference of the first model to the second one, in percent."""
        return relative_change(self.left, self.right)

    def __str__(self) -> str:
        pairs = zip(self.names, self.settings, strict=True)
        line = (
            f"{' against '.join(self.names)} on {self.dataset}, {metric_title(self.metric)}: "
            f"{self.left:.4f} against {self.right:.4f} ({change_text(self.change)}), "
            f"p = {self.p_value:.2g} (paired t-test) and {self.p_ranks:.2g} (Wilcoxon) over "
            f"{counted(self.n_users, 'user')}, means over {self.n_seeds[0]} and "
            f"{counted(self.n_seeds[1], 'seed')}"
        )
        return "\n".join([line, *(f"{name}: {text}" for name, text in pairs if text)])


def change_text(change: float) -> str:
    """Format as `+9.7 %`; a dash if the change is relative to zero."""
    return f"{change:+.1f} %" if math.isfinite(change) else NONE


def split_name(name: str) -> tuple[str, str]:
    """Split `results.jsonl:MODEL` at the colon after the name of a file; titles may hold colons."""
    colons = [place for place, letter in enumerate(name) if letter == ":"]
    files = [place for place in colons if Path(name[:place]).is_file()]
    by_name = [place for place in colons if name[:place].endswith(".jsonl")]
    place = (files or by_name or colons[-1:] or [len(name)])[0]
    return name[:place], name[place + 1 :]


def read_runs(name: str, dataset: str | None = None) -> list[RunResult]:
    """Read the runs of all seeds of one model with one set of settings, on one data set if named.

    `name` is a run's folder, or `results.jsonl:MODEL` with MODEL as in the tables (`QBERT4Rec
    (pretrained: A)`). If the model has several settings, append `@last`, or `@` and the eight
    digits of a run's folder.

    Raises:
        InputError: there is no such file, no such run, or several settings to choose from.
    """
    folder = Path(name)
    if folder.is_dir():
        return choose(read_results(folder.parent.parent / RESULTS_FILE), name)
    path, title = split_name(name)
    if not path or not title:
        raise InputError(f"'{name}': use results.jsonl:MODEL or a run's folder")
    title, _, which = title.partition("@")
    results = read_results(path)
    of_model = [run for run in results if run.title == title]
    runs = [run for run in of_model if dataset in (None, run.dataset)]
    if not of_model:
        known = preview(sorted({run.title for run in results}))
        raise InputError(f"{path}: no run of {title}; it has {known or 'none'}")
    if not runs:
        known = preview(sorted({run.dataset for run in of_model}))
        raise InputError(f"{path}: no run of {title} on {dataset}; it has runs on {known}")
    if which:
        return choose(runs, which)
    groups = group_runs(runs)
    if len(groups) > 1:
        one = [group[-1] for group in groups]
        what, texts = "settings", differing_settings(one, most=3)
        if len({run.dataset for run in one}) > 1:
            what, texts = "data sets", [run.dataset for run in one]
        listed = ", ".join(f"@{run.hash} ({text})" for run, text in zip(one, texts, strict=True))
        # Runs with other data but equal settings have one folder.
        digits = f", {name}@DIGITS" if len({run.hash for run in one}) == len(one) else ""
        raise InputError(
            f"{path}: several {what} of {title}: {listed}; use {name}@last{digits} or a run's "
            "folder"
        )
    return groups[0]


def relative_change(value: float, base: float) -> float:
    """Return the difference of a value to another one in percent of that; infinite from zero."""
    return (value / base - 1) * 100 if base else float("inf")


def checked_metric(text: str) -> str:
    """Return the name of a metric as results store it; an `InputError` if there is none."""
    metric = metric_key(text)
    kind, at, k = metric.removeprefix(UNSEEN).partition("@")
    if kind not in METRICS or not at or not k.isdigit() or int(k) < 1:
        raise InputError(f"metric {metric!r}: use ndcg@10, unseen_hit@5, ...")
    return metric


def compare(
    left: Sequence[RunResult], right: Sequence[RunResult], metric: str
) -> SignificanceResult:
    """Compare two models' runs in a metric, such as `unseen_ndcg@10`, by paired tests.

    Raises:
        InputError: the metric is unknown, the test sets differ, or test ranks are missing.
    """
    metric = checked_metric(metric)
    check_comparable([*left, *right])
    users, (ours,) = values_by_user(left, [metric])
    others, (theirs,) = values_by_user(right, [metric])
    if not np.array_equal(users, others):
        models = f"{left[0].title} and {right[0].title}"
        raise InputError(f"{models} were tested on different users; compare runs on the same data")
    names, settings = [side[0].title for side in (left, right)], ["", ""]
    if names[0] == names[1]:
        names = [f"{side[0].title} @{side[-1].hash}" for side in (left, right)]
        settings = differing_settings([left[0], right[0]])
    return replace(
        paired_tests(metric, ours, theirs, (len(left), len(right))),
        names=(names[0], names[1]),
        dataset=left[0].dataset,
        settings=(settings[0], settings[1]),
    )


def check_comparable(runs: Sequence[RunResult]) -> None:
    """Raise an `InputError` that names the difference if test sets or user numberings differ."""
    first = runs[0]
    for run in runs[1:]:
        parts = differences(first, run)
        if parts == ["data set"]:
            raise InputError(
                f"{first.dataset}, {run.dataset}: the runs are not of one data set; compare runs "
                "on the same data"
            )
        if parts:
            raise InputError(
                f"{first.title} and {run.title} were tested on other {' and other '.join(parts)} "
                f"({_described(first)}; {_described(run)}); compare runs on the same data"
            )
        if len(numberings((first, run))) > 1:
            raise InputError(
                f"{first.title} and {run.title}: the .inter file lists the users in another order, "
                "so that ranks cannot be paired; repeat one of the runs"
            )


def _described(run: RunResult) -> str:
    """Describe a run's test set: `seed 1: 30 test rows, 18 items`."""
    names = [name for name in ("test rows", "items") if name in run.counts]
    return f"seed {run.seed}: {', '.join(f'{run.counts[name]:,} {name}' for name in names)}"


def paired_tests(
    metric: str, ours: np.ndarray, theirs: np.ndarray, n_seeds: tuple[int, int]
) -> SignificanceResult:
    """Run both tests on two models' values of the same users [U].

    p is 1 if no user differs, or there is only one.
    """
    # Means over seeds have rounding errors, which must not make equal differences unequal ranks.
    differences = np.round(ours - theirs, 9)
    differ = len(ours) > 1 and bool(np.any(differences))
    return SignificanceResult(
        metric=metric,
        left=float(ours.mean()),
        right=float(theirs.mean()),
        p_value=float(ttest_rel(ours, theirs).pvalue) if differ else 1.0,
        p_ranks=float(wilcoxon(differences).pvalue) if differ else 1.0,
        n_users=len(ours),
        n_seeds=n_seeds,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down method; the order is kept.

    The smallest of m is multiplied by m, the next one by m - 1, and so on. Adjusted values never
    decrease in this order and are at most 1.
    """
    adjusted, floor = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def values_by_user(
    runs: Sequence[RunResult], metrics: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Average metrics of each test user over the user's test rows, and over runs.

    Rows of one user are not independent, so that a test over rows would find too much.

    Returns sorted internal IDs [U], and means [metrics, U]. An `InputError` says if test ranks are
    missing, or the runs tested different users.
    """
    values_of_runs, users = [], np.zeros(0)
    for run in runs:
        ranks, _ = ranks_of(run)
        order = np.argsort(ranks.users, kind="stable")
        values_of_runs.append(np.stack([per_row(metric, ranks)[order] for metric in metrics]))
        if len(values_of_runs) > 1 and not np.array_equal(users, ranks.users[order]):
            raise InputError(f"{run.folder}: other users than those of the first run")
        users = ranks.users[order]
    users, starts, n_rows = np.unique(users, return_index=True, return_counts=True)
    totals = np.add.reduceat(sum(values_of_runs), starts, axis=1)
    # Sums in another order differ in the last bits; rounding makes equal values compare equal.
    return users, np.round(totals / n_rows / len(runs), 12)
