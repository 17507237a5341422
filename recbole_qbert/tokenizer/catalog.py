"""Inputs of a tokenizer: the items of one or several domains, and their embeddings.

Shapes: N items of all domains, J parts of a modality, D_m dimensions of a modality.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, did_you_mean
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.common.output import counted
from recbole_qbert.common.yaml_files import load_yaml, shipped
from recbole_qbert.data.atomic import read_atomic
from recbole_qbert.data.domain import PARTS, DatasetPaths
from recbole_qbert.data.embedding_kinds import TableKind, common_kind
from recbole_qbert.data.embeddings import EmbeddingTable, join, read_embeddings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizerInputs:
    """All items in a fixed order, with their embeddings.

    Attributes:
        keys: N pairs (domain, item token), sorted, so that the row order of files has no effect.
        parts: for each modality, its vectors float32 [N, J, D_m] and a mask bool [N, J], True for
            parts with a vector.
        kinds: for each modality, shape and encoder of its tables.
        sources: names and hashes of the files read, and the coverage of each modality.
    """

    keys: list[tuple[str, str]] = field(repr=False)
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)
    kinds: dict[str, TableKind]
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
    kinds: Mapping[str, TableKind] | None = None,
    split: str = "leave_one_out",
) -> TokenizerInputs:
    """Read the items and embeddings of the domains.

    The items of a domain are those of its `.item` and `.inter` files or, if it has neither, those
    of its embedding tables; with `split: files`, also those of the parts of `prepare split`.

    Args:
        domains: distinct domains.
        modalities: the tables to read, possibly none; a domain may lack some but not all of them.
        known: keys of items to leave out.
        kinds: required kind of each modality, that of the tokenizer of the known items; None for
            any.
        split: the setting `split`.

    Raises:
        InputError: a file is invalid, a domain has no items, no item has embeddings, or encoders or
            dimensions differ between domains.
    """
    if not known:
        _check_modalities(domains, modalities)
    keys: set[tuple[str, str]] = set()
    tables: dict[str, dict[str, EmbeddingTable]] = {}  # modality -> domain -> table
    sources: dict[str, Any] = {}
    for domain in domains:
        own = []
        for modality in modalities:
            path = domain.file(f"{modality}.npz")
            if path.is_file():
                own.append(read_embeddings(path))
                tables.setdefault(modality, {})[domain.name] = own[-1]
                sources[path.name] = {"sha256": sha256_file(path)}
        if modalities and not own:
            wanted = " or ".join(f"{domain.name}.{modality}.npz" for modality in modalities)
            raise InputError(
                f"{domain.folder}: no embeddings ({wanted}); run `recbole-qbert embed text`, "
                "`embed image` or `embed vectors`, or tokenize without embeddings: "
                "--streams=identity"
            )
        found = _items(domain, own, split)
        if not (found or known):
            raise InputError(f"{domain.folder}: its .item and .inter files have no items")
        keys.update((domain.name, item) for item in found)
    catalog = TokenizerInputs(sorted(keys.difference(known)), {}, {}, sources)
    if not catalog.keys:
        return catalog
    for modality in modalities:
        if modality in tables:
            required = None if kinds is None else kinds[modality]
            catalog.kinds[modality] = common_kind(modality, tables[modality], required)
            catalog.parts[modality] = _join_domains(
                catalog, modality, tables[modality], domains, may_lack=bool(known)
            )
    if modalities and not any(mask.any() for _, mask in catalog.parts.values()):
        remedy = "compute the embeddings of all items again"
        if known:
            remedy = (
                "give the new items a text or a picture and run `embed` again, or remove them from "
                "the .item and .inter files"
            )
        raise InputError(
            f"{domains[0].folder}: none of {counted(len(catalog.keys), 'item')} has embeddings, "
            f"for example {catalog.keys[0][1]!r}; {remedy}"
        )
    return catalog


def _check_modalities(domains: Sequence[DatasetPaths], modalities: Sequence[str]) -> None:
    """Refuse a modality that no domain has, except the defaults of `tokenize.yaml`."""
    there = {modality for domain in domains for modality in domain.embedding_tables()}
    usual = load_yaml(shipped("tokenize.yaml"))["modalities"]
    lacking = [name for name in modalities if name not in there and name not in usual]
    # If only default modalities are named and none exists, the user probably meant another one.
    if there and (lacking or (modalities and not there.intersection(modalities))):
        name = (lacking or modalities)[0]
        raise InputError(
            f"modalities: {name!r}: no data set has the table {name}.npz; the tables are "
            f"{', '.join(sorted(there))}{did_you_mean(name, there)}"
        )


def _items(domain: DatasetPaths, tables: Sequence[EmbeddingTable], split: str) -> set[str]:
    """Return the distinct item tokens of a domain."""
    files = [path for path in (domain.file("item"), domain.file("inter")) if path.is_file()]
    found = set() if files else {item for table in tables for item in table.items}
    parts = [domain.file(f"{part}.inter") for part in PARTS] if split == "files" else []
    for path in [*files, *filter(Path.is_file, parts)]:
        fields = ["item_id", "item_id_list"] if path in parts else ["item_id"]
        file = read_atomic(path, fields)
        file.check_ids("item_id")
        found.update(pc.unique(file.columns["item_id"]).to_pylist())
        if path in parts:
            file.check_padding("item_id_list", " ")
            items = pc.list_flatten(pc.split_pattern(file.columns["item_id_list"], " "))
            found.update(pc.unique(items).to_pylist())
    return found - {""}  # of an empty history


def _join_domains(
    catalog: TokenizerInputs,
    modality: str,
    tables: Mapping[str, EmbeddingTable],
    domains: Sequence[DatasetPaths],
    may_lack: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Join the tables of one modality: vectors [N, J, D_m] and masks [N, J] of all keys.

    With `may_lack`, a table may contain none of the items: a few new items may all lack a modality,
    but a whole domain that does is a mistake.
    """
    shape = catalog.kinds[modality].shape
    vectors = np.zeros((len(catalog.keys), *shape), np.float32)
    masks = np.zeros(vectors.shape[:2], np.bool_)
    for domain in domains:
        rows = [row for row, (name, _) in enumerate(catalog.keys) if name == domain.name]
        items = [catalog.keys[row][1] for row in rows]
        table = tables.get(domain.name)
        if not items:
            continue
        if table is None or (may_lack and not set(items) & set(table.items)):
            logger.warning(
                "%s: none of %d items has %s embeddings", domain.name, len(items), modality
            )
            continue
        path = domain.file(f"{modality}.npz")
        vectors[rows], masks[rows], coverage = join(table, items, str(path))
        level = logging.WARNING if coverage.missing else logging.INFO
        logger.log(level, "%s: %s", path.name, coverage)
        catalog.sources[path.name] |= {
            "items": coverage.n_items,
            "with_vector": coverage.n_present,
        }
    return vectors, masks
