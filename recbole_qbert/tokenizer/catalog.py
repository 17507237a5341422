"""Inputs of a tokenizer: the items of one or several domains, and their embeddings.

Shapes: N items of all domains, J parts of a modality, D_m dimensions of a modality.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.yaml_files import load_yaml, shipped
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, join, read_embeddings
from recbole_qbert.tokenizer.fusion.cooccurrence import training_pairs

logger = logging.getLogger(__name__)

# Keys of an encoder's description that do not affect whether vectors are comparable.
_MACHINE_KEYS = frozenset(
    {"batch_size", "device", "dtype", "torch", "transformers", "open_clip", "scikit_learn"}
    | {"scikit_image", "pillow", "timm"}
)


@dataclass(frozen=True)
class TokenizerInputs:
    """All items in a fixed order, with their embeddings.

    Attributes:
        keys: N pairs (domain, item token), sorted, so that the row order of files has no effect.
        parts: for each modality, its vectors float32 [N, J, D_m] and a mask bool [N, J], True for
            parts with a vector.
        encoders: for each modality, the description of its encoder.
        sources: names and hashes of the files read, and the coverage of each modality.
    """

    keys: list[tuple[str, str]] = field(repr=False)
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    encoders: dict[str, Any]
    sources: dict[str, Any]

    @property
    def names(self) -> list[str]:
        """N sortable names `<domain>/<item>`."""
        return ["/".join(key) for key in self.keys]

    def without_content(self) -> list[tuple[str, str]]:
        """Return the keys of items without a vector in any modality; [] if no table was read."""
        if not self.parts:
            return []
        empty = ~np.any([present.any(axis=1) for _, present in self.parts.values()], axis=0)
        return [self.keys[row] for row in np.flatnonzero(empty)]


def read_catalog(
    domains: Sequence[DatasetPaths],
    modalities: Sequence[str],
    known: Sequence[tuple[str, str]] = (),
    dimensions: Mapping[str, tuple[int, int]] | None = None,
    encoders: Mapping[str, Any] | None = None,
) -> TokenizerInputs:
    """Read the items and embeddings of the domains.

    The items of a domain are those of its `.item` and `.inter` files or, if it has neither, those
    of its embedding tables.

    Args:
        domains: distinct domains.
        modalities: the tables to read, possibly none; a domain may lack some but not all of them.
        known: keys of items to leave out.
        dimensions: required number of parts and dimension of each modality; None for any.
        encoders: required encoder description of each modality; None for any.

    Raises:
        InputError: a file is invalid, no item has embeddings, or encoders or dimensions differ
            between domains.
    """
    if not known:
        _check_modalities(domains, modalities)
    keys: list[tuple[str, str]] = []
    tables: dict[tuple[str, str], EmbeddingTable] = {}
    sources: dict[str, Any] = {}
    for domain in domains:
        for modality in modalities:
            path = domain.file(f"{modality}.npz")
            if path.is_file():
                tables[domain.name, modality] = read_embeddings(path)
                sources[path.name] = {"sha256": sha256_file(path)}
        if modalities and not any(name == domain.name for name, _ in tables):
            wanted = " or ".join(f"{domain.name}.{modality}.npz" for modality in modalities)
            raise InputError(
                f"{domain.folder}: no embeddings ({wanted}); make them with "
                "`recbole-qbert embed text`, `embed image` or `embed vectors`, or tokenize without "
                "any: --streams=identity"
            )
        keys += [(domain.name, item) for item in _items(domain, tables)]
    skip = set(known)
    keys = sorted(key for key in set(keys) if key not in skip)
    if not keys:
        return TokenizerInputs([], {}, {}, sources)
    parts, made_by = {}, {}
    for modality in modalities:
        present = {name: table for (name, kind), table in tables.items() if kind == modality}
        if present:
            if encoders is not None and modality in encoders:
                _check_encoder(modality, present, encoders[modality])
            _check_alike(modality, present, (dimensions or {}).get(modality))
            parts[modality] = _join_domains(
                keys, modality, present, domains, sources, may_lack=bool(known)
            )
            made_by[modality] = next(iter(present.values())).meta.get("encoder")
    if modalities and not any(mask.any() for _, mask in parts.values()):
        raise InputError(
            f"{domains[0].folder}: none of {len(keys)} items has embeddings, {keys[0][1]!r} say; "
            "make the tables again from all items"
        )
    return TokenizerInputs(keys, parts, made_by, sources)


def _check_modalities(domains: Sequence[DatasetPaths], modalities: Sequence[str]) -> None:
    """Refuse a modality that no domain has, except the defaults of `tokenize.yaml`."""
    there = {modality for domain in domains for modality in domain.embedding_tables()}
    usual = load_yaml(shipped("tokenize.yaml"))["modalities"]
    lacking = [name for name in modalities if name not in there and name not in usual]
    # If only default modalities are named and none exists, the user probably meant another one.
    if there and (lacking or (modalities and not there.intersection(modalities))):
        name = (lacking or modalities)[0]
        raise InputError(
            f"modalities: {name!r}: no data set has {name}.npz beside it; there are "
            f"{', '.join(sorted(there))}{did_you_mean(name, there)}"
        )


def read_training_pairs(domains: Sequence[DatasetPaths]) -> pd.DataFrame:
    """Read the training interactions of all domains; users and items are named `<domain>/<token>`.

    Returns:
        Columns `user_id` and `item_id`; see `training_pairs`.

    Raises:
        InputError: a domain has no `.inter` file, or it is invalid.
    """
    frames = []
    for domain in domains:
        if not domain.file("inter").is_file():
            raise InputError(
                f"{domain.file('inter')}: no such file, and co-occurrence in training is asked "
                "for; add it, or go without: --streams=content --id_query=random"
            )
        pairs = training_pairs(domain.file("inter"))
        frames.append(pairs.apply(lambda column, name=domain.name: f"{name}/" + column))
    return pd.concat(frames, ignore_index=True)


def _items(domain: DatasetPaths, tables: Mapping[tuple[str, str], EmbeddingTable]) -> list[str]:
    """Return the distinct item tokens of a domain, sorted."""
    files = [path for path in (domain.file("item"), domain.file("inter")) if path.is_file()]
    if not files:
        return sorted({item for (name, _), table in tables.items() if name == domain.name
                       for item in table.items})  # fmt: skip
    return sorted({item for path in files for item in read_columns(path, ["item_id"])["item_id"]})


def _check_alike(
    modality: str, tables: Mapping[str, EmbeddingTable], wanted: tuple[int, int] | None
) -> None:
    """Check that the tables of one modality have one encoder and one shape."""
    (first, example), *others = tables.items()
    shape = wanted or (example.n_parts, example.dimension)
    for name, table in [(first, example), *others]:
        if (table.n_parts, table.dimension) != shape:
            raise InputError(
                f"{name}.{modality}.npz: {table.n_parts} parts of dimension {table.dimension}, "
                f"where {shape[0]} of {shape[1]} are needed; use one encoder for all"
            )
        if _comparable(table.meta.get("encoder")) != _comparable(example.meta.get("encoder")):
            raise InputError(
                f"{name}.{modality}.npz: its encoder is not that of {first}.{modality}.npz; "
                "make both tables with one encoder"
            )


def _check_encoder(modality: str, tables: Mapping[str, EmbeddingTable], wanted: Any) -> None:
    """Check that the tables of new items come from the encoder of the earlier items."""
    for name, table in tables.items():
        if _comparable(table.meta.get("encoder")) != _comparable(wanted):
            raise InputError(
                f"{name}.{modality}.npz: its encoder is not the one that the codebooks were made "
                "with, or was fitted anew; embed again with that encoder (--frozen_encoder=FILE), "
                "or make all IDs anew with tokenize"
            )


def _comparable(encoder: Any) -> Any:
    """Return the part of an encoder's description that must be equal for comparable vectors."""
    if not isinstance(encoder, Mapping):
        return encoder
    return {key: value for key, value in encoder.items() if key not in _MACHINE_KEYS}


def _join_domains(
    keys: Sequence[tuple[str, str]],
    modality: str,
    tables: Mapping[str, EmbeddingTable],
    domains: Sequence[DatasetPaths],
    sources: dict[str, Any],
    may_lack: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Join the tables of one modality: vectors [N, J, D_m] and masks [N, J] of all keys.

    Logs the coverage and adds it to `sources`. With `may_lack`, a table may contain none of the
    items: a few new items may all lack a modality, but a whole domain that does is a mistake.
    """
    vectors, masks = [], []
    example = next(iter(tables.values()))
    for domain in sorted(domains, key=lambda each: each.name):  # the order of the keys
        items = [item for name, item in keys if name == domain.name]
        if not items:
            continue
        table = tables.get(domain.name)
        if table is not None and may_lack and not set(items) & set(table.items):
            table = None
        if table is None:
            shape = (len(items), example.n_parts)
            vectors.append(np.zeros((*shape, example.dimension), np.float32))
            masks.append(np.zeros(shape, np.bool_))
            logger.warning(
                "%s: none of %d items has %s embeddings", domain.name, len(items), modality
            )
            continue
        path = domain.file(f"{modality}.npz")
        own, mask, coverage = join(table, items, str(path))
        logger.log(
            logging.WARNING if coverage.missing else logging.INFO, "%s: %s", path.name, coverage
        )
        sources[path.name] |= {"items": coverage.n_items, "with_vector": coverage.n_present}
        vectors.append(own)
        masks.append(mask)
    return np.concatenate(vectors), np.concatenate(masks)
