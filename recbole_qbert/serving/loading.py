"""Loading of model bundles, with checks of every file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.config import Config
from safetensors.torch import load_file
from torch import Tensor

from recbole_qbert.common.errors import InputError, did_you_mean_path
from recbole_qbert.common.files import read_json, read_json_list, recovered
from recbole_qbert.common.hashes import check_folder
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.registry import model_entry
from recbole_qbert.serving import bundle
from recbole_qbert.serving.bundle import describe_error
from recbole_qbert.serving.histories import Histories
from recbole_qbert.serving.scoring import top_k
from recbole_qbert.serving.stand_in import stand_in
from recbole_qbert.training.checkpoint import load_checkpoint


class LoadedBundle(NamedTuple):
    """Content of a bundle; see `Recommender` for the attributes."""

    model: Any
    config: Config
    tokens: list[str]
    titles: list[str] | None
    codes: Tensor | None
    extra_level: int | None


def folder_of_bundle(folder: Path) -> Path:
    """Return the folder of a bundle, given this folder or that of its run."""
    return folder / "bundle" if (folder / "bundle").is_dir() else folder


def load_bundle(folder: str | Path, device: str) -> LoadedBundle:
    """Load a bundle and score one history; raises as `Recommender.load`."""
    folder = folder_of_bundle(Path(folder))
    if not recovered(folder).is_dir():
        raise InputError(f"{folder}: no such folder of a bundle{did_you_mean_path(folder)}")
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder}: not the folder of a bundle; it has no manifest.json")
    manifest = read_json(folder / "manifest.json")
    digests: Any = manifest.get("sha256")
    needed = (bundle.REQUIRED, bundle.REQUIRED | bundle.SEMANTIC_IDS)
    known = manifest.get("format") == bundle.FORMAT and isinstance(digests, dict)
    if not known or digests.keys() - {bundle.TITLES} not in needed:
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
    with bundle.inconsistent_files_as_input_error(folder, "train the model again"):
        return _of_files(folder, manifest, torch.device(device))


def _of_files(folder: Path, manifest: Mapping[str, Any], device: torch.device) -> LoadedBundle:
    content = read_json(folder / "config.json")
    if content["model"] != manifest["model"]:
        raise InputError(f"{folder / 'manifest.json'}: the model is not that of config.json")
    path = folder / "items.json"
    tokens = bundle.different_texts(path, read_json_list(path), "item tokens")
    if len(tokens) != manifest["n_items"]:
        raise InputError(f"{path}: the number of items is not that of manifest.json")
    titles = None
    if bundle.TITLES in manifest["sha256"]:
        titles = read_json_list(folder / bundle.TITLES)
        if {*map(type, titles)} != {str} or len(titles) != len(tokens):
            raise InputError(f"{folder / bundle.TITLES}: not a list of one title for each item")
    semantic_ids = None
    if manifest["sha256"].keys() >= bundle.SEMANTIC_IDS:
        semantic_ids = read_semantic_ids(folder / "items.semid")
    weights = load_file(folder / "model.safetensors")
    notes = load_checkpoint(folder / "dataset.safetensors")
    config = bundle.settings_of(content, device)
    dataset = stand_in(config, tokens, semantic_ids, notes)
    model = bundle.build_again(config, dataset, weights)
    # Some inconsistencies appear only when the model scores.
    top_k(model, config, Histories(np.array([1]), np.array([0, 1])), k=1)
    extra_level = semantic_ids.extra_level if semantic_ids is not None else None
    return LoadedBundle(model, config, tokens, titles, dataset.item_codes, extra_level)
