"""First stage of a model whose registry entry has one, as part of a run."""

from __future__ import annotations

from pathlib import Path

from recbole.config import Config
from recbole.data import data_preparation
from recbole.utils import init_seed
from rich.console import Console

from recbole_qbert.common.output import counted
from recbole_qbert.common.process_group import barrier
from recbole_qbert.config.build import PRETRAIN
from recbole_qbert.evaluation.results import UNSTORED_KEYS
from recbole_qbert.experiments.splits import load_dataset
from recbole_qbert.registry import build_model, model_entry
from recbole_qbert.training.checkpoint import config_from_json, config_to_json


def run_first_stage(config: Config, console: Console) -> str:
    """Train a model's first stage for `pretrain_epochs` epochs, for `pre_model_path`.

    The model is built with `train_stage: pretrain` and trained on one row a user, the whole
    training sequence.

    Returns:
        The checkpoint of the last epoch.
    """
    name, folder = config["model"], Path(config["checkpoint_dir"]) / "pretrain"
    changes = {
        "train_stage": PRETRAIN,
        "epochs": config["pretrain_epochs"],
        "augmentation": "none",
        # There are far fewer rows than in the second stage, so smaller batches give more steps.
        "train_batch_size": config["pretrain_batch_size"] or config["train_batch_size"],
        "checkpoint_dir": str(folder),
        "use_gpu": config["use_gpu"],
        **{key: config[key] for key in UNSTORED_KEYS if key in config},
    }
    keys = config_to_json(config)["keys"] | changes
    first = config_from_json({"model": name, "dataset": config["dataset"], "keys": keys})
    entry = model_entry(name)
    train_data, _, _ = data_preparation(first, load_dataset(entry.dataset, first))
    console.print(f"  {name} pretraining, {counted(first['epochs'], 'epoch')}")
    init_seed(first["seed"], first["reproducibility"])
    model = build_model(first, train_data._dataset).to(first["device"])
    trainer = entry.trainer(first, model)
    trainer.fit(train_data, None, verbose=False, show_progress=first["show_progress"])
    barrier()  # the main process writes the file
    return str(trainer.saved_model_file)
