"""Identity of a run: its settings, its input files and its folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from recbole.config import Config

from recbole_qbert.evaluation.ranking import RANKS_FILE
from recbole_qbert.evaluation.results import PATH_KEYS, RunResult, read_results
from recbole_qbert.training.checkpoint import config_to_json, load_checkpoint
from recbole_qbert.training.inputs import changed_files, check_inputs, inputs_of

LOCK = "lock"  # lock file in the folder of a run, a pretraining, a sweep or a trial
START_ANEW = "start the run again without --resume=True, or give another checkpoint_dir"


def run_hash(config: Config) -> str:
    """Return eight hex digits that identify a run's settings and name its folder."""
    keys = config_to_json(config)["keys"]
    identity = {key: value for key, value in keys.items() if key not in PATH_KEYS}
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_folder(config: Config) -> Path:
    """Return the folder of a run, named by model, seed and a hash of its settings."""
    name = f"{config['model']}-seed{config['seed']}-{run_hash(config)}"
    return Path(config["checkpoint_dir"]) / config["dataset"] / name


def last_state_file(folder: Path, name: str) -> Path:
    """Return the file that a run resumes from; `name` is that of the model or run."""
    return folder / f"{name}.last.safetensors"


def finished_run(config: Config, folder: Path | None = None) -> RunResult | None:
    """Return the latest result with the same settings and inputs, or None.

    `folder` is that of the run, by default its `run_folder`.
    """
    result = latest_result(Path(config["checkpoint_dir"]), folder or run_folder(config))
    return result if result is not None and result.data_sha256 == inputs_of(config) else None


def latest_result(base: Path, folder: Path) -> RunResult | None:
    """Return the last result in `base` of a run's folder, or None.

    Paths are resolved before they are compared: `tune` writes absolute ones, `run` as given.
    """
    results = base / "results.jsonl"
    if not results.is_file():
        return None
    lines, wanted = reversed(read_results(results)), folder.resolve()
    return next((each for each in lines if Path(each.folder).resolve() == wanted), None)


def changed_inputs(config: Config) -> list[str]:
    """Return the inputs that changed since the run in the config's folder was finished or begun.

    Empty if there is no such run. An `InputError` says if the state to resume from is damaged.
    """
    now, folder = inputs_of(config), run_folder(config)
    result = latest_result(Path(config["checkpoint_dir"]), folder)
    if result is not None and result.data_sha256 == now:
        return []
    state = last_state_file(folder, config["model"])
    if state.is_file():
        return changed_files(load_checkpoint(state)["inputs"], now)
    if result is not None and (folder / RANKS_FILE).is_file():
        return changed_files(result.data_sha256, now)
    return []


def check_resumed(state: Path, inputs: Mapping[str, str]) -> None:
    """Raise an `InputError` if a state file is damaged or has other inputs than `inputs`."""
    if state.is_file():
        check_inputs(state, load_checkpoint(state)["inputs"], inputs, START_ANEW)
