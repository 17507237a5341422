"""A trained model as a folder: weights, config, item tokens, semantic IDs, manifest.

    model.safetensors    weights
    config.json          what the model is built from
    items.json           raw item tokens; place i is internal id i + 1 (0 is padding)
    dataset.safetensors  what the model asks of its data set when it is built: sizes, item features
    items.semid          the semantic IDs, where the data set has any, and items.semid.json
    manifest.json        format, model name, hashes of the files above, versions, data counts

Nothing in it can run code. The folder appears whole or not at all. B histories, N items (padding
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
# Numbers that a model may make when it is built, beside four times those of its weights; a tensor
# counts as so many more for itself.
ALLOWANCE, TENSOR = 1 << 24, 1 << 12
SCORES_AT_ONCE = 1 << 24  # 64 MiB
ROWS_AT_ONCE = 1024
N_TRIED = 8  # histories that a bundle is tried with before it is written


class NotBundled(InputError):
    """A model whose scores cannot be had from a bundle."""


def save_bundle(folder: str | Path, model: Any, config: Any, dataset: Any) -> None:
    """Write a trained model; an older bundle in `folder` is replaced.

    The model is built again from what is to be written, and must give the same scores.

    Args:
        folder: of the bundle.
        model: its weights are those to keep.
        config: of the run.
        dataset: what the model was built from.

    Raises:
        NotBundled: it cannot be built again, asks for more than the items of a history, or gives
            other scores. Nothing is written.
    """
    name, content = config["model"], config_to_json(config)
    tokens = [str(token) for token in dataset.field2id_token[dataset.iid_field][1:]]
    semantic_ids = getattr(dataset, "semantic_ids", None)
    weights = {  # of their own: the file format knows no shared and no turned ones
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
    except Exception as error:  # whatever a third party's model raises
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
    """Refuse a model built again that scores drawn histories otherwise than the trained one.

    Returns:
        Whether it ranks items for an empty history too.
    """
    width = config["MAX_ITEM_LIST_LENGTH"]
    lengths = torch.linspace(1, width, N_TRIED).long()
    items = torch.randint(1, n_items, (N_TRIED, width), generator=torch.Generator().manual_seed(0))
    items[torch.arange(width) >= lengths.unsqueeze(1)] = 0
    training = model.training
    # Some models read the target though nothing hangs on it; here one has others than the other.
    expected = _scores(model.eval(), config, items, lengths, targets=items[:, 0]).cpu()
    model.train(training)
    found = _scores(twin, settings, items, lengths)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise ValueError("it would give other scores")
    try:
        empty = _scores(twin, settings, torch.zeros_like(items[:1]), torch.zeros_like(lengths[:1]))
    except Exception:  # a place before the first one, say
        return False
    return bool(empty[:, 1:].isfinite().any() and not empty.isnan().any())


def settings_of(content: Mapping[str, Any], device: torch.device) -> Config:
    """The config again, as `config_to_json` gave it, for another device.

    RecBole's constructor would evaluate texts as Python, and choose a GPU for the whole process.
    """
    config = Config.__new__(Config)
    config.model, config.dataset = content["model"], content["dataset"]
    keys = {key: value for key, value in content["keys"].items() if key not in DERIVED_KEYS}
    config.final_config_dict = {
        **keys, "model": config.model, "dataset": config.dataset, "device": device
    }  # fmt: skip
    return config


def build_again(config: Config, dataset: Any, weights: Mapping[str, Tensor]) -> Any:
    """The model of a config with these weights, ready to score; draws no random number."""
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
        if name in weights and not buffer.numel():  # it counts interactions
            holder, _, own = name.rpartition(".")
            setattr(model.get_submodule(holder), own, torch.empty_like(weights[name]))
    model.load_state_dict(weights)
    return model.to(config["device"]).eval()


class _Allowance(TorchDispatchMode):
    """Refuse, before they take memory, tensors of more than `room` numbers altogether."""

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
    """Scores of all items, its own to change.

    Args:
        model: in evaluation.
        config: its own.
        items: [B, L], right-padded with zeros.
        lengths: [B].
        targets: [B], which must not matter; any item without.

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
    """An exception in one short line."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return f"{type(error).__name__}: {quote(' '.join(str(error).split()), limit=200)}"


@contextlib.contextmanager
def going_together(folder: Path, remedy: str) -> Iterator[None]:
    """Whatever the files of a folder raise in the block, edited as they may be, becomes one line.

    Raises:
        InputError: names the folder, what is wrong, and the remedy.
    """
    try:
        yield
    except Exception as error:  # an edited file can be wrong in any way
        raise InputError(
            f"{folder}: its files do not go together; {remedy} ({said(error)})"
        ) from error


def different_texts(where: str | Path, values: Any, called: str) -> list[str]:
    """What must be a list of different texts, at least one.

    Raises:
        InputError: it is something else.
    """
    known = isinstance(values, list) and values and {*map(type, values)} == {str}
    if not known or len({*values}) < len(values):
        raise InputError(f"{where}: not a list of different {called}")
    return list(values)


_NOT_LISTS = "histories is a list of lists of item tokens"


def _check_lists(values: Iterable[Any]) -> None:
    """A text would be taken for its letters, a mapping for its keys; a set has no order."""
    refused = (str, bytes, Mapping, set, frozenset)
    if any(issubclass(kind, refused) for kind in {*map(type, values)}):
        raise InputError(_NOT_LISTS)


def _within(name: str, value: Any, most: int | None = None) -> int:
    number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else 0
    if number < 1:
        raise InputError(f"{name}: {value!r} is not a whole number of at least 1")
    if most is not None and number > most:
        raise InputError(f"{name}: {number} is more than the {most} items")
    return number


class Recommender:
    """A loaded bundle: recommendations for histories of raw item tokens.

    Attributes:
        model: ready to score.
        config: of the model, with the device that it is on.
        tokens: of the items, by internal id - 1.
        ranks_for_nothing: whether the model ranks items for an empty history too.
    """

    def __init__(self, model: Any, config: Config, tokens: list[str], ranks_for_nothing: bool):
        self.model, self.config = model, config
        self.tokens = tokens
        self.ranks_for_nothing = ranks_for_nothing
        self._ids = {token: number for number, token in enumerate(tokens, start=1)}
        self._names = np.array(["", *tokens], dtype=object)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> Recommender:
        """Read a bundle.

        Args:
            folder: of `save_bundle`.
            device: that the model is to be on, whatever it was trained on.

        Raises:
            InputError: not a bundle, a file in it was changed, or its files do not go together.
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
        """The best `k` items, each with its score (a logit, no probability), for each history.

        Args:
            histories: raw item tokens, oldest first, of each; only the last `MAX_ITEM_LIST_LENGTH`
                count. Any iterables in order, so no sets; what is no text, a number say, counts as
                its text.
            k: how many; fewer come back where a history leaves fewer.
            exclude_seen: leave a history's own items out, however long it is.
            unknown: of items that the model does not know, and histories without an item where it
                needs one: `skip` leaves the items out, recommends nothing for the histories and
                says so in a warning; `raise` refuses them.
            batch_size: histories that are scored at once; without it as many as keep the scores
                within 64 MiB, at most 1,024.

        Raises:
            InputError: a setting or a history that cannot be used.
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
        strangers: dict[str, None] = {}
        n_without = 0
        while batch := [*islice(rows, batch_size)]:
            ids, row, lost = self._read(batch)
            strangers.update(dict.fromkeys(lost))
            counts = torch.bincount(row, minlength=len(batch))
            n_without += 0 if self.ranks_for_nothing else int((counts == 0).sum())
            if unknown == "raise" and (strangers or n_without):
                raise InputError(self._left_out(strangers, n_without))
            found += self._best(ids, row, counts, k, exclude_seen)
        if strangers or n_without:
            warnings.warn(self._left_out(strangers, n_without), stacklevel=2)
        return found

    def _read(self, batch: list[Any]) -> tuple[Tensor, Tensor, list[str]]:
        """Internal ids of the known items, the row of each in the batch, and the other items."""
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
        """Of known items, the row of each, in order, and the number of each row's items [B]."""
        width = self.config["MAX_ITEM_LIST_LENGTH"]
        lengths = counts.clamp(max=width)
        place = torch.arange(len(row)) - (counts.cumsum(0) - lengths)[row]
        last = place >= 0
        items = torch.zeros(len(counts), width, dtype=torch.long)
        items[row[last], place[last]] = ids[last]
        without = (counts == 0) & (not self.ranks_for_nothing)
        items[without, 0], lengths[without] = 1, 1  # any item, for the model to go through
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

    def _left_out(self, strangers: Iterable[str], n_without: int) -> str:
        names = [*strangers]
        said = []
        if names:
            shown = preview([quote(name) for name in names[:11]])
            said.append(f"items unknown to the model ({len(names)}): {shown}")
        if n_without:
            said.append(
                f"histories without a known item, for which {self.config['model']} has no ranking "
                f"({n_without})"
            )
        return "; ".join(said)
