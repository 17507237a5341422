"""Whether semantic IDs or pretrained weights were made with interactions that a run evaluates."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from recbole.config import Config

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import read_json
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.data.cold import cold_settings
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import BBQ, FUSED, IDENTITY
from recbole_qbert.data.loading import SPLIT_KEYS
from recbole_qbert.data.semid import tokenized_from
from recbole_qbert.tokenizer.fusion.cooccurrence import inter_suffix

LEAVE_ONE_OUT = "leave_one_out"  # a value of `tokenize`'s split and of `prepare split`'s method


def check_id_split(config: Config, path: Path) -> None:
    """Refuse semantic IDs of `tokenize` that learned from targets of this run's split.

    Joined IDs are checked as the files from which they were joined. Files without a sidecar, or
    from another source, are not checked.

    Raises:
        InputError: `tokenize` and the run take different interactions as training.
    """
    for source in _learned(path):
        _check_source(config, path, source)


def _check_source(config: Config, path: Path, source: Mapping[str, Any]) -> None:
    dataset, cold = config["dataset"], cold_settings(config)
    by_files = source["settings"].get("split", LEAVE_ONE_OUT) == "files"
    learned_from = source["interactions"].get(f"{dataset}.inter")
    if cold is not None and cold.changes_targets:
        # A row of a benchmark has IDs of other interactions, those that are left.
        if _reads_same(config, source) is not False:
            raise InputError(
                f"{path}: made with the interactions of items that cold_items holds out; give the "
                "row of a benchmark `ids: {}`"
            )
        return
    if by_files and config["benchmark_filename"] and _reads_same(config, source) is False:
        raise InputError(
            f"{path}: made from another {dataset}.train.inter, which may have had targets of this "
            f"one; run `recbole-qbert tokenize --dataset={dataset} --split=files`"
        )
    if by_files == bool(config["benchmark_filename"]):
        return
    if _split_method(config, learned_from) == LEAVE_ONE_OUT:
        return
    made, split = ("the split files", LEAVE_ONE_OUT) if by_files else ("leave-one-out", "files")
    raise InputError(
        f"{path}: made with the training interactions of {made}, of which some are valid or test "
        f"targets of this run; run `recbole-qbert tokenize --dataset={dataset} --split={split}`"
    )


def check_source_split(
    config: Config, datasets: Collection[str], source: Mapping[str, Any]
) -> None:
    """Refuse pretrained weights that learned from targets of this run's split.

    Args:
        config: settings of the run.
        datasets: names of the data sets that the weights were trained on.
        source: settings of that training.

    Raises:
        InputError: it trained on the run's data set, and the two take different interactions as
            training.
    """
    dataset, cold = config["dataset"], cold_settings(config)
    if dataset not in datasets:
        return
    changed = [key for key in SPLIT_KEYS if source[key] != config[key]]
    if changed == ["benchmark_filename"] and _split_method(config) == LEAVE_ONE_OUT:
        changed = []  # the files have the interactions that leave-one-out takes
    if cold is not None and cold.changes_targets and cold_settings(source) != cold:
        changed.append("cold_items")
    if changed:
        raise InputError(
            f"pre_model_path: was trained on {dataset} with another {', '.join(changed)}, so that "
            "it may have learned from targets of this run; give the same, or pretrain on other "
            "data sets"
        )


def check_filtered(config: Config, path: Path, n_left_out: int) -> None:
    """Refuse semantic IDs that learned from interactions, if RecBole's filters left some out.

    The last interactions of a user are then others than those that `tokenize` left out.

    Args:
        config: settings of the run.
        path: the `.semid` file.
        n_left_out: number of interactions that the filters left out.
    """
    if n_left_out and not config["benchmark_filename"] and _learned(path):
        raise InputError(
            f"{path}: made with interactions of which some are valid or test targets of this run, "
            f"because RecBole's filters leave out {counted(n_left_out, 'interaction')}; filter the "
            "data before `tokenize`, or use --streams=content"
        )


def changed_interactions(config: Config, path: Path) -> str:
    """Return a remark if semantic IDs learned from other interactions than the file has now."""
    changed = any(_reads_same(config, source) is False for source in _learned(path))
    if cold_settings(config) or not changed:
        return ""
    return "; the interactions changed since: if they were replaced, run `tokenize` again"


def _split_method(config: Config, learned_from: str | None = None) -> Any:
    """Return the method of the data set's split files, if `prepare split` has made them.

    None if they were made from another `.inter` file than that of the hash `learned_from`, by
    default the data set's present one.
    """
    domain = DatasetPaths(config["dataset"], Path(config["data_path"]))
    path, inter = domain.file("split.json"), domain.file("inter")
    content = read_json(path) if path.is_file() else {}
    if learned_from is None and inter.is_file():
        learned_from = sha256_file(inter)
    made_from = content.get("from", {}).get(inter.name)
    same = made_from is None or learned_from is None or made_from == learned_from
    return content.get("method") if same else None


def _learned(path: Path) -> list[dict[str, Any]]:
    """Return the sources of a file's IDs that learned from interactions."""
    return [each for each in tokenized_from(path) if learns_from_interactions(each["settings"])]


def _reads_same(config: Config, source: Mapping[str, Any]) -> bool | None:
    """Return whether the interactions are those that the IDs learned from; None if not known."""
    name = f"{config['dataset']}.{inter_suffix(source['settings'].get('split', LEAVE_ONE_OUT))}"
    recorded = source["interactions"].get(name)
    file = Path(config["data_path"], name)
    return recorded == sha256_file(file) if recorded and file.is_file() else None


def learns_from_interactions(settings: Mapping[str, Any]) -> bool:
    """Return whether IDs of these settings of `tokenize` depend on interactions."""
    streams = settings.get("streams", ())
    fused = FUSED in streams and settings.get("fusion") == "next_item"
    queries = settings.get("id_query") == "interactions" and {FUSED, BBQ} & {*streams}
    fitted = settings.get("fit_items") == "training"
    return bool({IDENTITY, BBQ} & {*streams} or fused or queries or fitted)
