"""Loading of a data set and its split into train, valid and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from recbole.config import Config
from recbole.data import data_preparation
from recbole.utils import FeatureSource, FeatureType, init_seed

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.data.dataset import SEMANTIC_ID_FIELD, SemanticIDDataset
from recbole_qbert.evaluation.ranking import saw_all
from recbole_qbert.registry import model_entry

FEWEST_INTERACTIONS = 4  # per user: a history of one item and three targets
FEATURE_KEYS = ("selected_features", "item_attribute")  # item features of RecBole's models
TOO_SHORT = (
    f"no user has enough interactions ({FEWEST_INTERACTIONS} are needed) to be split; give longer "
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
        )
    try:
        return dataset_class(config)
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise InputError(f"dataset {config['dataset']}: {' '.join(str(error).split())}") from None


def read_dataset(config: Config) -> Any:
    """Seed the random generators and read the data set of the config's model.

    Raises:
        InputError: the data cannot be read, are too few to be split, or lack a feature that the
            model needs.
    """
    init_seed(config["seed"], config["reproducibility"])
    dataset = load_dataset(model_entry(config["model"]).dataset, config)
    if config["benchmark_filename"] is None:
        _check_lengths(dataset, config)
    _check_features(dataset, config)
    return dataset


def load_splits(config: Config) -> Splits:
    """Read the data set of the config's model and split it.

    Raises:
        InputError: see `read_dataset`; or valid or test is empty.
    """
    dataset = read_dataset(config)
    splits = Splits(dataset, *data_preparation(config, dataset))
    if len(splits.valid._dataset) == 0 or len(splits.test._dataset) == 0:
        raise InputError(f"dataset {config['dataset']}: {TOO_SHORT}")
    if isinstance(dataset, SemanticIDDataset):  # a third-party data set may have no notes
        dataset.notes += _unused_features(config, dataset) + _full_users(splits)
    return splits


def _full_users(splits: Splits) -> list[str]:
    """Note on users who have seen all items: among unseen items their targets rank last."""
    tested, n_items = splits.test._dataset, splits.dataset.item_num - 1
    seen = tested.seen_items(tested.inter_feat)
    full = int(saw_all(seen, len(tested), n_items).sum())
    if not full:
        return []
    return [
        f"{full:,} of {len(tested):,} test users have seen all {n_items:,} items; "
        "among unseen items their targets rank last"
    ]


def _left_out(config: Config, dataset: Any) -> list[str]:
    """Selected numeric features that RecBole's FDSA ignores, as `numerical_features` lacks them."""
    return [
        name
        for name in config["selected_features"] or []
        if dataset.field2type.get(name) in _NUMBERS and name not in config["numerical_features"]
    ]


def _unused_features(config: Config, dataset: Any) -> list[str]:
    left_out = _left_out(config, dataset)
    if not left_out:
        return []
    return [
        f"{config['model']} leaves {', '.join(left_out)} out: numbers count as features only where "
        "numerical_features names them"
    ]


def _check_lengths(dataset: Any, config: Config) -> None:
    """Check that a user has enough interactions; RecBole crashes if none has two."""
    if dataset.inter_feat[dataset.uid_field].value_counts().max() < FEWEST_INTERACTIONS:
        raise InputError(f"dataset {config['dataset']}: {TOO_SHORT}")


def _check_features(dataset: Any, config: Config) -> None:
    """Check the item features that RecBole's models use, since RecBole does not check them.

    Raises:
        InputError: a setting names a feature that was not read, or only numeric features that the
            model ignores.
    """
    if not model_entry(config["model"]).model.__module__.startswith("recbole."):
        return
    read = [
        name
        for name, source in dataset.field2source.items()
        if source == FeatureSource.ITEM and name in dataset.item_feat
    ]
    for key in FEATURE_KEYS:
        given = config[key] or []
        for name in [given] if isinstance(given, str) else given:
            if name in read:
                continue
            remedy = f"add {name} to the columns `item` of load_col"
            if name == SEMANTIC_ID_FIELD:
                remedy = f"make them with `recbole-qbert tokenize --dataset={config['dataset']}`"
            raise InputError(
                f"{key}: {name!r} is no feature of the items that are read "
                f"({', '.join(read) or 'they have none'}){did_you_mean(name, read)}; {remedy}"
            )
    for name in config["item_vectors"] or {}:
        if name in config["numerical_features"]:
            raise InputError(
                f"numerical_features: {name!r} is of item_vectors, of which RecBole makes no "
                "numerical feature; leave it out"
            )
    words = [name for name in read if dataset.field2type[name] not in _NUMBERS]
    for key, numbers in (
        ("item_attribute", [name for name in read if name not in words]),
        ("selected_features", _left_out(config, dataset)),
    ):
        given = config[key] or []
        given = [given] if isinstance(given, str) else given
        if given and set(given) <= set(numbers):
            raise InputError(
                f"{key}: {', '.join(given)}: {config['model']} makes no feature of such numbers; "
                f"name a column of tokens ({', '.join(words) or 'the items have none'})"
            )


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
