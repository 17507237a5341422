"""Recommendations from a model bundle."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from itertools import chain, islice, repeat
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from safetensors.torch import load_file
from torch import Tensor

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import read_json, read_json_list, recovered
from recbole_qbert.common.hashes import check_folder
from recbole_qbert.common.output import counted
from recbole_qbert.data.codec import quote
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.registry import model_entry
from recbole_qbert.serving import bundle
from recbole_qbert.serving.bundle import describe_error, scores_of
from recbole_qbert.serving.stand_in import stand_in
from recbole_qbert.training.checkpoint import load_checkpoint

SCORES_AT_ONCE = 1 << 24  # 64 MiB
ROWS_AT_ONCE = 1024
_NOT_LISTS = "histories is a list of lists of item tokens"


def _check_lists(values: Iterable[Any]) -> None:
    """Refuse strings and mappings, whose letters and keys would be read as items, and sets.

    Sets have no order.
    """
    refused = (str, bytes, Mapping, set, frozenset)
    if any(issubclass(kind, refused) for kind in {*map(type, values)}):
        raise InputError(_NOT_LISTS)


def _within(name: str, value: Any, most: int | None = None) -> int:
    """Check that a value is a whole number from 1 to `most`."""
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else 0
    if number < 1:
        raise InputError(f"{name}: {value!r} is not a whole number of at least 1")
    if most is not None and number > most:
        raise InputError(f"{name}: {number} is more than {counted(most, 'item')}")
    return number


class Recommender:
    """Recommendations of a loaded bundle, for histories of raw item tokens.

    Attributes:
        model: the model, ready to score.
        config: config of the model, with its device.
        tokens: item tokens, by internal ID - 1.
        ranks_empty_histories: whether the model also ranks items for an empty history.
    """

    def __init__(self, model: Any, config: Config, tokens: list[str], ranks_empty_histories: bool):
        self.model, self.config = model, config
        self.tokens = tokens
        self.ranks_empty_histories = ranks_empty_histories
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
        folder = Path(folder)
        manifest = read_json(recovered(folder) / "manifest.json")
        digests: Any = manifest.get("sha256")
        names = (bundle.REQUIRED, bundle.REQUIRED | bundle.SEMANTIC_IDS)
        known = manifest.get("format") == bundle.FORMAT and isinstance(digests, dict)
        if not known or digests.keys() not in names:
            raise InputError(f"{folder}: not a model bundle of this version; train the model again")
        check_folder(folder, digests)
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise InputError(f"device: {device!r} is unusable ({describe_error(error)})") from None
        name = str(manifest.get("model"))
        try:
            model_entry(name)
        except InputError as error:
            raise InputError(
                f"{folder}: {error}; for a model of your own, import the module that registers it, "
                "or install its plug-in"
            ) from None
        with bundle.going_together(folder, "train the model again"):
            return cls._of_files(folder, manifest, torch.device(device))

    @classmethod
    def _of_files(
        cls, folder: Path, manifest: Mapping[str, Any], device: torch.device
    ) -> Recommender:
        content = read_json(folder / "config.json")
        if content["model"] != manifest["model"]:
            raise InputError(f"{folder / 'manifest.json'}: the model is not that of config.json")
        path = folder / "items.json"
        tokens = bundle.different_texts(path, read_json_list(path), "item tokens")
        if len(tokens) != manifest["n_items"]:
            raise InputError(f"{path}: the number of items is not that of manifest.json")
        if not isinstance(manifest["ranks_empty_histories"], bool):
            raise InputError(f"{folder / 'manifest.json'}: ranks_empty_histories is not a boolean")
        semantic_ids = None
        if manifest["sha256"].keys() > bundle.REQUIRED:
            semantic_ids = read_semantic_ids(folder / "items.semid")
        weights = load_file(folder / "model.safetensors")
        notes = load_checkpoint(folder / "dataset.safetensors")
        config = bundle.settings_of(content, device)
        dataset = stand_in(config, tokens, semantic_ids, notes)
        model = bundle.build_again(config, dataset, weights)
        found = cls(model, config, tokens, manifest["ranks_empty_histories"])
        found.recommend([tokens[:1]], k=1)
        return found

    def recommend(
        self,
        histories: Iterable[Iterable[Any]],
        k: int = 10,
        exclude_seen: bool = True,
        unknown: str = "skip",
        batch_size: int | None = None,
    ) -> list[list[tuple[str, float]]]:
        """Return the best `k` items for each history.

        Args:
            histories: raw item tokens of each history, oldest first. Only the last
                `MAX_ITEM_LIST_LENGTH` are used. Any ordered iterables are accepted (no sets); items
                that are not strings, such as numbers, are converted.
            k: number of items; fewer are returned if a history leaves fewer.
            exclude_seen: exclude all items of a history, also those beyond the maximum length.
            unknown: treatment of items that the model does not know, and of histories without a
                known item if the model needs one. `skip` ignores such items, recommends nothing for
                such histories, and warns; `raise` raises an error.
            batch_size: histories scored at once; default: at most 1,024, and as many as keep the
                scores within 64 MiB.

        Returns:
            For each history, (token, score) pairs, best first. Scores are logits, not
            probabilities.

        Raises:
            InputError: a setting or a history cannot be used.
        """
        k = _within("k", k, len(self.tokens))
        if unknown not in ("skip", "raise"):
            raise InputError(f"unknown: {unknown!r} is none of skip, raise")
        if batch_size is None:
            batch_size = min(ROWS_AT_ONCE, max(1, SCORES_AT_ONCE // len(self._names)))
        batch_size = _within("batch_size", batch_size)
        _check_lists([histories])
        try:
            rows = iter(histories)
        except TypeError:
            raise InputError(_NOT_LISTS) from None
        found: list[list[tuple[str, float]]] = []
        not_known: dict[str, None] = {}
        n_without = 0
        while batch := [*islice(rows, batch_size)]:
            ids, row, lost = self._read(batch)
            not_known.update(dict.fromkeys(lost))
            counts = torch.bincount(row, minlength=len(batch))
            n_without += 0 if self.ranks_empty_histories else int((counts == 0).sum())
            if unknown == "raise" and (not_known or n_without):
                raise InputError(self._left_out(not_known, n_without))
            found += self._best(ids, row, counts, k, exclude_seen)
        if not_known or n_without:
            warnings.warn(self._left_out(not_known, n_without), stacklevel=2)
        return found

    def _read(self, batch: list[Any]) -> tuple[Tensor, Tensor, list[str]]:
        """Return the known items' internal IDs, their rows in the batch, and the unknown items."""
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
        return torch.from_numpy(ids[ids > 0]), torch.from_numpy(row[ids > 0]), lost

    def _best(
        self, ids: Tensor, row: Tensor, counts: Tensor, k: int, exclude_seen: bool
    ) -> list[list[tuple[str, float]]]:
        """Rank `k` items for each of B histories.

        `ids` are the known items of all histories, `row` their rows, `counts` [B] their numbers.
        """
        width = self.config["MAX_ITEM_LIST_LENGTH"]
        lengths = counts.clamp(max=width)
        place = torch.arange(len(row)) - (counts.cumsum(0) - lengths)[row]
        last = place >= 0
        items = torch.zeros(len(counts), width, dtype=torch.long)
        items[row[last], place[last]] = ids[last]
        without = (counts == 0) & (not self.ranks_empty_histories)
        items[without, 0], lengths[without] = 1, 1  # any item, so that the model can score the row
        scores = scores_of(self.model, self.config, items, lengths)
        scores[:, 0] = -torch.inf
        scores[without.to(scores.device)] = -torch.inf
        if exclude_seen:
            scores[row.to(scores.device), ids.to(scores.device)] = -torch.inf
        best = scores.topk(k, dim=1)
        names = self._names[best.indices.cpu().numpy()].tolist()
        n_left = (best.values > -torch.inf).sum(dim=1).tolist()
        return [
            [*zip(items_of[:n], values[:n], strict=True)]
            for items_of, values, n in zip(names, best.values.tolist(), n_left, strict=True)
        ]

    def _left_out(self, not_known: Collection[str], n_without: int) -> str:
        parts = []
        if not_known:
            shown = preview([quote(name) for name in islice(not_known, 11)])
            parts.append(f"items unknown to the model ({len(not_known)}): {shown}")
        if n_without:
            name = self.config["model"]
            parts.append(
                f"histories without a known item, which {name} cannot rank items for ({n_without})"
            )
        return "; ".join(parts)
