"""Vectors of all sources joined, the baseline of fusion: python -m benchmarks.joined --help.

An item's vector has its modalities, each centered and of length 1, and its co-occurrence vector
times a weight. `tokenize --modalities=joined --streams=joined` reads it from <dataset>.joined.npz.

Shapes: N items, D dimensions of all sources together.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from recbole_qbert.common.nearest import unit_rows
from recbole_qbert.data.domain import find_domain
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.tokenizer.catalog import read_catalog
from recbole_qbert.tokenizer.fusion.cooccurrence import (
    cooccurrence,
    cooccurrence_vectors,
    read_training_pairs,
)
from recbole_qbert.tokenizer.pipeline import modality_streams

DIMENSION, SEED = 64, 2026  # of the co-occurrence vectors


def join_sources(
    data_path: Path, dataset: str, modalities: list[str], weight: float
) -> EmbeddingTable:
    """Join the vectors of a data set, [N, D]; zeros stand for what an item lacks."""
    domain = find_domain(dataset, data_path)
    catalog = read_catalog([domain], modalities)
    sources = []
    for vectors, there in modality_streams(catalog, modalities).values():
        centered = unit_rows(vectors - vectors[there].mean(axis=0))
        sources.append(np.where(there[:, None], centered, 0))
    counts = cooccurrence(read_training_pairs([domain]), catalog.names)
    sources.append(weight * unit_rows(cooccurrence_vectors(counts, DIMENSION, SEED)))
    joined = np.concatenate(sources, axis=1).astype(np.float32)[:, None]
    rows = joined.any(axis=(1, 2))
    encoder = {"kind": "joined", "modalities": modalities, "weight": weight, "seed": SEED}
    return EmbeddingTable(
        items=tuple(item for (_, item), row in zip(catalog.keys, rows, strict=True) if row),
        vectors=joined[rows],
        mask=np.ones((int(rows.sum()), 1), dtype=np.bool_),
        meta={"modality": "joined", "encoder": encoder},
    )


def main() -> None:
    """Write the table beside the data set's others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.joined", description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", type=Path, default=Path("dataset"))
    parser.add_argument("--modalities", default="text,image", help="with commas between them")
    parser.add_argument("--weight", type=float, default=0.7, help="of co-occurrence")
    given = parser.parse_args()
    names = given.modalities.split(",")
    table = join_sources(given.data_path, given.dataset, names, given.weight)
    path = given.data_path / given.dataset / f"{given.dataset}.joined.npz"
    write_embeddings(path, table)
    print(f"{path}: {table.n_items:,} items, {table.dimension:,} dimensions")


if __name__ == "__main__":
    main()
