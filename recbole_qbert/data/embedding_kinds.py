"""Which embedding tables hold comparable vectors: the same parts, dimension and encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.embeddings import EmbeddingTable

# Keys of an encoder's description that do not affect whether vectors are comparable.
_MACHINE_KEYS = frozenset(
    {"batch_size", "device", "dtype", "torch", "transformers", "open_clip", "scikit_learn"}
    | {"scikit_image", "pillow", "timm", "torchvision"}
)


class TableKind(NamedTuple):
    """What must be equal for the tables of one modality to be comparable."""

    shape: tuple[int, int]  # number of parts, dimension
    encoder: Any  # description of the encoder, from the sidecar


def common_kind(
    modality: str, tables: Mapping[str, EmbeddingTable], required: TableKind | None = None
) -> TableKind:
    """Return the kind of all tables of one modality, by data set.

    Args:
        modality: for the message.
        tables: the table of each data set.
        required: the kind that they must have, that of a tokenizer; None for any.

    Raises:
        InputError: a table is of another kind than the first, or than the required one.
    """
    first, example = next(iter(tables.items()))
    wanted = TableKind((example.n_parts, example.dimension), example.meta.get("encoder"))
    origin, remedy = f"{first}.{modality}.npz", "embed both data sets with one encoder"
    if required is not None:
        wanted, origin = required, "the tokenizer"
        remedy = "embed again with --frozen_encoder=FILE, or make all IDs again with tokenize"
    for name, table in tables.items():
        if comparable(table.meta.get("encoder")) != comparable(wanted.encoder):
            raise InputError(
                f"{name}.{modality}.npz: its encoder, or the data that it was fitted on, differs "
                f"from that of {origin}; {remedy}"
            )
        shape = (table.n_parts, table.dimension)
        if shape != wanted.shape:
            raise InputError(
                f"{name}.{modality}.npz: {shape[0]} parts of dimension {shape[1]}, but {origin} "
                f"has {wanted.shape[0]} of {wanted.shape[1]}; {remedy}"
            )
    return wanted


def comparable(encoder: Any) -> Any:
    """Return the part of an encoder's description that must be equal for comparable vectors."""
    if not isinstance(encoder, Mapping):
        return encoder
    return {key: value for key, value in encoder.items() if key not in _MACHINE_KEYS}
