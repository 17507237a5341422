"""Configs of runs: layers of settings, and checks of all keys and values.

Layers, in order; later ones win:

1. RecBole's defaults
2. `properties/base.yaml`
3. `properties/model/<model>.yaml`
4. `properties/dataset/<dataset>.yaml`
5. `properties/tuned/<model>-<dataset>.yaml`, unless `use_tuned: False`
6. in pretraining, `properties/pretrain.yaml`, then the model sizes tuned for the target data set
7. the user's files: common keys, then those under `per_model: <model>:` of its bases and its own
8. the user's `--key=value`

A model that builds on another one (IDBERT4Rec on QBERT4Rec) takes all of the other's files first,
also its tuned ones: the settings that make it a control must override those tuned for its base.

RecBole's own `Config` uses the same layers for every sequential model, so that `run_recbole` and
`recbole-qbert run` train with the same settings.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import recbole
from recbole.config import Config
from recbole.utils import argument_list

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.yaml_files import load_yaml, parse_value, shipped
from recbole_qbert.compat.recbole import isolated_argv
from recbole_qbert.config.rules import NOT_HERE
from recbole_qbert.registry import MODEL_TABLE, model_entry

# Stages of training. Together they are the paper's third stage.
PRETRAIN, FINETUNE = "pretrain", "finetune"
# Keys that RecBole's code reads, but that are in none of its lists and YAML files.
_UNLISTED = (
    "model dataset config_files nproc world_size ip port offset local_rank queue use_tuned seq_len "
    "numerical_features discretization alias_of_user_id alias_of_item_id"
)
RECBOLE_UNLISTED = frozenset(_UNLISTED.split())
# Keys that RecBole's trainers read for some models only.
_MODEL_ONLY = frozenset({"reg_weight", "pretrain_epochs", "save_step"})
_READ: dict[type, frozenset[str]] = {}  # by class, since reading sources takes milliseconds
# Exceptions that RecBole's `Config` raises for values that it cannot use.
_CONFIG_ERRORS = (ValueError, TypeError, LookupError, AttributeError, RuntimeError, AssertionError)


def shipped_files(model: str, dataset: str, use_tuned: bool, stage: str = FINETUNE) -> list[Path]:
    """Return the shipped YAML files that apply, in order; see the module docstring."""
    entry = model_entry(model)
    files = [shipped("base.yaml")]
    of_dataset = [shipped("dataset", f"{dataset}.yaml")]
    # The model's class and its bases, because a subclass inherits its base's keys.
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
    """Build and check the RecBole `Config` of one run.

    Args:
        model: name in the registry or of a RecBole sequential model.
        dataset: name of the data set.
        files: the user's YAML files.
        settings: the user's `key=value` settings; strings are parsed as YAML values.
        stage: `PRETRAIN` adds the keys of `properties/pretrain.yaml`.
        sizes: settings with lower priority than the user's, higher than all others.

    Raises:
        InputError: a key is unknown (with a "did you mean") or has no effect, or a value is out of
            range or refused by RecBole.
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
        except _CONFIG_ERRORS as error:
            reason = " ".join(str(error).split())
            raise InputError(f"config of {model} on {dataset}: {reason}") from None


def file_settings(model: str, files: Sequence[str | Path], stage: str = FINETUNE) -> dict[str, Any]:
    """Read the user's YAML files and return their settings for one model; later files win."""
    settings: dict[str, Any] = {}
    for file in files:
        settings = merge_settings(settings, settings_for(model, load_yaml(file), str(file), stage))
    return settings


def check_same_columns(configs: Sequence[tuple[str, Config]]) -> None:
    """Raise an `InputError` if named configs of one table differ in metrics or topk."""
    first, other = configs[0]
    for key in ("metrics", "topk"):
        for name, config in configs:
            if config[key] != other[key]:
                raise InputError(
                    f"{key}: {name} has {config[key]}, {first} has {other[key]}; give all models "
                    "the same value"
                )


def settings_for(
    model: str, content: dict[str, Any], source: str, stage: str = FINETUNE
) -> dict[str, Any]:
    """Return a file's settings for one model: common keys, then those under `per_model: <model>:`.

    Raises:
        InputError: `per_model` has another form, or a key is unknown; names `source`, the file.
    """
    common = {key: value for key, value in content.items() if key != "per_model"}
    sections = content.get("per_model") or {}
    if not isinstance(sections, dict) or not all(isinstance(s, dict) for s in sections.values()):
        raise InputError(f"{source}: per_model: `model: {{key: value}}` was expected")
    for name, section in sections.items():
        check_keys(name, section, f"{source}: per_model", stage)
    check_keys(model, common, source, stage)
    for settings in of_model(sections, model):
        common = merge_settings(common, settings)
    return common


def lineage(model: str) -> list[str]:
    """Names of the registered base models of a model, the most general first, and its own name."""
    bases = [base.__name__ for base in reversed(model_entry(model).model.__mro__)]
    return [name for name in bases if name in MODEL_TABLE or name == model]


def of_model(per_model: Mapping[str, dict[str, Any]], model: str) -> Iterator[dict[str, Any]]:
    """Yield the `per_model` settings that apply to a model: of its base models, then its own."""
    # A control of QBERT4Rec takes QBERT4Rec's sizes, but keeps the keys that make it a control.
    path = shipped("model", f"{model}.yaml")
    decided = load_yaml(path) if path.is_file() else {}
    for name in lineage(model):
        settings = per_model.get(name, {})
        yield {key: v for key, v in settings.items() if name == model or key not in decided}


def check_keys(model: str, keys: Iterable[str], source: str, stage: str = FINETUNE) -> None:
    """Raise an `InputError` with a "did you mean" for a key that nothing reads."""
    known = known_keys(model, stage)
    for key in keys:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise InputError(f"{source}: unknown key '{key}' for {model}{hint}")


def check_common_keys(models: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raise an `InputError` if some models know a setting and others do not."""
    for key in settings:
        strange = [model for model in models if key not in known_keys(model)]
        if 0 < len(strange) < len(models):
            others = ", ".join(model for model in models if model not in strange)
            raise InputError(
                f"command line: {key} is a key of {others}, not of {', '.join(strange)}; put it "
                f"below `per_model: {{{others.partition(',')[0]}: ...}}` in a file of "
                "--config_files, or run the models in turn"
            )


@functools.lru_cache(maxsize=64)
def known_keys(model: str, stage: str = FINETUNE) -> frozenset[str]:
    """Return all keys that a run of `model` accepts."""
    keys = set(RECBOLE_UNLISTED) | set(default_settings(model, stage))
    for name in ("general", "training", "evaluation", "dataset"):
        keys |= set(getattr(argument_list, f"{name}_arguments"))
    entry = model_entry(model)
    keys |= (keys_read_by(entry.dataset) | keys_read_by(entry.trainer)) - _MODEL_ONLY
    return frozenset(keys | keys_read_by(entry.model))


@functools.lru_cache(maxsize=64)
def default_settings(model: str, stage: str = FINETUNE) -> dict[str, Any]:
    """Return the defaults of RecBole and of this package, without those of a data set."""
    folder = Path(recbole.__file__).parent / "properties"
    names = ("overall.yaml", "dataset/sample.yaml", f"model/{model}.yaml")
    files = [folder / name for name in names if (folder / name).is_file()]
    settings: dict[str, Any] = {}
    for path in [*files, *shipped_files(model, "", False, stage)]:
        settings |= load_yaml(path)
    return settings


def keys_read_by(cls: type) -> frozenset[str]:
    """Return the keys that occur as `config["key"]` in the source of a class and its bases.

    RecBole's models read some keys that are in no YAML file.
    """
    if cls not in _READ:
        sources = (
            _source(base)
            for base in inspect.getmro(cls)
            if base.__module__.partition(".")[0] in ("recbole", "recbole_qbert") or base is cls
        )
        pattern = r"config\[\s*[\"'](\w+)[\"']\s*\]"
        _READ[cls] = frozenset(key for source in sources for key in re.findall(pattern, source))
    return _READ[cls]


def _source(cls: type) -> str:
    """Return the source of a class; empty if it was defined in a shell or generated."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return ""


def merge_settings(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Merge settings; the later ones win, also within the mappings `mask_mix` and `mask_ratios`."""
    merged = {**base, **update}
    for key in ("mask_mix", "mask_ratios"):
        if isinstance(base.get(key), dict) and isinstance(update.get(key), dict):
            merged[key] = {**base[key], **update[key]}
    return merged
