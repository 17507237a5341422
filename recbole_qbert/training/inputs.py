"""Input files of a run and their hashes; with the settings they identify a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recbole.config import Config
from recbole.utils import get_model

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import sidecar_path
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.dataset import SEMANTIC_ID_FIELD, semantic_id_path, vector_files
from recbole_qbert.data.domain import DatasetPaths


def inputs_of(config: Config, domains: Sequence[DatasetPaths] = ()) -> dict[str, str]:
    """Return the hex SHA-256 of every file that a run reads, by name; see `input_files`."""
    return {name: sha256_file(path) for name, path in input_files(config, domains).items()}


def input_files(config: Config, domains: Sequence[DatasetPaths] = ()) -> dict[str, Path]:
    """Return every existing file that a run, or a pretraining on `domains`, reads, by name.

    These are the data set's atomic files, the semantic IDs if the model reads them, the item
    vectors, the pretrained model, and the sidecars of these. The names of item vectors and of the
    pretrained model are prefixed by the key that gives their path.
    """
    files = dict(_run_files(config)) if not domains else {}
    tables = config["item_vectors"] if domains and config["use_content"] else ()
    for domain in domains:
        inter = domain.file("inter")
        files[inter.name] = inter
        for suffix in ("semid", *(f"{name}.npz" for name in tables)):
            files |= dict(_with_sidecar(domain.file(suffix)))
    return {name: path for name, path in files.items() if path.is_file()}


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the sorted names of the inputs that differ."""
    return sorted(name for name in {**before, **now} if before.get(name) != now.get(name))


def check_inputs(
    where: str | Path, before: Mapping[str, str], now: Mapping[str, str], remedy: str
) -> None:
    """Raise an `InputError` that names the inputs of the artifact `where` that changed."""
    if changed := changed_files(before, now):
        raise InputError(f"{where}: {', '.join(changed)} changed since it was made; {remedy}")


def reads_semantic_ids(config: Config) -> bool | None:
    """Return whether semantic IDs affect the config's model; None if the model does not tell.

    RecBole's own models read them only as an item feature that a setting names. Any other class can
    declare it by a static method of this name.
    """
    model = get_model(config["model"])
    if model.__module__.startswith("recbole."):
        values = config.final_config_dict.values()
        return any(
            value == SEMANTIC_ID_FIELD
            or (isinstance(value, (list, tuple)) and SEMANTIC_ID_FIELD in value)
            for value in values
        )
    says = getattr(model, "reads_semantic_ids", None)
    return None if says is None else bool(says(config))


def _run_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each file, whether or not it exists."""
    folder, name = Path(config["data_path"]), config["dataset"]
    suffixes = [f"{part}.inter" for part in config["benchmark_filename"] or ()] or ["inter"]
    suffixes += ["item", "user", *(config["load_col"] or ())]
    suffixes += config["additional_feat_suffix"] or ()
    for suffix in suffixes:
        if suffix != "inter" or not config["benchmark_filename"]:
            path = folder / f"{name}.{suffix}"
            yield path.name, path
    ids = semantic_id_path(config)
    if ids is not None and reads_semantic_ids(config) is not False:
        yield from _with_sidecar(ids)
    for feature, path in vector_files(config).items():
        yield from _with_sidecar(path, f"item_vectors.{feature}/")
    # With `pretrain_epochs`, S3Rec's pretraining is part of the run, so its model is no input.
    if config["pre_model_path"] and not config["pretrain_epochs"]:
        source = Path(config["pre_model_path"])
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            yield f"pre_model_path/{path.name}", path


def _with_sidecar(path: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    for each in (path, sidecar_path(path)):
        yield prefix + each.name, each
