"""Benchmark plans: models x data sets x seeds, read from one YAML file and checked.

The settings of a run come from these layers, where later ones override earlier ones: the defaults
of `run` (shipped and tuned files), the common `settings`, `per_dataset`, `per_model`, the
`per_model` of a data set, the `settings` of the model row, and `--key=value` flags.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_qbert.common.errors import InputError, did_you_mean, error_context, whole_number
from recbole_qbert.common.yaml_files import load_yaml, parse_value, split_files
from recbole_qbert.config.build import check_keys, known_keys, merge_settings, shipped
from recbole_qbert.models.popularity import Popularity
from recbole_qbert.registry import MODEL_TABLE, model_entry

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
SECTIONS = ("settings", "per_model", "per_dataset")
PATHS = ("data_path", "checkpoint_dir")
ROWS = ("models", "datasets", "seeds", "reference", "controls")
KEYS = frozenset({*PATHS, *ROWS, *SECTIONS, "max_concurrent"})
ENTRY_KEYS = ("name", "model", "settings", "budget")
# Settings of a run that the benchmark sets -> the source of their values.
OWN = {
    "model": "models",
    "dataset": "datasets",
    "seed": "seeds",
    "data_path": "data_path",
    "checkpoint_dir": "checkpoint_dir",
    "resume": "nothing: a killed run always goes on",
    "config_files": "the benchmark's file",
    "nproc": "nothing: each run is one process; see max_concurrent",
}


@dataclass(frozen=True)
class ModelRow:
    """One row of the tables.

    Attributes:
        name: printed name.
        model: name of a model in the registry or in RecBole.
        settings: settings of this row alone.
        budget: tuning budget of the settings, in the user's words.
    """

    name: str
    model: str
    settings: Settings = field(default_factory=dict)
    budget: str = NOT_STATED

    @property
    def counted(self) -> bool:
        """Whether the model only counts items, so that it has no sizes and is not trained."""
        return issubclass(model_entry(self.model).model, Popularity)


@dataclass(frozen=True)
class SettingsBlock:
    """Settings of all model rows, and settings by model, which also apply to derived models."""

    common: Settings
    per_model: Mapping[str, Settings]

    def of_model(self, model: str) -> list[Settings]:
        """`per_model` settings that apply to a model: those of its base models, then its own.

        Settings of base models are left out if the model's shipped file sets the same keys. Thus a
        control of QBERT4Rec takes QBERT4Rec's sizes and remains a control.
        """
        path = shipped("model", f"{model}.yaml")
        decided = load_yaml(path) if path.is_file() else {}
        found = []
        for name in lineage(model):
            settings = self.per_model.get(name, {})
            if name != model:
                settings = {key: value for key, value in settings.items() if key not in decided}
            found.append(settings)
        return found


@dataclass(frozen=True)
class BenchmarkPlan:
    """A checked benchmark.

    `given` holds the settings from the command line; `max_concurrent` is the maximum number of runs
    at a time.
    """

    source: str
    model_rows: tuple[ModelRow, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    data_path: str
    checkpoint_dir: str
    everywhere: SettingsBlock
    per_dataset: Mapping[str, SettingsBlock]
    reference: str
    max_concurrent: int
    given: Settings

    def settings_of(self, model_row: ModelRow, dataset: str) -> Settings:
        """Merge the user's settings for one model row on one data set."""
        sections = [self.everywhere]
        if dataset in self.per_dataset:
            sections.append(self.per_dataset[dataset])
        layers = [_readable(model_row, section.common) for section in sections]
        for section in sections:
            layers += section.of_model(model_row.model)
        layers += [model_row.settings, _readable(model_row, self.given)]
        merged: Settings = {}
        for layer in layers:
            merged = merge_settings(merged, layer)
        where = {"data_path": self.data_path, "checkpoint_dir": self.checkpoint_dir}
        return merged | where


def read_plan(path: str | Path, flags: Mapping[str, str]) -> BenchmarkPlan:
    """Read and check the YAML file of a benchmark.

    Args:
        path: the YAML file.
        flags: `--key=value` flags, which override the file: top-level keys of the file other than
            mappings, settings of all runs, or settings of one row as `models.<row>.<key>`.
            `models` selects rows of the file, which keep their settings, or adds models. If it
            leaves out the reference, the first row becomes the reference.

    Raises:
        InputError: an unknown key, an unknown model, or a value that cannot be used.
    """
    source, content = str(path), load_yaml(path)
    for key in content:
        if key not in KEYS:
            raise InputError(f"{source}: unknown key '{key}'{did_you_mean(str(key), KEYS)}")
    values = {key: parse_value(value) for key, value in flags.items()}
    # The command line may select some of the file's rows and data sets. The file may still hold
    # settings of the others.
    rows = [_contender(entry, source) for entry in _entries(content, "models")]
    described = {
        "models": [row.model for row in rows],
        "datasets": list(map(str, _entries(content, "datasets"))),
    }
    content |= {key: values.pop(key) for key in KEYS.difference(SECTIONS) & values.keys()}
    model_rows = [_row(entry, rows, source) for entry in _listed(content, "models", source)]
    if _truth(content, "controls", source):
        there = {model_row.model for model_row in model_rows}
        model_rows += [
            ModelRow(name, name, budget=budget)
            for name, budget in CONTROLS.items()
            if name not in there
        ]
    names = [model_row.name for model_row in model_rows]
    _all_different(names, "models", source)
    model_rows = _with_row_settings(model_rows, values)
    reference = str(content.get("reference") or REFERENCE)
    if reference not in names and "models" in flags and "reference" not in flags:
        reference = names[0]
    if reference not in names:
        raise InputError(
            f"{source}: reference: {reference!r} is none of {', '.join(names)}"
            f"{did_you_mean(reference, names)}"
        )
    plan = BenchmarkPlan(
        source=source,
        model_rows=tuple(model_rows),
        datasets=tuple(_words(content, "datasets", source)),
        seeds=tuple(_seeds(content, source)),
        data_path=str(content.get("data_path") or "dataset"),
        checkpoint_dir=str(content.get("checkpoint_dir") or "saved"),
        everywhere=_section(content.get("settings"), content.get("per_model"), source),
        per_dataset=_sections_of_datasets(content.get("per_dataset"), source),
        reference=reference,
        max_concurrent=whole_number(f"{source}: max_concurrent", content.get("max_concurrent", 1)),
        given=values,
    )
    _check_settings(plan, described)
    return plan


def _with_row_settings(model_rows: Sequence[ModelRow], values: Settings) -> list[ModelRow]:
    """Apply the `models.<row>.<key>` flags to their rows and remove them from `values`."""
    rows = {model_row.name: model_row for model_row in model_rows}
    for flag in [key for key in values if key.startswith("models.")]:
        name, _, key = flag.removeprefix("models.").rpartition(".")
        if name not in rows:
            raise InputError(
                f"command line: --{flag}: no row '{name}'{did_you_mean(name, rows)}; write "
                "--models.<row>.<key>=value"
            )
        settings = {**rows[name].settings, key: values.pop(flag)}
        rows[name] = replace(rows[name], settings=settings)
    return list(rows.values())


def lineage(model: str) -> list[str]:
    """Names of the registered base models of a model, the most general first, and its own name."""
    bases = [base.__name__ for base in reversed(model_entry(model).model.__mro__)]
    return [name for name in bases if name in MODEL_TABLE or name == model]


def _readable(model_row: ModelRow, settings: Settings) -> Settings:
    """Common settings that apply to a model row.

    Models that only count items have no sizes, and their counts are complete after one epoch.
    """
    if not model_row.counted:
        return settings
    known = known_keys(model_row.model) - {"epochs", "eval_step"}
    return {key: value for key, value in settings.items() if key in known}


def _row(entry: Any, rows: Sequence[ModelRow], source: str) -> ModelRow:
    """Find a row of the file by name, or make a new row."""
    named = (row for row in rows if row.name == entry)
    return next(named, None) or _contender(entry, source)


def _contender(entry: Any, source: str) -> ModelRow:
    """Parse a model row: a model name, or a mapping with the keys `ENTRY_KEYS`."""
    if isinstance(entry, str):
        entry = {"model": entry}
    if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
        raise InputError(
            f"{source}: models: {entry!r}: write a name, or {{name: ..., model: NAME, "
            f"settings: {{key: value}}, budget: ...}}"
        )
    for key in entry:
        if key not in ENTRY_KEYS:
            hint = did_you_mean(str(key), ENTRY_KEYS)
            raise InputError(f"{source}: models: unknown key '{key}'{hint}")
    model = entry["model"]
    with error_context(f"{source}: models"):
        model_entry(model)
    name = str(entry.get("name") or model)
    settings = _mapping(entry.get("settings"), f"{source}: models: {name}: settings")
    return ModelRow(name, model, settings, str(entry.get("budget") or NOT_STATED))


def _check_settings(plan: BenchmarkPlan, described: Mapping[str, Sequence[str]]) -> None:
    """Check that models read all the keys, and that the benchmark does not set them itself.

    Args:
        plan: the whole plan.
        described: models and data sets of the file, which may have settings even if the command
            line did not select them.

    Raises:
        InputError: names the place and the key.
    """
    source = plan.source
    rows = [*(model_row.model for model_row in plan.model_rows), *described["models"]]
    models = {name for model in rows for name in lineage(model)}
    datasets = {*plan.datasets, *described["datasets"]}
    _check_names(plan.per_dataset, datasets, f"{source}: per_dataset")
    places = {f"{source}: per_dataset: {name}": each for name, each in plan.per_dataset.items()}
    common = {place: section.common for place, section in places.items()}
    common |= {f"{source}: settings": plan.everywhere.common, "command line": plan.given}
    trained = [each.model for each in plan.model_rows if not each.counted]
    for place, settings in common.items():
        _check_section(settings, place, trained or [each.model for each in plan.model_rows])
    for place, section in {source: plan.everywhere, **places}.items():
        _check_names(section.per_model, models, f"{place}: per_model")
        for name, settings in section.per_model.items():
            _check_section(settings, f"{place}: per_model: {name}", [name])
    for each in plan.model_rows:
        _check_section(each.settings, f"{source}: models: {each.name}: settings", [each.model])


def _check_names(given: Iterable[str], known: Collection[str], place: str) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"{place}: {name!r} is not in this benchmark{hint}")


def _check_section(settings: Settings, place: str, models: Sequence[str]) -> None:
    """Check that all the models read the keys, and that the benchmark does not set them itself."""
    for key in settings:
        if key in OWN:
            raise InputError(f"{place}: '{key}' is not set here: the benchmark takes {OWN[key]}")
        able = [model for model in models if key in known_keys(model)]
        lacking = [model for model in models if model not in able]
        if able and lacking:
            raise InputError(
                f"{place}: {lacking[0]} has no '{key}', {able[0]} has; write it under per_model: "
                f"{able[0]}:"
            )
    for model in models:
        check_keys(model, settings, place)


# Values of the file ------------------------------------------------------------------------------


def _listed(content: Mapping[str, Any], key: str, source: str) -> list[Any]:
    """Parse a non-empty list, or a string of names separated by commas or blanks."""
    value = _entries(content, key)
    if not value:
        raise InputError(f"{source}: {key}: a list is needed, {key}: [a, b]")
    return value


def _entries(content: Mapping[str, Any], key: str) -> list[Any]:
    """Like `_listed`, but the result may be empty."""
    value = content.get(key)
    if isinstance(value, str):
        return split_files(value)
    if isinstance(value, int):
        return [value]
    return value if isinstance(value, list) else []


def _words(content: Mapping[str, Any], key: str, source: str) -> list[str]:
    words = _listed(content, key, source)
    for word in words:
        if not isinstance(word, str):
            raise InputError(f"{source}: {key}: {word!r} is no name; quote a name that is a number")
    _all_different(words, key, source)
    return words


def _seeds(content: Mapping[str, Any], source: str) -> list[int]:
    seeds = [parse_value(seed) for seed in _listed(content, "seeds", source)]
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InputError(f"{source}: seeds: {seed!r} is not a whole number")
    _all_different(seeds, "seeds", source)
    return seeds


def _all_different(values: list[Any], key: str, source: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise InputError(f"{source}: {key}: {value!r} is there twice; name each only once")


def _truth(content: Mapping[str, Any], key: str, source: str) -> bool:
    value = content.get(key, True)
    if not isinstance(value, bool):
        raise InputError(f"{source}: {key}: {value!r} is not True or False")
    return value


def _mapping(value: Any, place: str) -> Settings:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{place}: `key: value` was expected")
    return value


def _section(common: Any, per_model: Any, place: str) -> SettingsBlock:
    sections = _mapping(per_model, f"{place}: per_model").items()
    return SettingsBlock(
        _mapping(common, f"{place}: settings"),
        {name: _mapping(each, f"{place}: per_model: {name}") for name, each in sections},
    )


def _sections_of_datasets(value: Any, source: str) -> dict[str, SettingsBlock]:
    sections = {}
    for name, each in _mapping(value, f"{source}: per_dataset").items():
        place = f"{source}: per_dataset: {name}"
        common = dict(_mapping(each, place))
        sections[name] = _section(common, common.pop("per_model", None), place)
    return sections
