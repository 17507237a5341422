"""Level tokens (`a_17`), the vocabulary rows of their codes, and what rows must satisfy.

Shapes throughout: N items, K levels, C_k codes in level k.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_qbert.common.errors import InputError

ITEM_COLUMN = "item_id:token"
HEADER = f"{ITEM_COLUMN}\tsemantic_id:token_seq"
BOM = b"\xef\xbb\xbf"
# No level may have more codes: a stray digit must not ask for a table of many gigabytes.
CODEBOOK_LIMIT = 1 << 20

_TOKEN = re.compile(r"([a-z]{1,4})_(-?[0-9]+)")
# What cannot be written as UTF-8 into one tab-separated field.
_UNFIT = re.compile("[\\t\\n\\r\\ud800-\\udfff]")

IntArray = npt.NDArray[np.int64]


def quote(text: object, limit: int = 60) -> str:
    """One printable line that shows `text`: control characters escaped, long text cut."""
    shown = str(text)
    return repr(shown if len(shown) <= limit else shown[:limit] + "…")


def level_letters(level: int) -> str:
    """The letters of a level, in bijective base 26: 0 -> 'a', 25 -> 'z', 26 -> 'aa'."""
    if level < 0:
        raise InputError(f"level {level} does not exist; levels start at 0")
    letters = ""
    number = level + 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def parse_token(token: str) -> tuple[int, int]:
    """`'a_17'` to `(0, 17)`; InputError for a malformed token or an impossible code."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise InputError(
            f"{quote(token)} is no level token; write lower-case level letters, "
            "an underscore and a code, like 'a_17'"
        )
    letters, digits = match.groups()
    if digits.startswith("-"):
        raise InputError(f"{quote(token)} has a negative code; codes start at 0")
    if digits != "0" and digits.startswith("0"):
        raise InputError(f"{quote(token)} has leading zeros; write the code without them")
    # The length is looked at first: Python refuses to convert thousands of digits.
    if len(digits) > len(str(CODEBOOK_LIMIT)) or int(digits) >= CODEBOOK_LIMIT:
        raise InputError(
            f"the code of {quote(token)} is out of range; it must be below {CODEBOOK_LIMIT}"
        )
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1, int(digits)


def checked_sizes(sizes: Iterable[Any], named: str = "semantic IDs") -> tuple[int, ...]:
    """Codebook sizes as a tuple of K integers from 1 to `CODEBOOK_LIMIT`, or InputError."""
    try:
        given = tuple(sizes)
        checked = tuple(operator.index(size) for size in given)
        if any(isinstance(size, bool) for size in given):
            raise TypeError
    except TypeError:
        raise InputError(
            f"{named}: codebook_sizes {quote(sizes)} is no list of integers; give one a level"
        ) from None
    if not checked or min(checked) < 1 or max(checked) > CODEBOOK_LIMIT:
        raise InputError(
            f"{named}: codebook_sizes {quote(list(checked))} is out of range; "
            f"give one size a level, from 1 to {CODEBOOK_LIMIT}"
        )
    return checked


def as_code_array(values: Any, n_levels: int, named: str = "semantic IDs") -> IntArray:
    """A new int64 array `[N, K]` of `values`, or InputError for another shape or type."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(
            f"{named}: the rows differ in length; give an array [N, {n_levels}]"
        ) from None
    if array.ndim != 2 or array.shape[1] != n_levels:
        raise InputError(
            f"{named}: codes of shape {list(array.shape)}; give an array [N, {n_levels}]"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"{named}: codes of type {array.dtype}; give integers")
    return array.astype(np.int64, copy=True)


def first_outside(codes: IntArray, sizes: tuple[int, ...]) -> tuple[int, int] | None:
    """The first (row, level) of codes `[N, K]` with a code outside its codebook, or None."""
    outside = (codes < 0) | (codes >= np.asarray(sizes, dtype=np.int64))
    if not outside.any():
        return None
    row, level = np.argwhere(outside)[0].tolist()
    return row, level


@dataclass(frozen=True)
class SemanticIDCodec:
    """Codes, level tokens and rows of the one vocabulary that holds all levels in turn.

    Attributes:
        codebook_sizes: codes of each level, K of them.
    """

    codebook_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook_sizes", checked_sizes(self.codebook_sizes))

    @property
    def n_levels(self) -> int:
        """K."""
        return len(self.codebook_sizes)

    @property
    def vocabulary_size(self) -> int:
        """Rows of the vocabulary: the sum of the codebook sizes."""
        return sum(self.codebook_sizes)

    @functools.cached_property
    def offsets(self) -> IntArray:
        """First vocabulary row of each level, `[K]`, read-only."""
        offsets = np.cumsum((0, *self.codebook_sizes[:-1]), dtype=np.int64)
        offsets.setflags(write=False)
        return offsets

    def encode_token(self, level: int, code: int) -> str:
        """`(0, 17) -> 'a_17'`; InputError for a level or code that does not exist."""
        self._check(level, code, f"level {level}, code {code}")
        return f"{level_letters(level)}_{code}"

    def decode_token(self, token: str) -> tuple[int, int]:
        """`'a_17'` or `'<a_17>'` to `(0, 17)`; InputError for a wrong token."""
        bracketed = token.startswith("<") and token.endswith(">")
        level, code = parse_token(token[1:-1] if bracketed else token)
        self._check(level, code, f"token {quote(token)}")
        return level, code

    def vocabulary_rows(self, codes: npt.ArrayLike) -> IntArray:
        """Codes `[N, K]` to vocabulary rows `[N, K]`: code c of level k is `offsets[k] + c`."""
        return self._in_range(as_code_array(codes, self.n_levels)) + self.offsets

    def from_vocabulary_rows(self, rows: npt.ArrayLike) -> IntArray:
        """Vocabulary rows `[N, K]` back to codes `[N, K]`."""
        return self._in_range(as_code_array(rows, self.n_levels) - self.offsets)

    def _check(self, level: int, code: int, named: str) -> None:
        if not 0 <= level < self.n_levels:
            raise InputError(f"{named}: no such level; there are {self.n_levels} levels")
        size = self.codebook_sizes[level]
        if not 0 <= code < size:
            raise InputError(
                f"{named}: code out of range; level {level_letters(level)} has codes "
                f"0 to {size - 1}"
            )

    def _in_range(self, codes: IntArray) -> IntArray:
        place = first_outside(codes, self.codebook_sizes)
        if place is not None:
            self._check(place[1], int(codes[place]), f"row {place[0]}")
        return codes


def parse_rows(data: bytes, path: str) -> tuple[list[str], IntArray]:
    """File bytes to N items and codes `[N, K]`; one exact pass."""
    if not data.removeprefix(BOM):
        raise InputError(f"{path}: line 1: the file is empty; make it again")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: line {number}: not UTF-8 at byte offset {error.start}; save the file as UTF-8"
        ) from None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    if not lines or lines[0] != HEADER:
        raise InputError(
            f"{path}: line 1: the header is {quote(lines[0] if lines else '')}; "
            f"it must be {HEADER!r}"
        )
    if len(lines) == 1:
        raise InputError(f"{path}: line 2: no data rows follow the header; make the file again")
    items: list[str] = []
    flat: list[int] = []
    # Codes recur, so each level remembers the plain tokens it has met; whatever is not there
    # yet (new, spelt otherwise or wrong) goes through the careful way.
    known: list[dict[str, int]] = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            item, ids = line.split("\t")
            tokens = _split_tokens(ids)
            row = [level[token] for level, token in zip(known, tokens, strict=True)]
            if not item:
                raise ValueError
        except (ValueError, KeyError):
            item, row = _parse_line(line, len(known), f"{path}: line {number}")
            known = known or [{} for _ in row]
            for level, (codes, code) in enumerate(zip(known, row, strict=True)):
                codes[f"{level_letters(level)}_{code}"] = code
        items.append(item)
        flat.extend(row)
    return items, np.array(flat, dtype=np.int64).reshape(len(items), -1)


def _split_tokens(ids: str) -> list[str]:
    """Plain `a_1 b_2`, or the paper's `<a_1><b_2>` with or without spaces between."""
    if ids.startswith("<") and ids.endswith(">"):
        return re.split("> *<", ids[1:-1])
    return ids.split(" ")


def _parse_line(line: str, n_levels: int, named: str) -> tuple[str, list[int]]:
    """One row to its item and codes; `n_levels` is 0 for the first row, which sets it."""
    fields = line.split("\t")
    if len(fields) != 2:
        raise InputError(
            f"{named}: {len(fields)} tab-separated fields in {quote(line)}; there must be 2, "
            "item_id and semantic_id" + ("" if line else ": delete the blank line")
        )
    item, ids = fields
    if not item:
        raise InputError(f"{named}, item_id: the item token is empty; give the raw item token")
    tokens = _split_tokens(ids)
    if "" in tokens:
        raise InputError(
            f"{named}, semantic_id: an empty token in {quote(ids)}; "
            "put one space between the tokens and none around them"
        )
    try:
        pairs = [parse_token(token) for token in tokens]
    except InputError as error:
        raise InputError(f"{named}, semantic_id: {error}") from None
    if n_levels and len(pairs) != n_levels:
        raise InputError(
            f"{named}, semantic_id: {len(pairs)} levels where line 2 has {n_levels}; "
            "give every item the same number of levels"
        )
    for level, (found, _) in enumerate(pairs):
        if found != level:
            raise InputError(
                f"{named}, semantic_id: token {quote(tokens[level])} at level "
                f"{level_letters(level)} is of level {level_letters(found)}; "
                "give the levels in order, each once"
            )
    return item, [code for _, code in pairs]


def check_items(
    items: tuple[str, ...], n_rows: int, named: str, place: Callable[[int], str]
) -> None:
    """Items: one for each row of codes, non-empty text that fits on a line, unique."""
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
    """Codes `[N, K]`: inside their codebooks, rows unique."""
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
        # The smallest repeating row is the second of its tuple, so its neighbor is the first.
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
    """One integer a row, `[N]`, equal exactly where rows of codes `[N, K]` are equal."""
    keys, bound = codes[:, 0], sizes[0]
    for level in range(1, len(sizes)):
        if bound * sizes[level] >= 1 << 62:  # ranks are as good as keys, and smaller
            keys = np.unique(keys, return_inverse=True)[1]
            bound = len(keys)
        keys = keys * sizes[level] + codes[:, level]
        bound *= sizes[level]
    return keys
