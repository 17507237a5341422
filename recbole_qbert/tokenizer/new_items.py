"""`encode-items`: IDs for items that came after the tokenizer was made, through its frozen stages.

A new item has no trained ID vector. `new_item_query: neighbours` gives it the mean of the vectors
of the 10 items nearest to it in content; the stream `identity`, of co-occurrence in training, it
does not have, and its quantiser reads the mean vector there. IDs given before never change: their
tuples are taken.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_qbert.errors import InputError
from recbole_qbert.tokenizer.inputs import Catalogue, Domain, read_catalogue
from recbole_qbert.tokenizer.pipeline import Streams, Tokenizer, modality_streams
from recbole_qbert.tokenizer.reallocate import reallocate
from recbole_qbert.tokenizer.settings import FUSED, IDENTITY

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """What `encode_new_items` did.

    Attributes:
        keys: (domain, item) of each new item.
        moved: of them, how many took another tuple than their stages gave, because it was taken.
    """

    keys: list[tuple[str, str]]
    moved: int


def encode_new_items(tokenizer: Tokenizer, domains: Sequence[Domain]) -> Encoded:
    """Give IDs to the items of the domains that have none, and write each `<ds>.semid` again.

    Args:
        tokenizer: its folder takes in the new items.
        domains: data sets whose `.item` and `.inter` files and embeddings hold the new items.

    Raises:
        InputError: a file cannot be used, or its vectors have another shape than the tokenizer's.
    """
    settings = tokenizer.settings
    if settings["unique"] != "reallocate":
        raise InputError(
            f"{tokenizer.folder}: made with unique: {settings['unique']}, whose last level counts "
            "items and cannot place new ones; tokenize with unique: reallocate"
        )
    catalogue = read_catalogue(
        domains, settings["modalities"], known=tokenizer.keys, dimensions=tokenizer.shapes
    )
    moved = 0
    if catalogue.keys:
        streams = new_streams(tokenizer, catalogue)
        codes = tokenizer.encode(streams)
        result = reallocate(
            codes,
            lambda rows: tokenizer.distances(streams, rows),
            tokenizer.codebook_sizes,
            catalogue.names,
            taken=tokenizer.codes,
        )
        moved = result.moved
        tokenizer.keys = tokenizer.keys + catalogue.keys
        tokenizer.codes = np.concatenate([tokenizer.codes, result.codes])
        tokenizer.save_ids()
    tokenizer.write_ids(domains, catalogue.sources)
    return Encoded(catalogue.keys, moved)


def new_streams(tokenizer: Tokenizer, catalogue: Catalogue) -> Streams:
    """What the tokenizer's quantisers read for items it was not made from."""
    wanted = list(tokenizer.quantisers)
    for name, (parts, size) in tokenizer.shapes.items():
        if name not in catalogue.parts:
            shape = (len(catalogue.keys), parts)
            catalogue.parts[name] = np.zeros((*shape, size), np.float32), np.zeros(shape, np.bool_)
    streams = modality_streams(catalogue, wanted)
    n_new = len(catalogue.keys)
    if IDENTITY in wanted:
        size = len(tokenizer.fills[IDENTITY])
        streams[IDENTITY] = np.zeros((n_new, size), np.float32), np.zeros(n_new, np.bool_)
    if FUSED in wanted:
        assert tokenizer.injector is not None  # every tokenizer with this stream has one
        queries = tokenizer.injector.queries_for(
            catalogue.parts, tokenizer.settings["new_item_query"]
        )
        fused, _ = tokenizer.injector.fuse(catalogue.parts, queries)
        streams[FUSED] = fused, np.ones(n_new, np.bool_)
    return streams
