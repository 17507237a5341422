"""Build a semantic-ID file from code columns of an `.item` file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError, one_of
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.data.codec import level_letters, quote
from recbole_qbert.data.items import ITEM_FIELD, item_file_entry, read_item_fields
from recbole_qbert.data.semid import (
    SemanticIDTable,
    read_semantic_ids,
    tokenized_from,
    write_semantic_ids,
)
from recbole_qbert.tokenizer.collisions import (
    extra_level,
    extra_level_report,
    reallocate,
    usage_distances,
)
from recbole_qbert.tokenizer.quantizers.base import count_collisions

logger = logging.getLogger(__name__)


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
        columns: code columns; the j-th token of each cell has the letter of level j. With `beside`
            there may be none.
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
        InputError: a cell is not a list of level tokens like that of the first row, a code is not
            below `codebook_size`, or there is neither a column nor a file.
    """
    one_of("unique", unique, ("reallocate", "extra_level"))
    if not (columns or beside):
        raise InputError("columns: give columns with codes, or .semid files in beside")
    frame = read_item_fields(item_path, columns or [ITEM_FIELD])
    blocks = [_parse_codes(item_path, frame, column, codebook_size) for column in columns]
    tokens = frame[ITEM_FIELD].tolist()
    levels_per_column = [block.shape[1] for block in blocks]
    sizes = (codebook_size,) * sum(levels_per_column)
    for path in beside:
        table = read_semantic_ids(path)
        table.check_known(tokens, str(path))
        blocks.append(table.codes_for(tokens))
        sizes += table.codebook_sizes
    given = np.concatenate(blocks, axis=1)

    report: dict[str, Any] = {"collisions": count_collisions(given)}
    if unique == "reallocate":
        result = reallocate(given, lambda rows: usage_distances(given, sizes, rows), sizes, tokens)
        codes, report, remedy = result.codes, result.report(), "they were moved to free codes"
    else:
        codes, after = extra_level(given, sizes, tokens)
        report["extra_level"] = added = extra_level_report(sizes, after)
        sizes = after
        if added:
            remedy = f"level {added['level']} ({counted(sizes[-1], 'code')}) was appended"
    if report["collisions"]:
        logger.warning(
            "%s: %d of %d items have the tuple of another item; %s",
            *(out_path, report["collisions"], len(tokens), remedy),
        )
    source = {
        "method": "columns",
        **item_file_entry(item_path),
        "columns": list(columns),
        "levels_per_column": levels_per_column,
        "beside": {Path(path).name: sha256_file(path) for path in beside},
        "tokenized_from": [each for path in beside for each in tokenized_from(path)],
        "codebook_size": codebook_size,
        "unique": unique,
        "report": report,
    }
    table = SemanticIDTable(
        tuple(tokens),
        codes,
        sizes,
        vocabulary=vocabulary,
        extra_level=len(sizes) - 1 if report.get("extra_level") else None,
    )
    write_semantic_ids(out_path, table, source)
    logger.info("%s: %d items, %d levels", out_path, len(tokens), len(sizes))
    return table


def _parse_codes(
    item_path: str | Path, frame: pd.DataFrame, column: str, codebook_size: int
) -> np.ndarray:
    """Parse one column of level tokens into codes, int64 [N, k]."""
    cells = frame[column].str.lower().str.split().str.join(" ")
    n_levels = cells.iloc[0].count(" ") + 1  # the first row defines the number of levels
    tokens = [f"{level_letters(level)}_(0|[1-9][0-9]{{0,6}})" for level in range(n_levels)]
    codes = cells.str.extract(f"^{' '.join(tokens)}$").astype(float)
    bad = ~(codes < codebook_size).all(axis=1)  # a cell that does not match is NaN
    if bad.any():
        line = bad.idxmax()
        example = " ".join(f"{level_letters(level)}_0" for level in range(n_levels))
        raise InputError(
            f"{item_path}: line {line}, {column} of item {quote(frame[ITEM_FIELD][line])}: "
            f"{quote(frame[column][line])} is not like '{example}' with codes below "
            f"{codebook_size}; correct the cell, remove the row, or increase codebook_size"
        )
    return codes.to_numpy(np.int64)
