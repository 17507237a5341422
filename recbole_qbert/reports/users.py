"""The report's section of example users: history, next item and recommendations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.sequences import read_interactions
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.reports import webpage
from recbole_qbert.reports.discovery import Found
from recbole_qbert.reports.inspection.catalog import printable
from recbole_qbert.reports.inspection.tree import spread
from recbole_qbert.reports.learning import metric_name
from recbole_qbert.reports.sections import ReportSection
from recbole_qbert.serving.recommender import Recommender

LENGTH = 10  # recommended items per user
N_HISTORY = 8  # number of last items of a history that are shown
LEAST = 4  # fewest interactions of a test user
Thumbnail = Callable[[str], str]  # item -> HTML


@dataclass(frozen=True)
class ExampleUser:
    """A test user.

    Attributes:
        user: raw token.
        history: raw item tokens except the last one, oldest first.
        target: the last item, which the model has not seen.
        recommended: recommended items, best first.
    """

    user: str
    history: tuple[str, ...]
    target: str
    recommended: tuple[str, ...]

    @property
    def rank(self) -> int | None:
        """Rank of the target, from 1; None if it is not recommended."""
        return self.recommended.index(self.target) + 1 if self.target in self.recommended else None


def best_bundle(found: Found, dataset: str) -> RunResult | None:
    """Find the data set's run with a bundle that is best by its valid metric; None if none."""
    runs = [
        run.result for run in found.runs
        if run.result.dataset == dataset and run.result.bundle
        and Path(run.result.bundle).is_dir()
    ]  # fmt: skip
    return max(runs, key=lambda run: run.valid.get(run.valid_metric, 0.0), default=None)


def users_section(
    run: RunResult, source: str, domain: DatasetPaths, title_field: str | None, n_users: int,
    thumbnail: Thumbnail,
) -> ReportSection | None:  # fmt: skip
    """Make the section, with histories and recommendations by title.

    Args:
        run: run whose bundle recommends.
        source: results file of the run, as printed in the report.
        domain: paths of the data set.
        title_field: field of the `.item` file with titles; None: items are shown as tokens.
        n_users: number of users.
        thumbnail: returns an item's picture as HTML.

    Returns:
        The section; None if there are no interactions or no suitable users.

    Raises:
        InputError: a file cannot be used, or the bundle was changed.
    """
    if not domain.file("inter").is_file():
        return None
    examples = example_users(run, domain, n_users)
    if not examples:
        return None
    titles = _titles(domain, title_field)
    hits = sum(example.rank is not None for example in examples)
    chosen = f"{run.title}, seed {run.seed}, the best by valid {metric_name(run.valid_metric)}"
    lines = [
        f"{chosen}. Each user's last item is held back; what stands in the history is not "
        f"recommended. It is among the {LENGTH} best for {hits} of these {len(examples)} users, "
        "who are spaced evenly over all, not chosen."
    ]
    if title_field is None:
        lines.append(f"Items go by token: --title_field= names a column of {domain.name}.item.")
    body = "".join(_user(example, titles, thumbnail) for example in examples)
    again = f"recbole-qbert run --model={run.model} --dataset={run.dataset}"
    return ReportSection(
        "users", "Example users", f"the bundle of {Path(run.folder).name} in {source}", again,
        (webpage.paragraphs(lines) + body,),
    )  # fmt: skip


def example_users(run: RunResult, domain: DatasetPaths, n_users: int) -> list[ExampleUser]:
    """Select users, evenly spaced among test users whose items the model knows."""
    recommender = Recommender.load(run.bundle)
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


def _user(example: ExampleUser, titles: Mapping[str, str], thumbnail: Thumbnail) -> str:
    shown = example.history[-N_HISTORY:]
    n_hidden = len(example.history) - len(shown)
    before = f'<p class="more">... {n_hidden:,} before</p>' if n_hidden else ""
    outcome = (
        f"Hit: the item that came next is number {example.rank}."
        if example.rank
        else f"No hit: the item that came next is not among the {len(example.recommended)} best."
    )
    history = _list(shown, titles, thumbnail, {}, numbered=False)
    target = _list([example.target], titles, thumbnail, {}, numbered=False)
    marks = {example.target: "hit"} if example.rank else {}
    best = _list(example.recommended, titles, thumbnail, marks, numbered=True)
    return (
        f'<div class="example"><h4>User {escape(printable(example.user))}</h4>'
        f"<p>{escape(outcome)}</p>"
        f'<div class="columns"><div><h5>History, the latest last</h5>{before}{history}'
        f"<h5>What came next</h5>{target}</div>"
        f"<div><h5>Recommended</h5>{best}</div></div></div>"
    )


def _list(
    items: Sequence[str],
    titles: Mapping[str, str],
    thumbnail: Thumbnail,
    marks: Mapping[str, str],
    numbered: bool,
) -> str:
    tag = "ol" if numbered else "ul"
    rows = []
    for item in items:
        mark = f'<b class="mark">{marks[item]}</b>' if item in marks else ""
        kind = ' class="hit"' if item in marks else ""
        name = escape(titles.get(item) or printable(item))
        rows.append(f"<li{kind}><div>{thumbnail(item)}<span>{name}</span>{mark}</div></li>")
    return f'<{tag} class="items">{"".join(rows)}</{tag}>'
