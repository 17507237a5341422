"""Interaction sequences of users, and their splits as benchmark files for RecBole.

RecBole reads predefined splits with `benchmark_filename`. A row is a target item with its history:
`user_id:token  item_id_list:token_seq  item_id:token`. RecBole numbers the tokens of the two item
columns separately, so that one number means two items, unless `alias_of_item_id` joins them. The
file `<dataset>.split.yaml` beside the split sets this option.

Shapes: n interactions, R rows of a part. A split is a list of three int arrays [R]: for training,
validation and test, the row numbers of the targets in the interactions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.common.ragged import ranges
from recbole_qbert.data.atomic import Atomic, read_atomic
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.domain import PARTS, DatasetPaths
from recbole_qbert.data.merge import ITEM, TIME, USER
from recbole_qbert.datasets.interactions import Interactions
from recbole_qbert.datasets.kcore import held_out
from recbole_qbert.datasets.target import CONFIG, split_files

CELLS = (f"{USER}:token", f"{ITEM}_list:token_seq", f"{ITEM}:token")
_ROWS = 1 << 16  # rows that are written at a time


def read_sequences(*paths: Path) -> Interactions:
    """Read the interactions of one `.inter` file, or of several parts in the given order.

    They are sorted by user, part, then `timestamp`. Ties, and files without that column, keep the
    order of the file. Users and items are numbered in the order of their first appearance.

    Raises:
        InputError: a file cannot be read, lacks a column, or has an invalid ID or time; the message
            names the line.
    """
    files = [read_atomic(path) for path in paths]
    for file in files:
        file.need((USER, ITEM), "give an .inter file")
        file.need_rows()
        for name in (USER, ITEM):
            file.check_ids(name)
    users, items = (_encoded(files, name) for name in (USER, ITEM))
    times = np.concatenate(
        [file.numbers(TIME) if TIME in file.names else np.zeros(file.n_rows) for file in files]
    )
    parts = np.repeat(np.arange(len(files)), [file.n_rows for file in files])
    read = Interactions(
        users.dictionary, items.dictionary, users.indices.to_numpy().astype(np.int64),
        items.indices.to_numpy().astype(np.int64), times, parts=parts,
    )  # fmt: skip
    read = read.take(np.lexsort((times, parts, read.users)))  # stable
    untimed = any(TIME not in file.names for file in files)
    return replace(read, times=read.places.astype(np.float64)) if untimed else read


def _encoded(files: Sequence[Atomic], name: str) -> pa.DictionaryArray:
    column = pa.chunked_array([chunk for file in files for chunk in file.columns[name].chunks])
    return pc.dictionary_encode(column).combine_chunks()


# Assignment of interactions to parts --------------------------------------------------------------


def leave_one_out(sequences: Interactions) -> list[np.ndarray]:
    """Split leave-one-out, as `run` does.

    For users with three items or more, the last item is the test target. For users with four or
    more, the second to last is the validation target. All other items with a history are training
    targets.
    """
    train, valid, test = held_out(sequences.users)
    return [np.flatnonzero(rows) for rows in (train & (sequences.places > 0), valid, test)]


def temporal(sequences: Interactions, valid_from: float, test_from: float) -> list[np.ndarray]:
    """Split by time: train before `valid_from`, valid before `test_from`, test from then on.

    Raises:
        InputError: the times are positions in sequences, the start times are not increasing, or a
            part is empty.
    """
    if not sequences.timed:
        raise InputError(
            f"{TIME}: the values are positions in the sequences, not times; a temporal split needs "
            "times, use leave_one_out"
        )
    if not valid_from < test_from:
        raise InputError(
            f"the test part starts at {test_from:.17g}, the validation part at {valid_from:.17g}; "
            "the validation part must start first"
        )
    part = np.digitize(sequences.times, [valid_from, test_from])
    rows = [np.flatnonzero((part == each) & (sequences.places > 0)) for each in range(3)]
    first, last = sequences.times.min(), sequences.times.max()
    check_filled(rows, f"times range from {first:.17g} to {last:.17g}; change the start times")
    return rows


def check_filled(rows: Sequence[np.ndarray], explanation: str) -> None:
    """Raise an InputError with an explanation if a part of a split is empty."""
    for name, each in zip(PARTS, rows, strict=True):
        if not len(each):
            raise InputError(f"the part {name} is empty: {explanation}")


def cut_offs(sequences: Interactions, shares: Sequence[float]) -> tuple[float, float]:
    """Return the two times before which the given shares of all interactions lie.

    Raises:
        InputError: `shares` are not two increasing numbers between 0 and 1.
    """
    if len(shares) != 2 or not 0 < shares[0] < shares[1] < 1:
        raise InputError(f"shares: {list(shares)}: give two increasing numbers between 0 and 1")
    first, second = np.quantile(sequences.times, shares, method="higher")
    return float(first), float(second)


def own_parts(sequences: Interactions, paths: Sequence[Path]) -> list[np.ndarray]:
    """Split as the files do that `read_sequences` read.

    Raises:
        InputError: the same interaction is in two files.
    """
    parts = sequences.parts
    assert parts is not None
    keys = np.stack([sequences.users, sequences.items, sequences.times], axis=1)
    group = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.lexsort((parts, group))
    clash = np.flatnonzero((np.diff(group[order]) == 0) & (np.diff(parts[order]) != 0))
    if len(clash) and sequences.times.any():
        row, other = order[clash[0] : clash[0] + 2].tolist()
        user = sequences.user_tokens[int(sequences.users[row])].as_py()
        item = sequences.item_tokens[int(sequences.items[row])].as_py()
        raise InputError(
            f"{paths[parts[row]]} and {paths[parts[other]]}: both have user {user!r} and item "
            f"{item!r} at the same time ({counted(len(clash), 'such row')}); keep each in one part"
        )
    has_history = sequences.places > 0
    return [np.flatnonzero((parts == each) & has_history) for each in range(len(paths))]


def few_users(
    sequences: Interactions, rows: Sequence[np.ndarray], share: float, seed: int
) -> list[np.ndarray]:
    """Keep the training targets of a random share of their users, and all other targets.

    Raises:
        InputError: `share` is not above 0 and at most 1, or is less than one user.
    """
    train, *others = rows
    users = np.unique(sequences.users[train])
    n_kept = round(share * len(users)) if 0 < share <= 1 else 0
    if not n_kept:
        raise InputError(
            f"train_users: {share} of {counted(len(users), 'user')}; give a share above 0 and at "
            "most 1 that leaves a user"
        )
    kept = np.random.default_rng(seed).choice(users, n_kept, replace=False)
    return [train[np.isin(sequences.users[train], kept)], *others]


def leak(sequences: Interactions, rows: Sequence[np.ndarray]) -> dict[str, Any]:
    """Measure the leakage of a split; see the lines of `explain`.

    Returns:
        The share of test targets whose item is not in training and, with timestamps, the share of
        test targets before the last training target.
    """
    train, _, test = rows
    last = np.full(len(sequences.user_tokens), -1)  # training target of each user
    np.maximum.at(last, sequences.users[train], train)
    known = np.unique(sequences.items[np.arange(len(sequences.users)) <= last[sequences.users]])
    cold = float(np.mean(~np.isin(sequences.items[test], known))) if len(test) else 0.0
    facts: dict[str, Any] = {"test_targets_never_in_training": round(cold, 6)}
    if sequences.timed and len(train) and len(test):
        latest = sequences.times[train].max()
        early = float(np.mean(sequences.times[test] < latest))
        facts["test_targets_before_the_end_of_training"] = round(early, 6)
    return facts


def explain(facts: dict[str, Any]) -> list[str]:
    """Format the result of `leak` as lines of text."""
    early = facts.get("test_targets_before_the_end_of_training")
    if early is None:
        line = "leakage is unknown: the timestamps are positions in the sequences, not times"
    elif early:
        line = (
            f"{early:.1%} of the test targets precede the last training interaction: models learn "
            "from other users' future (always with leave_one_out, never with --method=temporal)"
        )
    else:
        line = "no test target precedes the last training interaction"
    cold = facts["test_targets_never_in_training"]
    return [line, f"{cold:.2%} of the test targets are items that do not occur in training"]


# Files --------------------------------------------------------------------------------------------


def write_split(
    into: DatasetPaths,
    sequences: Interactions,
    rows: Sequence[np.ndarray],
    max_length: int,
    source: dict[str, Any],
) -> dict[str, int]:
    """Write `<name>.{train,valid,test}.inter`, `<name>.split.yaml` and `<name>.split.json`.

    Args:
        sequences: the interactions.
        rows: the split.
        max_length: largest length of a history, which keeps its last items; 0 for no limit.
        source: JSON values for the sidecar `.split.json`.

    Returns:
        The number of rows of each part.

    Raises:
        InputError: an item token contains a blank.
    """
    tokens = sequences.item_tokens
    blank = pc.filter(tokens, pc.match_substring(tokens, " "))
    if len(blank):
        raise InputError(
            f"{into.name}: {counted(len(blank), 'item token contains', 'item tokens contain')} "
            "blanks "
            f"({preview(blank[:3].to_pylist())}), which separate the items of a history; rename "
            "the items"
        )
    *paths, config_path, record = split_files(into)
    with ExitStack() as stack:  # all files get their final names together at the end
        for path, each in zip(paths, rows, strict=True):
            handle = stack.enter_context(atomic_write(path, "wb"))
            write_part(handle, sequences, each, max_length)
        config = stack.enter_context(atomic_write(config_path))
        config.write(CONFIG.format(name=into.name))
    counts = {part: len(each) for part, each in zip(PARTS, rows, strict=True)}
    facts = {
        "rows": counts,
        "counts": sequences.counts._asdict(),
        **leak(sequences, rows),
        **source,
    }
    facts["files"] = {path.name: sha256_file(path) for path in paths}
    write_json(record, json.loads(json.dumps(facts)))
    return counts


def write_part(
    handle: IO[bytes], sequences: Interactions, rows: np.ndarray, max_length: int
) -> None:
    """Write one part: user, history and target of each row; see `write_split`."""
    write_header(handle, CELLS)
    users, items = sequences.user_tokens, sequences.item_tokens
    starts = sequences.starts
    for place in range(0, len(rows), _ROWS):
        chosen = rows[place : place + _ROWS]
        first = starts[chosen]
        if max_length:
            first = np.maximum(first, chosen - max_length)
        history = pa.LargeListArray.from_arrays(
            np.concatenate([[0], np.cumsum(chosen - first)]),
            items.take(pa.array(sequences.items[ranges(first, chosen)])),
        )
        columns = [
            users.take(pa.array(sequences.users[chosen])),
            pc.binary_join(history, pa.scalar(" ", items.type)),
            items.take(pa.array(sequences.items[chosen])),
        ]
        write_rows(handle, columns)
