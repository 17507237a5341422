"""Files of `token, tab, number`: how formats that count their users and items name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from recbole_qbert.errors import InputError, preview
from recbole_qbert.files import atomic_write


def read_tokens(path: Path, numbers: Sequence[str]) -> list[str]:
    """The token of each number, from a file of tokens and numbers; without it the numbers."""
    if not path.is_file():
        return list(numbers)
    known: dict[str, str] = {}
    for place, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            token, tab, number = line.rpartition("\t")
            if not tab or not token or number in known:
                raise InputError(f"{path}: line {place}: a token, a tab and a new number expected")
            known[number] = token
    lacking = [number for number in numbers if number not in known]
    if lacking:
        raise InputError(
            f"{path}: {len(lacking)} numbers have no token: {preview(lacking, 3)}; add their lines"
        )
    return [known[number] for number in numbers]


def write_tokens(path: Path, tokens: Iterable[str]) -> None:
    """Tokens and their numbers from 0."""
    with atomic_write(path) as handle:
        handle.writelines(f"{token}\t{number}\n" for number, token in enumerate(tokens))
