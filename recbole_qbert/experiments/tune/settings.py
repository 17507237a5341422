"""Settings of a sweep: its YAML file and `--key=value` flags, checked against the model's keys."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field
from recbole.config import Config

from recbole_qbert.common.errors import InputError, did_you_mean, error_context
from recbole_qbert.common.files import atomic_write
from recbole_qbert.common.output import counted
from recbole_qbert.common.yaml_files import load_yaml, parse_value, split_names
from recbole_qbert.config.build import (
    build_config,
    check_keys,
    merge_settings,
    settings_for,
)
from recbole_qbert.config.fields import Fields
from recbole_qbert.config.settings import RUN, Chance, Count, Layers, Number, Seed, Text
from recbole_qbert.data.budget import AUTO, eval_step
from recbole_qbert.experiments.checks import check_run
from recbole_qbert.experiments.tune.space import (
    Space,
    Values,
    configured_value,
    draw_trials,
    n_grid,
    nested,
    parse_space,
)
from recbole_qbert.registry import model_entry
from recbole_qbert.training.inputs import input_files

# Keys that cannot be searched: trials would not be comparable, or the sweep sets the keys itself.
PROTOCOL_KEYS = (
    "model dataset data_path checkpoint_dir config_files epochs eval_step metrics topk "
    "valid_metric valid_metric_bigger eval_args load_col user_inter_num_interval "
    "item_inter_num_interval val_interval rm_dup_inter filter_inter_by_user_or_item threshold "
    "cold_items cold_seed cold_targets cold_interactions benchmark_filename "
    "nproc gpu_id use_gpu device resume show_progress state use_tuned"
)
NOT_SEARCHED = frozenset(PROTOCOL_KEYS.split())
# Keys that the sweep sets for each trial -> explanation.
NOT_FIXED = {
    "gpu_id": "Ray assigns GPUs to trials; see gpus_per_trial",
    "nproc": "a trial is one process; see max_concurrent",
    "resume": "use --resume",
}
AT_TOP = ("model", "dataset", "data_path", "checkpoint_dir", "config_files", "seed")
PATH_KEYS = ("semantic_id_file", "pre_model_path")


class SweepRequest(BaseModel):
    """The keys of a tune file. `~` is None."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = ""
    dataset: str = ""
    name: Text | None = None  # name of the sweep's folder; None: <model>-<dataset>
    data_path: Text | None = None
    checkpoint_dir: Text | None = None
    config_files: list[Text] = []
    space: dict[Text, Any] = {}
    settings: dict[Text, Any] = {}  # fixed settings of all trials
    seed: Seed = 2026  # seed of the draws and of each trial's training
    trials: Count = 1  # number of samples; each runs the whole grid
    baseline: bool = False
    scheduler: Literal["none", "asha"] = "none"
    grace: Count = 1  # evaluations before ASHA may stop a trial
    reduction: Annotated[float, Field(gt=1, le=1000)] = 3  # ASHA's reduction factor
    max_epochs: Count | None = None
    cpus_per_trial: Layers = 1
    gpus_per_trial: Chance | None = None  # None: 1 if there is a GPU
    max_concurrent: Layers | None = None
    max_failures: Number = 1  # restarts of a trial whose process died
    address: Text | None = None  # address of a Ray cluster; "auto": this machine's
    source: str = "the sweep"  # name of the file, for error messages


REQUEST = Fields(SweepRequest)


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep."""

    request: SweepRequest
    space: Space
    base: dict[str, Any]  # the user's settings that all trials share; paths are absolute
    configured: Config  # complete config without drawn values
    trials: list[Values]  # drawn values of each trial, in order, without duplicates
    n_drawn: int  # number of drawn trials, including duplicates
    n_evaluations: int  # maximum number of evaluations on valid per trial
    files: dict[str, Path]  # input files by name; see `of_trial` for files of a single trial

    @property
    def folder(self) -> Path:
        """Folder of the sweep."""
        name = self.request.name or f"{self.request.model}-{self.request.dataset}"
        return Path(self.base["checkpoint_dir"]) / "tune" / name

    def trial_settings(self, number: int) -> dict[str, Any]:
        """Settings of trial `number` (from 1), complete for a YAML file of `run`."""
        settings = nested(self.trials[number - 1], self.configured.final_config_dict)
        content = {"model": self.request.model, "dataset": self.request.dataset}
        return {**content, **self.base, **settings}

    @contextlib.contextmanager
    def trial_config(self, number: int) -> Iterator[Config]:
        """Yield the checked config of trial `number`; an `InputError` in the block names it."""
        with error_context(f"trial {number} ({describe(self.trials[number - 1])})"):
            yield _checked(self.trial_settings(number))


def read_request(file: str | Path, given: Mapping[str, Any]) -> SweepRequest:
    """Read a tune file and `--key=value` flags.

    Flags whose key is not a key of tune files are added to `settings`.

    Raises:
        InputError: an unknown key in the file, or a value of the wrong type.
    """
    # `~` stands for the default.
    content = {key: value for key, value in load_yaml(file, "tune").items() if value is not None}
    known = SweepRequest.model_fields.keys() - {"source"}
    for key in content:
        if key not in known:
            hint = did_you_mean(key, known) or "; put keys of the model under settings:"
            raise InputError(f"{file}: unknown key '{key}'{hint}")
    fixed: dict[str, Any] = {}
    for key, value in given.items():
        if key in ("space", "settings"):
            raise InputError(f"command line: --{key}: give it in the file")
        # A name is text, also if it looks like a number.
        parsed = value if key in ("model", "dataset") else parse_value(value)
        (content if key in known else fixed)[key] = parsed
    if isinstance(files := content.get("config_files"), str):
        content["config_files"] = split_names(files)
    for key in ("model", "dataset"):
        if not content.get(key):
            raise InputError(f"--{key}=... is missing; give it on the command line or in the file")
    content = {key: value for key, value in content.items() if value is not None}
    REQUEST.check(content)
    if "max_epochs" in content:  # it would win; as a flag it overrides the file's `epochs`
        if "epochs" in fixed:
            raise InputError("command line: --epochs: max_epochs is given; use --max_epochs")
        if "epochs" in content.get("settings", {}) and "max_epochs" not in given:
            raise InputError(f"{file}: settings: epochs: max_epochs is given; remove one")
    content["settings"] = {**content.get("settings", {}), **fixed}
    request = SweepRequest(**content, source=str(file))
    name = request.name
    if name is not None and (Path(name).name != name or name == ".."):
        raise InputError(f"name: {name!r} is not a folder name; give another one")
    return request


def make_plan(request: SweepRequest) -> SweepPlan:
    """Check a request as far as possible without data, and draw the trials.

    Raises:
        InputError: a key, value or range cannot be used.
    """
    model = request.model
    model_entry(model)
    # Errors of the space are always the file's; other keys may be from the command line.
    with error_context(request.source):
        space = parse_space(request.space)
    base = _base_settings(request)
    # Build a config first: `epochs` may be only in RecBole's defaults, not in our YAML files.
    configured = _checked({**base, "model": model, "dataset": request.dataset})
    base["data_path"] = str(Path(configured["data_path"]).parent.resolve())
    base["checkpoint_dir"] = str(Path(configured["checkpoint_dir"]).resolve())
    with error_context(request.source):
        for key, domain in space.items():
            _check_searched(model, key, space, base, configured)
            for value in domain.examples():
                with error_context("space"):
                    RUN.check(nested({key: value}, configured.final_config_dict))
    epochs, step = configured["epochs"], configured["eval_step"]
    if epochs == AUTO:
        raise InputError("max_epochs: auto cannot be used, since all trials have one length")
    step = eval_step(epochs) if step == AUTO else step
    n_evaluations = -(-epochs // step)
    if request.scheduler == "asha" and request.grace > n_evaluations:
        raise InputError(
            f"grace: {request.grace} is more than the {counted(n_evaluations, 'evaluation')} of a "
            "trial; decrease grace, or increase max_epochs"
        )
    baseline = None
    if request.baseline:
        baseline = {key: configured_value(key, configured.final_config_dict) for key in space}
    trials = draw_trials(space, request.trials, request.seed, baseline)
    n_drawn = request.trials * n_grid(space) + request.baseline
    shared = _input_files(configured)
    plan = SweepPlan(request, space, base, configured, trials, n_drawn, n_evaluations, dict(shared))
    for number in range(1, len(trials) + 1):
        with plan.trial_config(number) as config:
            own = _input_files(config)
        for name, path in own.items():
            if shared.get(name) != path:
                plan.files[of_trial(number, name)] = path
    return plan


def _input_files(config: Config) -> dict[str, Path]:
    """Input files by name, as absolute paths like those in the settings of trials."""
    return {name: path.resolve() for name, path in input_files(config).items()}


def of_trial(number: int, name: str) -> str:
    """Name of a file that only one trial reads."""
    return f"trial {number}: {name}"


def _base_settings(request: SweepRequest) -> dict[str, Any]:
    """Merge the user's files, `settings` and the sweep's own keys; paths become absolute."""
    settings: dict[str, Any] = {}
    for file in request.config_files:
        content = load_yaml(file)
        for key in ("model", "dataset", "nproc"):
            content.pop(key, None)
        settings = merge_settings(settings, settings_for(request.model, content, str(file)))
    check_keys(request.model, request.settings, "settings")
    for key in AT_TOP:
        if key in request.settings:
            raise InputError(f"settings: {key}: give it at the top level of the file")
    settings = merge_settings(settings, request.settings)
    for key, reason in NOT_FIXED.items():
        if key in settings:
            raise InputError(f"settings: {key}: cannot be set: {reason}")
    if "seed" in request.model_fields_set:
        settings["seed"] = request.seed
    settings.setdefault("seed", request.seed)
    if request.gpus_per_trial == 0:
        settings["use_gpu"] = False  # also for the test of the best trial, and in best.yaml
    own = {
        "data_path": request.data_path,
        "checkpoint_dir": request.checkpoint_dir,
        "epochs": request.max_epochs,
    }
    settings |= {key: value for key, value in own.items() if value is not None}
    for key in PATH_KEYS:
        if settings.get(key):
            settings[key] = str(Path(settings[key]).resolve())
    if isinstance(vectors := settings.get("item_vectors"), dict):
        settings["item_vectors"] = {name: str(Path(p).resolve()) for name, p in vectors.items()}
    return settings


def _checked(settings: Mapping[str, Any]) -> Config:
    """Build and check a config from a YAML file, as a trial will do."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trial.yaml"
        write_yaml(file, settings)
        # A Config on a GPU sets CUDA_VISIBLE_DEVICES and hides the other GPUs from Ray.
        own = {"use_gpu": False}
        try:
            config = build_config(settings["model"], settings["dataset"], [file], own)
        except InputError as error:
            raise InputError(str(error).replace(f"{file}: ", "")) from None
    check_run(config)
    return config


def _check_searched(
    model: str, key: str, space: Space, base: Mapping[str, Any], configured: Config
) -> None:
    """Check that a key of the space belongs to the model and is not fixed elsewhere."""
    top = key.partition(".")[0]
    check_keys(model, [top], "space")
    if top in NOT_SEARCHED:
        hint = "; see max_epochs" if top == "epochs" else ""
        raise InputError(f"space: {key}: cannot be searched{hint}")
    if top != key and top in space:
        raise InputError(f"space: {key}: {top} is searched too; remove one of them")
    if top == key and key in base and key != "seed":
        raise InputError(
            f"space: {key}: also fixed in settings, a file or by --{key}; remove one of them"
        )
    configured_value(key, configured.final_config_dict)


def write_yaml(path: Path, content: Mapping[str, Any], head: str = "") -> None:
    """Write settings as YAML, atomically, below the comment `head`."""
    with atomic_write(path) as handle:
        handle.write("".join(f"# {line}\n" for line in head.splitlines()))
        yaml.safe_dump(dict(content), handle, sort_keys=False, allow_unicode=True)


def describe(values: Values, keys: Sequence[str] = ()) -> str:
    """Format values as `hidden_dropout_prob=0.2317 n_layers=2`, with four significant digits."""
    return " ".join(f"{key}={short(values[key])}" for key in keys or values)


def short(value: Any) -> str:
    """Format a value for a narrow column."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
