"""Model bundles: a trained model as a folder, from which it can recommend without its data set.

    model.safetensors    weights
    config.json          config of the model
    items.json           raw item tokens; index i is internal ID i + 1 (0 is padding)
    dataset.safetensors  attributes of the data set that the model needs: sizes, item features
    items.semid          semantic IDs, if the data set has any, and items.semid.json
    manifest.json        format, model name, hashes of the files above, versions, data counts

No file in it can run code. The folder is written atomically. Shapes: B histories, N items (padding
included), L = MAX_ITEM_LIST_LENGTH.
"""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice, repeat
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.files import (
    atomic_folder,
    check_folder,
    read_json,
    read_json_list,
    recovered,
    sha256_folder,
    write_json,
)
from recbole_qbert.data.codec import quote
from recbole_qbert.data.semid import read_semantic_ids, write_semantic_ids
from recbole_qbert.registry import model_entry
from recbole_qbert.serving.stand_in import stand_in
from recbole_qbert.speedups.trimmed_forward import trimmed_scores
from recbole_qbert.training.checkpoint import (
    DERIVED_KEYS,
    config_to_json,
    load_checkpoint,
    save_checkpoint,
)

FORMAT = "recbole-qbert/bundle/2"
REQUIRED = frozenset(("model.safetensors", "config.json", "items.json", "dataset.safetensors"))
SEMANTIC_IDS = frozenset(("items.semid", "items.semid.json"))
# Limit on the numbers that a model may allocate when it is built: ALLOWANCE plus four times those
# of its weights. Each tensor counts as TENSOR numbers more.
ALLOWANCE, TENSOR = 1 << 24, 1 << 12
SCORES_AT_ONCE = 1 << 24  # 64 MiB
ROWS_AT_ONCE = 1024
N_TRIED = 8  # histories whose scores are compared before a bundle is written


class NotBundled(InputError):
    """Error for a model that cannot score from a bundle."""


def save_bundle(folder: str | Path, model: Any, config: Any, dataset: Any) -> None:
    """Write a trained model as a bundle; an older bundle in `folder` is replaced.

    Before writing, the model is rebuilt from the bundle's content and must give the same scores.

    Args:
        folder: folder of the bundle.
        model: the model, with its final weights.
        config: config of the run.
        dataset: dataset that the model was built from.

    Raises:
        NotBundled: the model cannot be rebuilt, needs more than the items of a history, or gives
            other scores. Nothing is written.
    """
    name, content = config["model"], config_to_json(config)
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    semantic_ids = getattr(dataset, "semantic_ids", None)
    weights = {  # copies, because safetensors refuses shared and non-contiguous tensors
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in model.state_dict().items()
    }
    notes: dict[str, Any] = {}
    try:
        settings = settings_of(content, torch.device("cpu"))
        twin = build_again(
            settings, stand_in(settings, tokens, semantic_ids, notes, dataset), weights
        )
        ranks_for_nothing = _compare(model, config, twin, settings, len(tokens) + 1)
    except Exception as error:  # third-party models may raise anything
        raise NotBundled(
            f"{name} has no bundle: it cannot be built again from one, or not rank items by a "
            f"history alone ({said(error)})"
        ) from error
    with atomic_folder(folder) as work:
        (work / "model.safetensors").write_bytes(save(weights))
        write_json(work / "config.json", content)
        with open(work / "items.json", "w", encoding="utf-8") as handle:
            json.dump(tokens, handle, ensure_ascii=False)
        try:
            save_checkpoint(work / "dataset.safetensors", notes)
        except TypeError as error:
            raise NotBundled(f"{name} has no bundle: {said(error)}") from error
        if semantic_ids is not None:
            write_semantic_ids(
                work / "items.semid", semantic_ids, {"copied_into": "a model bundle"}
            )
        manifest = {
            "format": FORMAT,
            "model": name,
            "version": __version__,
            "torch": torch.__version__,
            "n_items": len(tokens),
            "ranks_for_nothing": ranks_for_nothing,
            "sha256": sha256_folder(work),
        }
        write_json(work / "manifest.json", manifest)


def _compare(model: Any, config: Any, twin: Any, settings: Config, n_items: int) -> bool:
    """Check that a rebuilt model scores random histories as the trained one does.

    Returns:
        Whether it also ranks items for an empty history.

    Raises:
        ValueError: the scores differ.
    """
    width = config["MAX_ITEM_LIST_LENGTH"]
    lengths = torch.linspace(1, width, N_TRIED).long()
    items = torch.randint(1, n_items, (N_TRIED, width), generator=torch.Generator().manual_seed(0))
    items[torch.arange(width) >= lengths.unsqueeze(1)] = 0
    training = model.training
    # Some models read the target field without using it. The two models get different targets, so
    # that scores that depend on the target differ.
    expected = _scores(model.eval(), config, items, lengths, targets=items[:, 0]).cpu()
    model.train(training)
    found = _scores(twin, settings, items, lengths)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise ValueError("it would give other scores")
    try:
        empty = _scores(twin, settings, torch.zeros_like(items[:1]), torch.zeros_like(lengths[:1]))
    except Exception:  # for example an index before the first position
        return False
    return bool(empty[:, 1:].isfinite().any() and not empty.isnan().any())


def settings_of(content: Mapping[str, Any], device: torch.device) -> Config:
    """Restore a config of `config_to_json` for another device.

    RecBole's constructor is avoided: it would evaluate strings as Python, and choose a GPU for the
    whole process.
    """
    config = Config.__new__(Config)
    config.model, config.dataset = content["model"], content["dataset"]
    keys = {key: value for key, value in content["keys"].items() if key not in DERIVED_KEYS}
    config.final_config_dict = {
        **keys, "model": config.model, "dataset": config.dataset, "device": device
    }  # fmt: skip
    return config


def build_again(config: Config, dataset: Any, weights: Mapping[str, Tensor]) -> Any:
    """Build the model of a config and load weights; it is ready to score.

    No global random numbers are drawn.

    Args:
        config: config of `settings_of`.
        dataset: dataset or stand-in.
        weights: state dict.

    Raises:
        InputError: weights are NaN, or the config needs far more memory than the weights.
    """
    entry, settings = model_entry(config["model"]), copy.copy(config)
    keys: dict[str, Any] = {"pre_model_path": None}
    if entry.first_stage and entry.model.__module__.startswith("recbole."):
        # RecBole's S3Rec needs the file of its first stage when it is built for the second one.
        keys["train_stage"] = "pretrain"
    settings.final_config_dict = config.final_config_dict | keys
    if any(tensor.isnan().any() for tensor in weights.values()):
        raise InputError("some of its weights are not numbers")
    room = ALLOWANCE + 4 * sum(TENSOR + tensor.numel() for tensor in weights.values())
    if config["MAX_ITEM_LIST_LENGTH"] > room:
        raise InputError(f"MAX_ITEM_LIST_LENGTH: {config['MAX_ITEM_LIST_LENGTH']} is too large")
    with torch.random.fork_rng(devices=[]), _Allowance(room):
        model = entry.model(settings, dataset)
    for name, buffer in list(model.named_buffers()):
        if name in weights and not buffer.numel():  # its size depends on the interactions
            holder, _, own = name.rpartition(".")
            setattr(model.get_submodule(holder), own, torch.empty_like(weights[name]))
    model.load_state_dict(weights)
    return model.to(config["device"]).eval()


class _Allowance(TorchDispatchMode):
    """Refuse allocations of more than `room` numbers in total, before they take memory."""

    def __init__(self, room: int):
        super().__init__()
        self.room = room

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.is_view or func._schema.is_mutable:
            return func(*args, **kwargs)
        if "device" in kwargs and not any(isinstance(each, Tensor) for each in args):
            self._take(func(*args, **kwargs | {"device": "meta"}))
            return func(*args, **kwargs)
        made = func(*args, **kwargs)
        self._take(made)
        return made

    def _take(self, made: Any) -> None:
        self.room -= TENSOR + made.numel() if isinstance(made, Tensor) else TENSOR
        if self.room < 0:
            raise InputError("the config asks for a model that is far larger than the weights")


@torch.no_grad()
def _scores(
    model: Any, config: Config, items: Tensor, lengths: Tensor, targets: Tensor | None = None
) -> Tensor:
    """Score all items for each history; the result may be modified.

    Args:
        model: in evaluation mode.
        config: config of the model.
        items: [B, L], right-padded with zeros.
        lengths: [B].
        targets: [B], values of the target field, which must not affect the scores; default: item 1.

    Returns:
        [B, N] on the config's device.
    """
    targets = torch.ones_like(lengths) if targets is None else targets
    batch = Interaction(
        {model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: lengths, model.POS_ITEM_ID: targets}
    )
    scores: Tensor = trimmed_scores(model, config)(batch.to(config["device"]))
    return scores.view(len(items), -1).float().clone()


def said(error: Exception) -> str:
    """Describe an exception in one short line."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return f"{type(error).__name__}: {quote(' '.join(str(error).split()), limit=200)}"


@contextlib.contextmanager
def going_together(folder: Path, remedy: str) -> Iterator[None]:
    """Turn any exception that a folder's files cause in the block into an `InputError`.

    Raises:
        InputError: names the folder, the fault and the remedy.
    """
    try:
        yield
    except Exception as error:  # an edited file can be wrong in any way
        raise InputError(
            f"{folder}: its files do not go together; {remedy} ({said(error)})"
        ) from error


def different_texts(where: str | Path, values: Any, called: str) -> list[str]:
    """Check that a value is a non-empty list of distinct strings, and return it.

    Args:
        where: source of the value, for the message.
        values: the value.
        called: noun for the strings, for the message.

    Raises:
        InputError: it is not.
    """
    known = isinstance(values, list) and values and {*map(type, values)} == {str}
    if not known or len({*values}) < len(values):
        raise InputError(f"{where}: not a list of different {called}")
    return list(values)


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
        raise InputError(f"{name}: {number} is more than the {most} items")
    return number


class Recommender:
    """Recommendations of a loaded bundle, for histories of raw item tokens.

    Attributes:
        model: the model, ready to score.
        config: config of the model, with its device.
        tokens: item tokens, by internal ID - 1.
        ranks_for_nothing: whether the model also ranks items for an empty history.
    """

    def __init__(self, model: Any, config: Config, tokens: list[str], ranks_for_nothing: bool):
        self.model, self.config = model, config
        self.tokens = tokens
        self.ranks_for_nothing = ranks_for_nothing
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
        digests = manifest.get("sha256")
        if (
            manifest.get("format") != FORMAT
            or not isinstance(digests, dict)
            or digests.keys() not in (REQUIRED, REQUIRED | SEMANTIC_IDS)
        ):
            raise InputError(
                f"{folder}: not a model bundle of this version; train and save it again"
            )
        check_folder(folder, digests)
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise InputError(f"device: {device!r} cannot be used ({said(error)})") from None
        with going_together(folder, "train and save it again"):
            return cls._of_files(folder, manifest, torch.device(device))

    @classmethod
    def _of_files(
        cls, folder: Path, manifest: Mapping[str, Any], device: torch.device
    ) -> Recommender:
        content = read_json(folder / "config.json")
        if content["model"] != manifest["model"]:
            raise InputError(f"{folder / 'manifest.json'}: its model is not that of the config")
        path = folder / "items.json"
        tokens = different_texts(path, read_json_list(path), "item tokens")
        if len(tokens) != manifest["n_items"]:
            raise InputError(f"{path}: not as many items as the manifest says")
        if not isinstance(manifest["ranks_for_nothing"], bool):
            raise InputError(f"{folder / 'manifest.json'}: ranks_for_nothing is neither yes nor no")
        semantic_ids = None
        if manifest["sha256"].keys() > REQUIRED:
            semantic_ids = read_semantic_ids(folder / "items.semid")
        weights = load_file(folder / "model.safetensors")
        notes = load_checkpoint(folder / "dataset.safetensors")
        config = settings_of(content, device)
        model = build_again(config, stand_in(config, tokens, semantic_ids, notes), weights)
        found = cls(model, config, tokens, manifest["ranks_for_nothing"])
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
            n_without += 0 if self.ranks_for_nothing else int((counts == 0).sum())
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
        """Rank items for a batch of histories.

        Args:
            ids: known items of all histories, in order.
            row: row of each item in the batch.
            counts: [B], number of items of each row.
            k: number of items to return.
            exclude_seen: exclude the items of a row.
        """
        width = self.config["MAX_ITEM_LIST_LENGTH"]
        lengths = counts.clamp(max=width)
        place = torch.arange(len(row)) - (counts.cumsum(0) - lengths)[row]
        last = place >= 0
        items = torch.zeros(len(counts), width, dtype=torch.long)
        items[row[last], place[last]] = ids[last]
        without = (counts == 0) & (not self.ranks_for_nothing)
        items[without, 0], lengths[without] = 1, 1  # any item, so that the model can score the row
        scores = _scores(self.model, self.config, items, lengths)
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

    def _left_out(self, not_known: Iterable[str], n_without: int) -> str:
        names = [*not_known]
        parts = []
        if names:
            shown = preview([quote(name) for name in names[:11]])
            parts.append(f"items unknown to the model ({len(names)}): {shown}")
        if n_without:
            parts.append(
                f"histories without a known item, for which {self.config['model']} has no ranking "
                f"({n_without})"
            )
        return "; ".join(parts)
