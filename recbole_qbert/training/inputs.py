"""Input files of a run and their hashes; with the settings they identify a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recbole.config import Config
from recbole.utils import get_model

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import sidecar_path
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.data.dataset import SEMANTIC_ID_FIELD, semantic_id_path
from recbole_qbert.data.domain import DatasetPaths

# Suffixes of optional files of a RecBole data set.
ITEM_AND_USER = ("item", "user")


def inputs_of(config: Config, domains: Sequence[DatasetPaths] = ()) -> dict[str, str]:
    """Return the hex SHA-256 of every file that a run reads, by name; see `input_files`."""
    return {name: sha256_file(path) for name, path in input_files(config, domains).items()}


def input_files(config: Config, domains: Sequence[DatasetPaths] = ()) -> dict[str, Path]:
    """Return every existing file that a run reads, by name.

    These are the data set's atomic files, the semantic IDs if the model reads them, the item
    vectors, the pretrained model, and the sidecars of these. The names of item vectors and of the
    pretrained model are prefixed by the key that gives their path.

    Args:
        config: config of the run.
        domains: data sets of a pretraining run, in place of the config's own.
    """
    files = _corpus_files(domains) if domains else _run_files(config)
    return {name: path for name, path in files if path.is_file()}


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the sorted names of the inputs that differ."""
    return sorted(name for name in {**before, **now} if before.get(name) != now.get(name))


def check_inputs(
    where: str | Path, before: Mapping[str, str], now: Mapping[str, str], remedy: str
) -> None:
    """Check that input files are unchanged since an artifact was made.

    Args:
        where: the artifact, for the message.
        before: inputs of the artifact.
        now: current inputs.
        remedy: what the user can do.

    Raises:
        InputError: they differ; names the files.
    """
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


def _corpus_files(domains: Sequence[DatasetPaths]) -> Iterator[tuple[str, Path]]:
    for domain in domains:
        yield from _named(domain.file("inter"))
        yield from _with_sidecar(domain.file("semid"))


def _run_files(config: Config) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each file, whether or not it exists."""
    folder, name = Path(config["data_path"]), config["dataset"]
    parts = [f"{part}.inter" for part in config["benchmark_filename"] or ()] or ["inter"]
    others = [
        *ITEM_AND_USER,
        *(config["load_col"] or ()),
        *(config["additional_feat_suffix"] or ()),
    ]
    for suffix in (*parts, *(each for each in others if each != "inter")):
        yield from _named(folder / f"{name}.{suffix}")
    ids = semantic_id_path(config)
    if ids is not None and reads_semantic_ids(config) is not False:
        yield from _with_sidecar(ids)
    for feature, path in (config["item_vectors"] or {}).items():
        yield from _with_sidecar(Path(path), f"item_vectors.{feature}/")
    # With `pretrain_epochs`, S3Rec's pretraining is part of the run, so its model is no input.
    if config["pre_model_path"] and not config["pretrain_epochs"]:
        source = Path(config["pre_model_path"])
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            yield from _named(path, "pre_model_path/")


def _named(path: Path, head: str = "") -> Iterator[tuple[str, Path]]:
    yield head + path.name, path


def _with_sidecar(path: Path, head: str = "") -> Iterator[tuple[str, Path]]:
    yield from _named(path, head)
    yield from _named(sidecar_path(path), head)
