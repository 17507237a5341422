"""Scores of a benchmark: means over seeds, group metrics, coverage and significance tests."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.evaluation.comparable import PARTS, differences, numberings
from recbole_qbert.evaluation.groups import (
    BY_COLD,
    BY_HISTORY,
    BY_TARGET,
    coverage,
    means_by_group,
)
from recbole_qbert.evaluation.ranking import LIST_LENGTH, Lists, Ranks
from recbole_qbert.evaluation.results import RANKINGS, RunResult, ranks_of
from recbole_qbert.evaluation.significance import (
    check_comparable,
    holm,
    paired_tests,
    relative_change,
    values_by_user,
)
from recbole_qbert.experiments.benchmark.plan import ModelRow

SIGNIFICANT = 0.05
COVERAGE = f"coverage@{LIST_LENGTH}"
GROUP_METRICS = ("hit@10", "ndcg@10")
GROUPS = {"item": BY_COLD, "target": BY_TARGET, "history": BY_HISTORY}


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
    """All rows of one data set, in the order of the benchmark.

    `unlike` says how the test data of a row differ from those of the reference (of the first row if
    there is no reference). Such a row is listed but not tested.
    """

    dataset: str
    rows: tuple[Row, ...]  # rows with at least one run
    metrics: tuple[str, ...]  # names without the prefix `unseen_`, in the order of the tables
    reference: Row | None  # the row that is tested against all others; None if it has no run
    tested: dict[str, dict[str, Tested]]  # name of the other row -> metric of a ranking -> test
    unlike: dict[str, str] = field(default_factory=dict)
    # The same tests over the users with a cold target; empty without `cold_items`.
    tested_cold: dict[str, dict[str, Tested]] = field(default_factory=dict)

    @property
    def others(self) -> list[Row]:
        """All rows that can be compared with the reference."""
        return [
            row for row in self.rows if row is not self.reference and row.name not in self.unlike
        ]

    @cached_property
    def group_sizes(self) -> dict[str, int]:
        """Number of test users by `group_metric` name of the group; empty without top lists.

        They are those of the first row that has top lists.
        """
        return next(iter(self._sizes.values()), {})

    @cached_property
    def _sizes(self) -> dict[str, dict[str, int]]:
        """`group_sizes` of each row that has top lists, by its name."""
        found = {}
        for row in self.rows:
            if stored := _read(row.runs[0]):
                found[row.name] = {
                    group_metric("users", kind, group.name): int(group.rows(counts).sum())
                    for kind, counts in stored[2].items()
                    for group in GROUPS[kind]
                }
        return found

    def other_groups(self, kind: str) -> list[str]:
        """Describe the rows whose groups of a kind have other sizes than `group_sizes`.

        A row that was trained on other interactions has other counts of them.
        """
        names = [group_metric("users", kind, group.name) for group in GROUPS[kind]]
        first = [self.group_sizes[name] for name in names]
        described = []
        for row, sizes in self._sizes.items():
            own = [sizes.get(name, 0) for name in names]
            if own != first:
                described.append(f"{row}: {', '.join(f'{size:,}' for size in own)} users")
        return described

    @property
    def group_kinds(self) -> list[str]:
        """Kinds of groups that the runs have: all of `GROUPS`, `item` only with `cold_items`."""
        first = {kind: group_metric("users", kind, GROUPS[kind][0].name) for kind in GROUPS}
        return [kind for kind, name in first.items() if name in self.group_sizes]


def spread(values: Sequence[float]) -> MeanStd:
    """Compute mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return MeanStd(statistics.mean(values), deviation, tuple(values))


def group_metric(metric: str, kind: str, group: str) -> str:
    """Name of a metric over the users of one group, such as `unseen_ndcg@10 target: never`."""
    return f"{metric} {kind}: {group}"


def _read(run: RunResult) -> tuple[Ranks, Lists, dict[str, np.ndarray]] | None:
    """Read a run's ranks, top lists, and grouping counts [rows]; None if it has no top lists."""
    ranks, counts = ranks_of(run)
    if ranks.lists is None or counts is None:
        return None
    by = {"target": counts[ranks.lists.targets], "history": ranks.lists.history}
    if ranks.lists.cold is not None:
        by["item"] = ranks.lists.cold.astype(np.int64)
    return ranks, ranks.lists, by


def details_of(run: RunResult) -> dict[str, float]:
    """`Row.details` of a single run."""
    stored, found = _read(run), {}
    if stored is None:
        return {}
    ranks, lists, by = stored
    for prefix, _ in RANKINGS:
        shown = lists.unseen if prefix else lists.raw
        found[prefix + COVERAGE] = coverage(shown, run.counts["items"])
        for kind, sizes in by.items():
            for metric in GROUP_METRICS:
                means = means_by_group(prefix + metric, ranks, sizes, GROUPS[kind])
                for group, mean in zip(GROUPS[kind], means, strict=True):
                    if mean is not None:
                        found[group_metric(prefix + metric, kind, group.name)] = mean
    return found


def score(dataset: str, rows: tuple[Row, ...], reference: str) -> Scores:
    """Test the row named `reference` against every other row with the same test data.

    Raises:
        InputError: the runs of the rows cannot be paired.
    """
    names = shown_metrics(rows[0].metrics)
    first = next((row for row in rows if row.name == reference), None)
    unlike = {}
    for row in rows:
        parts = {part for run in row.runs for part in differences((first or rows[0]).runs[0], run)}
        differ = [part for part in PARTS if part in parts]
        if first and not differ and len(numberings([*first.runs, *row.runs])) > 1:
            differ = ["numbers of users"]
        if differ:
            unlike[row.name] = ", ".join(differ)
    others = [row for row in rows if row is not first and row.name not in unlike]
    tested = _tests(first, others, names) if first is not None else {}
    cold = _cold_users(first) if first is not None else None
    tested_cold = _tests(first, others, names, cold) if first and cold is not None else {}
    return Scores(dataset, rows, tuple(names), first, tested, unlike, tested_cold)


def _cold_users(row: Row) -> np.ndarray | None:
    """Return the users with a cold target; None without `cold_items`, or if there is none."""
    stored = _read(row.runs[0])
    if stored is None or stored[1].cold is None or not stored[1].cold.any():
        return None
    return stored[0].users[stored[1].cold]


def shown_metrics(names: Sequence[str]) -> list[str]:
    """Return the metrics that tables show: all but NDCG@1 where there is HR@1, which equals it."""
    return [name for name in names if name != "ndcg@1" or "hit@1" not in names]


def _tests(
    reference: Row, others: Sequence[Row], names: Sequence[str], only: np.ndarray | None = None
) -> dict[str, dict[str, Tested]]:
    """Test the reference against the other rows, over all users or `only` some of them.

    Holm's correction is over these rows.
    """
    check_comparable([run for row in (reference, *others) for run in row.runs])
    metrics = [prefix + name for prefix, _ in RANKINGS for name in names]
    users, ours = values_by_user(reference.runs, metrics)
    chosen = np.isin(users, users if only is None else only)
    values = []
    for row in others:
        their_users, theirs = values_by_user(row.runs, metrics)
        if not np.array_equal(users, their_users):
            raise InputError(f"{row.name} and {reference.name} were tested on different users")
        values.append((row, (len(reference.runs), len(row.runs)), theirs[:, chosen]))
    ours = ours[:, chosen]
    tested: dict[str, dict[str, Tested]] = {row.name: {} for row in others}
    for place, metric in enumerate(metrics):
        tests = [paired_tests(metric, ours[place], theirs[place], n) for _, n, theirs in values]
        p_values = holm([test.p_value for test in tests])
        p_ranks = holm([test.p_ranks for test in tests])
        for row, test, p_value, p_rank in zip(others, tests, p_values, p_ranks, strict=True):
            change = test.change
            if only is None:
                # As in the tables: a user with several test rows counts several times there.
                means = (each.over_seeds("test", metric).mean for each in (reference, row))
                change = relative_change(*means)
            tested[row.name][metric] = Tested(change, p_value, p_rank)
    return tested
