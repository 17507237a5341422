"""Level tokens (`a_17`), the vocabulary of their codes, and checks of item tokens and codes.

Shapes: N items, K levels, C_k codes in level k.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.output import counted

# Most codes of a level. Without a limit, a stray digit would allocate a table of many gigabytes.
CODEBOOK_LIMIT = 1 << 20
CODE = "(?:0|[1-9][0-9]{0,6})"  # pattern of a code
_TOKEN = re.compile(f"([a-z]{{1,4}})_({CODE})")
# Characters that a field of a tab-separated UTF-8 file, or a NumPy string, cannot hold.
_UNFIT = re.compile("[\\t\\n\\r\\0\\ud800-\\udfff]")

IntArray = npt.NDArray[np.int64]


def quote(text: object, limit: int = 60) -> str:
    """Show `text` on one printable line: control characters escaped, long text cut at `limit`."""
    shown = str(text)
    return repr(shown if len(shown) <= limit else shown[:limit] + "…")


def level_letters(level: int) -> str:
    """Return the letters of a level, in bijective base 26: 0 -> 'a', 25 -> 'z', 26 -> 'aa'."""
    letters, number = "", level + 1
    while number > 0:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def parse_token(token: str) -> tuple[int, int]:
    """Parse a level token to (level, code): `'a_17'` -> `(0, 17)`.

    Raises:
        InputError: the token is malformed, or its code is not below `CODEBOOK_LIMIT`.
    """
    match = _TOKEN.fullmatch(token)
    if match is None or int(match[2]) >= CODEBOOK_LIMIT:
        raise InputError(
            f"{quote(token)} is not a level token; write lower-case level letters, an underscore "
            f"and a code below {CODEBOOK_LIMIT} without leading zeros, such as 'a_17'"
        )
    number = functools.reduce(lambda n, letter: n * 26 + ord(letter) - ord("a") + 1, match[1], 0)
    return number - 1, int(match[2])


@dataclass(frozen=True)
class SemanticIDCodec:
    """Joint vocabulary of all levels: the codes of one level after those of another.

    Attributes:
        codebook_sizes: number of codes of each level, K of them.
    """

    codebook_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", checked_sizes(self.codebook_sizes))

    @property
    def n_levels(self) -> int:
        """Number of levels K."""
        return len(self.codebook_sizes)

    @functools.cached_property
    def offsets(self) -> IntArray:
        """First vocabulary row of each level, `[K]`, read-only."""
        offsets = np.cumsum((0, *self.codebook_sizes[:-1]), dtype=np.int64)
        offsets.setflags(write=False)
        return offsets

    def decode_token(self, token: str) -> tuple[int, int]:
        """Return (level, code) of a token: `'a_17'` or `'<a_17>'` -> `(0, 17)`.

        Raises:
            InputError: the token is malformed, or there is no such level or code.
        """
        bracketed = token.startswith("<") and token.endswith(">")
        level, code = parse_token(token[1:-1] if bracketed else token)
        if level >= self.n_levels:
            raise InputError(
                f"token {quote(token)}: the IDs have only {counted(self.n_levels, 'level')}"
            )
        if code >= self.codebook_sizes[level]:
            raise InputError(f"token {quote(token)}: {_range_of(level, self.codebook_sizes)}")
        return level, code


def checked_sizes(sizes: Any, named: str = "semantic IDs") -> tuple[int, ...]:
    """Check K codebook sizes and return them as a tuple; `named` is their source, for the message.

    Raises:
        InputError: they are not integers from 1 to `CODEBOOK_LIMIT`, or there are none.
    """
    given = tuple(sizes) if isinstance(sizes, Iterable) else ()
    integers = all(isinstance(n, int | np.integer) and not isinstance(n, bool) for n in given)
    if not given or not integers or not 1 <= min(given) <= max(given) <= CODEBOOK_LIMIT:
        raise InputError(
            f"{named}: codebook_sizes is {quote(sizes)}; give one integer from 1 to "
            f"{CODEBOOK_LIMIT} for each level"
        )
    return tuple(map(int, given))


def check_items(items: Sequence[str], n_rows: int, named: str, place: Callable[[int], str]) -> None:
    """Check that item tokens are unique, non-empty text that fits into a tab-separated field.

    `n_rows` is the number of rows of codes or vectors, which must be that of the items. In the
    message, `named` is the source of the items, and `place(row)` a row, such as `line 3`.

    Raises:
        InputError: a check fails; names the first bad row.
    """
    if not items:
        raise InputError(f"{named}: no items; give at least one")
    if len(items) != n_rows:
        raise InputError(
            f"{named}: {counted(len(items), 'item')} and {counted(n_rows, 'row')}; give one row "
            "per item"
        )
    if not all(isinstance(item, str) and item for item in items) or _UNFIT.search("".join(items)):
        fits = [isinstance(item, str) and item and not _UNFIT.search(item) for item in items]
        row = next(row for row, good in enumerate(fits) if not good)
        raise InputError(
            f"{named}: {place(row)}, item_id: {quote(items[row])} cannot be an item token; "
            "give non-empty Unicode text without tabs, line ends and NUL characters"
        )
    if len(set(items)) < len(items):
        seen: dict[str, int] = {}
        row = next(row for row, item in enumerate(items) if seen.setdefault(item, row) != row)
        raise InputError(
            f"{named}: {place(row)}, item_id: item {quote(items[row])} is on "
            f"{place(seen[items[row]])} already; keep one row per item"
        )


def check_codes(
    items: Sequence[str],
    codes: IntArray,
    sizes: tuple[int, ...],
    named: str,
    place: Callable[[int], str],
) -> None:
    """Check that codes [N, K] are below K codebook sizes and that no two rows are equal.

    `named` and `place` are those of `check_items`.

    Raises:
        InputError: a check fails; names the first bad row.
    """
    outside = (codes < 0) | (codes >= np.asarray(sizes))
    if outside.any():
        row, level = np.argwhere(outside)[0].tolist()
        raise InputError(
            f"{named}: {place(row)}, semantic_id: '{level_letters(level)}_{codes[row, level]}': "
            f"{_range_of(level, sizes)}; correct the row or the codebook sizes"
        )
    keys = _tuple_keys(codes, sizes)
    order = np.argsort(keys, kind="stable")
    repeats = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    if len(repeats):
        # The sort is stable, so the smallest repeating row comes second among its equals, and the
        # entry before it is the first row with that tuple.
        neighbor = repeats[np.argmin(order[repeats + 1])]
        one, two = int(order[neighbor]), int(order[neighbor + 1])
        raise InputError(
            f"{named}: {place(two)}, semantic_id: item {quote(items[two])} has the same tuple as "
            f"item {quote(items[one])} on {place(one)} ({counted(len(repeats), 'such row')}); "
            "make the tuples unique by reallocation, or add a level"
        )


def _range_of(level: int, sizes: tuple[int, ...]) -> str:
    letters = level_letters(level)
    return f"code out of range; level {letters} has codes 0 to {sizes[level] - 1}"


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
