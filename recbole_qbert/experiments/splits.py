"""Loading of a data set and its split into train, valid and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from recbole.config import Config
from recbole.data import data_preparation
from recbole.utils import FeatureSource, FeatureType, init_seed

from recbole_qbert.common.errors import InputError, did_you_mean, did_you_mean_path
from recbole_qbert.common.output import counted
from recbole_qbert.data.dataset import SEMANTIC_ID_FIELD, SemanticIDDataset, semantic_id_path
from recbole_qbert.evaluation.ranking import saw_all
from recbole_qbert.experiments.split_checks import check_filtered, check_id_split
from recbole_qbert.registry import model_entry
from recbole_qbert.training.inputs import reads_semantic_ids

FEWEST_INTERACTIONS = 4  # per user: a history of one item and three targets
TOO_SHORT = (
    f"no user has enough interactions ({FEWEST_INTERACTIONS} are needed) to be split; use longer "
    "histories"
)
_NUMBERS = (FeatureType.FLOAT, FeatureType.FLOAT_SEQ)


class Splits(NamedTuple):
    """A data set and the data loaders of its three splits."""

    dataset: Any
    train: Any
    valid: Any
    test: Any


def load_dataset(dataset_class: type, config: Config) -> Any:
    """Build the data set.

    Raises:
        InputError: a file is missing or broken; carries RecBole's message as one line.
    """
    path = Path(config["data_path"])
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; data_path must name the folder that holds {path.name}/"
            f"{did_you_mean_path(path)}"
        )
    try:
        return dataset_class(config)
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise InputError(f"dataset {config['dataset']}: {' '.join(str(error).split())}") from None


def load_splits(config: Config) -> Splits:
    """Seed the random generators, read the data set of the config's model and split it.

    Raises:
        InputError: the data cannot be read, are too few to be split, or lack a feature that the
            model needs.
    """
    init_seed(config["seed"], config["reproducibility"])
    dataset = load_dataset(model_entry(config["model"]).dataset, config)
    ids = semantic_id_path(config)
    reads = reads_semantic_ids(config) is not False  # None: a plug-in does not say
    if ids is not None and reads and isinstance(dataset, SemanticIDDataset):
        check_id_split(config, ids)
        check_filtered(config, ids, dataset.n_filtered)
    notes = _check_features(dataset, config)
    splits = split_dataset(dataset, config)
    if isinstance(dataset, SemanticIDDataset):  # a third-party data set may have no notes
        dataset.notes += notes + _full_users(splits)
    return splits


def split_dataset(dataset: Any, config: Config) -> Splits:
    """Split a data set of `load_dataset`; an `InputError` says if the data are too few."""
    too_short = InputError(f"dataset {config['dataset']}: {TOO_SHORT}")
    if config["benchmark_filename"] is None:  # RecBole crashes if no user has two interactions
        counts = dataset.inter_feat[dataset.uid_field].value_counts()
        if counts.max() < FEWEST_INTERACTIONS:
            raise too_short
    splits = Splits(dataset, *data_preparation(config, dataset))
    if len(splits.valid._dataset) == 0 or len(splits.test._dataset) == 0:
        raise too_short
    return splits


def _full_users(splits: Splits) -> list[str]:
    """Note on users who have seen all items: among unseen items their targets rank last."""
    tested, n_items = splits.test._dataset, splits.dataset.item_num - 1
    full = int(saw_all(tested.seen_items(tested.inter_feat), len(tested), n_items).sum())
    text = (
        f"{full:,} of {counted(len(tested), 'test user')} have seen "
        f"all {counted(n_items, 'item')}; among unseen items their targets rank last"
    )
    return [text] * bool(full)


def _check_features(dataset: Any, config: Config) -> list[str]:
    """Check the item features of RecBole's models; returns notes on features that are ignored."""
    model, numerical = config["model"], config["numerical_features"]
    if not model_entry(model).model.__module__.startswith("recbole."):
        return []
    read = [
        name
        for name, source in dataset.field2source.items()
        if source == FeatureSource.ITEM and name in dataset.item_feat
    ]
    for name in config["item_vectors"] or {}:
        if name in numerical:
            raise InputError(
                f"numerical_features: {name!r}: RecBole cannot use item_vectors as a numerical "
                "feature; remove it"
            )
    numbers = [name for name in read if dataset.field2type[name] in _NUMBERS]
    tokens = ", ".join(name for name in read if name not in numbers) or "the items have none"
    for key in ("selected_features", "item_attribute"):
        given = config[key] or []
        given = [given] if isinstance(given, str) else given
        for name in [name for name in given if name not in read]:
            remedy = f"add {name} to the columns `item` of load_col"
            if name == SEMANTIC_ID_FIELD:
                remedy = f"run `recbole-qbert tokenize --dataset={config['dataset']}`"
            raise InputError(
                f"{key}: {name!r} is not a feature of the items "
                f"({', '.join(read) or 'they have none'}){did_you_mean(name, read)}; {remedy}"
            )
        # S3Rec uses no numeric features, FDSA those of numerical_features.
        unused = numbers if key == "item_attribute" else set(numbers) - set(numerical)
        if given and set(given) <= set(unused):
            raise InputError(
                f"{key}: {', '.join(given)}: {model} cannot use these numeric features; give a "
                f"column of tokens ({tokens})"
            )
    selected = config["selected_features"] or []
    left_out = [name for name in selected if name in numbers and name not in numerical]
    text = f"{model} ignores {', '.join(left_out)}: add them to numerical_features to use them"
    return [text] * bool(left_out)


def data_counts(dataset: Any, train: Any, valid: Any, test: Any) -> dict[str, int]:
    """Count users, items and interactions after filtering, and the rows of each split.

    If `MAX_ITEM_LIST_LENGTH` cuts sequences, some training interactions are in no training row.
    """
    items, _ = train._dataset.training_sequences()
    return {
        "users": dataset.user_num - 1,
        "items": dataset.item_num - 1,
        "interactions": dataset.n_interactions,
        "training interactions": len(items),
        "of them in training rows": train._dataset.n_trained,
        "training rows": len(train._dataset),
        "valid rows": len(valid._dataset),
        "test rows": len(test._dataset),
    }
