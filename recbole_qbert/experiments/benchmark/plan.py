"""Benchmark plans: models x data sets x seeds, read from one YAML file and checked.

The settings of a run come from these layers, where later ones override earlier ones: the defaults
of `run` (shipped and tuned files), `config_files`, the common `settings`, `per_dataset`,
`per_model`, the `per_model` of a data set, the `settings` of the row, and `--key=value` flags.

A row may have its own semantic IDs (`ids`, settings of `tokenize`) and its own pretrained model
(`pretrain`, settings of `pretrain`); both are made once, before the runs of all seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from recbole_qbert.common.errors import InputError, did_you_mean, error_context
from recbole_qbert.common.yaml_files import load_yaml, parse_value, split_names
from recbole_qbert.config.build import check_keys, known_keys, lineage, merge_settings, of_model
from recbole_qbert.config.fields import STRICT, Fields
from recbole_qbert.config.settings import Count, Seed, Text
from recbole_qbert.evaluation.significance import checked_metric
from recbole_qbert.models.popularity import Popularity
from recbole_qbert.registry import model_entry
from recbole_qbert.tokenizer.settings import tokenize_settings

Settings = dict[str, Any]

# Control rows -> their tuning budget. Every result should be compared with the most popular items,
# with the most frequent followers of the last item, and with QBERT4Rec's encoder without codes.
CONTROLS = {
    "Popularity": "none: nothing to choose",
    "BigramChain": "none: nothing to choose",
    "IDBERT4Rec": "none: QBERT4Rec's settings",
}
REFERENCE = "QBERT4Rec"
NOT_STATED = "not stated"
# Settings of a run that the benchmark sets -> the key or reason.
OWN = {
    "model": "set by models",
    "dataset": "set by datasets",
    "seed": "set by seeds",
    "data_path": "set by data_path",
    "checkpoint_dir": "set by checkpoint_dir",
    "config_files": "a key of the benchmark",
    "resume": "always on",
    "nproc": "not supported, since each run is one process; see max_concurrent",
}


class DatasetFields(TypedDict, total=False):
    """Settings of all models on one data set, and of single models on it."""

    __pydantic_config__ = ConfigDict(strict=True, extra="allow")  # type: ignore[misc]

    per_model: dict[Text, dict[Text, Any]]


class PlanFile(BaseModel):
    """The keys of a benchmark file."""

    model_config = STRICT | ConfigDict(frozen=True, protected_namespaces=())

    models: list[Any] = []  # see `RowFields`; controls are added
    datasets: list[Text] = []
    seeds: list[Seed] = []
    reference: Text = REFERENCE  # row that is tested against all others
    controls: bool = True
    data_path: Text = "dataset"
    checkpoint_dir: Text = "saved"
    max_concurrent: Count = 1  # maximum number of runs at a time
    config_files: list[Text] = []  # files of `run`
    settings: dict[Text, Any] = {}  # of all models
    per_model: dict[Text, dict[Text, Any]] = {}
    per_dataset: dict[Text, DatasetFields] = {}
    ids: dict[Text, Any] = {}  # settings of `tokenize`, for rows with `ids`
    pretrain: dict[Text, Any] = {}  # settings of `pretrain`, for rows with `pretrain`
    sources: list[Text] = []  # data sets to pretrain on


class RowFields(TypedDict, total=False):
    """Types of the keys of a row of `models`."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    name: Text
    model: Text
    budget: Text
    seeds: list[Seed]
    settings: dict[Text, Any]
    ids: dict[Text, Any]
    pretrain: dict[Text, Any]
    published: dict[Text, dict[Text, float]]


PLAN, ROW = Fields(PlanFile), Fields(RowFields)
KEYS, ROW_KEYS = frozenset(PLAN.keys()), frozenset(ROW.keys())
LISTS = ("models", "datasets", "seeds", "sources", "config_files")
STAGES = ("ids", "pretrain")
SEED_OF_RUN = "run"  # value of ids.seed: each run has IDs made with its own seed
SECTIONS = ("settings", "per_model", "per_dataset", *STAGES)  # not set as a whole by flags


@dataclass(frozen=True)
class ModelRow:
    """One row of the tables.

    `ids` are settings of `tokenize` for the row's own semantic IDs, `pretrain` those of `pretrain`,
    with its `sources`, for the row's own pretrained model.
    """

    name: str  # printed name
    model: str  # name of a model in the registry or in RecBole
    settings: Settings = field(default_factory=dict)
    budget: str = NOT_STATED  # tuning budget of the settings, in the user's words
    seeds: Sequence[int] = ()  # those of the benchmark that the row has; empty: all
    ids: Settings | None = None
    pretrain: Settings | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by data set
    flags: Settings = field(default_factory=dict)  # settings of flags `--models.<row>.<key>`

    @property
    def counted(self) -> bool:
        """Whether the model only counts items, so that it has no sizes and is not trained."""
        return issubclass(model_entry(self.model).model, Popularity)

    @property
    def has_stages(self) -> bool:
        """Whether semantic IDs or a pretrained model must be made before the runs."""
        return self.ids is not None or self.pretrain is not None


class BenchmarkPlan(PlanFile):
    """A checked benchmark."""

    source: str  # name of the file
    model_rows: tuple[ModelRow, ...] = ()
    given: Settings = {}  # settings of the command line

    def settings_of(self, model_row: ModelRow, dataset: str) -> Settings:
        """Merge the user's settings for one row on one data set."""
        of_dataset: Settings = {**self.per_dataset.get(dataset, {})}
        per_model = of_dataset.pop("per_model", {})
        layers = [_readable(model_row, self.settings), _readable(model_row, of_dataset)]
        layers += of_model(self.per_model, model_row.model)
        layers += of_model(per_model, model_row.model)
        layers += [model_row.settings, _readable(model_row, self.given), model_row.flags]
        merged: Settings = {}
        for layer in layers:
            merged = merge_settings(merged, layer)
        return {**merged, "data_path": self.data_path, "checkpoint_dir": self.checkpoint_dir}

    def id_settings(self, model_row: ModelRow, seed: int) -> Settings:
        """Settings of `tokenize` for the run with a seed of a row with `ids`."""
        given = {**_flat(self.ids), **_flat(model_row.ids or {})}
        if given.get("seed") == SEED_OF_RUN:
            given["seed"] = seed
        with error_context(f"{self.source}: models: {model_row.name}: ids"):
            for key in ("output", "until"):
                if key in given:
                    raise InputError(f"{key}: the benchmark sets it itself; leave it out")
            return tokenize_settings((), given)

    def id_seed(self, model_row: ModelRow, seed: int) -> Any:
        """Seed of `tokenize` for the run with a seed; None without `ids`."""
        return None if model_row.ids is None else self.id_settings(model_row, seed)["seed"]

    def pretraining_of(self, model_row: ModelRow) -> tuple[list[str], Settings]:
        """Sources and settings of `pretrain` for a row with `pretrain`.

        Raises:
            InputError: there are no sources, or the model cannot start from pretrained weights.
        """
        place = f"{self.source}: models: {model_row.name}: pretrain"
        if not model_entry(model_row.model).takes_pretrained:
            raise InputError(f"{place}: {model_row.model} cannot start from pretrained weights")
        settings = {**self.pretrain, **(model_row.pretrain or {})}
        sources = _as_list(settings.pop("sources", None)) or list(self.sources)
        if not sources:
            raise InputError(f"{place}: no data sets to pretrain on; give --sources=A,B")
        return sources, settings


def read_plan(path: str | Path, flags: Mapping[str, str]) -> BenchmarkPlan:
    """Read and check the YAML file of a benchmark.

    Args:
        path: the YAML file, or the name of a shipped one such as `demo`.
        flags: `--key=value` flags, which override the file: top-level keys of the file other than
            mappings (`dataset` is another name of `datasets`), settings of all runs, of one row as
            `models.<row>.<key>`, or of the stages as `ids.<key>` and `pretrain.<key>`. `models`
            selects rows of the file, which keep their settings, or adds models. If it leaves out
            the reference, the first row becomes the reference.

    Raises:
        InputError: an unknown key, an unknown model, or a value that cannot be used.
    """
    source = str(path)
    content = load_yaml(path, "benchmark")
    content = {key: value for key, value in content.items() if value is not None}
    _check_known(content, KEYS, source)
    texts = ("dataset", "datasets", "reference")  # also where they look like numbers
    given = {key: v if key in texts else parse_value(v) for key, v in flags.items()}
    if "dataset" in given:
        given.setdefault("datasets", given.pop("dataset"))
    # Flags may select some rows and data sets; the file may hold settings of the others.
    rows = [_row(entry, source) for entry in _as_list(content.get("models"))]
    named = {row.name: row for row in rows}
    in_file = _as_list(content.get("datasets"))
    content |= {key: given.pop(key) for key in KEYS.difference(SECTIONS) & given.keys()}
    content["models"] = _row_names(content.get("models"), named)
    for stage in STAGES:
        flags_of_stage = [key for key in given if key.startswith(f"{stage}.")]
        own = {key.removeprefix(f"{stage}."): given.pop(key) for key in flags_of_stage}
        stated = content.get(stage, {})
        content[stage] = {**stated, **own} if isinstance(stated, Mapping) else stated
    for key in LISTS:
        content[key] = (_names if key == "datasets" else _as_list)(content.get(key))
        if len({str(value) for value in content[key]}) < len(content[key]):
            raise InputError(f"{source}: {key}: {content[key]} has duplicates; give each once")
    with error_context(source):
        PLAN.check(content)
    for key in ("models", "datasets", "seeds"):
        if not content[key]:
            raise InputError(f"{source}: {key}: empty; give a list, {key}: [a, b]")
    model_rows = [
        named[entry] if isinstance(entry, str) and entry in named else _row(entry, source)
        for entry in content["models"]
    ]
    _check_seeds(model_rows, content["seeds"], source)
    if content.get("controls", True):
        there = {row.model for row in model_rows}
        controls = [ModelRow(name, name, budget=budget) for name, budget in CONTROLS.items()]
        model_rows += [row for row in controls if row.model not in there]
    names = [row.name for row in model_rows]
    if len(set(names)) < len(names):
        raise InputError(f"{source}: models: {names} has duplicates; give each row its own name")
    reference = content.get("reference", REFERENCE)
    if reference not in names and "models" in flags and "reference" not in flags:
        reference = names[0]
    if reference not in names:
        hint = did_you_mean(reference, names)
        raise InputError(f"{source}: reference: {reference!r} is none of {', '.join(names)}{hint}")
    plan = BenchmarkPlan(
        source=source,
        model_rows=tuple(_with_row_flags(model_rows, given)),
        given=given,
        **{**content, "reference": reference},
    )
    _check_settings(plan, [*rows, *model_rows], [*in_file, *plan.datasets])
    return plan


def _with_row_flags(model_rows: Sequence[ModelRow], given: Settings) -> list[ModelRow]:
    """Give the `models.<row>.<key>` flags to their rows and remove them from `given`."""
    rows = {row.name: row for row in model_rows}
    for flag in [key for key in given if key.startswith("models.")]:
        name, _, key = flag.removeprefix("models.").rpartition(".")
        if name not in rows:
            raise InputError(
                f"command line: --{flag}: no row '{name}'{did_you_mean(name, rows)}; write "
                "--models.<row>.<key>=value"
            )
        rows[name] = replace(rows[name], flags={**rows[name].flags, key: given.pop(flag)})
    return list(rows.values())


def _readable(model_row: ModelRow, settings: Settings) -> Settings:
    """Common settings that apply to a row."""
    if not model_row.counted:
        return settings
    # Models that only count items have no sizes, and their counts are complete after one epoch.
    known = known_keys(model_row.model) - {"epochs", "eval_step"}
    return {key: value for key, value in settings.items() if key in known}


def _row(entry: Any, source: str) -> ModelRow:
    """Parse a row: a model name, or a mapping with the keys of `RowFields`."""
    content: Any = {"model": entry} if isinstance(entry, str) else entry
    if not isinstance(content, dict) or not isinstance(content.get("model"), str):
        raise InputError(
            f"{source}: models: {entry!r}: give the name of a model, or {{model: NAME, ...}}"
        )
    place = f"{source}: models"
    content = {key: value for key, value in content.items() if value is not None}
    _check_known(content, ROW_KEYS, place)
    with error_context(place):
        model_entry(content["model"])
        ROW.check(content)
    with error_context(f"{place}: published"):
        published = {
            dataset: {checked_metric(name): value for name, value in figures.items()}
            for dataset, figures in content.get("published", {}).items()
        }
    return ModelRow(**{"name": content["model"], **content, "published": published})


def _check_settings(plan: BenchmarkPlan, rows: Sequence[ModelRow], datasets: Sequence[str]) -> None:
    """Check all settings; `rows` and `datasets` include those of the file that are not selected."""
    source = plan.source
    models = {name for row in rows for name in lineage(row.model)}
    _check_known(plan.per_dataset, datasets, f"{source}: per_dataset")
    common = {f"{source}: settings": plan.settings, "command line": plan.given}
    per_models = {f"{source}: per_model": plan.per_model}
    for name, section in plan.per_dataset.items():
        place, rest = f"{source}: per_dataset: {name}", dict[str, Any](section)
        per_models[f"{place}: per_model"] = rest.pop("per_model", {})
        common[place] = rest
    trained = [row.model for row in plan.model_rows if not row.counted]
    for place, settings in common.items():
        _check_section(settings, place, trained or [row.model for row in plan.model_rows])
    for place, per_model in per_models.items():
        _check_known(per_model, models, place)
        for name, settings in per_model.items():
            _check_section(settings, f"{place}: {name}", [name])
    for row in plan.model_rows:
        own = {**row.settings, **row.flags}
        _check_section(own, f"{source}: models: {row.name}: settings", [row.model])
        if row.ids is not None:
            plan.id_settings(row, 0)
        if row.pretrain is not None:
            plan.pretraining_of(row)


def _check_section(settings: Settings, place: str, models: Sequence[str]) -> None:
    """Check that all the models read the keys, and that the benchmark does not set them itself."""
    for key in settings:
        if key in OWN:
            raise InputError(f"{place}: '{key}' cannot be set here: {OWN[key]}")
        able = [model for model in models if key in known_keys(model)]
        lacking = [model for model in models if model not in able]
        if able and lacking:
            raise InputError(
                f"{place}: {lacking[0]} has no key '{key}', {able[0]} has; put it under "
                f"per_model: {able[0]}:"
            )
    for model in models:
        check_keys(model, settings, place)


def _check_known(keys: Iterable[str], known: Collection[str], place: str) -> None:
    for key in keys:
        if key not in known:
            raise InputError(f"{place}: unknown key '{key}'{did_you_mean(str(key), known)}")


def _as_list(value: Any) -> Any:
    """Make a list of a string of names, separated by commas or blanks, or of another value."""
    if isinstance(value, str):
        return [parse_value(word) for word in split_names(value)]
    if value is None or isinstance(value, list | dict):
        return value or []
    return [value]


def _names(value: Any) -> Any:
    """Make a list as `_as_list`, of texts even where they look like numbers."""
    plain = isinstance(value, str) and not value.startswith("[")
    return split_names(value) if plain else _as_list(parse_value(value))


def _row_names(value: Any, rows: Collection[str]) -> Any:
    """Split a text of row names at commas. A name may hold blanks and commas, quoted or not."""
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in next(csv.reader([value], skipinitialspace=True), [])]
    names = list[str]()
    while parts:
        ends = range(len(parts), 0, -1)
        end = next((end for end in ends if ", ".join(parts[:end]) in rows), 0)
        names += [", ".join(parts[:end])] if end else split_names(parts[0])
        del parts[: max(1, end)]
    return names


def _check_seeds(model_rows: Iterable[ModelRow], seeds: Collection[int], source: str) -> None:
    """Refuse a row whose own seeds are none of the benchmark's, since it would have no run."""
    for row in model_rows:
        if row.seeds and not {*row.seeds} & {*seeds}:
            raise InputError(
                f"{source}: models: {row.name}: seeds: {[*row.seeds]} are none of the benchmark's "
                f"{[*seeds]}; add one, or leave the row out with --models"
            )


def _flat(settings: Settings) -> Settings:
    """Write the keys of sections with a dot: `{a: {b: 1}}` -> `{a.b: 1}`."""
    flat: Settings = {}
    for key, value in settings.items():
        section = value if isinstance(value, dict) else None
        flat |= {f"{key}.{name}": v for name, v in section.items()} if section else {key: value}
    return flat
