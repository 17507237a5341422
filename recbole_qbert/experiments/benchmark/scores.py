"""What the tables show: means over seeds, groups of users, coverage, and tests between rows."""

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
from recbole_qbert.experiments.benchmark.cells import Outcome
from recbole_qbert.experiments.benchmark.plan import BenchmarkPlan, ModelRow

SIGNIFICANT = 0.05
COVERAGE = f"coverage@{LIST_LENGTH}"
GROUP_METRICS = ("hit@10", "ndcg@10")
GROUPS = {"target": BY_TARGET, "history": BY_HISTORY}


class MeanStd(NamedTuple):
    """One metric over the seeds."""

    mean: float
    deviation: float | None  # of the sample; None of a single seed
    values: tuple[float, ...]  # one a seed


class Tested(NamedTuple):
    """The reference against another row: change in per cent, p-values after Holm's correction."""

    change: float
    p_value: float  # paired t-test
    p_ranks: float  # Wilcoxon

    @property
    def significant(self) -> bool:
        """By both tests."""
        return max(self.p_value, self.p_ranks) < SIGNIFICANT


@dataclass(frozen=True)
class Row:
    """A contender's runs on one data set, one a seed."""

    contender: ModelRow
    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        """As printed."""
        return self.contender.name

    @property
    def metrics(self) -> list[str]:
        """All that its runs have, without `unseen_`; the same in every row of a benchmark."""
        return self.runs[0].metrics

    def over_seeds(self, split: str, metric: str) -> MeanStd:
        """A metric of `valid` or `test`; `unseen_` ranks unseen items only."""
        return spread([getattr(run, split)[metric] for run in self.runs])

    @cached_property
    def details(self) -> dict[str, MeanStd]:
        """Test metrics of groups, named by `group_metric`, and coverage; groups without a user are
        left out. Empty where a run is of a version that kept no lists."""
        found = [details_of(run) for run in self.runs]
        return (
            {name: spread([one[name] for one in found]) for name in found[0]} if all(found) else {}
        )


@dataclass(frozen=True)
class Scores:
    """All rows of one data set.

    Attributes:
        dataset: its name.
        rows: in the order of the benchmark, without those that have no run.
        metrics: names without `unseen_`, as the tables show them.
        reference: the row that is tested against all others; None where it has no run.
        tested: other row's name -> metric, `unseen_` ones too -> test.
        unlike: row's name -> what it was tested on that the reference, or else the first row, was
            not: such a row stands in the table, but in no test.
    """

    dataset: str
    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    reference: Row | None
    tested: dict[str, dict[str, Tested]]
    unlike: dict[str, str] = field(default_factory=dict)

    @property
    def others(self) -> list[Row]:
        """All rows that may stand beside the reference."""
        return [
            row for row in self.rows if row is not self.reference and row.name not in self.unlike
        ]

    @cached_property
    def group_sizes(self) -> dict[str, int]:
        """Test users of each group, named as by `group_metric`; empty without lists."""
        for row in self.rows:
            if stored := _read(row.runs[0]):
                return {
                    group_metric("users", kind, group.name): int(group.rows(stored.by[kind]).sum())
                    for kind, groups in GROUPS.items()
                    for group in groups
                }
        return {}


def spread(values: Sequence[float]) -> MeanStd:
    """Mean and sample deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(statistics.mean(values), deviation, tuple(values))


def group_metric(metric: str, kind: str, group: str) -> str:
    """`unseen_ndcg@10 target: never`: the metric over one group's users alone."""
    return f"{metric} {kind}: {group}"


class _Stored(NamedTuple):
    """A run's test ranks and lists, and each row's counts by which it is grouped [rows]."""

    ranks: Ranks
    lists: Lists
    by: dict[str, np.ndarray]


def _read(run: RunResult) -> _Stored | None:
    """None of a run that is of a version without lists."""
    ranks, counts = ranks_of(run)
    if ranks.lists is None or counts is None:
        return None
    by = {"target": counts[ranks.lists.targets], "history": ranks.lists.history}
    return _Stored(ranks, ranks.lists, by)


def details_of(run: RunResult) -> dict[str, float]:
    """See `Row.details`; of one run."""
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
    """The scores of each data set that has a run.

    Raises:
        InputError: ranks that are not there, or of other users.
    """
    found = []
    for dataset in plan.datasets:
        runs: dict[str, tuple[ModelRow, list[RunResult]]] = {}
        for cell, result in outcome.results:
            if cell.dataset == dataset:
                name = cell.contender.name
                runs.setdefault(name, (cell.contender, []))[1].append(result)
        rows = tuple(Row(contender, tuple(results)) for contender, results in runs.values())
        if rows:
            found.append(score(dataset, rows, plan.reference))
    return found


def score(dataset: str, rows: tuple[Row, ...], reference: str) -> Scores:
    """Test the reference, by name, against every other row."""
    names = rows[0].metrics
    if "hit@1" in names:
        names = [name for name in names if name != "ndcg@1"]  # the same number
    first = next((row for row in rows if row.name == reference), None)
    unlike = _unlike(rows, first or rows[0])
    alike = [row for row in rows if row.name not in unlike]
    tested = _tests(alike, first, names) if first is not None else {}
    return Scores(dataset, rows, tuple(names), first, tested, unlike)


def _unlike(rows: Sequence[Row], first: Row) -> dict[str, str]:
    """Rows of which a run was tested on other users, targets or items than the first one."""
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
    """Holm's correction is over the other rows, for each metric of each ranking by itself.

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
