"""Checks of item tokens and code tuples: unique, in range, fit for a tab-separated file."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.codec import IntArray, first_outside, level_letters, quote

# Characters that one tab-separated UTF-8 field cannot hold.
_UNFIT = re.compile("[\\t\\n\\r\\ud800-\\udfff]")


def check_items(
    items: tuple[str, ...], n_rows: int, named: str, place: Callable[[int], str]
) -> None:
    """Check that item tokens are unique, non-empty text that fits into a tab-separated field.

    Args:
        items: item tokens.
        n_rows: number of rows of codes, which must be the number of items.
        named: source of the items, for the message.
        place: row number -> its name in the message, such as `line 3`.

    Raises:
        InputError: a check fails; names the first bad row.
    """
    if not items:
        raise InputError(f"{named}: no items; give at least one")
    if len(items) != n_rows:
        raise InputError(f"{named}: {len(items)} items and {n_rows} rows of codes; give one each")
    if not all(isinstance(item, str) and item for item in items) or _UNFIT.search("".join(items)):
        fits = [isinstance(item, str) and item and not _UNFIT.search(item) for item in items]
        row = next(row for row, good in enumerate(fits) if not good)
        raise InputError(
            f"{named}: {place(row)}, item_id: {quote(items[row])} cannot be an item token; "
            "give non-empty Unicode text without tabs and line ends"
        )
    if len(set(items)) < len(items):
        seen: dict[str, int] = {}
        for row, item in enumerate(items):
            if item in seen:
                raise InputError(
                    f"{named}: {place(row)}, item_id: item {quote(item)} stands on "
                    f"{place(seen[item])} already; keep one row an item"
                )
            seen[item] = row


def check_codes(
    items: tuple[str, ...],
    codes: IntArray,
    sizes: tuple[int, ...],
    named: str,
    place: Callable[[int], str],
) -> None:
    """Check that codes are inside their codebooks and that no two rows are equal.

    Args:
        items: N item tokens.
        codes: [N, K].
        sizes: codes of each level, K of them.
        named: source of the codes, for the message.
        place: row number -> its name in the message, such as `line 3`.

    Raises:
        InputError: a check fails; names the first bad row.
    """
    outside = first_outside(codes, sizes)
    if outside is not None:
        row, level = outside
        letters = level_letters(level)
        raise InputError(
            f"{named}: {place(row)}, semantic_id: the code of '{letters}_{codes[row, level]}' is "
            f"out of range; level {letters} has codes 0 to {sizes[level] - 1}: "
            "correct the row or the codebook sizes"
        )
    keys = _tuple_keys(codes, sizes)
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if len(repeats):
        # The sort is stable, so the smallest repeating row comes second among its equals, and the
        # entry before it is the first row with that tuple.
        neighbor = repeats[np.argmin(order[repeats + 1])]
        one, two = int(order[neighbor]), int(order[neighbor + 1])
        counts = np.unique(keys, return_counts=True)[1]
        pairs = int((counts * (counts - 1) // 2).sum())
        raise InputError(
            f"{named}: {place(two)}, semantic_id: item {quote(items[two])} has the tuple of item "
            f"{quote(items[one])} on {place(one)}; pairs of items that share a tuple: {pairs} "
            "in all; make the tuples unique by reallocation, or add a level"
        )


def _tuple_keys(codes: IntArray, sizes: tuple[int, ...]) -> IntArray:
    """Return one integer per row of codes [N, K], equal exactly where the rows are equal. [N]"""
    keys, bound = codes[:, 0], sizes[0]
    for level in range(1, len(sizes)):
        if bound * sizes[level] >= 1 << 62:  # avoid overflow: ranks identify rows as keys do
            keys = np.unique(keys, return_inverse=True)[1]
            bound = len(keys)
        keys = keys * sizes[level] + codes[:, level]
        bound *= sizes[level]
    return keys
