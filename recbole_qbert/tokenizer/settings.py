"""Settings of `tokenize`: `properties/tokenize.yaml`, then the user's files, then `--key=value`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError, check_seed, did_you_mean, one_of, whole_number
from recbole_qbert.common.yaml_files import load_yaml, parse_value, shipped
from recbole_qbert.data.embeddings import CONTENT, FUSED, IDENTITY, check_modality
from recbole_qbert.tokenizer.fusion.fit import TrainingSettings, check_settings
from recbole_qbert.tokenizer.fusion.model import InjectionSettings
from recbole_qbert.tokenizer.quantizers.registry import METHODS
from recbole_qbert.tokenizer.sizes import AUTO
from recbole_qbert.tokenizer.stage_settings import read_settings

QUERIES = ("random", "interactions")
_CHOICES = {
    "id_query": QUERIES,
    "quantizer": tuple(METHODS),
    "unique": ("reallocate", "extra_level"),
    "new_item_query": ("neighbors", "mean"),
    "until": ("injection", "quantization", "ids"),
}
_SIZES = {"n_levels": 1, "codebook_size": 2}  # minimum values
_KINDS = {bool: "True or False", int: "a whole number", float: "a number", list: "a list"}


def tokenize_settings(
    files: Sequence[str | Path] = (), given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Merge and check all settings of one `tokenize` run.

    Args:
        files: the user's YAML files; sections (`rqvae: {...}`) are merged key by key.
        given: `key=value` from the command line; a key of a section is written `rqvae.epochs`.

    Raises:
        InputError: a key is unknown (the message suggests a similar one), or a value is invalid.
    """
    settings = load_yaml(shipped("tokenize.yaml"))
    for file in files:
        _merge(settings, load_yaml(file), str(file))
    for key, value in (given or {}).items():
        section, dot, rest = key.partition(".")
        nested = {section: {rest: parse_value(value)}} if dot else {key: parse_value(value)}
        _merge(settings, nested, "command line")
    for key, allowed in _CHOICES.items():
        one_of(key, settings[key], allowed)
    whole_number("identity_size", settings["identity_size"])
    check_seed(settings["seed"])
    check_settings(*injection_settings(settings))
    for method, (kind, *_) in METHODS.items():
        read_settings(kind, method, {"n_levels": 1, "codebook_size": 2, **settings[method]})
    for name in settings["modalities"]:
        check_modality(name)
    known = [*settings["modalities"], FUSED, IDENTITY, CONTENT]
    for stream in settings["streams"]:
        if stream not in known:
            hint = did_you_mean(str(stream), known)
            raise InputError(f"streams: {stream!r} is none of {', '.join(known)}{hint}")
    for key in ("modalities", "streams"):
        if not settings[key] or len(set(settings[key])) < len(settings[key]):
            raise InputError(f"{key}: {settings[key]!r}; name at least one, each once")
    if not re.fullmatch(r"([\w-]+\.)?semid", str(settings["output"])):
        raise InputError(f"output: {settings['output']!r}: write semid, or a name: text.semid")
    if CONTENT in settings["streams"] and set(settings["streams"]) & set(settings["modalities"]):
        raise InputError(
            f"streams: {settings['streams']!r}; {CONTENT} already names the modalities"
        )
    return settings


def needed_modalities(settings: Mapping[str, Any]) -> list[str]:
    """Return the modalities whose tables are needed; none if `identity` is the only stream."""
    alone = settings["streams"] == [IDENTITY] and settings["until"] != "injection"
    return [] if alone else list(settings["modalities"])


def injection_settings(
    settings: Mapping[str, Any],
) -> tuple[InjectionSettings, TrainingSettings]:
    """Split the section `injection` into the model and the training settings of stage 1."""
    section = dict(settings["injection"])
    names = TrainingSettings.__dataclass_fields__
    training = TrainingSettings(**{name: section.pop(name) for name in names})
    return InjectionSettings(**section), training


def _merge(settings: dict[str, Any], update: Mapping[str, Any], source: str) -> None:
    """Override the settings, in place, by a user's."""
    for key, value in update.items():
        if key not in settings:
            raise InputError(f"{source}: unknown key '{key}'{did_you_mean(str(key), settings)}")
        default = settings[key]
        if not isinstance(default, dict):
            settings[key] = _checked(key, value, default, source)
            continue
        if not isinstance(value, dict):
            raise InputError(f"{source}: {key}: `key: value` lines were expected, got {value!r}")
        for name, inner in value.items():
            if name not in default:
                hint = did_you_mean(str(name), default)
                raise InputError(f"{source}: unknown key '{key}.{name}'{hint}")
            default[name] = _checked(f"{key}.{name}", inner, default[name], source)


def _checked(key: str, value: Any, default: Any, source: str) -> Any:
    """Return the value if it has the default's type; an integer is a valid float."""
    if key in _SIZES:
        return _checked_size(key, value, source)
    if isinstance(default, list) and isinstance(value, str):
        return [part for part in value.replace(",", " ").split() if part]
    kind = type(default)
    allowed = (int, float) if kind is float else kind
    truth = isinstance(value, bool) and kind is not bool
    if kind in _KINDS and (truth or not isinstance(value, allowed)):
        raise InputError(f"{source}: {key}: {value!r} is not {_KINDS[kind]}")
    return value


def _checked_size(key: str, value: Any, source: str) -> Any:
    """Check a size: an integer, `auto`, or, for `codebook_size`, a list of integers."""
    several = isinstance(value, list) and key == "codebook_size" and value
    for each in value if several else [value]:
        if several or each != AUTO:
            if isinstance(each, bool) or not isinstance(each, int):
                raise InputError(f"{source}: {key}: {each!r} is not a whole number or {AUTO}")
            if each < _SIZES[key]:
                raise InputError(f"{source}: {key}: {each} is less than {_SIZES[key]}")
    return value
