"""Parts that the formats of other projects share, which number their users and items."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.data.atomic import LARGE, read_lines
from recbole_qbert.data.codec import quote
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.interactions import Interactions
from recbole_qbert.datasets.text import encodable, token_faults
from recbole_qbert.datasets.writer import Fields, write_dataset

_ROOM = 1_000_000  # item numbers that are accepted with any number of interactions
_UNFIT = re.compile("[\\t\\n\\r\\0]")


def count_items(highest: int, described: int, n_interactions: int, path: Path) -> int:
    """Return the number of items from the highest number and the number of items with metadata.

    Raises:
        InputError: the highest number is too high for numbers without large gaps.
    """
    if highest >= max(_ROOM, 10 * n_interactions, described):
        raise InputError(
            f"{path}: an item has the number {highest}; number the items from 0 without gaps"
        )
    return max(highest + 1, described)


def read_tokens(path: Path, numbers: Sequence[str], source: Path) -> list[str]:
    """Read the token of each number from lines of token, tab, number.

    If the file does not exist, the tokens are the numbers, which are from the file `source`.

    Raises:
        InputError: a line is invalid, a token or number occurs twice, a number has no token, or
            RecBole would misread a token.
    """
    tokens = list(numbers)
    if path.is_file():
        source = path
        known: dict[str, str] = {}
        for place, line in enumerate(read_lines(path), 1):
            if line:
                token, _, number = line.rpartition("\t")
                if not token or number in known:
                    raise InputError(
                        f"{path}: line {place}: write a token, a tab and a number that occurs once"
                    )
                known[number] = token
        missing = [number for number in numbers if number not in known]
        if missing:
            raise InputError(
                f"{path}: {len(missing)} numbers have no token: {preview(missing, 3)}; add lines"
            )
        tokens = [known[number] for number in numbers]
    token, count = Counter(tokens).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source}: {count} numbers have the token {quote(token)}; rename it")
    for reason, fault in token_faults(pa.array(tokens, pa.string())).items():
        if fault.any():
            wrong = quote(tokens[int(fault.argmax())])
            raise InputError(f"{source}: the token {wrong} {reason}; rename it")
    return tokens


def write_tokens(path: Path, tokens: Iterable[str]) -> None:
    """Write tokens with their numbers from 0."""
    with atomic_write(path) as handle:
        handle.writelines(f"{token}\t{number}\n" for number, token in enumerate(tokens))


def as_cell(value: Any) -> str:
    """Convert a value to a cell: list elements are joined by commas, null becomes empty."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return _UNFIT.sub(" ", encodable("" if value is None else str(value)))


def sequences_of(
    users: Sequence[str], items: Sequence[str], codes: np.ndarray, lengths: np.ndarray
) -> Interactions:
    """Build interactions of U users from their item numbers [n], user after user, and the lengths
    of their sequences [U]."""
    owners = np.repeat(np.arange(len(users)), lengths)
    places = np.arange(len(codes)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tokens = pa.array(users, LARGE), pa.array(items, LARGE)
    return Interactions(*tokens, owners, codes, places.astype(np.float64))


def write_import(
    into: DatasetPaths, inter: Interactions, items: Fields | None, made_by: str, files: list[Path]
) -> list[str]:
    """Write an imported data set; return lines for the user, as `write_dataset`."""
    sources = [{"file": path.name, "sha256": sha256_file(path)} for path in files if path.is_file()]
    facts: Mapping[str, Any] = {
        "made_by": made_by, "sources": sources, "counts": inter.counts._asdict(),
    }  # fmt: skip
    return write_dataset(into, inter, facts, items=items)


def check_export(
    domain: DatasetPaths, folder: Path, paths: Iterable[Path], overwrite: bool
) -> None:
    """Check that an export to a folder replaces nothing without `overwrite`.

    Args:
        paths: the files of the format in the folder.

    Raises:
        InputError: one of the files exists; or the folder is that of the data set.
    """
    if folder.resolve() == domain.folder.resolve():
        raise InputError(f"{folder}: is the folder of the data set itself; give another --output")
    found = [path.name for path in paths if path.exists()]
    if found and not overwrite:
        raise InputError(
            f"{folder}: {preview(found, 3)} {'exists' if len(found) == 1 else 'exist'}; add "
            "--overwrite, or give another --output"
        )


def item_numbers(domain: DatasetPaths, inter: Interactions, items: Sequence[str]) -> np.ndarray:
    """Return the number of each interaction's item, its index in `items`. int64 [n]

    Raises:
        InputError: an item is not in `items`, which are those of the `.item` file.
    """
    numbers = pc.index_in(inter.item_tokens, pa.array(items, inter.item_tokens.type))
    if numbers.null_count:
        unknown = pc.filter(inter.item_tokens, pc.is_null(numbers)).to_pylist()
        raise InputError(
            f"{domain.file('inter')}: {counted(len(unknown), 'item is', 'items are')} not in "
            f"{domain.file('item')}: "
            f"{preview([quote(item) for item in unknown], 3)}; add their rows"
        )
    codes: np.ndarray = numbers.to_numpy().astype(np.int64)[inter.items]
    return codes
