"""Level tokens (`a_17`), the vocabulary rows of their codes, and checks of semantic-ID rows.

Shapes: N items, K levels, C_k codes in level k.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recbole_qbert.common.errors import InputError

ITEM_COLUMN = "item_id:token"
HEADER = f"{ITEM_COLUMN}\tsemantic_id:token_seq"
BOM = b"\xef\xbb\xbf"
# Most codes of a level. Without a limit, a stray digit would allocate a table of many gigabytes.
CODEBOOK_LIMIT = 1 << 20

_TOKEN = re.compile(r"([a-z]{1,4})_(-?[0-9]+)")

IntArray = npt.NDArray[np.int64]


def quote(text: object, limit: int = 60) -> str:
    """Show `text` on one printable line: control characters escaped, long text cut at `limit`."""
    shown = str(text)
    return repr(shown if len(shown) <= limit else shown[:limit] + "…")


def level_letters(level: int) -> str:
    """Return the letters of a level, in bijective base 26: 0 -> 'a', 25 -> 'z', 26 -> 'aa'.

    Raises:
        InputError: the level is negative.
    """
    if level < 0:
        raise InputError(f"level {level} does not exist; levels start at 0")
    letters = ""
    number = level + 1
    while number:
        number, digit = divmod(number - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return letters


def parse_token(token: str) -> tuple[int, int]:
    """Parse a level token to (level, code): `'a_17'` -> `(0, 17)`.

    Raises:
        InputError: the token is malformed, or its code is out of range.
    """
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
    # The length is checked first, because Python refuses to convert thousands of digits.
    if len(digits) > len(str(CODEBOOK_LIMIT)) or int(digits) >= CODEBOOK_LIMIT:
        raise InputError(
            f"the code of {quote(token)} is out of range; it must be below {CODEBOOK_LIMIT}"
        )
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1, int(digits)


def checked_sizes(sizes: Iterable[Any], named: str = "semantic IDs") -> tuple[int, ...]:
    """Check codebook sizes and return them as a tuple.

    Args:
        sizes: K integers.
        named: source of the sizes, for the message.

    Raises:
        InputError: they are not integers from 1 to `CODEBOOK_LIMIT`, or there are none.
    """
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
    """Copy `values` to an int64 array [N, K].

    Args:
        values: codes [N, K].
        n_levels: K.
        named: source of the codes, for the message.

    Raises:
        InputError: they have another shape, or are not integers.
    """
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
    """Return the first (row, level) whose code is outside its codebook, or None.

    Args:
        codes: [N, K].
        sizes: codes of each level, K of them.
    """
    outside = (codes < 0) | (codes >= np.asarray(sizes, dtype=np.int64))
    if not outside.any():
        return None
    row, level = np.argwhere(outside)[0].tolist()
    return row, level


@dataclass(frozen=True)
class SemanticIDCodec:
    """Conversion between codes, level tokens and rows of the joint vocabulary.

    The vocabulary holds the codes of all levels, one level after another.

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

    @property
    def vocabulary_size(self) -> int:
        """Number of vocabulary rows: the sum of the codebook sizes."""
        return sum(self.codebook_sizes)

    @functools.cached_property
    def offsets(self) -> IntArray:
        """First vocabulary row of each level, `[K]`, read-only."""
        offsets = np.cumsum((0, *self.codebook_sizes[:-1]), dtype=np.int64)
        offsets.setflags(write=False)
        return offsets

    def encode_token(self, level: int, code: int) -> str:
        """Return the token of a code: `(0, 17)` -> `'a_17'`.

        Raises:
            InputError: there is no such level or code.
        """
        self._check(level, code, f"level {level}, code {code}")
        return f"{level_letters(level)}_{code}"

    def decode_token(self, token: str) -> tuple[int, int]:
        """Return (level, code) of a token: `'a_17'` or `'<a_17>'` -> `(0, 17)`.

        Raises:
            InputError: the token is malformed, or there is no such level or code.
        """
        bracketed = token.startswith("<") and token.endswith(">")
        level, code = parse_token(token[1:-1] if bracketed else token)
        self._check(level, code, f"token {quote(token)}")
        return level, code

    def vocabulary_rows(self, codes: npt.ArrayLike) -> IntArray:
        """Convert codes [N, K] to vocabulary rows [N, K]: code c of level k is `offsets[k] + c`.

        Raises:
            InputError: the shape or type is wrong, or a code is outside its codebook.
        """
        return self._in_range(as_code_array(codes, self.n_levels)) + self.offsets

    def from_vocabulary_rows(self, rows: npt.ArrayLike) -> IntArray:
        """Convert vocabulary rows [N, K] back to codes [N, K].

        Raises:
            InputError: the shape or type is wrong, or a row belongs to another level.
        """
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
    """Parse the bytes of a `.semid` file.

    Args:
        data: the bytes.
        path: the file, for messages.

    Returns:
        N item tokens and their codes [N, K], not yet checked for duplicates.

    Raises:
        InputError: the file is not UTF-8, has another header, no rows, or a malformed row; names
            the line.
    """
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
    # Fast path: tokens recur, so each level caches the codes of the plain tokens met so far. Lines
    # with other tokens (new, in another notation or wrong) are parsed and checked in full.
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
    """Split `a_1 b_2`, or the paper's `<a_1><b_2>` with or without spaces between."""
    if ids.startswith("<") and ids.endswith(">"):
        return re.split("> *<", ids[1:-1])
    return ids.split(" ")


def _parse_line(line: str, n_levels: int, named: str) -> tuple[str, list[int]]:
    """Parse one row to its item and codes; `n_levels` is 0 for the first row, which defines it."""
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
