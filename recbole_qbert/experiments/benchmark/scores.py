"""Scores of a benchmark: means over seeds, group metrics, coverage and significance tests."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.evaluation.comparable import PARTS, differences
from recbole_qbert.evaluation.groups import BY_HISTORY, BY_TARGET, coverage, means_by_group
from recbole_qbert.evaluation.ranking import (
    LIST_LENGTH,
    Lists,
    Ranks,
)
from recbole_qbert.evaluation.results import RANKINGS, RunResult, ranks_of
from recbole_qbert.evaluation.significance import (
    SignificanceResult,
    check_comparable,
    holm,
    paired_tests,
    values_by_user,
)
from recbole_qbert.experiments.benchmark.plan import BenchmarkPlan, ModelRow
from recbole_qbert.experiments.benchmark.planned_runs import Outcome

SIGNIFICANT = 0.05
COVERAGE = f"coverage@{LIST_LENGTH}"
GROUP_METRICS = ("hit@10", "ndcg@10")
GROUPS = {"target": BY_TARGET, "history": BY_HISTORY}


class MeanStd(NamedTuple):
    """Mean and sample standard deviation of one metric over the seeds."""

    mean: float
    deviation: float | None  # None for a single seed
    values: tuple[float, ...]  # one per seed


class Tested(NamedTuple):
    """Test of the reference against another row: change in percent, Holm-corrected p-values."""

    change: float
    p_value: float  # paired t-test
    p_ranks: float  # Wilcoxon

    @property
    def significant(self) -> bool:
        """Whether both tests are significant."""
        return max(self.p_value, self.p_ranks) < SIGNIFICANT


@dataclass(frozen=True)
class Row:
    """The runs of a model row on one data set, one per seed."""

    model_row: ModelRow
    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        """Printed name."""
        return self.model_row.name

    @property
    def metrics(self) -> list[str]:
        """Metric names without the prefix `unseen_`; equal in all rows of a benchmark."""
        return self.runs[0].metrics

    def over_seeds(self, split: str, metric: str) -> MeanStd:
        """Aggregate a metric of `valid` or `test`; `unseen_` metrics rank unseen items only."""
        return spread([getattr(run, split)[metric] for run in self.runs])

    @cached_property
    def details(self) -> dict[str, MeanStd]:
        """Coverage and group metrics on test, named by `group_metric`; empty groups are left out.

        The result is empty if an older version, which stored no top lists, made one of the runs.
        """
        found = [details_of(run) for run in self.runs]
        return (
            {name: spread([one[name] for one in found]) for name in found[0]} if all(found) else {}
        )


@dataclass(frozen=True)
class Scores:
    """All rows of one data set.

    Attributes:
        dataset: name of the data set.
        rows: rows with at least one run, in the order of the benchmark.
        metrics: metric names without the prefix `unseen_`, in the order of the tables.
        reference: the row that is tested against all others; None if it has no run.
        tested: name of the other row -> metric, with and without `unseen_` -> test.
        unlike: name of a row -> differences between its test data and those of the reference (of
            the first row if there is no reference). Such a row is listed but not tested.
    """

    dataset: str
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    reference: Row | None
    tested: dict[str, dict[str, Tested]]
    unlike: dict[str, str] = field(default_factory=dict)

    @property
    def others(self) -> list[Row]:
        """All rows that can be compared with the reference."""
        return [
            row for row in self.rows if row is not self.reference and row.name not in self.unlike
        ]

    @cached_property
    def group_sizes(self) -> dict[str, int]:
        """Number of test users by `group_metric` name of the group; empty without top lists."""
        for row in self.rows:
            if stored := _read(row.runs[0]):
                return {
                    group_metric("users", kind, group.name): int(group.rows(stored.by[kind]).sum())
                    for kind, groups in GROUPS.items()
                    for group in groups
                }
        return {}


def spread(values: Sequence[float]) -> MeanStd:
    """Compute mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(statistics.mean(values), deviation, tuple(values))


def group_metric(metric: str, kind: str, group: str) -> str:
    """Name of a metric over the users of one group, such as `unseen_ndcg@10 target: never`."""
    return f"{metric} {kind}: {group}"


class _Stored(NamedTuple):
    """Test ranks and top lists of a run, and the counts by which its rows are grouped [rows]."""

    ranks: Ranks
    lists: Lists
    by: dict[str, np.ndarray]


def _read(run: RunResult) -> _Stored | None:
    """Read a run's ranks and top lists; None if its version stored no top lists."""
    ranks, counts = ranks_of(run)
    if ranks.lists is None or counts is None:
        return None
    by = {"target": counts[ranks.lists.targets], "history": ranks.lists.history}
    return _Stored(ranks, ranks.lists, by)


def details_of(run: RunResult) -> dict[str, float]:
    """`Row.details` of a single run."""
    stored, found = _read(run), {}
    if stored is None:
        return {}
    for prefix, _ in RANKINGS:
        lists = stored.lists.unseen if prefix else stored.lists.raw
        found[prefix + COVERAGE] = coverage(lists, run.counts["items"])
        for kind, groups in GROUPS.items():
            for metric in GROUP_METRICS:
                means = means_by_group(prefix + metric, stored.ranks, stored.by[kind], groups)
                for group, mean in zip(groups, means, strict=True):
                    if mean is not None:
                        found[group_metric(prefix + metric, kind, group.name)] = mean
    return found


def collect(plan: BenchmarkPlan, outcome: Outcome) -> list[Scores]:
    """Compute the scores of each data set that has a run.

    Raises:
        InputError: the ranks of a run are missing, or are of other users.
    """
    found = []
    for dataset in plan.datasets:
        runs: dict[str, tuple[ModelRow, list[RunResult]]] = {}
        for cell, result in outcome.results:
            if cell.dataset == dataset:
                name = cell.model_row.name
                runs.setdefault(name, (cell.model_row, []))[1].append(result)
        rows = tuple(Row(model_row, tuple(results)) for model_row, results in runs.values())
        if rows:
            found.append(score(dataset, rows, plan.reference))
    return found


def score(dataset: str, rows: tuple[Row, ...], reference: str) -> Scores:
    """Test the row named `reference` against every other row.

    Raises:
        InputError: the runs of the rows cannot be paired.
    """
    names = rows[0].metrics
    if "hit@1" in names:
        names = [name for name in names if name != "ndcg@1"]  # NDCG@1 equals HR@1
    first = next((row for row in rows if row.name == reference), None)
    unlike = _unlike(rows, first or rows[0])
    alike = [row for row in rows if row.name not in unlike]
    tested = _tests(alike, first, names) if first is not None else {}
    return Scores(dataset, rows, tuple(names), first, tested, unlike)


def _unlike(rows: Sequence[Row], first: Row) -> dict[str, str]:
    """Find rows with a run that was tested on other users, targets or items than row `first`."""
    found = {}
    for row in rows:
        parts = [differences(first.runs[0], run) for run in row.runs]
        differ = [part for part in PARTS if any(part in each for each in parts)]
        if differ:
            found[row.name] = ", ".join(differ)
    return found


def _tests(
    rows: Sequence[Row], reference: Row, names: Sequence[str]
) -> dict[str, dict[str, Tested]]:
    """Test the reference against the other rows.

    Holm's correction is over the other rows, separately for each metric and ranking.

    Raises:
        InputError: the runs of the rows cannot be paired.
    """
    check_comparable([run for row in (reference, *rows) for run in row.runs])
    metrics = [prefix + name for prefix, _ in RANKINGS for name in names]
    users, ours = values_by_user(reference.runs, metrics)
    found: dict[str, list[SignificanceResult]] = {}
    for row in rows:
        if row is reference:
            continue
        others, theirs = values_by_user(row.runs, metrics)
        if not np.array_equal(users, others):
            raise InputError(f"{row.name} was tested on other users than {reference.name}")
        n_seeds = (len(reference.runs), len(row.runs))
        found[row.name] = [
            paired_tests(metric, left, right, n_seeds)
            for metric, left, right in zip(metrics, ours, theirs, strict=True)
        ]
    tested: dict[str, dict[str, Tested]] = {name: {} for name in found}
    for place, metric in enumerate(metrics):
        one = [comparisons[place] for comparisons in found.values()]
        corrected = zip(
            holm([each.p_value for each in one]), holm([each.p_ranks for each in one]), strict=True
        )
        for name, each, (p_value, p_ranks) in zip(found, one, corrected, strict=True):
            tested[name][metric] = Tested(each.change, p_value, p_ranks)
    return tested
