"""Model bundles: a trained model as a folder, from which it can recommend without its data set.

    model.safetensors    weights
    config.json          config of the model
    items.json           raw item tokens; index i is internal ID i + 1 (0 is padding)
    dataset.safetensors  attributes of the data set that the model needs: sizes, item features
    items.semid          semantic IDs, if the data set has any, and items.semid.json
    titles.json          titles of the items, in the same order, if the `.item` file has any
    manifest.json        format, model name, hashes of the files above, versions, data counts

No file in it can run code. The folder is written atomically.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from recbole.config import Config
from safetensors.torch import save
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_folder, write_json
from recbole_qbert.common.hashes import sha256_folder
from recbole_qbert.data.codec import quote
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.registry import model_entry
from recbole_qbert.serving.scoring import scores_of
from recbole_qbert.serving.stand_in import stand_in
from recbole_qbert.serving.titles import usual_titles
from recbole_qbert.training.checkpoint import DERIVED_KEYS, config_to_json, save_checkpoint

FORMAT = "recbole-qbert/bundle/2"
REQUIRED = frozenset(("model.safetensors", "config.json", "items.json", "dataset.safetensors"))
SEMANTIC_IDS = frozenset(("items.semid", "items.semid.json"))
TITLES = "titles.json"
BUNDLE_FILES = REQUIRED | SEMANTIC_IDS | {TITLES, "manifest.json"}
# Limit on the numbers that a model may allocate when it is built: ALLOWANCE plus four times those
# of its weights. Each tensor counts as TENSOR numbers more.
ALLOWANCE, TENSOR = 1 << 24, 1 << 12
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
    weights = storable(model.state_dict())
    notes: dict[str, Any] = {}
    try:
        settings = settings_of(content, torch.device("cpu"))
        empty = stand_in(settings, tokens, semantic_ids, notes, dataset)
        twin = build_again(settings, empty, weights)
        _compare(model, config, twin, settings, len(tokens) + 1)
    except Exception as error:  # third-party models may raise anything
        raise NotBundled(
            f"{name} has no bundle: it cannot be rebuilt, or needs more than a history to rank "
            f"items ({describe_error(error)})"
        ) from error
    item_file = Path(config["data_path"]) / f"{config['dataset']}.item"
    titles = usual_titles(item_file, tokens)
    write_bundle(folder, BundleContent(content, tokens, titles, semantic_ids, notes, weights))


class BundleContent(NamedTuple):
    """What the files of a bundle hold; see the module docstring."""

    config: dict[str, Any]  # of `config_to_json`
    tokens: list[str]
    titles: list[str] | None
    semantic_ids: SemanticIDTable | None
    notes: dict[str, Any]  # the record of a `StandIn`
    weights: dict[str, Tensor]


def write_bundle(folder: str | Path, bundle: BundleContent) -> None:
    """Write the files of a bundle; an older bundle in `folder` is replaced.

    Raises:
        NotBundled: the record cannot be stored. Nothing is written.
    """
    name = bundle.config["model"]
    with atomic_folder(folder) as work:
        (work / "model.safetensors").write_bytes(save(bundle.weights))
        write_json(work / "config.json", bundle.config)
        _write_texts(work / "items.json", bundle.tokens)
        if bundle.titles is not None:
            _write_texts(work / TITLES, bundle.titles)
        try:
            save_checkpoint(work / "dataset.safetensors", bundle.notes)
        except TypeError as error:
            raise NotBundled(f"{name} has no bundle: {describe_error(error)}") from error
        if bundle.semantic_ids is not None:
            origin = {"copied_into": "a model bundle"}
            write_semantic_ids(work / "items.semid", bundle.semantic_ids, origin)
        manifest = {
            "format": FORMAT,
            "model": name,
            "version": __version__,
            "torch": torch.__version__,
            "n_items": len(bundle.tokens),
            "sha256": sha256_folder(work),
        }
        write_json(work / "manifest.json", manifest)


def storable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights, because safetensors refuses shared and non-contiguous tensors."""
    return {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in weights.items()
    }


def _write_texts(path: Path, texts: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as handle:
        json.dump(texts, handle, ensure_ascii=False)


def _compare(model: Any, config: Any, twin: Any, settings: Config, n_items: int) -> None:
    """Raise a `ValueError` if a rebuilt model gives other scores."""
    items, lengths = trial_histories(config["MAX_ITEM_LIST_LENGTH"], n_items)
    training = model.training
    # Some models read the target field without using it. The two models get different targets, so
    # that scores that depend on the target differ.
    expected = scores_of(model.eval(), config, items, lengths, targets=items[:, 0]).cpu()
    model.train(training)
    found = scores_of(twin, settings, items, lengths)
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-3):
        raise ValueError("the rebuilt model gives other scores")


def trial_histories(width: int, n_items: int) -> tuple[Tensor, Tensor]:
    """Draw histories of N items, padding included, to compare scores: items [B, L], lengths [B]."""
    lengths = torch.linspace(1, width, N_TRIED).long()
    items = torch.randint(1, n_items, (N_TRIED, width), generator=torch.Generator().manual_seed(0))
    items[torch.arange(width) >= lengths.unsqueeze(1)] = 0
    return items, lengths


def settings_of(content: Mapping[str, Any], device: torch.device) -> Config:
    """Restore a config of `config_to_json` for another device.

    RecBole's constructor is avoided: it would evaluate strings as Python, and choose a GPU for the
    whole process.
    """
    config = Config.__new__(Config)
    config.model, config.dataset = content["model"], content["dataset"]
    keys = {key: value for key, value in content["keys"].items() if key not in DERIVED_KEYS}
    names = {"model": config.model, "dataset": config.dataset}
    config.final_config_dict = {**keys, **names, "device": device}
    return config


def build_again(config: Config, dataset: Any, weights: Mapping[str, Tensor]) -> Any:
    """Build the model of a config of `settings_of`, and load weights; it is ready to score.

    No global random numbers are drawn. `dataset` is the real one or a `StandIn`.

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
        raise InputError("some weights are not numbers")
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
            raise InputError("the config describes a model that is far larger than the weights")


def describe_error(error: Exception) -> str:
    """Describe an exception in one short line."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, KeyError):
        return f"{error} is missing"
    return f"{type(error).__name__}: {quote(' '.join(str(error).split()), limit=200)}"


@contextlib.contextmanager
def inconsistent_files_as_input_error(folder: Path, remedy: str) -> Iterator[None]:
    """Turn any exception that a folder's files cause in the block into an `InputError`."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise InputError(
            f"{folder}: not enough memory ({describe_error(error)}); free some, or give another "
            "device"
        ) from error
    except Exception as error:  # an edited file can be wrong in any way
        raise InputError(
            f"{folder}: the files are inconsistent; {remedy} ({describe_error(error)})"
        ) from error


def different_texts(where: str | Path, values: Any, called: str) -> list[str]:
    """Return `values`, or raise an `InputError` if it is no list of distinct strings."""
    known = isinstance(values, list) and values and {*map(type, values)} == {str}
    if not known or len({*values}) < len(values):
        raise InputError(f"{where}: not a list of distinct {called}")
    return list(values)
