"""Encoding of new items (`ids add-items`) through the frozen stages of a tokenizer.

A new item has no trained ID vector (of stage 1 or of `bbq`), and no vector of co-occurrence. With
`new_item_query: neighbors`, it gets the mean of the vectors of the 10 items nearest to it in
content; with `mean`, the mean of all items. For the stream `identity`, the co-occurrence vectors of
the old items are reconstructed from their codes, because a tokenizer does not store the originals.
So are their content vectors; without a stream of a modality, those that stage 1 or `bbq` stores are
compared. Existing IDs never change: their tuples are taken.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.nearest import nearest_items, unit_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import BBQ, FUSED, IDENTITY
from recbole_qbert.tokenizer.artifact import Streams, Tokenizer
from recbole_qbert.tokenizer.catalog import TokenizerInputs, read_catalog
from recbole_qbert.tokenizer.collisions import reallocate
from recbole_qbert.tokenizer.fusion.fit import N_NEIGHBORS
from recbole_qbert.tokenizer.pipeline import modality_streams

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """Result of `encode_new_items`.

    Attributes:
        keys: (domain, item) of each new item.
        moved: number of new items that were moved because of a collision.
        without_content: keys of the new items without a vector in any modality.
    """

    keys: list[tuple[str, str]]
    moved: int
    without_content: list[tuple[str, str]]


def encode_new_items(tokenizer: Tokenizer, domains: Sequence[DatasetPaths]) -> Encoded:
    """Assign IDs to the domains' items that have none, and rewrite each `.semid` file.

    Args:
        tokenizer: the new items are added to it and saved in its folder.
        domains: data sets whose `.item` and `.inter` files and embeddings contain the new items.

    Raises:
        InputError: the tokenizer has `unique: extra_level`, a file is invalid, or its vectors have
            another shape or encoder than the tokenizer's.
    """
    settings = tokenizer.settings
    if settings["unique"] != "reallocate":
        raise InputError(
            f"{tokenizer.folder}: its setting unique: {settings['unique']} cannot place new items; "
            "tokenize again with unique: reallocate"
        )
    catalog = read_catalog(
        domains,
        list(tokenizer.kinds),
        known=tokenizer.keys,
        kinds=tokenizer.kinds,
        split=settings.get("split", "leave_one_out"),  # tokenizers of early versions have none
    )
    moved = 0
    if catalog.keys:
        streams = new_streams(tokenizer, catalog)
        codes = tokenizer.encode(streams)
        result = reallocate(
            codes,
            lambda rows: tokenizer.distances(streams, rows),
            tokenizer.codebook_sizes,
            catalog.names,
            taken=tokenizer.codes,
        )
        moved = result.moved
        tokenizer.keys = tokenizer.keys + catalog.keys
        tokenizer.codes = np.concatenate([tokenizer.codes, result.codes])
        tokenizer.without_content += catalog.without_content()
        tokenizer.save_ids()
    tokenizer.write_ids(domains, catalog.sources)
    return Encoded(catalog.keys, moved, catalog.without_content())


def new_streams(tokenizer: Tokenizer, catalog: TokenizerInputs) -> Streams:
    """Compute the streams of new items for the tokenizer's quantizers.

    Modalities that the catalog lacks are added to `catalog.parts`, fully masked.
    """
    for name, kind in tokenizer.kinds.items():
        if name not in catalog.parts:
            vectors = np.zeros((len(catalog.keys), *kind.shape), np.float32)
            catalog.parts[name] = vectors, np.zeros(vectors.shape[:2], np.bool_)
    streams = modality_streams(catalog, list(tokenizer.quantizers))
    n_new = len(catalog.keys)
    if IDENTITY in tokenizer.quantizers:
        streams[IDENTITY] = _identity(tokenizer, catalog, streams)
    if tokenizer.stage1 is not None:
        how = tokenizer.settings["new_item_query"]
        queries = tokenizer.stage1.queries_for(catalog.parts, how)
        fused, _ = tokenizer.stage1.fuse(catalog.parts, queries)
        streams[FUSED] = fused, np.ones(n_new, np.bool_)
    if tokenizer.binder is not None:
        modalities = modality_streams(catalog, list(tokenizer.kinds))
        own = tokenizer.binder.identity_for(modalities, tokenizer.settings["new_item_query"])
        streams[BBQ] = tokenizer.binder.latents(modalities, own), np.ones(n_new, np.bool_)
    return streams


def _identity(
    tokenizer: Tokenizer, catalog: TokenizerInputs, streams: Streams
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the co-occurrence vectors [n_new, D] of new items from their neighbors in content.

    The mask [n_new] is False for items without content, and for all with `new_item_query: mean`.
    """
    n_new = len(catalog.keys)
    if tokenizer.settings["new_item_query"] == "mean" or not tokenizer.kinds:
        size = len(tokenizer.fills[IDENTITY])
        return np.zeros((n_new, size), np.float32), np.zeros(n_new, np.bool_)
    # A tokenizer does not store the vectors of its items; they are decoded from the codes.
    old, codes = {}, tokenizer.codes
    for name, quantizer in tokenizer.quantizers.items():
        n_levels = len(quantizer.codebook_sizes)
        old[name], codes = quantizer.reconstruct(codes[:, :n_levels]), codes[:, n_levels:]
    contents = [name for name in old if name in tokenizer.kinds]
    if contents:
        known = np.concatenate([unit_rows(old[name]) for name in contents], axis=1)
        found = np.concatenate(
            [np.where(streams[name][1][:, None], streams[name][0], 0) for name in contents], axis=1
        )
    elif tokenizer.stage1 is not None:
        known, found = tokenizer.stage1.contents, tokenizer.stage1.contents_of(catalog.parts)
    else:  # the first items are those of the training, in both cases
        assert tokenizer.binder is not None
        modalities = modality_streams(catalog, list(tokenizer.kinds))
        known, found = tokenizer.binder.contents, tokenizer.binder.contents_of(modalities)
    rows, _ = nearest_items(known, N_NEIGHBORS, found)
    return old[IDENTITY][rows].mean(axis=1), found.any(axis=1)
