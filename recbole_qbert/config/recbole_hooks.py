"""RecBole's own `Config` with the settings layers and checks of this package."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.utils import InputType

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml, split_names
from recbole_qbert.compat.recbole import wrap_once
from recbole_qbert.config import build
from recbole_qbert.config.build import FINETUNE, PRETRAIN, merge_settings
from recbole_qbert.config.rules import check_effect, check_model_rules, check_rules
from recbole_qbert.config.settings import RUN
from recbole_qbert.registry import check_model_name, is_sequential, model_entry


def install() -> None:
    """Make RecBole's own `Config` use the settings of this package. Repeated calls change nothing.

    RecBole reads default YAML files only from its own package, and evaluates strings of a config as
    Python expressions. With this, strings are parsed as literals, so that no config can run code.
    """
    wrap_once(Config, "_get_model_and_dataset", _with_known_model)
    wrap_once(Config, "_load_internal_config_dict", _with_layers)
    wrap_once(Config, "_set_default_parameters", _with_tables)
    wrap_once(Config, "_init_device", _with_warning)
    Config._load_config_files = _load_files
    Config._update_internal_config_dict = _update_defaults
    Config._convert_config_dict = _convert_literals


def _with_known_model(find_model: Any, self: Config, model: Any, dataset: str | None) -> Any:
    name = self.external_config_dict.get("model") if model is None else model
    if isinstance(name, str):
        check_model_name(name)
    return find_model(self, model, dataset)


def _with_layers(
    load_internal: Any, self: Config, model: str, model_class: type, dataset: str
) -> None:
    load_internal(self, model, model_class, dataset)
    if is_sequential(model, model_class):
        _load_layers(self, model, dataset)


def _with_tables(set_defaults: Any, self: Config) -> None:
    """Sort names of tables in `item_vectors`, so that their order does not change a run."""
    set_defaults(self)
    names = self.final_config_dict.get("item_vectors")
    if isinstance(names, str):
        names = split_names(names)
    if isinstance(names, list):
        if len({*names}) < len(names):
            raise InputError(f"item_vectors: {', '.join(names)}: name each table once")
        self.final_config_dict["item_vectors"] = sorted(names)


def _with_warning(init_device: Any, self: Config) -> None:
    asked = self.external_config_dict
    init_device(self)
    gpu_id = self.final_config_dict["gpu_id"] if "gpu_id" in asked else ""
    if asked.get("use_gpu", bool(gpu_id)):
        warn_without_gpu(gpu_id, self.final_config_dict["device"].type)


def _load_layers(config: Config, model: str, dataset: str) -> None:
    """Apply the shipped files to RecBole's defaults, and check them with the user's settings."""
    users = dict(config.external_config_dict)
    # A first stage of the model itself, such as S3Rec's, has the settings of its training.
    pretrains = model_entry(model).takes_pretrained
    stage = PRETRAIN if pretrains and users.get("train_stage") == PRETRAIN else FINETUNE
    users = build.file_settings(model, config.given_files, stage)
    for layer in (config.variable_config_dict, config.cmd_config_dict):
        build.check_keys(model, layer, "config", stage)
        users = merge_settings(users, layer)
    defaults = config.internal_config_dict
    recboles_negatives = defaults["train_neg_sample_args"]
    use_tuned = users.get("use_tuned", True) is not False
    for path in build.shipped_files(model, dataset, use_tuned, stage):
        defaults = merge_settings(defaults, load_yaml(path))
    # The shipped default is cross-entropy without negatives, but pairwise losses need negatives.
    model_class = model_entry(model).model
    if getattr(model_class, "input_type", None) == InputType.PAIRWISE:
        defaults["loss_type"] = "BPR"
    if users.get("loss_type", defaults["loss_type"]) == "BPR":
        defaults["train_neg_sample_args"] = recboles_negatives
    settings = merge_settings(defaults, users)
    RUN.check(settings)
    check_effect(users)
    check_rules(settings | {"model": model})
    check_model_rules(model, build.keys_read_by(model_class), settings, defaults)
    config.internal_config_dict = defaults
    config.external_config_dict = {key: settings[key] for key in users}


@functools.lru_cache(maxsize=8)
def warn_without_gpu(gpu_id: str, device: str) -> None:
    """Print a warning, once, if a requested GPU does not exist."""
    count = torch.cuda.device_count() if device == "cuda" else 0
    asked = [each for each in gpu_id.split(",") if each]
    if device == "cpu" or count < len(asked):
        which = f"gpu_id {gpu_id}" if asked else "a GPU"
        place = "the CPU" if device == "cpu" else f"{count} of them"
        print(f"recbole-qbert: {which} is not available; using {place}", file=sys.stderr)


def _load_files(self: Config, files: Sequence[str | Path] | None) -> dict[str, Any]:
    """Read the user's YAML files, later ones winning; `_load_layers` selects one model's keys."""
    self.given_files = list(files or ())
    settings: dict[str, Any] = {}
    for file in self.given_files:
        settings |= load_yaml(file)
    return settings


def _update_defaults(self: Config, file: str) -> dict[str, Any]:
    """Add the settings of one of RecBole's own YAML files to its defaults."""
    settings = load_yaml(file)
    self.internal_config_dict.update(settings)
    return settings


def _convert_literals(self: Config, config_dict: dict[str, Any]) -> dict[str, Any]:
    """Convert strings that are Python literals (`[64, 32]`, `1e-3`, `None`, `true`) to values."""
    words = {"true": True, "false": False}
    for key, value in config_dict.items():
        if isinstance(value, str):
            try:
                config_dict[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                config_dict[key] = words.get(value.lower(), value)
    return config_dict
