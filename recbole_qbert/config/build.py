"""Configs of runs: layers of settings, and checks of all keys and values.

Layers, in order; later ones win:

1. RecBole's defaults
2. `properties/base.yaml`
3. `properties/model/<model>.yaml`
4. `properties/dataset/<dataset>.yaml`
5. `properties/tuned/<model>-<dataset>.yaml`, unless `use_tuned: False`
6. in pretraining, `properties/pretrain.yaml`, then the model sizes tuned for the target data set
7. the user's files: common keys, then those under `per_model: <model>:`
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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import recbole
from recbole.config import Config
from recbole.utils import InputType, argument_list

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.yaml_files import load_yaml, parse_value, shipped
from recbole_qbert.compat.recbole import isolated_argv
from recbole_qbert.config.rules import LOSSES
from recbole_qbert.registry import model_entry

# Stages of training. Together they are the paper's third stage.
PRETRAIN, FINETUNE = "pretrain", "finetune"
# Keys that RecBole's code reads, but that are in none of its lists and YAML files.
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
# Keys that RecBole's trainers read for some models only.
MODEL_ONLY = frozenset({"reg_weight", "pretrain_epochs", "save_step"})
# Keys that have an effect only in RecBole's own run, with the reason.
NOT_HERE = {
    "state": "RecBole's log is off",
    "loss_decimal_place": "RecBole's log is off",
    **dict.fromkeys(
        ("world_size", "ip", "port", "offset", "local_rank", "queue"), "nproc starts processes"
    ),
}


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
    """Read the settings of the user's YAML files for one model; later files win.

    Raises:
        InputError: a file cannot be read, or has an unknown key.
    """
    settings: dict[str, Any] = {}
    for file in files:
        settings = merge_settings(settings, settings_for(model, load_yaml(file), str(file), stage))
    return settings


def check_model_rules(model: str, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check settings that only some models support: loss, negatives, transform, masks.

    Args:
        model: name of the model.
        settings: all settings of a run.
        defaults: the settings without the user's.

    Raises:
        InputError: names the key.
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
    # RecBole allocates `mask_ratio * length` masks; with none of them the loss is NaN.
    if settings["transform"] == "mask_itemseq" and int(settings["mask_ratio"] * length) < 1:
        raise InputError(
            f"MAX_ITEM_LIST_LENGTH: {length} items times mask_ratio {settings['mask_ratio']} leave "
            f"no item to mask; raise one of them"
        )


def check_same_columns(configs: Sequence[tuple[str, Config]]) -> None:
    """Check that all runs for one table have the same metrics and topk.

    Args:
        configs: name and config of each run.

    Raises:
        InputError: names two runs that differ.
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
    """Return a file's settings for one model: common keys, then those under `per_model: <model>:`.

    Args:
        model: name of the model.
        content: content of the file.
        source: the file, for messages.
        stage: stage of training.

    Raises:
        InputError: `per_model` has another form, or a key is unknown.
    """
    common = {key: value for key, value in content.items() if key != "per_model"}
    sections = content.get("per_model") or {}
    if not isinstance(sections, dict) or not all(isinstance(s, dict) for s in sections.values()):
        raise InputError(f"{source}: per_model: `model: {{key: value}}` was expected")
    for name, section in sections.items():
        check_keys(name, section, f"{source}: per_model", stage)
    check_keys(model, common, source, stage)
    return common | sections.get(model, {})


def check_keys(model: str, keys: Iterable[str], source: str, stage: str = FINETUNE) -> None:
    """Check that RecBole or the model reads every key.

    Raises:
        InputError: a key is unknown; names the closest one.
    """
    known = known_keys(model, stage)
    for key in keys:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise InputError(f"{source}: unknown key '{key}' for {model}{hint}")


@functools.lru_cache(maxsize=64)
def known_keys(model: str, stage: str = FINETUNE) -> frozenset[str]:
    """Return all keys that a run of `model` accepts."""
    keys = set(RECBOLE_UNLISTED) | set(default_settings(model, stage))
    for name in ("general", "training", "evaluation", "dataset"):
        keys |= set(getattr(argument_list, f"{name}_arguments"))
    entry = model_entry(model)
    keys |= (_keys_read_by(entry.dataset) | _keys_read_by(entry.trainer)) - MODEL_ONLY
    return frozenset(keys | _keys_read_by(entry.model))


@functools.lru_cache(maxsize=64)
def default_settings(model: str, stage: str = FINETUNE) -> dict[str, Any]:
    """Return the defaults of RecBole and of this package, without those of a data set."""
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
    """Return the keys that occur as `config["key"]` in the source of a class and its bases.

    RecBole's models read some keys that are in no YAML file.
    """
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
    """Merge settings key by key; later ones win.

    The mappings `mask_mix` and `mask_ratios` are merged entry by entry.
    """
    merged = {**base, **update}
    for key in ("mask_mix", "mask_ratios"):
        if isinstance(base.get(key), dict) and isinstance(update.get(key), dict):
            merged[key] = {**base[key], **update[key]}
    return merged
