"""Answers to the requests of a batch, as JSON. This runs in the thread of the model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch

from recbole_qbert.common.errors import InputError
from recbole_qbert.serving.recommender import Recommender, nothing_known


class ListOptions(NamedTuple):
    """Which items are ranked."""

    exclude_seen: bool
    candidates: tuple[str, ...] | None
    exclude: tuple[str, ...]


class ListsJob(NamedTuple):
    """Lists of the best items for histories."""

    histories: list[list[str]]
    k: int
    options: ListOptions
    several: bool  # whether the answer is a list of results


class ExplainJob(NamedTuple):
    """Explanations of items after one history."""

    history: list[str]
    items: list[str]
    n_removals: int


Job = ListsJob | ExplainJob
# Up to this number, excluded items are taken out of a longer list, so that requests with different
# ones share the passes of the model.
N_TAKEN_OUT = 100


class Answerer:
    """Answers batches of jobs with a recommender."""

    def __init__(self, recommender: Recommender, max_batch_size: int):
        """Take a recommender, and the largest number of histories that it scores at once."""
        self._recommender = recommender
        self._max_batch_size = max_batch_size
        titles = recommender.titles
        self._titles = dict(zip(recommender.tokens, titles, strict=True)) if titles else None

    def __call__(self, jobs: Sequence[Job]) -> list[bytes | InputError]:
        """Return the JSON of each job's answer, or the error in its request."""
        found: dict[int, bytes | InputError] = {}
        groups: dict[tuple[ListOptions, int | None], dict[int, ListsJob]] = {}
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # unknown items are in the answers
            for place, job in enumerate(jobs):
                try:
                    if isinstance(job, ExplainJob):
                        found[place] = self._explained(job)
                        continue
                    self._check(job)
                    groups.setdefault(self._grouping_key(job), {})[place] = job
                except InputError as error:
                    found[place] = error
            for (shared, _), group in groups.items():
                try:
                    found |= zip(group, self._listed([*group.values()], shared), strict=True)
                except InputError as error:  # the same in each of them
                    found |= dict.fromkeys(group, error)
        return [found[place] for place in range(len(jobs))]

    def _check(self, job: ListsJob) -> None:
        """Raise an `InputError` if no history has a known item."""
        unknown = self._recommender.unknown(chain.from_iterable(job.histories))
        known = {*chain.from_iterable(job.histories)} - {*unknown}
        if not known:
            raise nothing_known(unknown)

    def _grouping_key(self, job: ListsJob) -> tuple[ListOptions, int | None]:
        """Return options of a call of the model; jobs with equal keys are ranked in one call.

        The number belongs to the key of a model that searches until a list of `k` items is full.
        """
        options = job.options
        if hasattr(self._recommender.model, "fill_candidates"):
            return options, job.k
        few = len(options.exclude) < min(N_TAKEN_OUT, len(self._recommender.tokens))
        few_out = few and options.candidates is None
        return (options._replace(exclude=()) if few_out else options), None

    def _listed(self, jobs: Sequence[ListsJob], shared: ListOptions) -> list[bytes]:
        """Answer jobs with the same shared options."""
        n_excluded = 0 if shared.exclude else max(len(job.options.exclude) for job in jobs)
        recommender = self._recommender
        k = min(max(job.k for job in jobs) + n_excluded, len(recommender.tokens))
        lists = iter(
            recommender.recommend(
                [history for job in jobs for history in job.histories],
                k,
                batch_size=min(self._max_batch_size, recommender.rows_at_once(k)),
                **shared._asdict(),
            )
        )
        return [self._lists_answer(job, [next(lists) for _ in job.histories]) for job in jobs]

    def _lists_answer(self, job: ListsJob, lists: list[list[tuple[str, float]]]) -> bytes:
        unknown = self._recommender.unknown
        exclude = {*job.options.exclude}
        of_options = unknown([*(job.options.candidates or ()), *job.options.exclude])
        lost = [*map(unknown, job.histories)]
        ranked = [
            [*map(self._ranked, [pair for pair in found if pair[0] not in exclude][: job.k])]
            for found in lists
        ]
        if not job.several:
            named = [*dict.fromkeys(lost[0] + of_options)]
            return _json({"recommendations": ranked[0], "unknown": named})
        results = [
            {"recommendations": found, "unknown": named}
            for found, named in zip(ranked, lost, strict=True)
        ]
        return _json({"results": results, "unknown": of_options})

    def _ranked(self, pair: tuple[str, float]) -> dict[str, Any]:
        item, score = pair
        title = {} if self._titles is None else {"title": self._titles[item]}
        return {"item": item, "score": score, **title}

    def _explained(self, job: ExplainJob) -> bytes:
        found = self._recommender.explain(job.history, job.items, job.n_removals)
        explanations = [each.as_json() for each in found]
        unknown = self._recommender.unknown(job.history)
        return _json({"explanations": explanations, "unknown": unknown})


def _json(content: dict[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    # Half of a surrogate pair, which a client may send, is written as its JSON escape.
    return text.encode("utf-8", "backslashreplace")
