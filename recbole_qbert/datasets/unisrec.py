"""Import and export of UniSRec's and VQ-Rec's folders.

    X.train.inter, X.valid.inter, X.test.inter   targets with histories, all by number
    X.text                    item_id:token, text:token_seq
    X.item2index, X.user2index   token, tab, number; without them the numbers are the tokens
    X.feat1CLS                float32 [N, D], row = number of the item

An import rebuilds the sequences from the rows, and checks that each history ends with the target of
the row before it.

Shapes: N items, D dimensions of a feature, R rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write
from recbole_qbert.common.output import counted
from recbole_qbert.common.ragged import ranges
from recbole_qbert.data.atomic import LARGE, read_atomic, read_columns
from recbole_qbert.data.domain import PARTS, DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, read_embeddings, write_embeddings
from recbole_qbert.data.merge import ITEM, USER
from recbole_qbert.datasets.interactions import Interactions
from recbole_qbert.datasets.numbering import (
    as_cell,
    check_export,
    count_items,
    item_numbers,
    read_tokens,
    sequences_of,
    write_import,
    write_tokens,
)
from recbole_qbert.datasets.split import (
    CELLS,
    leave_one_out,
    read_sequences,
    write_part,
)

HISTORY = CELLS[1].partition(":")[0]
MAX_LENGTH = 50  # largest length of a history in UniSRec
FEATURES = "feat1CLS"
OTHERS = ("text", "item2index", "user2index", FEATURES)  # suffixes of the files beside the parts
TEXT_CELLS = (f"{ITEM}:token", "text:token_seq")


def import_folder(folder: Path, name: str, into: DatasetPaths) -> dict[str, Any]:
    """Write `.inter`, `.item` and, from the features, `.text.npz`, from the files of a folder.

    Returns:
        Numbers of `users`, `items` and `interactions`; `dimension` of the features, 0 without;
        `remarks`, lines for the user.

    Raises:
        InputError: a file is missing or invalid, or a history does not match the earlier rows.
    """
    paths = [folder / f"{name}.{part}.inter" for part in PARTS]
    users, codes, lengths = _join_rows(paths)
    texts = _texts(folder / f"{name}.text")
    n_items = count_items(int(codes.max()), len(texts), len(codes), paths[0])
    numbers = [str(number) for number in range(n_items)]
    items = read_tokens(folder / f"{name}.item2index", numbers, paths[0])
    users = read_tokens(folder / f"{name}.user2index", users, paths[0])
    vectors = _read_features(folder / f"{name}.{FEATURES}", n_items)
    columns = None
    if texts:
        cells = [as_cell(texts.get(number)) for number in numbers]
        values = (pa.array(items, LARGE), pa.array(cells, LARGE))
        columns = dict(zip(TEXT_CELLS, values, strict=True))
    inter = sequences_of(users, items, codes, lengths)
    files = [*paths, *(folder / f"{name}.{suffix}" for suffix in OTHERS)]
    remarks = write_import(into, inter, columns, "unisrec", files)
    if vectors is not None:
        mask = np.ones((n_items, 1), dtype=np.bool_)
        meta = {"modality": "text", "encoder": {"name": FEATURES}}
        table = EmbeddingTable(tuple(items), vectors, mask, meta)
        write_embeddings(into.file("text.npz"), table)
    dimension = 0 if vectors is None else int(vectors.shape[2])
    counts = inter.counts._asdict()
    return {**counts, "items": n_items, "dimension": dimension, "remarks": remarks}


def _texts(path: Path) -> dict[str, str]:
    """Read the text of each item by number; {} if there is no file."""
    if not path.is_file():
        return {}
    frame = read_columns(path, [ITEM, "text"])
    return dict(zip(frame[ITEM], frame["text"], strict=True))


def _join_rows(paths: list[Path]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Rebuild the sequences from rows of targets with histories.

    A user's sequence starts with the history of the first row, the shortest; each row then appends
    its target. Returns U users, item numbers [n], user after user, and lengths of sequences [U].
    """
    files = [read_atomic(path) for path in paths]
    for file in files:
        file.need((USER, HISTORY, ITEM), "give UniSRec's .inter files")
    if not any(file.n_rows for file in files):
        files[0].need_rows()
    table = pa.concat_tables([file.columns.select([USER, HISTORY, ITEM]) for file in files])
    rows = np.arange(len(table))
    part = np.repeat(np.arange(len(files)), [file.n_rows for file in files])
    lines = np.concatenate([file.lines for file in files])

    def place(row: int) -> str:
        return f"{paths[part[row]]}: line {lines[row]}"

    users = pc.dictionary_encode(table[USER]).combine_chunks()
    owners = users.indices.to_numpy().astype(np.int64)
    blank = pa.scalar(" ", LARGE)
    items = pc.binary_join_element_wise(table[HISTORY], table[ITEM], blank)  # history and target
    wrong = ~np.asarray(pc.match_substring_regex(items, r"^\d{1,18}( \d{1,18})+$"))
    if wrong.any():
        raise InputError(
            f"{place(int(wrong.argmax()))}: the history and the target are not numbers of items "
            f"({counted(wrong.sum(), 'such line')}); create the files again"
        )
    split = pc.split_pattern(items, " ").combine_chunks()
    codes = split.flatten().cast(pa.int64()).to_numpy()
    ends = np.cumsum(pc.list_value_length(split).to_numpy().astype(np.int64)) - 1  # the targets
    lengths = np.diff(ends, prepend=-1) - 1  # of the histories

    # The rows of a user are sorted by part, then by the length of their history. Truncated
    # histories have equal lengths, and UniSRec writes the longest history of a user first; their
    # order is then that of the file, reversed.
    steps = np.diff(lengths)[(np.diff(owners) == 0) & (part[1:] == 0)]
    longest_first = (steps < 0).sum() > (steps > 0).sum()
    order = np.lexsort((-rows if longest_first else rows, lengths, part, owners))
    owner, ends, lengths = owners[order], ends[order], lengths[order]
    first = np.diff(owner, prepend=-1) != 0
    # Each user's first row gives its history and target, every other row its target.
    begin = np.where(first, ends - lengths, ends)
    sequences = codes[ranges(begin, ends + 1)]
    broken = ~first & (codes[ends - 1] != np.roll(codes[ends], 1))
    if broken.any():
        raise InputError(
            f"{place(int(order[broken.argmax()]))}: the history does not end with the target of "
            f"the user's row before it ({counted(broken.sum(), 'such line')}); create the files "
            "again"
        )
    counts = np.bincount(owner, weights=ends + 1 - begin).astype(np.int64)
    return users.dictionary.to_pylist(), sequences, counts


def _read_features(path: Path, n_items: int) -> np.ndarray | None:
    """Read the vectors of the items, float32 [N, 1, D]; return None without a file."""
    if not path.is_file():
        return None
    size = path.stat().st_size
    if not size or size % (4 * n_items):
        raise InputError(
            f"{path}: {size} bytes are not a float32 matrix of {counted(n_items, 'row')}; give "
            "the file of this data set"
        )
    vectors = np.fromfile(path, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise InputError(f"{path}: not all values are finite; create the file again")
    return vectors.reshape(n_items, 1, -1)


def export_folder(
    domain: DatasetPaths, folder: Path, text_fields: list[str], *, overwrite: bool = False
) -> dict[str, Any]:
    """Write a data set in UniSRec's format, split leave-one-out, with histories of 50 items.

    Args:
        domain: data set with `.inter`, `.item` and, for the features, `.text.npz`.
        text_fields: columns whose texts are joined by blanks.

    Returns:
        Numbers of `users`, `items` and `interactions`; `dimension` of the features, 0 without;
        `lost`, lines on content that the format cannot represent.

    Raises:
        InputError: a file cannot be read, an item has no row or vector, or as `check_export`.
    """
    suffixes = [*(f"{part}.inter" for part in PARTS), *OTHERS]
    paths = [folder / f"{domain.name}.{suffix}" for suffix in suffixes]
    check_export(domain, folder, paths, overwrite)
    inter = read_sequences(domain.file("inter"))
    users, items = inter.user_tokens.to_pylist(), inter.item_tokens.to_pylist()
    texts: list[str] = []
    if domain.file("item").is_file():
        frame = read_columns(domain.file("item"), [ITEM, *text_fields])
        items = frame[ITEM].tolist()
        if text_fields:
            texts = [" ".join(filter(None, row)) for row in frame[text_fields].to_numpy().tolist()]
    elif text_fields:
        raise InputError(f"{domain.file('item')}: no such file to read {preview(text_fields)} from")
    user_numbers, numbers = (
        pa.array(map(str, range(len(tokens))), LARGE) for tokens in (users, items)
    )
    codes = item_numbers(domain, inter, items)
    numbered = Interactions(user_numbers, numbers, inter.users, codes, inter.times)
    features = _features(domain, items)
    rows = leave_one_out(numbered)
    rows[0] = rows[0][np.lexsort((-rows[0], numbered.users[rows[0]]))]  # longest history first
    for part, each in zip(PARTS, rows, strict=True):
        with atomic_write(folder / f"{domain.name}.{part}.inter", "wb") as handle:
            write_part(handle, numbered, each, MAX_LENGTH)
    for suffix, tokens in (("item2index", items), ("user2index", users)):
        write_tokens(folder / f"{domain.name}.{suffix}", tokens)
    if texts:
        # Without quoting, because UniSRec reads the file line by line and does not unquote.
        with atomic_write(folder / f"{domain.name}.text") as plain:
            plain.write("\t".join(TEXT_CELLS) + "\n")
            plain.writelines(f"{number}\t{text}\n" for number, text in enumerate(texts))
    if features is not None:
        with atomic_write(folder / f"{domain.name}.{FEATURES}", "wb") as handle:
            handle.write(features.tobytes())
    dimension = 0 if features is None else int(features.shape[1])
    alone = int((np.bincount(inter.users) == 1).sum())
    lost = [f"{counted(alone, 'user')} with a single item and so without history"] if alone else []
    counts = inter.counts._asdict()
    return {**counts, "items": len(items), "dimension": dimension, "lost": lost}


def _features(domain: DatasetPaths, items: list[str]) -> np.ndarray | None:
    """Read the vectors of all items in their order, float32 [N, D]; return None without a table."""
    path = domain.file("text.npz")
    if not path.is_file():
        return None
    table = read_embeddings(path)
    rows = {item: row for row, item in enumerate(table.items)}
    missing = [item for item in items if item not in rows]
    if missing:
        raise InputError(
            f"{path}: {counted(len(missing), 'item has', 'items have')} no vector: "
            f"{preview(missing, 3)}; UniSRec needs all"
        )
    return table.pooled()[[rows[item] for item in items]].astype(np.float32)
