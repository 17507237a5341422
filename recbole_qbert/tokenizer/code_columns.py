"""Build a semantic-ID file from code columns of an `.item` file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.codec import level_letters, parse_token, quote
from recbole_qbert.data.items import ITEM_FIELD, item_file_entry, read_item_fields
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids
from recbole_qbert.tokenizer.collisions import extra_level, reallocate, usage_distances
from recbole_qbert.tokenizer.quantizers.base import count_collisions

logger = logging.getLogger(__name__)

UNIQUE = ("reallocate", "extra_level")


def build_from_columns(
    item_path: str | Path,
    columns: Sequence[str],
    out_path: str | Path,
    codebook_size: int = 256,
    unique: str = "reallocate",
    vocabulary: str = "",
    beside: Sequence[str | Path] = (),
) -> SemanticIDTable:
    """Concatenate code columns of an `.item` file into semantic IDs.

    For example, columns `a_170 b_224` and `A_154 B_106` become `a_170 b_224 c_154 d_106`. If tuples
    repeat, `unique` selects how they are separated. `reallocate` moves the fewest items to other
    codes, the last level first (section 3.4 of the paper; for lack of vectors, the rarest code
    counts as the nearest). `extra_level` appends a level that counts the items of each tuple, in
    the order of their sorted tokens.

    Args:
        item_path: RecBole `.item` file with an `item_id` column.
        columns: code columns; the j-th token of each cell has the letter of level j.
        out_path: the `.semid` file to write; its sidecar records the inputs and the report.
        codebook_size: number of codes of each level that comes from a column.
        unique: `reallocate` or `extra_level`.
        vocabulary: name of the code vocabulary, equal for files whose codes come from one
            quantizer; by default, this file has its own vocabulary.
        beside: `.semid` files whose levels follow those of the columns.

    Returns:
        The written table, codes [N, K] with K levels in total, or [N, K + 1] with an extra level,
        which has as many codes as the largest group of equal tuples has items.

    Raises:
        InputError: a cell is empty or not a list of level tokens, cells of a column differ in
            length, or a code is not below `codebook_size`.
    """
    if unique not in UNIQUE:
        raise InputError(f"unique: {unique!r} is none of {', '.join(UNIQUE)}")
    frame = read_item_fields(item_path, columns)
    blocks = [_code_column(item_path, frame, column, codebook_size) for column in columns]
    tokens = frame[ITEM_FIELD].tolist()
    sizes = (codebook_size,) * sum(block.shape[1] for block in blocks)
    for path in beside:
        table = read_semantic_ids(path)
        blocks.append(table.codes_for(tokens))
        sizes += table.codebook_sizes
    given = np.concatenate(blocks, axis=1)

    report: dict[str, Any] = {"collisions": count_collisions(given)}
    if unique == "reallocate":
        result = reallocate(given, lambda rows: usage_distances(given, sizes, rows), sizes, tokens)
        codes, report = result.codes, result.report()
    else:
        codes, sizes = extra_level(given, sizes, tokens)
        added = codes.shape[1] > given.shape[1]
        report["extra_level"] = (
            {"level": level_letters(len(sizes) - 1), "codebook_size": sizes[-1]} if added else None
        )
    if report["collisions"]:
        logger.warning(
            "%s: %d of %d items repeat the tuple of another; %s",
            out_path,
            report["collisions"],
            len(tokens),
            "they were moved to free codes"
            if unique == "reallocate"
            else f"level {level_letters(len(sizes) - 1)} ({sizes[-1]} codes) was appended",
        )
    source = {
        "method": "columns",
        **item_file_entry(item_path),
        "columns": list(columns),
        "levels_per_column": [block.shape[1] for block in blocks[: len(columns)]],
        "beside": {Path(path).name: sha256_file(path) for path in beside},
        "codebook_size": codebook_size,
        "unique": unique,
        "report": report,
    }
    table = SemanticIDTable(tuple(tokens), codes, sizes, vocabulary=vocabulary)
    write_semantic_ids(out_path, table, source)
    logger.info("%s: %d items, %d levels", out_path, len(tokens), len(sizes))
    return table


def _code_column(
    item_path: str | Path, frame: pd.DataFrame, column: str, codebook_size: int
) -> np.ndarray:
    """Parse one column of level tokens into codes, int64 [N, k]."""
    rows: list[list[int]] = []
    for line, item, cell in zip(frame.index, frame[ITEM_FIELD], frame[column], strict=True):
        place = f"{item_path}: line {line}, {column} of item {quote(item)}"
        tokens = cell.split()
        if not tokens:
            raise InputError(f"{place}: empty; give the item its codes or remove its row")
        if rows and len(tokens) != len(rows[0]):
            raise InputError(
                f"{place}: {len(tokens)} codes where the first row has {len(rows[0])}; "
                "give every item the same number of levels"
            )
        row = []
        for expected, token in enumerate(tokens):
            try:
                level, code = parse_token(token.lower())
            except InputError as error:
                raise InputError(f"{place}: {error}") from None
            if level != expected:
                raise InputError(
                    f"{place}: token {quote(token)} stands at level {level_letters(expected)}; "
                    "give the levels in order, a to the last, in every column"
                )
            if code >= codebook_size:
                raise InputError(
                    f"{place}: the code of {quote(token)} is not below the codebook size "
                    f"{codebook_size}; raise codebook_size"
                )
            row.append(code)
        rows.append(row)
    return np.array(rows, dtype=np.int64)
