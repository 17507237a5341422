"""What a run reports of a model that generates the codes of items: its searches and collisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from recbole_qbert.common.output import counted
from recbole_qbert.evaluation.ranking import (
    LIST_LENGTH,
    UNSEEN,
    Ranks,
    metric_names,
    rank_targets,
    summarize,
)
from recbole_qbert.evaluation.results import CREDITED, EXACT_GAIN, metric_title
from recbole_qbert.models.layers.beam_ranking import RanksByBeams


def beam_statistics(model: Any) -> dict[str, float]:
    """Return `RanksByBeams.beam_statistics` of a model; empty for any other model."""
    return model.beam_statistics() if isinstance(model, RanksByBeams) else {}


def generation_figures(model: Any, loader: Any, ranks: Ranks, config: Any) -> dict[str, float]:
    """Return figures on a test by a model that generates codes; empty for any other model.

    * `valid_beams`, `outside`: see `RanksByBeams.beam_statistics`.
    * `exact_rows`: number of the first test rows that were also ranked exactly; `same_items`, the
      share of their exact top items that the beams' lists hold; `exact_gain_hit@10` and so on, by
      how much exact ranking changes their metrics.
    * `credited_hit@10` and so on: metrics over all items if items with the target's codes count as
      the target (`Ranks.credited`).

    Args:
        model: the model, right after the test.
        loader: loader of the test rows.
        ranks: of the test, with lists.
        config: config of the run.
    """
    metrics, topk = config["metrics"], config["topk"]
    names = metric_names(metrics, topk)
    found = beam_statistics(model)
    if isinstance(model, RanksByBeams) and model.exact_rows:  # the same in all processes
        exact = rank_targets(
            model,
            loader,
            config["device"],
            lambda batches: _first_rows(batches, model.exact_rows),
            LIST_LENGTH,
            model.exact_scores,
        )
        assert ranks.lists is not None and exact.lists is not None  # both were asked for
        n_rows = len(exact.users)
        beams = Ranks(ranks.users[:n_rows], ranks.raw[:n_rows], ranks.unseen[:n_rows])
        wanted, held = exact.lists.raw, ranks.lists.raw[:n_rows]
        same = (wanted[:, :, None] == held[:, None]).any(axis=2)
        found |= {"exact_rows": n_rows, "same_items": float(np.mean(same[wanted > 0]))}
        before, after = (summarize(each, metrics, topk) for each in (beams, exact))
        found |= {
            EXACT_GAIN + name: after[name] - before[name] for name in (*names, *_unseen(names))
        }
    if ranks.credited is not None:
        values = summarize(ranks._replace(raw=ranks.credited), metrics, topk)
        found |= {CREDITED + name: values[name] for name in names}
    return found


def _unseen(names: Iterable[str]) -> list[str]:
    return [UNSEEN + name for name in names]


def _first_rows(batches: Iterable[Any], n_rows: int) -> Iterator[Any]:
    """Yield the batches of a full-sort loader up to a number of rows."""
    for interaction, history, users, items in batches:
        yield interaction[:n_rows], history, users[:n_rows], items[:n_rows]
        n_rows -= len(items)
        if n_rows <= 0:
            return


def generation_note(figures: Mapping[str, float], metric: str) -> str:
    """Return a line on figures of `generation_figures`, with one metric; empty without searches."""
    if "valid_beams" not in figures:
        return ""
    line = (
        f"beam search: {figures['valid_beams']:.1%} of the beams end at an item; "
        f"{max(figures['outside'], 0.0):.1%} of the probability leads to codes of no item"
    )
    if "exact_rows" not in figures:
        return line
    return (
        f"{line}; ranking {counted(int(figures['exact_rows']), 'user')} exactly keeps "
        f"{figures['same_items']:.1%} of their top {LIST_LENGTH} and changes "
        f"{metric_title(metric)} by {figures[EXACT_GAIN + metric]:+.4f}"
    )
