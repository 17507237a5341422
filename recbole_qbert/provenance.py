"""What makes a run that run and no other: its settings, its data, its folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from recbole.config import Config

from recbole_qbert.checkpoint import config_to_json
from recbole_qbert.errors import InputError
from recbole_qbert.evaluation.results import PLACES, RunResult, read_results
from recbole_qbert.files import read_json, sha256_file

DATA_FILE = "data.json"  # in a run's folder: SHA-256 of the files that it reads


def run_hash(config: Config) -> str:
    """Eight hex digits that name a run's settings, so that no two runs share a folder."""
    keys = config_to_json(config)["keys"]
    identity = {key: value for key, value in keys.items() if key not in PLACES}
    text = json.dumps(identity, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def run_folder(config: Config) -> Path:
    """Where a run's files go: named by model, seed and a hash of its settings."""
    name = f"{config['model']}-seed{config['seed']}-{run_hash(config)}"
    return Path(config["checkpoint_dir"]) / config["dataset"] / name


def finished_run(config: Config) -> RunResult | None:
    """The latest result of the very same run, where it is done already."""
    return latest_result(Path(config["checkpoint_dir"]), run_folder(config))


def latest_result(base: Path, folder: Path) -> RunResult | None:
    """The last line about that folder, which `tune` writes absolute and `run` as it is given."""
    results = base / "results.jsonl"
    if not results.is_file():
        return None
    lines, wanted = reversed(read_results(results)), folder.resolve()
    return next((each for each in lines if Path(each.folder).resolve() == wanted), None)


def data_hashes(dataset: Any) -> dict[str, str]:
    """SHA-256 of the files the run read."""
    folder = Path(dataset.dataset_path)
    parts = [f"{part}.inter" for part in dataset.benchmark_filename_list or []] or ["inter"]
    paths = [folder / f"{dataset.dataset_name}.{suffix}" for suffix in (*parts, "item")]
    paths.append(dataset.semantic_id_path)
    return {path.name: sha256_file(path) for path in paths if path is not None and path.is_file()}


def check_resumed_data(folder: Path, hashes: dict[str, str]) -> None:
    """Refuse to go on with a run whose data are not those that it was begun with.

    Raises:
        InputError: names what has changed.
    """
    file = folder / DATA_FILE
    before = read_json(file) if file.is_file() else hashes
    changed = sorted(name for name in before | hashes if before.get(name) != hashes.get(name))
    if changed:
        raise InputError(
            f"{folder}: begun with other data ({', '.join(changed)} changed since); start the "
            "run again without --resume=True, or give another checkpoint_dir"
        )
