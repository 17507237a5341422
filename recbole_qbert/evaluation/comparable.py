"""Whether two runs were tested on the same: only then may their numbers stand side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_qbert.data.semid import items_sha256

if TYPE_CHECKING:
    from recbole_qbert.evaluation.results import RunResult

MARK = " †"
PARTS = ("users", "targets", "items")


def tested_on(tested: Any) -> dict[str, str]:
    """Hashes of what a model is tested on, whatever the order of the file.

    Args:
        tested: the dataset of the test rows.

    Returns:
        `users` and `targets`, row for row; `items`, the whole catalog; `numbering`, which tells
        whether a user's number means the same user in the ranks of another run.
    """
    tokens = tested.field2id_token
    users = tokens[tested.uid_field][tested.inter_feat[tested.uid_field].numpy()]
    targets = tokens[tested.iid_field][tested.inter_feat[tested.iid_field].numpy()]
    order = np.lexsort((targets, users))
    return {
        "users": _sha256(users[order]),
        "targets": _sha256(targets[order]),
        "items": items_sha256(tokens[tested.iid_field][1:]),
        "numbering": _sha256(tokens[tested.uid_field]),
    }


def _sha256(tokens: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()


def differences(one: RunResult, other: RunResult) -> list[str]:
    """What the two were tested on that is not the same: some of PARTS, or the data set.

    Of runs of older versions only the numbers of users and items are known.
    """
    if one.dataset != other.dataset:
        return ["data set"]
    if one.tested_on and other.tested_on:
        return [part for part in PARTS if one.tested_on[part] != other.tested_on[part]]
    counted = {"users": "test rows", "items": "items"}
    return [
        part for part, count in counted.items() if one.counts.get(count) != other.counts.get(count)
    ]


def unlike_first(results: Sequence[RunResult]) -> list[str]:
    """Of each run what differs from the first one of its data set: `users, items`, or ""."""
    first: dict[str, RunResult] = {}
    return [
        ", ".join(differences(first.setdefault(result.dataset, result), result))
        for result in results
    ]


def notes(names: Sequence[str], unlike: Sequence[str]) -> list[str]:
    """What is said below a table of rows of these names, some of them marked."""
    return list(
        dict.fromkeys(
            f"{MARK.strip()} {name}: other test {parts} than the first row of its data set: not "
            "comparable"
            for name, parts in zip(names, unlike, strict=True)
            if parts
        )
    )
