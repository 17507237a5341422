"""Where a run's settings come from, and the check that every key is one that somebody reads.

Order, later wins: RecBole's defaults, `properties/base.yaml`, `properties/model/<model>.yaml`,
`properties/dataset/<dataset>.yaml`, `properties/tuned/<model>-<dataset>.yaml` (or, to pretrain,
`properties/pretrain.yaml` and the sizes of the data set the model is for), the user's files
(common keys, then those under `per_model: <model>:`), the user's `--key=value`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import recbole
from recbole.config import Config
from recbole.utils import InputType, argument_list

from recbole_qbert.compat import isolated_argv
from recbole_qbert.errors import InputError, did_you_mean
from recbole_qbert.evaluation.ranking import METRICS, UNSEEN, metric_names
from recbole_qbert.registry import MODEL_TABLE, Entry, model_entry
from recbole_qbert.yaml_files import load_yaml, parse_value, shipped

# Stages of training; the paper's third stage has these two.
PRETRAIN, FINETUNE = "pretrain", "finetune"
# What RecBole's trainer knows; it takes any other word for adam, silently.
LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
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
        "pre_model_path",
        "use_tuned",
    ]
    # fmt: on
)


def shipped_files(model: str, dataset: str, use_tuned: bool, stage: str = FINETUNE) -> list[Path]:
    """The shipped YAML files that apply, in order.

    What a model's own file says wins over what was tuned for its base: a control stays a control.
    """
    entry = model_entry(model)
    candidates = [shipped("base.yaml"), shipped("dataset", f"{dataset}.yaml")]
    # Every registered model's class and its bases: a subclass inherits its base's keys.
    for each in reversed(inspect.getmro(entry.model)):
        candidates.append(shipped("model", f"{each.__name__}.yaml"))
        if each is entry.model and entry.defaults is not None:
            candidates.append(entry.defaults)
        if use_tuned:
            candidates.append(shipped("tuned", f"{each.__name__}-{dataset}.yaml"))
    if stage == PRETRAIN:
        candidates.append(shipped("pretrain.yaml"))
    return [path for path in candidates if path.is_file()]


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
        InputError: a key that nobody reads (with a "did you mean"), or a value RecBole refuses.
    """
    given = {key: parse_value(value) for key, value in (settings or {}).items()}
    check_keys(model, given, "command line", stage)
    user_keys: dict[str, Any] = {}
    for file in files:
        user_keys = merge_settings(
            user_keys, settings_for(model, load_yaml(file), str(file), stage)
        )
    users = {**user_keys, **given}
    use_tuned = users.get("use_tuned", True)
    merged: dict[str, Any] = {}
    for path in shipped_files(model, dataset, use_tuned, stage):
        merged = merge_settings(merged, load_yaml(path))
    check_types(model, users, stage)
    _learn_from_pairs(model, users, merged)
    for layer in (sizes or {}, user_keys, given):
        merged = merge_settings(merged, layer)
    with isolated_argv():
        try:
            config = Config(model=model, dataset=dataset, config_dict=merged)
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
    return config


def _learn_from_pairs(model: str, users: Mapping[str, Any], settings: dict[str, Any]) -> None:
    """Undo what `base.yaml` says of the loss for a model that learns from pairs of items.

    That is cross-entropy without negatives; BPR needs negatives, and RecBole's own defaults say
    how they are drawn.
    """
    only_pairs = getattr(model_entry(model).model, "input_type", None) == InputType.PAIRWISE
    if only_pairs:
        settings["loss_type"] = "BPR"
    if only_pairs or users.get("loss_type") == "BPR":
        settings.pop("train_neg_sample_args", None)


def check_types(model: str, settings: Mapping[str, Any], stage: str = FINETUNE) -> None:
    """A setting whose default is a number, a truth value or a mapping must be one too."""
    defaults = default_settings(model, stage)
    for key, value in settings.items():
        check_type(key, value, defaults.get(key))


def check_type(key: str, value: Any, default: Any) -> None:
    """Where `default` is a number, a truth value or a mapping, `value` must be one too."""
    words = {bool: "True or False", int: "a whole number", float: "a number", dict: "a mapping"}
    kind = type(default)
    allowed = (int, float) if kind is float else kind
    truth = isinstance(value, bool) and kind is not bool
    if kind in words and (truth or not isinstance(value, allowed)):
        raise InputError(f"{key}: {value!r} is not {words[kind]}")


def check_protocol(config: Config) -> None:
    """What `run` needs to rank, choose and compare; RecBole would fail later or go on silently."""
    names = metric_names(config["metrics"], config["topk"])
    names += [UNSEEN + name for name in names]
    for metric in config["metrics"]:
        if metric.lower() not in METRICS:
            raise InputError(f"metrics: {metric!r} is none of {', '.join(METRICS)}")
    if config["valid_metric"].lower() not in names:
        raise InputError(f"valid_metric: {config['valid_metric']!r} is none of {', '.join(names)}")
    protocol = config["eval_args"]
    if set(protocol["mode"].values()) != {"full"} or protocol["order"] != "TO":
        raise InputError(
            "eval_args: mode must be full and order TO: the catalogue is ranked by time"
        )
    for key in (
        "epochs",
        "MAX_ITEM_LIST_LENGTH",
        "train_batch_size",
        "eval_batch_size",
        "eval_step",
    ):
        if config[key] < 1:
            raise InputError(f"{key}: {config[key]} is less than 1")
    if config["learner"] not in LEARNERS:
        raise InputError(f"learner: {config['learner']!r} is none of {', '.join(LEARNERS)}")


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
            raise InputError(f"{source}: unknown key '{key}' for {model}{did_you_mean(key, known)}")


@functools.lru_cache(maxsize=64)
def known_keys(model: str, stage: str = FINETUNE) -> frozenset[str]:
    """All keys that a run of `model` may be given."""
    keys = set(RECBOLE_UNLISTED) | set(default_settings(model, stage))
    for name in ("general", "training", "evaluation", "dataset"):
        keys |= set(getattr(argument_list, f"{name}_arguments"))
    return frozenset(keys | _keys_read_by(model_entry(model)))


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


def _keys_read_by(entry: Entry) -> set[str]:
    """Keys that appear as `config["key"]` in the sources of a model's, dataset's and trainer's
    classes; RecBole's models read some that no YAML names."""
    found: set[str] = set()
    for cls in (entry.model, entry.dataset, entry.trainer):
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
    """Let RecBole's own `Config` find a registered model's defaults. Safe to call twice.

    RecBole reads default YAML files only from its own package, and evaluates strings of a config as
    Python expressions; here they are read as literals, so that no config can run code.
    """
    if getattr(Config, "reads_recbole_qbert", False):
        return
    load_internal = Config._load_internal_config_dict

    def load_with_ours(self: Config, model: str, model_class: type, dataset: str) -> None:
        load_internal(self, model, model_class, dataset)
        if model in MODEL_TABLE:
            given = self.external_config_dict
            # S3Rec has a stage of the name too, but is RecBole's own.
            stage = PRETRAIN if given.get("train_stage") == PRETRAIN else FINETUNE
            check_keys(model, given, "config", stage)
            check_types(model, given, stage)
            for path in shipped_files(model, dataset, use_tuned=False):
                self.internal_config_dict.update(
                    merge_settings(self.internal_config_dict, load_yaml(path))
                )

    Config._load_internal_config_dict = load_with_ours
    Config._load_config_files = _load_files
    Config._convert_config_dict = _convert_literals
    Config.reads_recbole_qbert = True


def _load_files(self: Config, files: Sequence[str | Path] | None) -> dict[str, Any]:
    """The user's YAML files, later ones win."""
    settings: dict[str, Any] = {}
    for file in files or ():
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
