"""What makes a run that run and no other: its settings, its inputs, its folder."""

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

LOCK = "lock"  # in the folder of a run, a pretraining, a sweep or a trial: who works there
START_ANEW = "start the run again without --resume=True, or give another checkpoint_dir"


def run_hash(config: Config) -> str:
    """Eight hex digits that name a run's settings, so that no two runs share a folder."""
    keys = config_to_json(config)["keys"]
    identity = {key: value for key, value in keys.items() if key not in PATH_KEYS}
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_folder(config: Config) -> Path:
    """Where a run's files go: named by model, seed and a hash of its settings."""
    name = f"{config['model']}-seed{config['seed']}-{run_hash(config)}"
    return Path(config["checkpoint_dir"]) / config["dataset"] / name


def last_state_file(folder: Path, name: str) -> Path:
    """What a run goes on from; `name` is the model's, or that of one of several in a folder."""
    return folder / f"{name}.last.safetensors"


def finished_run(config: Config) -> RunResult | None:
    """The latest result of the very same run on the very same inputs, where it is done already."""
    result = latest_result(Path(config["checkpoint_dir"]), run_folder(config))
    return result if result is not None and result.data_sha256 == inputs_of(config) else None


def latest_result(base: Path, folder: Path) -> RunResult | None:
    """The last line about that folder, which `tune` writes absolute and `run` as it is given."""
    results = base / "results.jsonl"
    if not results.is_file():
        return None
    lines, wanted = reversed(read_results(results)), folder.resolve()
    return next((each for each in lines if Path(each.folder).resolve() == wanted), None)


def changed_inputs(config: Config) -> list[str]:
    """Names of the inputs that changed since the run in the config's folder was finished or begun;
    none where no such run is there.

    Raises:
        InputError: the state that it would go on from is damaged.
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
    """Refuse to go on from a state file, if it is there, that is of other inputs.

    Raises:
        InputError: names the inputs that changed, or the file if it is damaged.
    """
    if state.is_file():
        check_inputs(state, load_checkpoint(state)["inputs"], inputs, START_ANEW)
