"""Trainer of models whose training starts from the weights of a first stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_qbert.common.errors import InputError
from recbole_qbert.training.checkpoint import load_checkpoint
from recbole_qbert.training.trainer import ResumableTrainer


class FirstStageTrainer(ResumableTrainer):
    """`ResumableTrainer` that first calls `model.start_from` with the weights of `pre_model_path`.

    `pre_model_path` is a checkpoint of the same model. `pretrained_on` is the list of the data set
    that it was trained on; it is empty without the path, or if the first stage is part of the run
    (`pretrain_epochs`).

    Raises:
        InputError: the file is no checkpoint of this model, or `start_from` refuses it.
    """

    def __init__(self, config: Any, model: Any, inputs: Mapping[str, str] | None = None):
        path = config["pre_model_path"]
        self.pretrained_on: list[str] = []
        if path and config["train_stage"] != "pretrain":
            state = load_checkpoint(path, config["device"])
            source = state["config"]
            if source["model"] != config["model"]:
                raise InputError(
                    f"pre_model_path: {path} is a {source['model']}; give a checkpoint of "
                    f"{config['model']}"
                )
            model.start_from(state["state_dict"])
            if not config["pretrain_epochs"]:
                self.pretrained_on = [str(source["dataset"])]
        super().__init__(config, model, inputs)
