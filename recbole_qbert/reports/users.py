"""The report's section of example users: history, next item and recommendations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.sequences import read_interactions
from recbole_qbert.evaluation.ranking import LIST_LENGTH, UNSEEN
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.reports.discovery import Found
from recbole_qbert.reports.inspection.catalog import printable, spread
from recbole_qbert.reports.learning import metric_name
from recbole_qbert.reports.page import Block, Example, ItemCard, ItemList, ReportSection
from recbole_qbert.serving.recommender import Recommender

LENGTH = 10  # recommended items per user
N_HISTORY = 8  # number of last items of a history that are shown
LEAST = 4  # fewest interactions of a test user


class UnusableBundle(InputError):
    """The bundle of a run cannot be loaded, for example without the plug-in of its model."""


class ExampleUser(NamedTuple):
    """A test user; items are raw tokens."""

    user: str
    history: tuple[str, ...]  # all items but the last, oldest first
    target: str  # the last item, which the model has not seen
    recommended: tuple[str, ...]  # best first

    @property
    def rank(self) -> int | None:
        """Rank of the target, from 1; None if it is not recommended."""
        return self.recommended.index(self.target) + 1 if self.target in self.recommended else None


class BestRun(NamedTuple):
    """The run of a data set with the highest valid metric."""

    run: RunResult
    metric: str


def best_bundle(found: Found, dataset: str) -> BestRun | None:
    """Find the data set's best run with a bundle; None if none.

    A run of ready-made splits is left out: a user's last item may be one that it was trained on.
    The metric is the runs' own valid metric, or NDCG@10 with seen items excluded if they differ.
    """
    runs = [
        run.result for run in found.runs
        if run.result.dataset == dataset and run.result.bundle
        and Path(run.result.bundle).is_dir()
        and not run.result.config["keys"].get("benchmark_filename")
    ]  # fmt: skip
    used = sorted({run.valid_metric for run in runs})
    metrics = [f"{UNSEEN}ndcg@{LIST_LENGTH}"] * (len(used) > 1) + used
    for metric in metrics:
        if having := [run for run in runs if metric in run.valid]:
            return BestRun(max(having, key=lambda run: run.valid[metric]), metric)
    return None


def users_section(
    best: BestRun, source: str, domain: DatasetPaths, title_field: str | None, n_users: int
) -> ReportSection | None:
    """Make the section, with histories and recommendations by title.

    Args:
        best: run whose bundle recommends.
        source: results file of the run, as printed in the report.
        domain: paths of the data set.
        title_field: field of the `.item` file with titles; None: items are shown as tokens.
        n_users: number of users.

    Returns:
        The section; None if there are no interactions or no suitable users.

    Raises:
        UnusableBundle: the bundle cannot be loaded.
        InputError: another file cannot be used.
    """
    if not domain.file("inter").is_file():
        return None
    run = best.run
    examples = example_users(run, domain, n_users)
    if not examples:
        return None
    titles = _titles(domain, title_field)
    hits = sum(example.rank is not None for example in examples)
    lines = [
        f"{run.title}, seed {run.seed}, has the best valid {metric_name(best.metric)}. It "
        "recommends items from each user's history without the last item, and excludes items of "
        f"the history. The last item is among the {LENGTH} best for {hits} of {len(examples)} "
        "users, who are spaced evenly over all users."
    ]
    if title_field is None:
        lines.append(
            "Items are shown by token; give the title field of "
            f"{domain.name}.item (--title_field=FIELD)."
        )
    views = [_view(example, titles) for example in examples]
    return ReportSection(
        "users",
        "Example users",
        (Block("paragraphs", lines), Block("examples", views)),
        f"bundle of {Path(run.folder).name} in {source}",
        f"recbole-qbert run --model={run.model} --dataset={run.dataset}",
    )


def example_users(run: RunResult, domain: DatasetPaths, n_users: int) -> list[ExampleUser]:
    """Select users, evenly spaced among test users whose items the model knows."""
    try:
        recommender = Recommender.load(run.bundle)
    except InputError as error:
        raise UnusableBundle(str(error)) from error
    known = set(recommender.tokens)
    frame = read_interactions(domain.file("inter"))
    frame = frame.astype({"user_id": object, "item_id": object})
    sizes = frame.groupby("user_id", sort=True).size()
    familiar = frame["item_id"].isin(known).groupby(frame["user_id"]).all()
    able = sizes.index[(sizes >= LEAST) & familiar.reindex(sizes.index)]
    names: list[Any] = able.tolist()
    users = [names[place] for place in spread(range(len(names)), n_users)]
    if not users:
        return []
    chosen = frame[frame["user_id"].isin(users)].groupby("user_id")["item_id"].apply(list)
    items = [chosen[user] for user in users]
    k = min(LENGTH, len(known))
    lists = recommender.recommend([history[:-1] for history in items], k=k)
    return [
        ExampleUser(user, tuple(history[:-1]), history[-1], tuple(item for item, _ in best))
        for user, history, best in zip(users, items, lists, strict=True)
    ]


def _titles(domain: DatasetPaths, field: str | None) -> dict[str, str]:
    """Item -> title, for items that have one."""
    if field is None or not domain.file("item").is_file():
        return {}
    frame = read_columns(domain.file("item"), ["item_id", field])
    pairs = zip(frame["item_id"], map(printable, frame[field]), strict=True)
    return {item: title for item, title in pairs if title}


def _view(example: ExampleUser, titles: Mapping[str, str]) -> Example:
    def cards(items: Sequence[str], hit: str = "") -> tuple[ItemCard, ...]:
        return tuple(
            ItemCard(item, titles.get(item) or printable(item), hit=item == hit) for item in items
        )

    n_hidden = max(0, len(example.history) - N_HISTORY)
    outcome = f"No hit: the next item is not among the {len(example.recommended)} best."
    if example.rank:
        outcome = f"Hit: the next item has rank {example.rank}."
    more = f"... {counted(n_hidden, 'earlier item')}" if n_hidden else ""
    lists = (
        ItemList("History, the latest item last", cards(example.history[-N_HISTORY:]), more=more),
        ItemList("Next item", cards([example.target])),
        ItemList("Recommended", cards(example.recommended, example.target), numbered=True),
    )
    return Example(f"User {printable(example.user)}", outcome, lists)
