"""The files that a run reads, by their content: with its settings they say which run it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recbole.config import Config
from recbole.utils import get_model

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import sha256_file, sidecar_path
from recbole_qbert.data.dataset import SEMANTIC_ID_FIELD, semantic_id_path
from recbole_qbert.data.domain import DatasetPaths

# Files that a data set of RecBole's may have beside its interactions.
ITEM_AND_USER = ("item", "user")


def inputs_of(config: Config, domains: Sequence[DatasetPaths] = ()) -> dict[str, str]:
    """Hex SHA-256 of every file that a run reads, by name; see `input_files`."""
    return {name: sha256_file(path) for name, path in input_files(config, domains).items()}


def input_files(config: Config, domains: Sequence[DatasetPaths] = ()) -> dict[str, Path]:
    """Every file that a run reads, by name.

    These are the data set's atomic files, the semantic IDs if the model reads them, the item
    vectors, and the model that it starts from; of all of them the sidecars too. Names of the last
    two are headed by the key that gives their path. A file that is not there has no entry.

    Args:
        config: of the run.
        domains: the data sets of a pretraining, in place of the config's own.
    """
    files = _corpus_files(domains) if domains else _run_files(config)
    return {name: path for name, path in files if path.is_file()}


def changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of the inputs that are not the same in both."""
    return sorted(name for name in {**before, **now} if before.get(name) != now.get(name))


def check_inputs(
    where: str | Path, before: Mapping[str, str], now: Mapping[str, str], remedy: str
) -> None:
    """Refuse what was made from other files than those that are there now.

    Args:
        where: what was made.
        before: inputs of what was made.
        now: inputs that are there.
        remedy: what the user can do.

    Raises:
        InputError: they differ; names the files.
    """
    if changed := changed_files(before, now):
        raise InputError(f"{where}: {', '.join(changed)} changed since it was made; {remedy}")


def reads_semantic_ids(config: Config) -> bool | None:
    """Whether semantic IDs move the result of a config's model; None if the model does not say.

    RecBole's own models read them only as an item feature that a setting names. Any other class may
    say so by a static method of this name.
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
    """Name and path of each file, whether or not it is there."""
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
    # The first stage of S3Rec is a part of the run itself.
    if config["pre_model_path"] and not config["pretrain_epochs"]:
        source = Path(config["pre_model_path"])
        for path in sorted(source.iterdir()) if source.is_dir() else [source]:
            yield from _named(path, "pre_model_path/")


def _named(path: Path, head: str = "") -> Iterator[tuple[str, Path]]:
    yield head + path.name, path


def _with_sidecar(path: Path, head: str = "") -> Iterator[tuple[str, Path]]:
    yield from _named(path, head)
    yield from _named(sidecar_path(path), head)
