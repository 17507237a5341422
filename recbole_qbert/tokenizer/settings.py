"""Settings of `tokenize`: `properties/tokenize.yaml`, then the user's files, then `--key=value`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict

from recbole_qbert.common.errors import InputError, did_you_mean, error_context, one_of
from recbole_qbert.common.yaml_files import load_yaml, parse_value, shipped, split_names
from recbole_qbert.config.fields import STRICT, Fields
from recbole_qbert.config.settings import Auto, Count, Layers, Seed, Text
from recbole_qbert.data.codec import CODEBOOK_LIMIT
from recbole_qbert.data.embeddings import BBQ, CONTENT, FUSED, IDENTITY, check_modality
from recbole_qbert.tokenizer.fusion.bbq import BBQSettings
from recbole_qbert.tokenizer.fusion.model import InjectionSettings
from recbole_qbert.tokenizer.fusion.next_item import NextItemSettings
from recbole_qbert.tokenizer.quantizers.registry import METHODS
from recbole_qbert.tokenizer.stages import QuantizerSettings, check_sizes, read_settings

Codes = Annotated[int, Field(ge=2, le=CODEBOOK_LIMIT)]


class TokenizeFields(TypedDict):
    """Types of the keys outside the sections; `properties/tokenize.yaml` documents each."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    modalities: list[Text]
    streams: list[Text]
    identity_size: Count
    fusion: Literal["injection", "next_item"]
    id_query: Literal["random", "interactions"]
    quantizer: Text
    n_levels: Auto | Layers
    codebook_size: Auto | Codes | Annotated[list[Codes], Field(min_length=1)]
    fit_items: Literal["all", "training"]
    split: Literal["leave_one_out", "files"]
    unique: Literal["reallocate", "extra_level"]
    new_item_query: Literal["neighbors", "mean"]
    output: Annotated[str, Field(pattern=r"^([\w-]+\.)?semid$", examples=["semid", "text.semid"])]
    until: Literal["fusion", "quantization", "ids"]
    seed: Seed
    show_progress: bool


FIELDS = Fields(TokenizeFields)


def tokenize_settings(
    files: Sequence[str | Path] = (), given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Merge and check all settings of one `tokenize` run.

    Args:
        files: the user's YAML files; sections (`rqvae: {...}`) are merged key by key.
        given: `key=value` from the command line; a key of a section is written `rqvae.epochs`.

    Returns:
        The settings by key; each registered quantizer has a section.

    Raises:
        InputError: a key is unknown (the message suggests a similar one), or a value is invalid.
    """
    settings = load_yaml(shipped("tokenize.yaml"))
    for method, entry in METHODS.items():
        fields = entry.settings.model_fields.items()
        own = {name: field.get_default() for name, field in fields if not field.is_required()}
        settings.setdefault(method, own)
    flags: dict[str, Any] = {}
    for key, value in (given or {}).items():
        section, dot, rest = key.partition(".")
        if not dot:
            flags[key] = parse_value(value)
        elif isinstance(flags.setdefault(section, {}), dict):
            flags[section][rest] = parse_value(value)
    for source, update in [
        *((str(file), load_yaml(file)) for file in files),
        ("command line", flags),
    ]:
        with error_context(source):
            _merge(settings, update)
            _check_values(settings)
    _check_combinations(settings)
    if FUSED in settings["streams"] or settings["until"] == "fusion":
        _check_fusion(settings, flags)
    return settings


def _check_fusion(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    """Raise an `InputError` if a flag is for the stage 1 that is not chosen."""
    unread = {"injection", "next_item"} - {settings["fusion"]}
    if settings["fusion"] == "next_item" and BBQ not in settings["streams"]:
        unread.add("id_query")
    for key in sorted(unread & flags.keys()):
        raise InputError(
            f"command line: {key}: fusion: {settings['fusion']} does not read it; set "
            f"--fusion={'next_item' if key == 'next_item' else 'injection'}, or leave it out"
        )


def modalities_to_read(settings: Mapping[str, Any]) -> list[str]:
    """Return the modalities whose tables are read; none if `identity` is the only stream."""
    alone = settings["streams"] == [IDENTITY] and settings["until"] != "fusion"
    return [] if alone else list(settings["modalities"])


def _merge(settings: dict[str, Any], update: Mapping[str, Any]) -> None:
    """Override the settings, in place, by a user's."""
    for key, value in update.items():
        if key not in settings:
            raise InputError(f"unknown key '{key}'{did_you_mean(str(key), settings)}")
        if isinstance(settings[key], dict):
            if not isinstance(value, dict):
                raise InputError(f"{key}: {value!r} is not a mapping of keys to values")
            for name in QuantizerSettings.model_fields.keys() & value if key in METHODS else ():
                raise InputError(f"{key}.{name}: set {name}, which is the same for all quantizers")
            settings[key].update(value)
        elif isinstance(value, dict):
            raise InputError(f"{key}: {value!r} is a mapping; {key} has no keys, give one value")
        elif key in ("modalities", "streams") and isinstance(value, str):
            settings[key] = split_names(value)
        else:
            settings[key] = value


def _check_values(settings: Mapping[str, Any]) -> None:
    """Check each value by itself."""
    FIELDS.check({key: value for key, value in settings.items() if not isinstance(value, dict)})
    one_of("quantizer", settings["quantizer"], tuple(METHODS))
    for stage in (InjectionSettings, NextItemSettings):
        read_settings(stage, stage.section, settings[stage.section])
    read_settings(BBQSettings, BBQ, settings[BBQ])
    for method, entry in METHODS.items():
        section = {"n_levels": 1, "codebook_size": 2, **settings[method]}
        if method == settings["quantizer"] or not entry.settings.missing(section):
            read_settings(entry.settings, method, section)
    for name in settings["modalities"]:
        check_modality(name)


def _check_combinations(settings: Mapping[str, Any]) -> None:
    """Check that the values agree with each other."""
    check_sizes(settings["n_levels"], settings["codebook_size"])
    for section in (InjectionSettings.section, NextItemSettings.section):
        size, n_heads = (settings[section][key] for key in ("hidden_size", "n_heads"))
        if size % n_heads:
            raise InputError(
                f"{section}.hidden_size: {size} is not a multiple of {section}.n_heads {n_heads}"
            )
    modalities, streams = settings["modalities"], settings["streams"]
    if BBQ in streams and settings["fit_items"] == "training":
        raise InputError(
            f"fit_items: training: the stream {BBQ} is fitted on all items; set --fit_items=all, "
            f"or leave {BBQ} out of streams"
        )
    known = [*modalities, FUSED, IDENTITY, BBQ, CONTENT]
    for stream in streams:
        if stream not in known:
            raise InputError(
                f"streams: {stream!r} is none of {', '.join(known)}{did_you_mean(stream, known)}; "
                "name the modality of another table in modalities, too"
            )
    for key, names in (("modalities", modalities), ("streams", streams)):
        if not names or len(set(names)) < len(names):
            raise InputError(f"{key}: {names!r}; give at least one name, and each name once")
    if CONTENT in streams and set(streams) & set(modalities):
        raise InputError(f"streams: {streams!r}; {CONTENT} already includes the modalities")
