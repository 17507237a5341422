"""Model table: model name -> model, dataset and trainer class.

`register` adds a model to the table, and makes RecBole's own lookups by name find the classes, so
that `run_recbole`, `load_data_and_model` and `objective_function` accept the name. RecBole looks
for a model in a module of its own package named like the model, and for `<Model>Dataset` and
`<Model>Trainer` as attributes of two of its packages (recbole/utils/utils.py,
recbole/data/utils.py). RecBole's own sequential models also get this package's dataset and trainer,
so that all models are compared under one protocol.
"""

from __future__ import annotations

import functools
import importlib.machinery
import inspect
import logging
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import recbole.data.dataset
import recbole.model.sequential_recommender
import recbole.trainer
from recbole.data.dataset import SequentialDataset
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.model.sequential_recommender import S3Rec
from recbole.utils import ModelType, get_model

from recbole_qbert.common.errors import InputError, did_you_mean, recbole_error_context
from recbole_qbert.common.startup import plugins
from recbole_qbert.data.dataset import PartialVectorsDataset, SemanticIDDataset
from recbole_qbert.data.item_ids import CollaborativeDataset, SequentialIDDataset
from recbole_qbert.models.bbqrec import BBQRec
from recbole_qbert.models.bert4rec_fixed import BERT4RecFixed
from recbole_qbert.models.bigram import BigramChain
from recbole_qbert.models.content_knn import ContentKNN
from recbole_qbert.models.esasrec import ESASRec, GSASRec
from recbole_qbert.models.missrec import MISSRec
from recbole_qbert.models.mql4grec import MQL4GRec
from recbole_qbert.models.p5cid import P5CID
from recbole_qbert.models.popularity import Popularity
from recbole_qbert.models.qbert4rec import IDBERT4Rec, QBERT4Rec
from recbole_qbert.models.sasrec_codes import SASRecCodes
from recbole_qbert.models.sasrec_content import SASRecContent
from recbole_qbert.models.tiger import TIGER
from recbole_qbert.models.vip5 import VIP5
from recbole_qbert.models.vqrec import VQRec
from recbole_qbert.training.checkpoint import load_checkpoint
from recbole_qbert.training.trainer import ResumableTrainer, for_shared_folder


class ModelEntry(NamedTuple):
    """The classes and capabilities that belong to a model name.

    A model class states more capabilities itself: `reads_semantic_ids(config)`, a static method
    (see `training.inputs`); `takes_pretrained`, whether it starts from weights of `pretrain`;
    `needs_item_vectors`, whether it needs `item_vectors`; `begin_epoch(epoch)`, called before every
    epoch of a training; `load_first_stage(weights)`, called with the weights of `pre_model_path`,
    if given, unless `train_stage: pretrain`; `fill_candidates(interaction, scores, seen)`, called
    for every batch that is ranked (see `models.layers.beam_ranking`); and `code_groups`, the group
    of each item with equal codes, or None (see `Ranks.credited`).
    """

    model: type
    dataset: type[SequentialDataset] = SemanticIDDataset
    trainer: type[ResumableTrainer] = ResumableTrainer
    defaults: Path | None = None  # YAML with the model's keys; None: properties/model/<name>.yaml
    # Whether `pretrain_epochs` epochs with `train_stage: pretrain` come before the training. The
    # model then starts from `pre_model_path`, if given, with `train_stage: finetune`.
    first_stage: bool = False

    @property
    def takes_pretrained(self) -> bool:
        """Whether the model starts from weights of `pretrain` or of a bundle."""
        return bool(getattr(self.model, "takes_pretrained", False))


MODEL_TABLE: dict[str, ModelEntry] = {}
logger = logging.getLogger(__name__)


def register(
    model: type,
    dataset: type[SequentialDataset] = SemanticIDDataset,
    trainer: type[ResumableTrainer] = ResumableTrainer,
    defaults: str | Path | None = None,
    first_stage: bool = False,
) -> type:
    """Register a model by its class name, in this package and in RecBole; a class decorator.

    Args:
        model: class of the model, a RecBole `SequentialRecommender`.
        dataset: class of its dataset; `run` needs one derived from `SemanticIDDataset`.
        trainer: class of its trainer.
        defaults: YAML file with the model's keys; a relative path is looked up beside the file of
            the class first. None for `properties/model/<name>.yaml`.
        first_stage: see `ModelEntry`.

    Raises:
        InputError: the name belongs to another model, or `defaults` is not a file.
    """
    name = model.__name__
    if name in MODEL_TABLE and MODEL_TABLE[name].model is not model:
        raise InputError(f"model {name}: this name is already registered; choose another")
    if name not in MODEL_TABLE and _recbole_model(name) is not None:
        raise InputError(f"model {name}: RecBole has a model of that name; choose another")
    path = None if defaults is None else Path(defaults)
    source = getattr(sys.modules.get(model.__module__), "__file__", None)
    if path is not None and source and (Path(source).parent / path).is_file():
        path = Path(source).parent / path
    if path is not None and not path.is_file():
        raise InputError(f"model {name}: {defaults}: no such file of defaults")
    entry = ModelEntry(model, dataset, trainer, path, first_stage)
    MODEL_TABLE[name] = entry
    module_name = f"recbole.model.sequential_recommender.{name.lower()}"
    module = types.ModuleType(module_name, f"Registered by recbole_qbert: {name}.")
    # RecBole calls `find_spec`, which needs a module with a spec.
    module.__spec__ = importlib.machinery.ModuleSpec(module_name, None)
    setattr(module, name, model)
    sys.modules[module_name] = module
    _let_recbole_find(name, entry)
    return model


def _let_recbole_find(name: str, entry: ModelEntry) -> None:
    setattr(recbole.data.dataset, f"{name}Dataset", entry.dataset)
    setattr(recbole.trainer, f"{name}Trainer", for_shared_folder(entry.trainer))


def model_entry(name: str) -> ModelEntry:
    """Return the entry of a registered model or of a sequential model of RecBole.

    Raises:
        InputError: there is no such model, it is not sequential, or it cannot rank a catalog.
    """
    if name in MODEL_TABLE:
        return MODEL_TABLE[name]
    check_model_name(name)
    model = _recbole_model(name)
    if model.type != ModelType.SEQUENTIAL:
        raise InputError(f"model {name}: not a sequential model, which this package requires")
    if model not in recbole_models():
        raise InputError(
            f"model {name}: it needs labels, a knowledge graph or RecBole's own data set, so it "
            "cannot rank a catalog here"
        )
    return _recbole_entry(model)


def _recbole_entry(model: Any) -> ModelEntry:
    return ModelEntry(model, first_stage=model is S3Rec)


def check_model_name(name: str) -> None:
    """Raise an `InputError` if neither this table nor RecBole has a model of the name."""
    if name not in MODEL_TABLE and _recbole_model(name) is None:
        raise InputError(
            f"model {name}: not a model of this package ({', '.join(MODEL_TABLE)}) or of RecBole"
            f"{did_you_mean(name, runnable_models())}"
        )


def runnable_models() -> list[str]:
    """Return the names of all models that `run` accepts."""
    return [*MODEL_TABLE, *(model.__name__ for model in recbole_models())]


def is_sequential(name: str, model: type) -> bool:
    """Return whether a model is in this table or among RecBole's models that `run` accepts."""
    return name in MODEL_TABLE or model in recbole_models()


@functools.cache
def recbole_models() -> tuple[type, ...]:
    """Return RecBole's sequential models that rank a catalog from sequences alone.

    Left out are those that need a knowledge graph, which have a dataset class of their own in
    RecBole, and FEARec, which searches RecBole's copied histories for users with the same target;
    this package's dataset does not create those.
    """
    package = recbole.model.sequential_recommender
    classes: list[Any] = [each for each in vars(package).values() if inspect.isclass(each)]
    return tuple(
        each
        for each in classes
        if issubclass(each, AbstractRecommender)
        and each.__module__.startswith(f"{package.__name__}.")
        and each.type == ModelType.SEQUENTIAL
        and each.__name__ != "FEARec"
        and each.full_sort_predict is not AbstractRecommender.full_sort_predict
        and not hasattr(recbole.data.dataset, f"{each.__name__}Dataset")
    )


def build_model(config: Any, dataset: Any) -> Any:
    """Build the model of a config; an `InputError` gives RecBole's reason if that fails."""
    model, place = model_entry(config["model"]).model, f"{config['model']} on {config['dataset']}"
    remedy = "see its keys in RecBole's documentation, and the columns that load_col reads"
    with recbole_error_context(model, place, "cannot build it from these settings", remedy):
        built = model(config, dataset)
    if hasattr(built, "load_first_stage") and (state := first_stage_state(config)):
        built.load_first_stage(state["state_dict"])
    return built


def first_stage_state(config: Any) -> dict[str, Any] | None:
    """Return the checkpoint of a first stage that a training starts from; None: from scratch.

    Raises:
        InputError: `pre_model_path` is no checkpoint of the same model.
    """
    path = config["pre_model_path"]
    if not path or config["train_stage"] == "pretrain":
        return None
    state = load_checkpoint(path)
    found, name = state["config"]["model"], config["model"]
    if found != name:
        raise InputError(f"pre_model_path: {path} is a {found}; give a checkpoint of {name}")
    return state


def _recbole_model(name: str) -> Any:
    try:
        return get_model(name)
    except (ValueError, AttributeError, ImportError):
        return None


def load_plugins() -> None:
    """Import the modules of the entry-point group `recbole_qbert.plugins`; called on import.

    Every process that imports this package calls this, so that models which plug-ins register also
    exist in worker processes. A plug-in that fails is reported and left out.
    """
    for entry in plugins():
        try:
            entry.load()
        except Exception as error:  # the other plug-ins and models still work
            text = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning("plug-in %s (%s): cannot be loaded: %s", entry.name, entry.value, text)


def register_own_models() -> None:
    """Register this package's models; called once, when the package is imported."""
    for model in recbole_models():
        _let_recbole_find(model.__name__, _recbole_entry(model))
    own = (BERT4RecFixed, Popularity, BigramChain, ESASRec, GSASRec, MQL4GRec)
    for model in (*own, SASRecCodes, TIGER):
        register(model)
    for model in (QBERT4Rec, IDBERT4Rec, BBQRec, SASRecContent):
        register(model, PartialVectorsDataset)
    register(P5CID, CollaborativeDataset)
    register(VIP5, SequentialIDDataset)
    register(VQRec, first_stage=True)
    register(MISSRec, PartialVectorsDataset, first_stage=True)
    register(ContentKNN, PartialVectorsDataset)
