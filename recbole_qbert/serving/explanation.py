"""Explanations of recommendations: shared codes, and items of the history that the score needs.

Shapes: S items of a history, D distinct ones, Q explained items, K levels, N items with padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from recbole.config import Config
from torch import Tensor

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.ragged import compacted
from recbole_qbert.data.codec import level_letters, quote
from recbole_qbert.serving.scoring import rows_at_once, scores_of


class SharedCode(NamedTuple):
    """A code of the explained item that items of the history have at the same level."""

    code: str  # as in the .semid file, such as a_170
    items: tuple[str, ...]  # items of the history, the latest first


class Removal(NamedTuple):
    """Change of the score if an item is taken out of the history."""

    item: str
    drop: float  # score with the item minus score without it; inf: not found without it


@dataclass(frozen=True)
class Explanation:
    """Why an item is recommended after a history.

    Attributes:
        item: token of the item.
        title: its title, "" if there is none.
        score: its score after the whole history.
        shared_codes: shared codes, level by level; empty if the model has no semantic IDs.
        removals: items of the history whose removal lowers the score, the largest drop first.
    """

    item: str
    title: str
    score: float
    shared_codes: tuple[SharedCode, ...]
    removals: tuple[Removal, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the explanation as objects of JSON, which has no infinite numbers."""
        removals = [each._asdict() for each in self.removals]
        for each in removals:
            each["drop"] = each["drop"] if math.isfinite(each["drop"]) else None
        return asdict(self) | {
            "shared_codes": [each._asdict() for each in self.shared_codes],
            "removals": removals,
        }

    def lines(self, titles: Mapping[str, str]) -> list[str]:
        """Return the explanation as lines of text; `titles` names the items of the history."""

        def named(item: str) -> str:
            return titles.get(item) or item

        found = [
            f"shares {shared.code} with {', '.join(map(named, shared.items))}"
            for shared in self.shared_codes
        ]
        for item, drop in self.removals:
            effect = f"the score falls by {drop:.4f}"
            if drop == math.inf:  # of a search
                effect = "the model does not find the item"
            found.append(f"without {named(item)} {effect}")
        return found or ["no shared code, and no removal of an item lowers its score"]


def explain_items(
    model: Any,
    config: Config,
    history: Tensor,
    items: Tensor,
    codes: Tensor | None,
    tokens: Sequence[str],
    titles: Sequence[str],
    n_removals: int,
    extra_level: int | None = None,
    skip: bool = False,
) -> list[Explanation]:
    """Explain the scores of items after a history.

    Args:
        model: in evaluation mode.
        config: config of the model.
        history: [S], internal IDs of the items that the model reads, oldest first.
        items: [Q], internal IDs of the items to explain.
        codes: [N, K], codes by internal ID; None without semantic IDs.
        tokens: N item tokens.
        titles: N titles.
        n_removals: largest number of removals in an explanation.
        extra_level: level of the codes that only counts the items of equal tuples, if there is one.
        skip: whether items that the model does not rank after this history are left out.

    Raises:
        InputError: the model does not rank an item after this history, and `skip` is False.
    """
    distinct = torch.tensor(list(dict.fromkeys(history.flip(0).tolist())))
    scores, drops = leave_one_out(model, config, history, distinct, items)
    explained = []
    for place, item in enumerate(items.tolist()):
        if not scores[place].isfinite():
            if skip:
                continue
            raise InputError(
                f"{quote(tokens[item])}: the model does not rank this item after the history"
            )
        drop, order = drops[:, place].sort(descending=True, stable=True)
        pairs = zip(distinct[order].tolist(), drop.tolist(), strict=True)
        removals = [Removal(tokens[each], value) for each, value in pairs if value > 0]
        shared = () if codes is None else _shared_codes(codes, item, distinct, tokens, extra_level)
        explained.append(
            Explanation(
                tokens[item],
                titles[item],
                float(scores[place]),
                shared,
                tuple(removals[:n_removals]),
            )
        )
    return explained


def leave_one_out(
    model: Any, config: Config, history: Tensor, distinct: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    """Score items [Q] after a history, and after it without each of its distinct items [D].

    Returns:
        Scores [Q] after the history, and how much each score drops without each item, [D, Q]. The
        drops are 0 if D is 1, because no model ranks after an empty history.
    """
    kept = history * (history != distinct.unsqueeze(1))  # [D, S]
    if len(distinct) == 1:
        kept = history.unsqueeze(0)
    rows, lengths = compacted(torch.cat([history.unsqueeze(0), kept]))
    padded = torch.zeros(len(rows), config["MAX_ITEM_LIST_LENGTH"], dtype=torch.long)
    padded[:, : len(history)] = rows
    step = rows_at_once(model.n_items, 1, None)
    columns = items.to(config["device"])
    scores = torch.cat(
        [
            scores_of(model, config, *part)[:, columns].cpu()
            for part in zip(padded.split(step), lengths.split(step), strict=True)
        ]
    )
    return scores[0], scores[0] - scores[1:]


def _shared_codes(
    codes: Tensor, item: int, distinct: Tensor, tokens: Sequence[str], extra_level: int | None
) -> tuple[SharedCode, ...]:
    """Return the codes of an item that the items [D] of a history have at the same levels.

    Equal codes of `extra_level` mean nothing and are left out.
    """
    same = codes[distinct] == codes[item]  # [D, K]
    return tuple(
        SharedCode(
            f"{level_letters(level)}_{int(codes[item, level])}",
            tuple(tokens[each] for each in distinct[same[:, level]].tolist()),
        )
        for level in range(codes.size(1))
        if level != extra_level and same[:, level].any()
    )
