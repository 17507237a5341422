"""One table: model name -> model, dataset and trainer class.

`register` also makes RecBole's own look-ups by name find the classes, so that `run_recbole`,
`load_data_and_model` and `objective_function` work with a name of this table. RecBole looks for a
model in a module of its own package named like the model, and for `<Model>Dataset` and
`<Model>Trainer` as attributes of two of its packages (recbole/utils/utils.py,
recbole/data/utils.py). A third party adds a model by calling `register` before it runs.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import recbole.data.dataset
import recbole.trainer
from recbole.data.dataset import SequentialDataset
from recbole.utils import ModelType, get_model

from recbole_qbert.data.dataset import SemanticIDDataset
from recbole_qbert.errors import InputError, did_you_mean
from recbole_qbert.model.bert4rec_fixed import BERT4RecFixed
from recbole_qbert.model.bigram import BigramChain
from recbole_qbert.model.popularity import Popularity
from recbole_qbert.model.qbert4rec import IDBERT4Rec, QBERT4Rec
from recbole_qbert.trainer import SafeTrainer, for_shared_folder


class Entry(NamedTuple):
    """What belongs to a model name."""

    model: type
    dataset: type[SequentialDataset] = SemanticIDDataset
    trainer: type[SafeTrainer] = SafeTrainer
    defaults: Path | None = None  # YAML with the model's keys; None: properties/model/<name>.yaml


MODEL_TABLE: dict[str, Entry] = {}


def register(
    model: type,
    dataset: type[SequentialDataset] = SemanticIDDataset,
    trainer: type[SafeTrainer] = SafeTrainer,
    defaults: str | Path | None = None,
) -> type:
    """Make a model known by its class name, to this package and to RecBole.

    Raises:
        InputError: RecBole, or somebody else here, already has a model of that name.
    """
    name = model.__name__
    if name in MODEL_TABLE and MODEL_TABLE[name].model is not model:
        raise InputError(f"model {name}: this name is already registered; choose another")
    if name not in MODEL_TABLE and _recbole_model(name) is not None:
        raise InputError(f"model {name}: RecBole has a model of that name; choose another")
    if defaults is not None and not Path(defaults).is_file():
        raise InputError(f"model {name}: {defaults}: no such file of defaults")
    entry = Entry(model, dataset, trainer, Path(defaults) if defaults else None)
    MODEL_TABLE[name] = entry
    module_name = f"recbole.model.sequential_recommender.{name.lower()}"
    module = types.ModuleType(module_name, f"Registered by recbole_qbert: {name}.")
    module.__spec__ = importlib.machinery.ModuleSpec(module_name, None)  # RecBole asks find_spec
    setattr(module, name, model)
    sys.modules[module_name] = module
    setattr(recbole.data.dataset, f"{name}Dataset", dataset)
    setattr(recbole.trainer, f"{name}Trainer", for_shared_folder(trainer))
    return model


def model_entry(name: str) -> Entry:
    """The entry of a registered model, or one for a sequential model of RecBole's.

    RecBole's models get our dataset and trainer too, so that all are compared under one protocol.

    Raises:
        InputError: no such model, or not a sequential one.
    """
    if name in MODEL_TABLE:
        return MODEL_TABLE[name]
    model = _recbole_model(name)
    if model is None:
        known = [*MODEL_TABLE, "SASRec", "BERT4Rec", "GRU4Rec", "FDSA", "S3Rec"]
        raise InputError(
            f"model {name}: neither here ({', '.join(MODEL_TABLE)}) nor in RecBole"
            f"{did_you_mean(name, known)}"
        )
    if model.type != ModelType.SEQUENTIAL:
        raise InputError(
            f"model {name}: not a sequential model, so it has no place in this protocol"
        )
    return Entry(model)


def build_model(config: Any, dataset: Any) -> Any:
    """The model of a config.

    Raises:
        InputError: RecBole's class cannot be built from these settings or this data set; it says so
            with whatever exception comes first.
    """
    model = model_entry(config["model"]).model
    try:
        return model(config, dataset)
    except (
        AssertionError,
        AttributeError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        if not model.__module__.startswith("recbole."):
            raise
        said = " ".join(str(error).split())
        raise InputError(
            f"model {config['model']} on {config['dataset']}: RecBole cannot build it from these "
            f"settings ({type(error).__name__}: {said}); see its keys in RecBole's documentation, "
            "and the columns that load_col reads"
        ) from error


def _recbole_model(name: str) -> Any:
    try:
        return get_model(name)
    except (ValueError, AttributeError, ImportError):
        return None


def register_own_models() -> None:
    """Everything this package brings; called once when it is imported."""
    for model in (QBERT4Rec, IDBERT4Rec, BERT4RecFixed, Popularity, BigramChain):
        register(model)
