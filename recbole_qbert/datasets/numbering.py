"""Token files (`token, tab, number`) of formats that number their users and items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write
from recbole_qbert.data.codec import quote
from recbole_qbert.datasets.text import unfit_tokens

_ROOM = 1_000_000  # item numbers that are accepted with any number of interactions


def count_items(highest: int, described: int, n_interactions: int, path: Path) -> int:
    """Return the number of items.

    Args:
        highest: highest item number in the interactions.
        described: number of items with metadata.
        n_interactions: number of interactions.
        path: the file, for the message.

    Raises:
        InputError: the highest number is too high for numbers without large gaps.
    """
    if highest >= max(_ROOM, 10 * n_interactions, described):
        raise InputError(
            f"{path}: an item has the number {highest}; number the items from 0 without gaps"
        )
    return max(highest + 1, described)


def read_tokens(path: Path, numbers: Sequence[str], source: Path) -> list[str]:
    """Read the token of each number; if the file does not exist, the tokens are the numbers.

    Args:
        path: the file of tokens and numbers.
        numbers: numbers as text, in the wanted order.
        source: the file that contains the numbers, for messages.

    Raises:
        InputError: a line is invalid, a token or number occurs twice, a number has no token, or
            RecBole would misread a token.
    """
    if not path.is_file():
        return _readable(list(numbers), source)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); convert the file to UTF-8") from None
    known: dict[str, str] = {}
    tokens: set[str] = set()
    for place, line in enumerate(lines, 1):
        if line:
            token, tab, number = line.rpartition("\t")
            if not tab or not token or number in known or token in tokens:
                raise InputError(
                    f"{path}: line {place}: a new token, a tab and a new number expected"
                )
            known[number] = token
            tokens.add(token)
    lacking = [number for number in numbers if number not in known]
    if lacking:
        raise InputError(
            f"{path}: {len(lacking)} numbers have no token: {preview(lacking, 3)}; add their lines"
        )
    return _readable([known[number] for number in numbers], path)


def _readable(tokens: list[str], path: Path) -> list[str]:
    """Return the tokens; raise InputError if RecBole would misread one."""
    unfit = np.flatnonzero(unfit_tokens(pa.array(tokens, pa.string())))
    if len(unfit):
        raise InputError(
            f"{path}: {len(unfit)} tokens that RecBole would not read back as they are, the first "
            f"{quote(tokens[unfit[0]])}; rename them"
        )
    return tokens


def write_tokens(path: Path, tokens: Iterable[str]) -> None:
    """Write tokens with their numbers from 0."""
    with atomic_write(path) as handle:
        handle.writelines(f"{token}\t{number}\n" for number, token in enumerate(tokens))
