"""Whether semantic IDs were made with interactions that a run evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.config import Config

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.data.embeddings import BBQ, FUSED, IDENTITY
from recbole_qbert.data.semid import SIDECAR, read_sidecar

LEAVE_ONE_OUT = "leave_one_out"  # a value of `tokenize`'s split and of `prepare split`'s method


def check_id_split(config: Config, path: Path) -> None:
    """Refuse semantic IDs of `tokenize` that learned from targets of this run's split.

    Files without a sidecar, or from another source, are not checked.

    Raises:
        InputError: `tokenize` and the run take different interactions as training.
    """
    source = (read_sidecar(path, SIDECAR) or {}).get("source", {})
    settings = source.get("settings", {})
    if source.get("method") != "tokenize" or not learns_from_interactions(settings):
        return
    dataset = config["dataset"]
    files = Path(config["data_path"], f"{dataset}.split.json")
    by_files = settings.get("split", LEAVE_ONE_OUT) == "files"
    method = read_json(files).get("method") if files.is_file() else None
    if method == LEAVE_ONE_OUT or by_files == bool(config["benchmark_filename"]):
        return
    made, split = ("the split files", LEAVE_ONE_OUT) if by_files else ("leave-one-out", "files")
    raise InputError(
        f"{path}: made with the training interactions of {made}, of which some are valid or test "
        f"targets of this run; run `recbole-qbert tokenize --dataset={dataset} --split={split}`"
    )


def learns_from_interactions(settings: Mapping[str, Any]) -> bool:
    """Return whether IDs of these settings of `tokenize` depend on interactions."""
    streams = settings.get("streams", ())
    fused = FUSED in streams and settings.get("fusion") == "next_item"
    queries = settings.get("id_query") == "interactions" and {FUSED, BBQ} & {*streams}
    fitted = settings.get("fit_items") == "training"
    return bool({IDENTITY, BBQ} & {*streams} or fused or queries or fitted)
