"""Import and export of UniSRec's and VQ-Rec's folders.

    X.train.inter, X.valid.inter, X.test.inter   targets with histories, all by number
    X.text                    item_id:token, text:token_seq
    X.item2index, X.user2index   token, tab, number; without them the numbers are the tokens
    X.feat1CLS                float32 [N, D], row = number of the item

An import rebuilds the sequences from the rows, and verifies that each history matches the rows
before it.

Shapes: N items, D dimensions of a feature.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write, sidecar_path
from recbole_qbert.data.atomic import LARGE, read_atomic, read_columns
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, read_embeddings, write_embeddings
from recbole_qbert.data.merge import ITEM, USER
from recbole_qbert.datasets.item_texts import as_cell
from recbole_qbert.datasets.numbering import count_items, read_tokens, write_tokens
from recbole_qbert.datasets.split import (
    CELLS,
    INTER_CELLS,
    PARTS,
    UserSequences,
    leave_one_out,
    ranges,
    read_sequences,
    sequence_rows,
    write_part,
)

HISTORY = CELLS[1].partition(":")[0]
MAX_LENGTH = 50  # largest length of a history in UniSRec
FEATURES = "feat1CLS"
TEXT_CELLS = (f"{ITEM}:token", "text:token_seq")


def import_folder(folder: Path, name: str, into: DatasetPaths) -> dict[str, Any]:
    """Write `.inter`, `.item` and, from the features, `.text.npz`.

    Args:
        folder: folder of `<name>.train.inter` and the other files.
        name: name of the data set there.
        into: the data set to write.

    Returns:
        Numbers of `users`, `items` and `interactions`; `dimension` of the features, 0 without;
        `remarks`, lines on changed content.

    Raises:
        InputError: a file is missing or invalid, or a history does not match the earlier rows.
    """
    numbered = _join_rows([folder / f"{name}.{part}.inter" for part in PARTS])
    texts = _texts(folder / f"{name}.text")
    source = folder / f"{name}.{PARTS[0]}.inter"
    numbers = pc.cast(numbered.items, pa.float64()).to_numpy().astype(np.int64)
    n_items = count_items(int(numbers.max()), len(texts), len(numbered.codes), source)
    item_numbers = [str(number) for number in range(n_items)]
    items = read_tokens(folder / f"{name}.item2index", item_numbers, source)
    users = read_tokens(folder / f"{name}.user2index", numbered.users.to_pylist(), source)
    vectors = _read_features(folder / f"{name}.{FEATURES}", n_items)
    sequences = UserSequences(
        users=pa.array(users, LARGE),
        items=pa.array(items, LARGE),
        codes=numbers[numbered.codes],
        offsets=numbered.offsets,
        times=numbered.times,
        parts=numbered.parts,
    )
    with ExitStack() as stack:  # all files get their final names together at the end
        handle = stack.enter_context(atomic_write(into.file("inter"), "wb"))
        write_header(handle, INTER_CELLS)
        write_rows(handle, list(sequence_rows(sequences)))
        if texts:
            column = [as_cell(texts.get(number)) for number in item_numbers]
            handle = stack.enter_context(atomic_write(into.file("item"), "wb"))
            write_header(handle, TEXT_CELLS)
            write_rows(handle, [pa.array(items, LARGE), pa.array(column, LARGE)])
    stale = ["semid", *([] if texts else ["item"]), *(["text.npz"] if vectors is None else [])]
    for path in map(into.file, stale):  # files of an earlier data set
        path.unlink(missing_ok=True)
        sidecar_path(path).unlink(missing_ok=True)
    if vectors is not None:
        mask = np.ones((n_items, 1), dtype=np.bool_)
        meta = {"modality": "text", "encoder": {"name": FEATURES}}
        table = EmbeddingTable(tuple(items), vectors, mask, meta)
        write_embeddings(into.file("text.npz"), table)
    changed = sum(as_cell(text) != text for text in texts.values())
    remarks = [f"{changed} texts had characters that no cell holds, now blanks"] if changed else []
    dimension = 0 if vectors is None else int(vectors.shape[2])
    return {**sequences.counts(), "dimension": dimension, "remarks": remarks}


def _texts(path: Path) -> dict[str, str]:
    """Read the text of each item by number; {} if there is no file."""
    if not path.is_file():
        return {}
    frame = read_columns(path, [ITEM, "text"])
    wrong = frame.index[~frame[ITEM].str.fullmatch(r"0|[1-9]\d*")]
    if len(wrong):
        raise InputError(f"{path}: line {wrong[0]}: item_id is no number; mend the line")
    return dict(zip(frame[ITEM], frame["text"], strict=True))


def _join_rows(paths: list[Path]) -> UserSequences:
    """Rebuild the sequences from rows of targets with histories.

    A user's sequence starts with the history of the first row, the shortest; each row then appends
    its target.
    """
    files = [read_atomic(path) for path in paths]
    for file in files:
        lacking = [name for name in (USER, HISTORY, ITEM) if name not in file.names]
        if lacking:
            raise InputError(f"{file.path}: no column '{lacking[0]}'; give UniSRec's .inter files")
    table = pa.concat_tables([file.columns.select([USER, HISTORY, ITEM]) for file in files])
    rows = np.arange(len(table))
    starts = np.cumsum([0, *(file.columns.num_rows for file in files)])
    part = np.searchsorted(starts, rows, side="right") - 1

    def place(row: int) -> str:
        return f"{paths[part[row]]}: line {row - starts[part[row]] + 2}"

    users = pc.dictionary_encode(table[USER]).combine_chunks()
    owners = users.indices.to_numpy().astype(np.int64)
    history = pc.split_pattern(table[HISTORY], " ").combine_chunks()
    lengths = pc.list_value_length(history).to_numpy().astype(np.int64)
    tokens = pa.concat_arrays([history.flatten(), table[ITEM].combine_chunks()])
    fine = pc.match_substring_regex(tokens, r"^(0|[1-9]\d*)$").to_numpy(zero_copy_only=False)
    if not fine.all():
        wrong = int(np.argmin(fine))
        row = wrong - int(lengths.sum())
        row = row if row >= 0 else int(np.searchsorted(np.cumsum(lengths), wrong, side="right"))
        raise InputError(f"{place(row)}: {tokens[wrong].as_py()!r} is no number of an item")
    items = pc.dictionary_encode(tokens)
    codes = items.indices.to_numpy().astype(np.int64)
    histories, targets = codes[: lengths.sum()], codes[lengths.sum() :]

    # The rows of a user are sorted by part, then by the length of their history. Truncated
    # histories have equal lengths, and UniSRec writes the longest history of a user first; their
    # order is then that of the file, reversed.
    order = np.lexsort(
        (-rows if _longest_first(owners, lengths, part) else rows, lengths, part, owners)
    )
    owner = owners[order]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    begin = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    base = lengths[order[first]]  # items before the first target
    counts = np.diff(np.append(first, len(order))) + base
    offsets = np.concatenate([[0], np.cumsum(counts)])
    flat = np.empty(offsets[-1], dtype=np.int64)
    heads = ranges(offsets[:-1], offsets[:-1] + base)
    flat[heads] = histories[ranges(begin[order[first]], begin[order[first]] + base)]
    at = offsets[owner] + base[owner] + np.arange(len(order)) - first[owner]
    flat[at] = targets[order]
    _check_histories(flat, at, offsets[owner], histories, begin[order], lengths[order],
                     lambda row: place(int(order[row])))  # fmt: skip
    sequence_owner = np.repeat(np.arange(len(first)), counts)
    return UserSequences(
        users=users.dictionary,
        items=items.dictionary,
        codes=flat,
        offsets=offsets,
        times=(np.arange(len(flat)) - offsets[sequence_owner]).astype(np.float64),
        parts=np.zeros(len(flat), dtype=np.int64),
    )


def _longest_first(owners: np.ndarray, lengths: np.ndarray, part: np.ndarray) -> bool:
    """Return whether the training rows of a user start with the longest history."""
    same = (owners[1:] == owners[:-1]) & (part[1:] == 0)
    steps = np.diff(lengths)[same]
    return bool((steps < 0).sum() > (steps > 0).sum())


def _check_histories(
    flat: np.ndarray,
    at: np.ndarray,
    start: np.ndarray,
    histories: np.ndarray,
    begin: np.ndarray,
    lengths: np.ndarray,
    place: Any,
) -> None:
    """Check that each history is the end of the user's sequence before its target.

    Raises:
        InputError: a history does not match; the message names its line.
    """
    short = at - lengths < start
    expected = ranges(np.maximum(at - lengths, start), at)
    given = ranges(begin + np.where(short, lengths - (at - start), 0), begin + lengths)
    differs = flat[expected] != histories[given]
    row_of = np.repeat(np.arange(len(at)), at - np.maximum(at - lengths, start))
    wrong = np.union1d(np.flatnonzero(short), row_of[differs])
    if len(wrong):
        raise InputError(
            f"{place(int(wrong[0]))}: its history is not what the user's earlier rows say (so with "
            f"{len(wrong)} rows); make the files again"
        )


def _read_features(path: Path, n_items: int) -> np.ndarray | None:
    """Read the vectors of the items, float32 [N, 1, D]; return None without a file."""
    if not path.is_file():
        return None
    vectors = np.fromfile(path, dtype=np.float32)
    if not len(vectors) or path.stat().st_size % (4 * n_items):
        raise InputError(
            f"{path}: {path.stat().st_size} bytes are no float32 matrix of {n_items} rows; give "
            "the file of this data set"
        )
    if not np.isfinite(vectors).all():
        raise InputError(f"{path}: not all values are finite; make it again")
    return vectors.reshape(n_items, 1, -1)


def export_folder(domain: DatasetPaths, folder: Path, text_fields: list[str]) -> dict[str, Any]:
    """Write a data set in UniSRec's format, split leave-one-out, with histories of 50 items.

    Args:
        domain: data set with `.inter`, `.item` and, for the features, `.text.npz`.
        folder: the target folder.
        text_fields: columns whose texts are joined by blanks.

    Returns:
        Numbers of `users`, `items` and `interactions`; `dimension` of the features, 0 without;
        `lost`, lines on content that the format cannot represent.

    Raises:
        InputError: a file cannot be read, or an item has no row or vector.
    """
    sequences = read_sequences(domain.file("inter"))
    items = sequences.items
    texts: list[str] = []
    if domain.file("item").is_file():
        frame = read_columns(domain.file("item"), [ITEM, *text_fields])
        items = pa.array(frame[ITEM].tolist(), LARGE)
        if text_fields:
            texts = [" ".join(filter(None, row)) for row in frame[text_fields].to_numpy().tolist()]
    elif text_fields:
        raise InputError(f"{domain.file('item')}: no such file to take {preview(text_fields)} from")
    numbers = pc.index_in(sequences.items, items)
    if numbers.null_count:
        unknown = pc.filter(sequences.items, pc.is_null(numbers)).to_pylist()
        raise InputError(f"{domain.file('item')}: no rows for {preview(unknown, 3)}; add them")
    numbered = UserSequences(
        users=pa.array([str(number) for number in range(len(sequences.users))], LARGE),
        items=pa.array([str(number) for number in range(len(items))], LARGE),
        codes=numbers.to_numpy().astype(np.int64)[sequences.codes],
        offsets=sequences.offsets,
        times=sequences.times,
        parts=sequences.parts,
    )
    tokens = items.to_pylist()
    features = _features(domain, tokens)
    rows = leave_one_out(numbered)
    rows[0] = rows[0][np.lexsort((-rows[0], numbered.owners[rows[0]]))]  # longest history first
    for part, each in zip(PARTS, rows, strict=True):
        with atomic_write(folder / f"{domain.name}.{part}.inter", "wb") as handle:
            write_part(handle, numbered, each, MAX_LENGTH)
    for suffix, given in (("item2index", tokens), ("user2index", sequences.users.to_pylist())):
        write_tokens(folder / f"{domain.name}.{suffix}", given)
    if texts:
        # Without quoting, because UniSRec reads the file line by line and does not unquote.
        with atomic_write(folder / f"{domain.name}.text") as plain:
            plain.write("\t".join(TEXT_CELLS) + "\n")
            plain.writelines(f"{number}\t{text}\n" for number, text in enumerate(texts))
    if features is not None:
        with atomic_write(folder / f"{domain.name}.{FEATURES}", "wb") as handle:
            handle.write(features.tobytes())
    dimension = 0 if features is None else features.shape[1]
    alone = int((np.diff(numbered.offsets) == 1).sum())
    lost = [f"{alone} users of a single item, who have no history"] if alone else []
    return {**numbered.counts(), "dimension": int(dimension), "lost": lost}


def _features(domain: DatasetPaths, items: list[str]) -> np.ndarray | None:
    """Read the vectors of all items in their order, float32 [N, D]; return None without a table."""
    path = domain.file("text.npz")
    if not path.is_file():
        return None
    table = read_embeddings(path)
    rows = {item: row for row, item in enumerate(table.items)}
    lacking = [item for item in items if item not in rows]
    if lacking:
        raise InputError(
            f"{path}: {len(lacking)} items have no vector: {preview(lacking, 3)}; UniSRec needs all"
        )
    return table.pooled()[[rows[item] for item in items]].astype(np.float32)
