"""Checks of a run before its training: settings, files, and that its model can be built."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from pathlib import Path

from recbole.config import Config

from recbole_qbert.common.errors import InputError, error_context
from recbole_qbert.common.files import check_writable
from recbole_qbert.common.process import quiet_recbole
from recbole_qbert.config.build import FINETUNE, PRETRAIN
from recbole_qbert.data.cold import cold_settings
from recbole_qbert.data.dataset import SemanticIDDataset, semantic_id_path, vector_files
from recbole_qbert.experiments.split_checks import check_id_split, check_source_split
from recbole_qbert.experiments.splits import load_splits
from recbole_qbert.models.layers.content import check_vector_names, vector_names
from recbole_qbert.pretraining.transfer import check_transfer, read_source
from recbole_qbert.registry import build_model, first_stage_state, model_entry
from recbole_qbert.training.inputs import reads_semantic_ids
from recbole_qbert.training.run_identity import run_folder


def check_run(config: Config, made: Container[str] = ()) -> None:
    """Check the data set class, output folders, training stage and pretrained weights of a run.

    Args:
        config: settings of the run.
        made: `semantic_id_file` or `pre_model_path`, if that file is made before the run.

    Raises:
        InputError: the run cannot be made with these settings.
    """
    entry = model_entry(config["model"])
    if not issubclass(entry.dataset, SemanticIDDataset):
        raise InputError(
            f"model {config['model']}: its data set {entry.dataset.__name__} is not derived from "
            "SemanticIDDataset; derive it, or use RecBole's run_recbole"
        )
    with error_context("checkpoint_dir"):
        for folder in (config["checkpoint_dir"], run_folder(config)):
            check_writable(folder)
    starts = config["pre_model_path"] and "pre_model_path" not in made
    if starts:
        _check_first_stage(config)
    if not entry.takes_pretrained:
        return
    if config["train_stage"] != FINETUNE:
        raise InputError(
            f"train_stage: {config['train_stage']!r}: `run` fine-tunes; pretrain with "
            "`recbole-qbert pretrain --datasets=A,B`"
        )
    if starts:
        with error_context("pre_model_path"):
            source = read_source(config["pre_model_path"])
        check_source_split(config, source.domains, source.settings)
        check_transfer(config, source.settings)


def _check_first_stage(config: Config) -> None:
    """Check the checkpoint of a first stage that `pre_model_path` names.

    Raises:
        InputError: it would be ignored, it learned from targets of this run, or it reads other
            item vectors.
    """
    entry = model_entry(config["model"])
    if entry.first_stage and config["pretrain_epochs"]:
        raise InputError(
            "pre_model_path: has no effect with pretrain_epochs, which trains a first stage anew; "
            "set pretrain_epochs: 0, or leave it out"
        )
    if hasattr(entry.model, "load_first_stage") and config["train_stage"] == PRETRAIN:
        raise InputError("pre_model_path: has no effect with train_stage: pretrain; leave it out")
    if hasattr(entry.model, "load_first_stage") and (state := first_stage_state(config)):
        source = state["config"]
        check_source_split(config, [source["dataset"]], source["keys"])
        if getattr(entry.model, "needs_item_vectors", False):
            check_vector_names(config, source["keys"])


def check_files(config: Config, made: Container[str] = ()) -> None:
    """Check that the interactions, semantic IDs and item vectors of a run exist.

    Raises:
        InputError: names the missing file or setting, and the command that makes semantic IDs.
    """
    if getattr(model_entry(config["model"]).model, "needs_item_vectors", False):
        vector_names(config)
    folder, dataset = Path(config["data_path"]), config["dataset"]
    if not folder.is_dir():
        return  # `load_dataset` reports it
    paths = [] if config["benchmark_filename"] else [folder / f"{dataset}.inter"]
    vectors = [*vector_files(config).values()]
    paths += vectors
    reads_ids = config["semantic_id_file"] or reads_semantic_ids(config)
    cold = cold_settings(config)
    if cold and cold.changes_targets and reads_ids and not config["semantic_id_file"]:
        raise InputError(
            f"cold_items: {dataset}.semid may be made with the interactions of the held-out items; "
            "give the rows of a benchmark `ids: {}`, or name a file with semantic_id_file"
        )
    ids = None
    if reads_ids and "semantic_id_file" not in made:
        ids = semantic_id_path(config) or folder / f"{dataset}.semid"
        paths.append(ids)
    for path in paths:
        if not path.is_file():
            remedy = "check data_path and the settings"
            if path in vectors:
                remedy = "make it with `recbole-qbert embed`, or correct item_vectors"
            if path == ids:
                remedy = (
                    f"run `recbole-qbert tokenize --dataset={dataset}`, or set semantic_id_file"
                )
            raise InputError(f"{path}: no such file; {config['model']} reads it; {remedy}")
    if ids is not None:
        check_id_split(config, ids)


def check_models(configs: Sequence[Config]) -> None:
    """Read the data of all models and build them, to find errors before hours of training.

    The first model is not built here, because it is built and trained next.

    Raises:
        InputError: see `check_files`, `load_splits` and `build_model`.
    """
    quiet_recbole()
    for number, config in enumerate(configs):
        check_files(config)
        if number:
            with error_context(config["model"]):
                check_model(config)


def check_model(config: Config) -> None:
    """Read the data of a run and build its model, to find errors; the config stays as it is."""
    trial = copy.copy(config)  # reading the data replaces `auto` by numbers
    trial.final_config_dict = dict(config.final_config_dict)
    build_model(trial, load_splits(trial).train._dataset)
