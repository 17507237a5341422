"""Interaction sequences of users, and their splits as benchmark files for RecBole.

RecBole reads predefined splits with `benchmark_filename`. A row is a target item with its history:
`user_id:token  item_id_list:token_seq  item_id:token`. RecBole numbers the tokens of the two item
columns separately, so that one number means two items, unless `alias_of_item_id` joins them. The
file `<dataset>.split.yaml` beside the split sets this option.

Shapes: T interactions, U users, N items, R rows of a split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import atomic_write, write_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.atomic import Atomic, read_atomic
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.merge import ITEM, USER

PARTS = ("train", "valid", "test")
CELLS = (f"{USER}:token", f"{ITEM}_list:token_seq", f"{ITEM}:token")
TIME = "timestamp"
INTER_CELLS = (f"{USER}:token", f"{ITEM}:token", f"{TIME}:float")
CONFIG = """# How RecBole and recbole-qbert read {name}'s own split: --config_files=<this file>
benchmark_filename: [train, valid, test]  # (list) <dataset>.<part>.inter
alias_of_item_id: [item_id_list]  # (list) histories and targets are numbered as one
load_col:                         # (dict) columns that are read
  inter: [user_id, item_id_list, item_id]
"""
_ROWS = 1 << 16  # rows that are written at a time


@dataclass(frozen=True)
class UserSequences:
    """The items of each user in order.

    Attributes:
        users: U tokens, in the order of their first appearance.
        items: N tokens, in the order of their first appearance.
        codes: int64 [T], item numbers, user after user.
        offsets: int64 [U + 1]; the items of user u are `codes[offsets[u]:offsets[u + 1]]`.
        times: float64 [T], seconds, or positions in the sequences.
        parts: int64 [T], number of the file that an interaction is from.
    """

    users: pa.Array
    items: pa.Array
    codes: np.ndarray
    offsets: np.ndarray
    times: np.ndarray
    parts: np.ndarray

    @property
    def owners(self) -> np.ndarray:
        """User number of each interaction, int64 [T]."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.offsets))

    @property
    def places(self) -> np.ndarray:
        """Position of each interaction in its user's sequence, int64 [T]."""
        return np.arange(len(self.codes)) - self.offsets[self.owners]

    @property
    def timed(self) -> bool:
        """Whether the times are timestamps, not positions in the sequences."""
        return not np.array_equal(self.times, self.places)

    def counts(self) -> dict[str, int]:
        """Return the numbers of users, items and interactions."""
        return {
            "users": len(self.users), "items": len(self.items), "interactions": len(self.codes),
        }  # fmt: skip


def read_sequences(*paths: Path) -> UserSequences:
    """Read the sequences of one `.inter` file, or of several parts in the given order.

    A user's items are sorted by part, then by `timestamp`. Ties, and files without that column,
    keep the order of the file.

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
    users = pc.dictionary_encode(_column(files, USER)).combine_chunks()
    items = pc.dictionary_encode(_column(files, ITEM)).combine_chunks()
    owners = users.indices.to_numpy().astype(np.int64)
    times = np.concatenate(
        [file.numbers(TIME) if TIME in file.names else np.zeros(file.n_rows) for file in files]
    )
    parts = np.repeat(np.arange(len(files)), [file.n_rows for file in files])
    order = np.lexsort((times, parts, owners))  # stable
    counts = np.bincount(owners, minlength=len(users.dictionary))
    return UserSequences(
        users=users.dictionary,
        items=items.dictionary,
        codes=items.indices.to_numpy().astype(np.int64)[order],
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        times=times[order],
        parts=parts[order],
    )


def _column(files: Sequence[Atomic], name: str) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for file in files for chunk in file.columns[name].chunks])


# Assignment of interactions to parts --------------------------------------------------------------


def leave_one_out(sequences: UserSequences) -> list[np.ndarray]:
    """Split leave-one-out.

    For users with three items or more, the last item is the test target and the second to last the
    validation target. All other items with a history are training targets.

    Returns:
        For train, valid and test, the indices [R] of the targets in the T interactions.
    """
    places = sequences.places
    left = np.diff(sequences.offsets)[sequences.owners] - 1 - places  # items after this one
    enough = places + left >= 2
    has_history = places > 0
    return [
        np.flatnonzero(has_history & ~(enough & (left < 2))),
        np.flatnonzero(enough & (left == 1)),
        np.flatnonzero(enough & (left == 0)),
    ]


def temporal(sequences: UserSequences, valid_from: float, test_from: float) -> list[np.ndarray]:
    """Split by time: train before `valid_from`, valid before `test_from`, test from then on.

    Returns:
        As `leave_one_out`.

    Raises:
        InputError: the times are positions in sequences, the cut-offs are not increasing, or a part
            is empty.
    """
    if not sequences.timed:
        raise InputError(
            f"{TIME}: the times are places in each user's sequence, not times; a cut-off needs "
            "real times, leave-one-out does not"
        )
    if not valid_from < test_from:
        raise InputError(f"test begins at {test_from:.17g}, valid at {valid_from:.17g}; give "
                         "valid's beginning first")  # fmt: skip
    part = np.digitize(sequences.times, [valid_from, test_from])
    rows = [np.flatnonzero((part == each) & (sequences.places > 0)) for each in range(3)]
    for name, each in zip(PARTS, rows, strict=True):
        if not len(each):
            first, last = sequences.times.min(), sequences.times.max()
            raise InputError(
                f"the part {name} is empty: times go from {first:.17g} to {last:.17g}; move the "
                "cut-offs"
            )
    return rows


def cut_offs(sequences: UserSequences, shares: Sequence[float]) -> tuple[float, float]:
    """Return the two times before which the given shares of all interactions lie.

    Raises:
        InputError: `shares` are not two increasing numbers between 0 and 1.
    """
    if len(shares) != 2 or not 0 < shares[0] < shares[1] < 1:
        raise InputError(f"shares: {list(shares)}: give two rising numbers between 0 and 1")
    first, second = np.quantile(sequences.times, shares, method="higher")
    return float(first), float(second)


def own_parts(sequences: UserSequences, paths: Sequence[Path]) -> list[np.ndarray]:
    """Split as three existing files do.

    Args:
        sequences: result of `read_sequences` for the files.
        paths: the files, for messages.

    Returns:
        As `leave_one_out`.

    Raises:
        InputError: the same interaction is in two files.
    """
    keys = np.stack([sequences.owners, sequences.codes, sequences.times], axis=1)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    order = np.lexsort((sequences.parts, group.reshape(-1)))
    group, parts = group.reshape(-1)[order], sequences.parts[order]
    clash = np.flatnonzero((group[1:] == group[:-1]) & (parts[1:] != parts[:-1]))
    if len(clash) and sequences.times.any():
        row = order[clash[0]]
        user = sequences.users[int(sequences.owners[row])].as_py()
        item = sequences.items[int(sequences.codes[row])].as_py()
        raise InputError(
            f"{paths[parts[clash[0]]]} and {paths[parts[clash[0] + 1]]}: user {user!r} and item "
            f"{item!r} at one time stand in both ({len(clash)} such rows); keep each in one part"
        )
    has_history = sequences.places > 0
    return [np.flatnonzero((sequences.parts == each) & has_history) for each in range(len(paths))]


def leak(sequences: UserSequences, rows: Sequence[np.ndarray]) -> dict[str, Any]:
    """Measure the leakage of a split; see the lines of `explain`.

    Returns:
        The share of test targets whose item is not in training and, with timestamps, the share of
        test targets before the last training target.
    """
    train, _, test = rows
    known = np.unique(sequences.codes[_training(sequences, rows)])
    cold = float(np.mean(~np.isin(sequences.codes[test], known))) if len(test) else 0.0
    facts: dict[str, Any] = {"test_targets_never_in_training": round(cold, 6)}
    if sequences.timed and len(train) and len(test):
        latest = sequences.times[train].max()
        early = float(np.mean(sequences.times[test] < latest))
        facts["test_targets_before_the_end_of_training"] = round(early, 6)
    return facts


def _training(sequences: UserSequences, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Return which interactions are not held out, bool [T]."""
    kept_back = np.zeros(len(sequences.codes), dtype=np.bool_)
    kept_back[rows[1]] = kept_back[rows[2]] = True
    return ~kept_back


def explain(facts: dict[str, Any]) -> list[str]:
    """Format the result of `leak` as lines of text."""
    lines = []
    early = facts.get("test_targets_before_the_end_of_training")
    if early is None:
        lines.append(
            "times are places in sequences, so it cannot be said what training knows early"
        )
    elif early:
        lines.append(
            f"{early:.1%} of the test targets happened before the last training interaction: "
            "models learn from other users' future (leave-one-out always does; --method=temporal "
            "does not)"
        )
    else:
        lines.append("no test target happened before the last training interaction")
    cold = facts["test_targets_never_in_training"]
    lines.append(f"{cold:.2%} of the test targets are items that training never shows")
    return lines


# Files --------------------------------------------------------------------------------------------


def write_split(
    into: DatasetPaths,
    sequences: UserSequences,
    rows: Sequence[np.ndarray],
    max_length: int,
    source: dict[str, Any],
) -> dict[str, int]:
    """Write `<name>.{train,valid,test}.inter`, `<name>.split.yaml` and `<name>.split.json`.

    Args:
        into: the data set to write to.
        sequences: the interactions.
        rows: result of `leave_one_out`, `temporal` or `own_parts`.
        max_length: largest length of a history, which keeps its last items; 0 for no limit.
        source: JSON values for the sidecar `.split.json`.

    Returns:
        The number of rows of each part.

    Raises:
        InputError: an item token contains a blank.
    """
    check_tokens(sequences.items)
    paths = [into.file(f"{part}.inter") for part in PARTS]
    with ExitStack() as stack:  # all files get their final names together at the end
        for path, each in zip(paths, rows, strict=True):
            handle = stack.enter_context(atomic_write(path, "wb"))
            write_part(handle, sequences, each, max_length)
        config = stack.enter_context(atomic_write(into.file("split.yaml")))
        config.write(CONFIG.format(name=into.name))
    counts = {part: len(each) for part, each in zip(PARTS, rows, strict=True)}
    facts = {"rows": counts, "counts": sequences.counts(), **leak(sequences, rows), **source}
    facts["files"] = {path.name: sha256_file(path) for path in paths}
    write_json(into.file("split.json"), json.loads(json.dumps(facts)))
    return counts


def check_tokens(items: pa.Array) -> None:
    """Check that no item token contains a blank, because blanks separate the items of a history.

    Raises:
        InputError: a token contains a blank.
    """
    blank = pc.filter(items, pc.match_substring(items, " "))
    if len(blank):
        raise InputError(
            f"{len(blank)} item tokens have blanks ({preview(blank[:3].to_pylist())}); histories "
            "are written with blanks between items, so rename those"
        )


def write_part(
    handle: IO[bytes], sequences: UserSequences, rows: np.ndarray, max_length: int
) -> None:
    """Write one part: user, history and target of each row; see `write_split`."""
    write_header(handle, CELLS)
    owners = sequences.owners
    for start in range(0, len(rows), _ROWS):
        chosen = rows[start : start + _ROWS]
        first = sequences.offsets[owners[chosen]]
        if max_length:
            first = np.maximum(first, chosen - max_length)
        history = pa.LargeListArray.from_arrays(
            np.concatenate([[0], np.cumsum(chosen - first)]),
            sequences.items.take(pa.array(sequences.codes[ranges(first, chosen)])),
        )
        write_rows(
            handle,
            [
                sequences.users.take(pa.array(owners[chosen])),
                pc.binary_join(history, pa.scalar(" ", sequences.items.type)),
                sequences.items.take(pa.array(sequences.codes[chosen])),
            ],
        )


def ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Concatenate the ranges `start, start + 1, ..., end - 1` of all pairs."""
    lengths = ends - starts
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return np.arange(lengths.sum()) + shift


def sequence_rows(sequences: UserSequences) -> Iterator[pa.Array]:
    """Yield the columns of an `.inter` file: user, item, position in the sequence."""
    yield sequences.users.take(pa.array(sequences.owners))
    yield sequences.items.take(pa.array(sequences.codes))
    yield pc.cast(pa.array(sequences.places), sequences.items.type)
