"""Where a run's settings come from, and the check of all of them.

Order, later wins: RecBole's defaults, `properties/base.yaml`, `properties/model/<model>.yaml`,
`properties/dataset/<dataset>.yaml`, `properties/tuned/<model>-<dataset>.yaml` (unless `use_tuned:
False`), `properties/pretrain.yaml` and the sizes of the data set the model is for (to pretrain),
the user's files (common keys, then those under `per_model: <model>:`), the user's `--key=value`.
A model that builds on another one (IDBERT4Rec on QBERT4Rec) takes all of the other's files first,
its tuned ones included: what makes it a control wins over what was tuned for its base.

RecBole's own `Config` takes the same way for every sequential model, so that `run_recbole` and
`recbole-qbert run` train with the same settings.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import recbole
import torch
from recbole.config import Config
from recbole.utils import InputType, argument_list

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.yaml_files import load_yaml, parse_value, shipped
from recbole_qbert.compat.recbole import isolated_argv
from recbole_qbert.config.rules import LOSSES, check_effect, check_rules
from recbole_qbert.config.settings import RUN
from recbole_qbert.registry import check_model_name, is_sequential, model_entry

# Stages of training; the paper's third stage has these two.
PRETRAIN, FINETUNE = "pretrain", "finetune"
# Keys that RecBole reads in code but names in none of its lists and YAML files.
RECBOLE_UNLISTED = frozenset(
    # fmt: off
    [
        "model",
        "dataset",
        "config_files",
        "nproc",
        "world_size",
        "ip",
        "port",
        "offset",
        "local_rank",
        "queue",
        "numerical_features",
        "discretization",
        "seq_len",
        "alias_of_user_id",
        "alias_of_item_id",
        "use_tuned",
    ]
    # fmt: on
)
# Keys that RecBole's trainers read for some of its models only.
MODEL_ONLY = frozenset({"reg_weight", "pretrain_epochs", "save_step"})
# Keys that have an effect in RecBole's own run alone, and why.
NOT_HERE = {
    "state": "RecBole's log is off",
    "loss_decimal_place": "RecBole's log is off",
    **dict.fromkeys(
        ("world_size", "ip", "port", "offset", "local_rank", "queue"), "nproc starts processes"
    ),
}


def shipped_files(model: str, dataset: str, use_tuned: bool, stage: str = FINETUNE) -> list[Path]:
    """The shipped YAML files that apply, in order; see above."""
    entry = model_entry(model)
    files = [shipped("base.yaml")]
    of_dataset = [shipped("dataset", f"{dataset}.yaml")]
    # Every registered model's class and its bases: a subclass inherits its base's keys.
    for each in reversed(inspect.getmro(entry.model)):
        own = [shipped("model", f"{each.__name__}.yaml")]
        if each is entry.model and entry.defaults is not None:
            own.append(entry.defaults)
        files += own
        if each is entry.model or any(path.is_file() for path in own):
            files += of_dataset
            of_dataset = []
        if use_tuned:
            files.append(shipped("tuned", f"{each.__name__}-{dataset}.yaml"))
    if stage == PRETRAIN:
        files.append(shipped("pretrain.yaml"))
    return [path for path in files if path.is_file()]


def build_config(
    model: str,
    dataset: str,
    files: Sequence[str | Path] = (),
    settings: Mapping[str, Any] | None = None,
    stage: str = FINETUNE,
    sizes: Mapping[str, Any] | None = None,
) -> Config:
    """A RecBole `Config` of one run, checked.

    Args:
        model: name in the registry or of a RecBole sequential model.
        dataset: name of the data set.
        files: the user's YAML files.
        settings: the user's `key=value` settings; strings are read as YAML values.
        stage: `PRETRAIN` adds the keys of `properties/pretrain.yaml`.
        sizes: settings that come just before the user's.

    Raises:
        InputError: a key that nobody reads (with a "did you mean") or that has no effect, a value
            out of its range, or one that RecBole refuses.
    """
    given = {key: parse_value(value) for key, value in (settings or {}).items()}
    check_keys(model, given, "command line", stage)
    users = merge_settings(file_settings(model, files, stage), given)
    for key, reason in NOT_HERE.items():
        if key in users:
            raise InputError(f"{key}: has no effect here: {reason}; leave it out")
    if stage == PRETRAIN:
        users.setdefault("train_stage", PRETRAIN)
    with isolated_argv():
        try:
            return Config(model, dataset, config_dict=merge_settings(sizes or {}, users))
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            RuntimeError,
            AssertionError,
        ) as error:
            raise InputError(
                f"config of {model} on {dataset}: {' '.join(str(error).split())}"
            ) from None


def file_settings(model: str, files: Sequence[str | Path], stage: str = FINETUNE) -> dict[str, Any]:
    """What the user's YAML files say for a model; later files win."""
    settings: dict[str, Any] = {}
    for file in files:
        settings = merge_settings(settings, settings_for(model, load_yaml(file), str(file), stage))
    return settings


def check_model_rules(model: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse settings that are right for other models.

    Args:
        model: name.
        settings: all of a run.
        defaults: what they are where the user says nothing.

    Raises:
        InputError: names the keys.
    """
    entry = model_entry(model)
    loss = settings["loss_type"]
    losses = LOSSES.get(model, ("CE", "BPR"))
    if "loss_type" not in _keys_read_by(entry.model):
        losses = (defaults["loss_type"],)
    if loss not in losses:
        raise InputError(f"loss_type: {loss!r}: {model} has {' and '.join(losses)} alone")
    kind = getattr(entry.model, "input_type", None)
    pairs = kind == InputType.PAIRWISE or (kind is None and loss == "BPR")
    drawn = settings["train_neg_sample_args"]
    none = drawn in (None, "None") or drawn.get("distribution") == "none"
    if pairs and none:
        raise InputError(
            f"train_neg_sample_args: {model} with loss_type {loss} needs negatives; leave it out"
        )
    if not pairs and not none:
        raise InputError(
            f"train_neg_sample_args: {model} with loss_type {loss} draws no negatives; leave it out"
        )
    if settings["transform"] != defaults["transform"]:
        raise InputError(
            f"transform: {settings['transform']!r}: {model} has {defaults['transform'] or 'none'}; "
            "leave it out"
        )
    length = settings["MAX_ITEM_LIST_LENGTH"]
    # Places that RecBole makes for masks; without one the loss is no number.
    if settings["transform"] == "mask_itemseq" and int(settings["mask_ratio"] * length) < 1:
        raise InputError(
            f"MAX_ITEM_LIST_LENGTH: {length} items times mask_ratio {settings['mask_ratio']} leave "
            f"no item to mask; raise one of them"
        )


def check_same_columns(configs: Sequence[tuple[str, Config]]) -> None:
    """Refuse runs for one table that differ in its columns.

    Args:
        configs: what to call each run, and its config.

    Raises:
        InputError: names two runs.
    """
    for key in ("metrics", "topk"):
        for name, config in configs:
            first, other = configs[0]
            if config[key] != other[key]:
                raise InputError(
                    f"{key}: {config[key]} of {name}, {other[key]} of {first}; give all the same"
                )


def settings_for(
    model: str, content: dict[str, Any], source: str, stage: str = FINETUNE
) -> dict[str, Any]:
    """A file's settings for one model: the common keys, then those under `per_model: <model>:`."""
    common = {key: value for key, value in content.items() if key != "per_model"}
    sections = content.get("per_model") or {}
    if not isinstance(sections, dict) or not all(isinstance(s, dict) for s in sections.values()):
        raise InputError(f"{source}: per_model: `model: {{key: value}}` was expected")
    for name, section in sections.items():
        check_keys(name, section, f"{source}: per_model", stage)
    check_keys(model, common, source, stage)
    return common | sections.get(model, {})


def check_keys(model: str, keys: Iterable[str], source: str, stage: str = FINETUNE) -> None:
    """Refuse a key that neither RecBole nor the model reads."""
    known = known_keys(model, stage)
    for key in keys:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise InputError(f"{source}: unknown key '{key}' for {model}{hint}")


@functools.lru_cache(maxsize=64)
def known_keys(model: str, stage: str = FINETUNE) -> frozenset[str]:
    """All keys that a run of `model` may be given."""
    keys = set(RECBOLE_UNLISTED) | set(default_settings(model, stage))
    for name in ("general", "training", "evaluation", "dataset"):
        keys |= set(getattr(argument_list, f"{name}_arguments"))
    entry = model_entry(model)
    keys |= (_keys_read_by(entry.dataset) | _keys_read_by(entry.trainer)) - MODEL_ONLY
    return frozenset(keys | _keys_read_by(entry.model))


@functools.lru_cache(maxsize=64)
def default_settings(model: str, stage: str = FINETUNE) -> dict[str, Any]:
    """RecBole's defaults and ours, without those of a data set."""
    folder = Path(recbole.__file__).parent / "properties"
    host = [folder / "overall.yaml", folder / "dataset" / "sample.yaml"]
    host.append(folder / "model" / f"{model}.yaml")
    settings: dict[str, Any] = {}
    for path in [
        *(file for file in host if file.is_file()),
        *shipped_files(model, "", False, stage),
    ]:
        settings |= load_yaml(path)
    return settings


def _keys_read_by(cls: type) -> set[str]:
    """Keys that appear as `config["key"]` in the sources of a class and its bases; RecBole's models
    read some that no YAML names."""
    found: set[str] = set()
    for base in inspect.getmro(cls):
        if base.__module__.partition(".")[0] in ("recbole", "recbole_qbert") or base is cls:
            try:
                source = inspect.getsource(base)
            except (OSError, TypeError):  # defined in a shell or generated
                continue
            found |= set(re.findall(r"config\[\s*[\"'](\w+)[\"']\s*\]", source))
    return found


def merge_settings(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Later settings win key by key; the mask dictionaries are merged entry by entry."""
    merged = {**base, **update}
    for key in ("mask_mix", "mask_ratios"):
        if isinstance(base.get(key), dict) and isinstance(update.get(key), dict):
            merged[key] = {**base[key], **update[key]}
    return merged


def install() -> None:
    """Let RecBole's own `Config` take the settings of this package. Safe to call twice.

    RecBole reads default YAML files only from its own package, and evaluates strings of a config as
    Python expressions; here they are read as literals, so that no config can run code.
    """
    if getattr(Config, "reads_recbole_qbert", False):
        return
    find_model, load_internal = Config._get_model_and_dataset, Config._load_internal_config_dict
    init_device = Config._init_device

    def known_model(self: Config, model: Any, dataset: str | None) -> Any:
        name = self.external_config_dict.get("model") if model is None else model
        if isinstance(name, str):
            check_model_name(name)
        return find_model(self, model, dataset)

    def load_with_ours(self: Config, model: str, model_class: type, dataset: str) -> None:
        load_internal(self, model, model_class, dataset)
        if is_sequential(model, model_class):
            _load_layers(self, model, dataset)

    def with_a_word(self: Config) -> None:
        asked = self.external_config_dict
        init_device(self)
        gpu_id = self.final_config_dict["gpu_id"] if "gpu_id" in asked else ""
        if asked.get("use_gpu", bool(gpu_id)):
            warn_without_gpu(gpu_id, self.final_config_dict["device"].type)

    Config._get_model_and_dataset = known_model
    Config._load_internal_config_dict = load_with_ours
    Config._init_device = with_a_word
    Config._load_config_files = _load_files
    Config._convert_config_dict = _convert_literals
    Config.reads_recbole_qbert = True


def _load_layers(config: Config, model: str, dataset: str) -> None:
    """Put the shipped files over RecBole's defaults, and check them with what the user gave."""
    users = dict(config.external_config_dict)
    # A first stage of the model itself, such as S3Rec's, has the settings of its training.
    pretrains = getattr(model_entry(model).model, "takes_pretrained", False)
    stage = PRETRAIN if pretrains and users.get("train_stage") == PRETRAIN else FINETUNE
    users = file_settings(model, config.given_files, stage)
    for layer in (config.variable_config_dict, config.cmd_config_dict):
        check_keys(model, layer, "config", stage)
        users = merge_settings(users, layer)
    defaults = config.internal_config_dict
    recboles_negatives = defaults["train_neg_sample_args"]
    for path in shipped_files(model, dataset, users.get("use_tuned", True) is not False, stage):
        defaults = merge_settings(defaults, load_yaml(path))
    # That is cross-entropy without negatives; a model that learns from pairs of items needs some.
    if getattr(model_entry(model).model, "input_type", None) == InputType.PAIRWISE:
        defaults["loss_type"] = "BPR"
    if users.get("loss_type", defaults["loss_type"]) == "BPR":
        defaults["train_neg_sample_args"] = recboles_negatives
    settings = merge_settings(defaults, users)
    RUN.check(settings)
    check_effect(users)
    check_rules(settings | {"model": model})
    check_model_rules(model, settings, defaults)
    config.internal_config_dict = defaults
    config.external_config_dict = {key: settings[key] for key in users}


@functools.lru_cache(maxsize=8)
def warn_without_gpu(gpu_id: str, device: str) -> None:
    """Say once that the GPU that was asked for is not there."""
    count = torch.cuda.device_count() if device == "cuda" else 0
    asked = [each for each in gpu_id.split(",") if each]
    if device == "cpu" or count < len(asked):
        which = f"gpu_id {gpu_id}" if asked else "a GPU"
        place = "the CPU is used" if device == "cpu" else f"{count} of them are used"
        print(f"recbole-qbert: {which}: there is none such here; {place}", file=sys.stderr)


def _load_files(self: Config, files: Sequence[str | Path] | None) -> dict[str, Any]:
    """The user's YAML files, later ones win; `_load_layers` reads their parts for one model."""
    self.given_files = list(files or ())
    settings: dict[str, Any] = {}
    for file in self.given_files:
        settings |= load_yaml(file)
    return settings


def _convert_literals(self: Config, config_dict: dict[str, Any]) -> dict[str, Any]:
    """Strings that are Python literals (`[64, 32]`, `1e-3`, `None`, `true`) become values."""
    words = {"true": True, "false": False}
    for key, value in config_dict.items():
        if isinstance(value, str):
            try:
                config_dict[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                config_dict[key] = words.get(value.lower(), value)
    return config_dict
