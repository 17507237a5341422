"""Recommendations from a model bundle."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import chain, islice, repeat
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from recbole.config import Config
from torch import Tensor

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.output import counted
from recbole_qbert.data.codec import quote
from recbole_qbert.serving.explanation import Explanation, explain_items
from recbole_qbert.serving.frames import frame_interactions
from recbole_qbert.serving.histories import Histories, grouped
from recbole_qbert.serving.loading import load_bundle
from recbole_qbert.serving.scoring import TopK, rows_at_once, top_k
from recbole_qbert.topk.index import ItemIndex

_NOT_LISTS = "histories is a list of lists of item tokens"


def _check_lists(values: Iterable[Any]) -> None:
    """Refuse strings and mappings, whose letters and keys would be read as items, and sets.

    Sets have no order.
    """
    refused = (str, bytes, Mapping, set, frozenset)
    if any(issubclass(kind, refused) for kind in {*map(type, values)}):
        raise InputError(_NOT_LISTS)


def checked_count(name: str, value: Any, most: int | None = None) -> int:
    """Return a value that is a whole number from 1 to `most`; else raise an `InputError`."""
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else 0
    if number < 1:
        raise InputError(f"{name}: {value!r} is not a whole number of at least 1")
    if most is not None and number > most:
        raise InputError(f"{name}: {number} is more than the {counted(most, 'item')}")
    return number


class Recommender:
    """Recommendations of a loaded bundle, for histories of raw item tokens.

    Attributes:
        model: the model, ready to score.
        config: config of the model, with its device.
        tokens: item tokens, by internal ID - 1.
        titles: titles of the items in the order of `tokens`, "" for items without one; None if the
            bundle has none.
        codes: codes of the semantic IDs [N, K], by internal ID; None without semantic IDs.
        extra_level: level of them that only counts the items of equal tuples; None without one.
    """

    def __init__(
        self,
        model: Any,
        config: Config,
        tokens: list[str],
        titles: list[str] | None = None,
        codes: Tensor | None = None,
        extra_level: int | None = None,
    ):
        self.model, self.config = model, config
        self.tokens, self.titles = tokens, titles
        self.codes, self.extra_level = codes, extra_level
        self._ids = {token: number for number, token in enumerate(tokens, start=1)}
        self._names = np.array(["", *tokens], dtype=object)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Recommender:
        """Load a bundle.

        Args:
            folder: folder of `save_bundle`.
            device: device for the model, whatever it was trained on.

        Raises:
            InputError: the folder is not a bundle, a file was changed, the files are inconsistent,
                or the device cannot be used.
        """
        return cls(*load_bundle(folder, device))

    def recommend(
        self,
        histories: Iterable[Iterable[Any]],
        k: int = 10,
        exclude_seen: bool = True,
        unknown: str = "skip",
        batch_size: int | None = None,
        candidates: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> list[list[tuple[str, float]]]:
        """Return the best `k` items for each history.

        Args:
            histories: raw item tokens of each history, oldest first. Only the last
                `MAX_ITEM_LIST_LENGTH` are used. Any ordered iterables are accepted (no sets); items
                that are not strings, such as numbers, are converted.
            k: number of items; fewer are returned if a history leaves fewer.
            exclude_seen: exclude all items of a history, also those beyond the maximum length. A
                QBERT4Rec with `exclude_visible` never ranks the items that it reads.
            unknown: treatment of items that the model does not know, and of histories without a
                known item. `skip` ignores such items, recommends nothing for such histories, and
                warns; `raise` raises an error.
            batch_size: histories scored at once; default: at most 1,024, and as many as keep the
                scores within 64 MiB.
            candidates: tokens of the items to rank; None for all items.
            exclude: tokens of items that are never recommended.

        Returns:
            For each history, (token, score) pairs, best first; equal scores in the order of
            `tokens`. Scores are logits, not probabilities.

        Raises:
            InputError: a setting or a history cannot be used, or no history has a known item.
        """
        k = checked_count("k", k, len(self.tokens))
        if unknown not in ("skip", "raise"):
            raise InputError(f"unknown: {unknown!r} is none of skip, raise")
        batch_size = self.rows_at_once(k, batch_size)
        allowed = self.allowed(candidates, exclude)
        _check_lists([histories])
        try:
            rows = iter(histories)
        except TypeError:
            raise InputError(_NOT_LISTS) from None
        found: list[list[tuple[str, float]]] = []
        not_known: dict[str, None] = {}
        without: list[int] = []
        while batch := [*islice(rows, batch_size)]:
            read, lost = self._read(batch)
            not_known.update(dict.fromkeys(lost))
            without += (np.flatnonzero(read.lengths == 0) + len(found)).tolist()
            if unknown == "raise" and (not_known or without):
                raise InputError(_left_out(not_known, without))
            found += self._lists(read, k, exclude_seen, allowed)
        if without and len(without) == len(found):
            raise nothing_known(not_known)
        if not_known or without:
            warnings.warn(_left_out(not_known, without), stacklevel=2)
        return found

    def recommend_frame(
        self,
        frame: pd.DataFrame,
        user: str,
        item: str,
        time: str | None = None,
        k: int = 10,
        exclude_seen: bool = True,
        candidates: Collection[str] | None = None,
        exclude: Collection[str] = (),
    ) -> pd.DataFrame:
        """Return the best `k` items for each user of a table of interactions.

        Args:
            frame: one row per interaction.
            user: its column of users.
            item: its column of items; text or whole numbers.
            time: its column of times, numbers or dates; None if the rows are in order of time.
            k: see `recommend`, as the further arguments.

        Returns:
            Columns `user`, `rank`, `item`, `score` and, if there are titles, `title`. Users are in
            the order of their first rows. Users without a known item are left out with a warning.

        Raises:
            InputError: a column or a setting cannot be used, or no user has a known item.
        """
        k = checked_count("k", k, len(self.tokens))
        allowed = self.allowed(candidates, exclude)
        users, codes, items, times = frame_interactions(frame, user, item, time)
        ids, lost = self.ids_of(items)
        histories = grouped(codes, ids, len(users), times)
        without = np.flatnonzero(histories.lengths == 0).tolist()
        if len(without) == len(users):
            raise nothing_known(lost)
        if lost or without:
            warnings.warn(_left_out(dict.fromkeys(lost), without, users), stacklevel=2)
        named = users.filter(pa.array(histories.lengths > 0))
        tables = self.tables(named, histories.without_empty(), k, exclude_seen, allowed)
        return pa.concat_tables(tables).to_pandas()

    def explain(
        self,
        history: Iterable[Any],
        items: Iterable[Any],
        n_removals: int = 3,
        skip_unranked: bool = False,
    ) -> list[Explanation]:
        """Explain the scores of items after one history.

        Args:
            history: item tokens, oldest first; the last `MAX_ITEM_LIST_LENGTH` are explained.
            items: tokens of the items to explain.
            n_removals: number of history items listed whose removal lowers the score most.
            skip_unranked: leave out items that the model does not rank after this history. A beam
                search ranks those of its usual beams; `recommend` may find more.

        Raises:
            InputError: no item of the history is known, an item to explain is unknown or one
                that the model does not rank, or `n_removals` is invalid.
        """
        if not isinstance(n_removals, Integral) or n_removals < 0:
            raise InputError(f"n_removals: {n_removals!r} is not a whole number of at least 0")
        (read, asked), lost = zip(*map(self._read, ([history], [items])), strict=True)
        if lost[1] or not len(asked.items):
            asked_for = preview([*map(quote, lost[1])]) or "none"
            raise InputError(f"items to explain: {asked_for}; give items that the model knows")
        if not len(read.items):
            raise nothing_known(lost[0])
        (last,), (length,) = read.last_items(self.config["MAX_ITEM_LIST_LENGTH"])
        words = self._names.tolist(), ["", *(self.titles or [""] * len(self.tokens))]
        scoring = (self.model, self.config, last[:length], asked.flat()[1])
        settings = (n_removals, self.extra_level, skip_unranked)
        return explain_items(*scoring, self.codes, *words, *settings)

    def allowed(
        self, candidates: Collection[str] | None, exclude: Collection[str] = ()
    ) -> Tensor | None:
        """Return a mask of the items that may be recommended, bool [N]; None for all.

        Unknown tokens are left out with a warning.

        Raises:
            InputError: no known candidate is left.
        """
        named = (("candidates", () if candidates is None else candidates), ("exclude", exclude))
        for name, tokens in named:  # arrays and Series are accepted, which have no truth value
            if isinstance(tokens, str | bytes) or not isinstance(tokens, Iterable):
                raise InputError(f"{name}: {tokens!r} is not a list of item tokens")
        chosen, left_out = (list(tokens) for _, tokens in named)
        if candidates is None and not left_out:
            return None
        mask = torch.full((len(self._names),), candidates is None)
        lost: list[str] = []
        for each, value in ((chosen, True), (left_out, False)):
            read, unknown = self._read([each])
            mask[read.flat()[1]] = value
            lost += unknown
        mask[0] = False
        if not mask.any():
            if candidates is None:
                raise InputError("exclude: it has all items of the model; exclude fewer")
            raise InputError("candidates: none is known to the model and not excluded; give others")
        if lost:
            message = f"candidates and exclude: {_left_out(dict.fromkeys(lost), [])}"
            warnings.warn(message, stacklevel=3)
        return mask.to(self.config["device"])

    def tables(
        self,
        users: pa.Array,
        histories: Histories,
        k: int,
        exclude_seen: bool = True,
        allowed: Tensor | None = None,
        batch_size: int | None = None,
    ) -> Iterator[pa.Table]:
        """Yield tables of `schema` with the best `k` items of B users, batch by batch.

        `users` are tokens; each of the B `histories` has an item. `allowed` is from the method of
        that name; for the others see `recommend`.
        """
        step = self.rows_at_once(k, batch_size)
        for start in range(0, len(histories), step):
            part = histories.part(start, start + step)
            top = top_k(self.model, self.config, part, k, exclude_seen, allowed, self._index)
            yield self._table(users.slice(start, step), top)

    @property
    def schema(self) -> pa.Schema:
        """Columns of tables of recommendations: user, rank, item, score, and title if known."""
        fields = [("user", pa.string()), ("rank", pa.int32()), ("item", pa.string())]
        fields += [("score", pa.float32())]
        return pa.schema([*fields, *([("title", pa.string())] if self.titles else [])])

    def _table(self, users: pa.Array, top: TopK) -> pa.Table:
        rows, places = np.nonzero(top.items)
        numbers = pa.array(top.items[rows, places] - 1)
        columns = [
            users.take(pa.array(rows)),
            pa.array((places + 1).astype(np.int32)),
            self._texts[0].take(numbers),
            pa.array(top.scores[rows, places]),
            *(texts.take(numbers) for texts in self._texts[1:]),
        ]
        return pa.table(columns, schema=self.schema)

    @cached_property
    def _texts(self) -> list[pa.Array]:
        """Item tokens and, if there are any, titles, as Arrow arrays."""
        texts = [self.tokens, *([self.titles] if self.titles else [])]
        return [pa.array(each, pa.string()) for each in texts]

    def ids_of(self, tokens: pa.Array) -> tuple[np.ndarray, list[str]]:
        """Return the internal ID of each token, int32 [n], 0 for unknown ones, and the latter."""
        encoded = tokens.dictionary_encode()
        words = encoded.dictionary.to_pylist()
        ids = np.fromiter(map(self._ids.get, words, repeat(0)), np.int32, len(words))
        lost = [words[place] for place in np.flatnonzero(ids == 0)]
        return ids[encoded.indices.to_numpy()], lost

    def unknown(self, tokens: Iterable[str]) -> list[str]:
        """Return the tokens that are not items of the model, each one once, in their order."""
        return [token for token in dict.fromkeys(tokens) if token not in self._ids]

    def rows_at_once(self, k: int, given: int | None = None) -> int:
        """Return how many histories to score at once: `given`, or as many as fit (`recommend`)."""
        if given is not None:
            return checked_count("batch_size", given)
        return rows_at_once(len(self._names), k, self._index)

    @cached_property
    def _index(self) -> ItemIndex | None:
        """Index of the items' codes, for models that have one."""
        make = getattr(self.model, "item_index", None)
        found: ItemIndex | None = make() if make else None
        return found

    def _read(self, batch: list[Any]) -> tuple[Histories, list[str]]:
        """Return the known items of each history of a batch, and the unknown items."""
        _check_lists(batch)
        try:
            lists = [*map(list, batch)]
        except TypeError:
            raise InputError(_NOT_LISTS) from None
        given = [*chain.from_iterable(lists)]
        if any(issubclass(kind, Iterable) for kind in {*map(type, given)} - {str, np.str_}):
            raise InputError(_NOT_LISTS)
        words = [*map(str, given)]
        ids = np.fromiter(map(self._ids.get, words, repeat(0)), np.int64, len(words))
        row = np.repeat(np.arange(len(lists)), [*map(len, lists)])
        lost = [words[place] for place in np.flatnonzero(ids == 0)]
        return grouped(row, ids, len(lists)), lost

    def _lists(
        self, histories: Histories, k: int, exclude_seen: bool, allowed: Tensor | None
    ) -> list[list[tuple[str, float]]]:
        """Rank `k` items for each history; a history without items gets none."""
        found: list[list[tuple[str, float]]] = [[] for _ in range(len(histories))]
        rows = np.flatnonzero(histories.lengths > 0).tolist()
        if rows:
            full = histories.without_empty()
            top = top_k(self.model, self.config, full, k, exclude_seen, allowed, self._index)
            n_left = (top.items > 0).sum(axis=1).tolist()
            names, scores = self._names[top.items].tolist(), top.scores.tolist()
            for row, items, values, n in zip(rows, names, scores, n_left, strict=True):
                found[row] = [*zip(items[:n], values[:n], strict=True)]
        return found


def nothing_known(lost: Collection[str]) -> InputError:
    """Return the error for histories that are empty, or have the unknown items `lost` alone."""
    shown = preview([*map(quote, islice(lost, 11))])
    found = f"no item is known to the model: {shown}" if lost else "no items"
    return InputError(f"history: {found}; give at least one item that the model was trained on")


def _left_out(not_known: Collection[str], without: list[int], users: pa.Array | None = None) -> str:
    """Describe unknown items, and the histories (numbers from 0) without a known item.

    `users` are the tokens of all histories' users, if these have any.
    """
    parts = []
    if not_known:
        shown = preview([quote(name) for name in islice(not_known, 11)])
        parts.append(f"items unknown to the model ({len(not_known)}): {shown}")
    if without:
        whose, first = "histories", f"number {without[0] + 1}"
        if users is not None:
            whose, first = "users", quote(users[without[0]].as_py())
        parts.append(f"{whose} without a known item ({len(without)}, first: {first})")
    return "; ".join(parts)
