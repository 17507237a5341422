"""Check whether two runs have the same test set, so that their metrics can be compared."""

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
# Rows that the others are compared with, in footnotes.
FIRST_ROW = "the first row of its data set"
REFERENCE_ROW = "the reference (the first row if there is none)"


def tested_on(tested: Any) -> dict[str, str]:
    """Hash the test set of a model, independent of the order of rows in the file.

    Returns hex SHA-256 by name: `users` and `targets` of the test rows; `items`, the catalog;
    `numbering`, the mapping of users to internal IDs, which pairs the ranks of two runs.
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
    """Return the parts of two runs' test sets that differ: some of PARTS, or `data set`.

    For runs of older versions only the numbers of users and items are compared.
    """
    if one.dataset != other.dataset:
        return ["data set"]
    if one.tested_on and other.tested_on:
        return [part for part in PARTS if one.tested_on[part] != other.tested_on[part]]
    counted = (("users", "test rows"), ("items", "items"))
    return [part for part, name in counted if one.counts.get(name) != other.counts.get(name)]


def numberings(runs: Iterable[RunResult]) -> set[str]:
    """Return the hashes of the users' numbers, by which the ranks of two runs are paired."""
    return {run.tested_on.get("numbering", "") for run in runs} - {""}


def unlike_first(results: Sequence[RunResult]) -> list[str]:
    """Return, per run, what differs from the first run on its data set, such as `users, items`."""
    first: dict[str, RunResult] = {}
    return [", ".join(differences(first.setdefault(run.dataset, run), run)) for run in results]


def notes(names: Sequence[str], unlike: Sequence[str], base: str = REFERENCE_ROW) -> list[str]:
    """Return a table's footnotes for its marked rows.

    Args:
        names: titles of the rows.
        unlike: what differs, per row, as of `unlike_first`.
        base: the row that the others were compared with.
    """
    found = [
        f"{MARK.strip()} {name}: other test {parts} than {base}: not comparable"
        for name, parts in zip(names, unlike, strict=True)
        if parts
    ]
    return list(dict.fromkeys(found))
