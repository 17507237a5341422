"""Make a semantic-ID file from an `.item` file: from its text, or from codes it already holds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.codec import level_letters, parse_token, quote
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.errors import InputError, preview
from recbole_qbert.files import sha256_file
from recbole_qbert.tokenizer.rqkmeans import count_collisions, fit_residual_kmeans
from recbole_qbert.tokenizer.text import encoder_description, tfidf_vectors
from recbole_qbert.tokenizer.unique import make_unique

logger = logging.getLogger(__name__)

ITEM_FIELD = "item_id"


def build_from_text(
    item_path: str | Path,
    fields: Sequence[str],
    out_path: str | Path,
    n_levels: int = 4,
    codebook_size: int = 64,
    n_components: int = 128,
    seed: int = 2026,
    items: Sequence[str] | None = None,
) -> SemanticIDTable:
    """Semantic IDs from text columns: TF-IDF vectors, residual k-means, unique last codes.

    An item's ID depends on the set of items and their texts, not on the order of the rows.

    Args:
        item_path: RecBole `.item` file with an `item_id` column.
        fields: text columns, joined by blanks in this order.
        out_path: the `.semid` file to write; its sidecar records the inputs and the report.
        n_levels: K.
        codebook_size: codes of every level, C.
        n_components: the most dimensions of a text vector.
        seed: of the SVD and of k-means.
        items: raw tokens to keep, in the order wanted; all of the file in its order if None.

    Returns:
        The table that was written; codes [N, K], codebook sizes K times C.

    Raises:
        InputError: an input cannot be used, or too many items share a prefix.
    """
    frame = _item_frame(item_path, fields, items)
    # Only the parts that hold something are joined: a gap must not make a text look filled.
    texts = [" ".join(filter(None, map(str.strip, row))) for row in frame[list(fields)].to_numpy()]
    n_empty = sum(not text for text in texts)
    if n_empty == len(texts):
        raise InputError(
            f"{item_path}: {preview(list(fields))}: no item has text there; name other fields"
        )
    vectors = tfidf_vectors(texts, n_components, seed)
    quantiser = fit_residual_kmeans(vectors, n_levels, codebook_size, seed)

    tokens = frame[ITEM_FIELD].tolist()
    sizes = (codebook_size,) * n_levels
    real = quantiser.last_level_distances(vectors)
    # A small catalogue may fill fewer than C codewords; the unused codes stay as a last resort.
    distances = np.full((len(tokens), codebook_size), np.inf)
    distances[:, : real.shape[1]] = real
    codes, n_moved = make_unique(quantiser.codes, distances, sizes, tokens)

    report = {**quantiser.report(), "moved": n_moved, "items_without_text": n_empty}
    source = {
        "method": "text",
        **_item_file(item_path),
        "fields": list(fields),
        "encoder": encoder_description(n_components, vectors.shape[1]),
        "n_levels": n_levels,
        "codebook_size": codebook_size,
        "seed": seed,
        "report": report,
    }
    table = SemanticIDTable(tuple(tokens), codes, sizes)
    write_semantic_ids(out_path, table, source)
    logger.info(
        "%s: %d items, %d levels x %d codes; %d collisions, %d items moved, %d without text",
        out_path, len(tokens), n_levels, codebook_size, report["collisions"], n_moved, n_empty,
    )  # fmt: skip
    return table


def build_from_columns(
    item_path: str | Path,
    columns: Sequence[str],
    out_path: str | Path,
    codebook_size: int = 256,
) -> SemanticIDTable:
    """Semantic IDs from code columns of an `.item` file, side by side.

    `a_170 b_224` beside `A_154 B_106` becomes `a_170 b_224 c_154 d_106`. Where tuples repeat, one
    more level counts the items of each tuple: 0, 1, 2, ... in the order of their sorted tokens.

    Args:
        item_path: RecBole `.item` file with an `item_id` column.
        columns: code columns; in each cell the j-th token carries the letter of level j.
        out_path: the `.semid` file to write; its sidecar records the inputs and the report.
        codebook_size: codes of every level that comes from a column.

    Returns:
        The table that was written; codes [N, K] with K tokens in all columns together, or
        [N, K + 1] where tuples repeat; the extra level has as many codes as the largest group.

    Raises:
        InputError: a cell is empty or no list of level tokens, cells of a column differ in
            length, or a code is not below `codebook_size`.
    """
    frame = _item_frame(item_path, columns, None)
    blocks = [_code_column(item_path, frame, column, codebook_size) for column in columns]
    codes = np.concatenate(blocks, axis=1)
    sizes = (codebook_size,) * codes.shape[1]
    tokens = frame[ITEM_FIELD].tolist()

    collisions = count_collisions(codes)
    report: dict[str, Any] = {"collisions": collisions, "extra_level": None}
    if collisions:
        counter = _count_within_groups(codes, tokens)
        codes = np.concatenate([codes, counter[:, None]], axis=1)
        sizes = (*sizes, int(counter.max()) + 1)
        report["extra_level"] = {
            "level": level_letters(len(sizes) - 1),
            "codebook_size": sizes[-1],
        }
        logger.warning(
            "%s: %d of %d items repeat the tuple of another; level %s (%d codes) was appended to "
            "tell them apart",
            out_path, collisions, len(tokens), level_letters(len(sizes) - 1), sizes[-1],
        )  # fmt: skip
    source = {
        "method": "columns",
        **_item_file(item_path),
        "columns": list(columns),
        "levels_per_column": [block.shape[1] for block in blocks],
        "codebook_size": codebook_size,
        "report": report,
    }
    table = SemanticIDTable(tuple(tokens), codes, sizes)
    write_semantic_ids(out_path, table, source)
    logger.info("%s: %d items, %d levels", out_path, len(tokens), len(sizes))
    return table


def _item_file(item_path: str | Path) -> dict[str, str]:
    """How a sidecar names its `.item` file: without folders, which differ between machines."""
    return {"item_file": Path(item_path).name, "item_file_sha256": sha256_file(item_path)}


def _item_frame(
    item_path: str | Path, fields: Sequence[str], items: Sequence[str] | None
) -> pd.DataFrame:
    """Item tokens and fields, one row an item; of `items` only, in their order, where given.

    Raises:
        InputError: no field or row, a repeated item, or one of `items` that the file lacks.
    """
    if isinstance(fields, str) or not fields:
        raise InputError(f"{item_path}: the fields are {fields!r}; give a list of one or more")
    frame = read_columns(item_path, list(dict.fromkeys([ITEM_FIELD, *fields])))
    if frame.empty:
        raise InputError(f"{item_path}: no rows follow the header; give a file with items")
    repeated = frame[ITEM_FIELD].duplicated()
    if repeated.any():
        row = int(repeated.to_numpy().argmax())
        raise InputError(
            f"{item_path}: line {frame.index[row]}: item {quote(frame[ITEM_FIELD].iloc[row])} "
            "occurs a second time; keep one row an item"
        )
    if items is None:
        return frame
    known = pd.Index(frame[ITEM_FIELD])
    rows = known.get_indexer(pd.Index(list(items), dtype=object))
    missing = [item for item, row in zip(items, rows, strict=True) if row < 0]
    if missing:
        raise InputError(
            f"{item_path}: {len(missing)} of {len(items)} items are not in the file: "
            f"{preview([quote(item) for item in missing])}; add their rows"
        )
    return frame.iloc[rows]


def _code_column(
    item_path: str | Path, frame: pd.DataFrame, column: str, codebook_size: int
) -> np.ndarray:
    """One column of level tokens as codes, int64 [N, k]."""
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


def _count_within_groups(codes: np.ndarray, tokens: Sequence[str]) -> np.ndarray:
    """Rank of each item among those with its tuple, by sorted token, int64 [N]."""
    groups = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    by_token = pd.Series(groups, index=list(tokens)).sort_index()
    return by_token.groupby(by_token).cumcount().loc[list(tokens)].to_numpy(dtype=np.int64)
