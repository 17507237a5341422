"""The results file, one JSON line per finished run, and grouping of its runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert.common.errors import InputError, did_you_mean_path, preview
from recbole_qbert.common.files import append_line, held, read_line
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.evaluation.ranking import (
    RANKS_FILE,
    TITLES,
    UNSEEN,
    Ranks,
    metric_names,
    read_ranks,
)

# Config keys about invocation, display and logging, which are not stored with a run.
UNSTORED_KEYS = frozenset(
    {"resume", "show_progress", "state", "config_files", "log_wandb", "wandb_project"}
)
# Config keys with the locations of a run's files: stored, but not part of its identity.
PATH_KEYS = frozenset({"checkpoint_dir", "data_path"})
# Config keys in which runs of the same settings may differ.
PER_RUN_KEYS = PATH_KEYS | UNSTORED_KEYS | {"seed"}
# End of the folder of a sweep's best trial that the scheduler stopped.
STOPPED_TRIAL = "-trial"
NONE = "–"  # shown in place of a figure that there is not
LATE = "! the best epoch was the last allowed one, at a constant learning rate: train longer"
RANKINGS = (("", "all items"), (UNSEEN, "seen excluded"))
# Prefixes of metrics in `RunResult.generation`.
CREDITED, EXACT_GAIN = "credited_", "exact_gain_"


@dataclass(frozen=True)
class RunResult:
    """Published record of one trained and evaluated model."""

    model: str
    dataset: str
    seed: int
    valid: dict[str, float]  # metric -> value; names with `unseen_` rank unseen items only
    test: dict[str, float]
    valid_metric: str  # valid metric that selected the epoch
    exclude_visible: bool  # whether the model itself excludes visible items
    loss: str
    best_epoch: int  # counted from 0
    epochs: int  # number of trained epochs
    max_epochs: int
    seconds: float  # training, evaluations on valid included
    test_seconds: float
    n_parameters: int
    peak_memory_mb: float  # of the process during the run; except on Linux, since it started
    counts: dict[str, int]
    data_sha256: dict[str, str]
    config: dict[str, Any]
    config_files: list[str]
    versions: dict[str, str]
    device: str
    threads: int
    bundle: str
    machine: str = ""
    folder: str = ""  # folder of checkpoints, curve and test ranks
    pretrained_on: list[str] = field(default_factory=list)  # data sets; empty: from scratch
    n_processes: int = 1  # threads and peak memory are those of process 0
    steps: int = 0  # optimizer steps in all epochs
    tested_on: dict[str, str] = field(default_factory=dict)  # see `comparable.tested_on`
    ranks_sha256: str = ""  # of the file of test ranks
    # Of models that generate codes; see `experiments.generation`.
    generation: dict[str, float] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Model name, followed by the data sets it was pretrained on."""
        if not self.pretrained_on:
            return self.model
        return f"{self.model} (pretrained: {', '.join(self.pretrained_on)})"

    @property
    def hash(self) -> str:
        """The eight hex digits at the end of the folder's name; of a stopped trial with its end."""
        name = Path(self.folder).name
        digits = name.removesuffix(STOPPED_TRIAL).rpartition("-")[2]
        return digits + STOPPED_TRIAL * name.endswith(STOPPED_TRIAL)

    @property
    def metrics(self) -> list[str]:
        """Names of all metrics without `unseen_`, in the configured order."""
        keys = self.config["keys"]
        return metric_names(keys["metrics"], keys["topk"])

    @property
    def repeats(self) -> str:
        """Whether the model may recommend items of the history: `excluded` or `allowed`."""
        return "excluded" if self.exclude_visible else "allowed"

    @property
    def late(self) -> bool:
        """Whether the best epoch was the last allowed one, so that longer training may help.

        False if the learning rate decays to zero, and for count-based models.
        """
        decays = self.config["keys"].get("lr_decay") in ("linear", "cosine")
        return self.loss != "none" and not decays and self.best_epoch + 1 >= self.max_epochs

    @property
    def stopped_early(self) -> bool:
        """Whether training ended before the last allowed epoch: valid did not improve, or, in a
        sweep, the scheduler stopped it."""
        return self.epochs < self.max_epochs


def append_result(path: str | Path, result: RunResult) -> None:
    """Append one line to a results file."""
    append_line(path, asdict(result))


def read_results(path: str | Path) -> list[RunResult]:
    """Read all runs of a results file; an `InputError` names a missing file or damaged line.

    A run's folder is that beside the file, if it is there, so that results can be moved.
    """
    try:
        with open(path, encoding="utf-8") as handle, held(handle):
            text = handle.read()
    except FileNotFoundError:
        raise InputError(f"{path}: no such results file{did_you_mean_path(path)}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a results file; give results.jsonl") from None
    lines = text.removesuffix("\n").split("\n") if text else []  # texts may hold other line ends
    results = []
    for number, line in enumerate(lines, start=1):
        if number == 1 and not line.startswith("{"):
            raise InputError(f"{path}: not a results file; give results.jsonl")
        try:
            results.append(_beside(RunResult(**read_line(line)), Path(path)))
        except (ValueError, TypeError):
            raise InputError(
                f"{path}:{number}: not a run of this version, incomplete or damaged; delete the "
                "line, except for a complete result at its end"
            ) from None
    return results


def _beside(result: RunResult, file: Path) -> RunResult:
    """Name the folder and the bundle beside the results file, if they are there."""
    folder = file.parent / result.dataset / Path(result.folder).name
    if not folder.is_dir():
        return result
    bundle = str(folder / "bundle") if result.bundle else ""
    return replace(result, folder=str(folder), bundle=bundle)


def ranks_of(run: RunResult) -> tuple[Ranks, np.ndarray | None]:
    """Read a run's ranks as `read_ranks`; an `InputError` says if the file changed later."""
    path = Path(run.folder) / RANKS_FILE
    if run.ranks_sha256 and path.is_file() and sha256_file(path) != run.ranks_sha256:
        raise InputError(f"{path}: changed since it was written; repeat the run")
    return read_ranks(path)


def group_runs(results: Iterable[RunResult]) -> list[list[RunResult]]:
    """Group runs that differ only in their seeds, in order of appearance.

    Of several runs with one seed the last one is kept.
    """
    groups: dict[str, dict[int, RunResult]] = {}
    for result in results:
        groups.setdefault(_identity(result), {})[result.seed] = result
    return [list(group.values()) for group in groups.values()]


def _identity(run: RunResult) -> str:
    """Return a text that is equal for runs that differ only in their seeds."""
    stopped = run.folder.endswith(STOPPED_TRIAL)
    identity = [run.model, run.dataset, shared_settings(run), run.data_sha256, stopped]
    return json.dumps(identity, sort_keys=True, default=str)


def shared_settings(run: RunResult) -> dict[str, Any]:
    """Return the settings in which a run equals its runs with other seeds.

    With `pretrain_epochs`, the model to start from is the run's own, in the run's folder.
    """
    keys = run.config["keys"]
    own = PER_RUN_KEYS | {"pre_model_path"} if keys.get("pretrain_epochs") else PER_RUN_KEYS
    return {key: value for key, value in keys.items() if key not in own}


def differing_settings(runs: Sequence[RunResult], most: int | None = None) -> list[str]:
    """Describe each run by the settings in which the runs differ: `n_layers=2 score=cosine`.

    Settings that some runs lack, as those of older versions may, are shown only if nothing else
    differs. Runs with the same settings are described by the hashes of their data:
    `toy.inter=1a2b3c4d`. `most` limits the number of settings.
    """
    settings = [flat_settings(run) for run in runs]
    data = [{name: digest[:8] for name, digest in run.data_sha256.items()} for run in runs]
    every = dict.fromkeys(key for own in settings for key in own)
    padded = [{key: own.get(key, "unset") for key in every} for own in settings]
    named = dict.fromkeys(name for own in data for name in own)
    all_data = [{name: own.get(name, "none") for name in named} for own in data]
    for flat in (settings, all_data, padded):
        if keys := _differing(flat):
            break
    more = " ..." if len(keys) > len(keys[:most]) else ""
    return [" ".join(f"{key}={_short(own[key])}" for key in keys[:most]) + more for own in flat]


def _differing(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that all mappings have, with values that are not all equal."""
    common = [key for key in flat[0] if all(key in other for other in flat)]
    return [key for key in common if any(other[key] != flat[0][key] for other in flat)]


def flat_settings(run: RunResult) -> dict[str, Any]:
    """Return the `shared_settings` of a run, with nested keys as `mask_ratios.span`."""
    flat: dict[str, Any] = {}
    for key, value in sorted(shared_settings(run).items()):
        if isinstance(value, Mapping):
            flat |= {f"{key}.{inner}": each for inner, each in value.items()}
        else:
            flat[key] = value
    return flat


def _short(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return Path(text).name if "/" in text else text


def choose(results: Sequence[RunResult], which: str) -> list[RunResult]:
    """Return the runs of all seeds with the settings of `which`, or raise an `InputError`.

    `which` is `last`, the eight digits at the end of a run's folder, or that folder. Of several
    runs with one seed the named one is kept.
    """
    if which == "last" and results:
        wanted = results[-1]
    else:
        path = Path(which).resolve()
        found = [run for run in results if run.hash == which or Path(run.folder).resolve() == path]
        if not found:
            known = preview(sorted({run.hash for run in results}))
            raise InputError(f"{which}: no such run; use last, a run's folder, or one of {known}")
        wanted = found[-1]
    identity = _identity(wanted)
    alike = [run for run in results if _identity(run) == identity]
    (group,) = group_runs([*alike, wanted])
    return group


def metric_title(name: str) -> str:
    """Return a metric's name as papers write it, or as it was registered: `hit@10` -> `HR@10`."""
    prefix = UNSEEN if name.lower().startswith(UNSEEN) else ""
    kind, at, k = name[len(prefix) :].partition("@")
    return f"{prefix}{TITLES.get(kind.lower(), kind)}{at}{k}"


def short(value: float) -> str:
    """Format with four decimals, without the leading zero."""
    return without_zero(f"{value:.4f}")


def without_zero(text: str) -> str:
    """Remove the zero before the point of a number between -1 and 1."""
    return re.sub(r"^([+-]?)0\.", r"\1.", text)
