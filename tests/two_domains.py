"""Two toy domains on disk, of other sizes, with semantic IDs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import N_ITEMS, Tiny, timed_rows, toy_sequences, toy_table

from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.pretraining.corpus import Corpus

SIZES = {"A": N_ITEMS, "B": 20}


@dataclasses.dataclass
class Toys:
    """Where the domains lie, and what is in them."""

    root: Path
    sequences: dict[str, dict[str, list[str]]]
    tables: dict[str, SemanticIDTable]

    def corpus(self, names: str = "AB", modalities: Sequence[str] = ()) -> Corpus:
        return Corpus([DatasetPaths(name, self.root / name) for name in names], modalities)

    def write_vectors(
        self, modality: str, width: int, encoder: str = "E", lacking: int = 0
    ) -> None:
        """Write a table of each domain, of two parts an item, without the last `lacking` items."""
        for seed, (name, ids) in enumerate(self.tables.items()):
            items = ids.items[: len(ids.items) - lacking]
            draw = np.random.default_rng((seed, width))
            vectors = draw.normal(size=(len(items), 2, width)).astype(np.float32)
            present = np.ones((len(items), 2), np.bool_)
            vectors[0, 1], present[0, 1] = 0, False
            table = EmbeddingTable(items, vectors, present, {"encoder": {"name": encoder}})
            write_embeddings(self.root / name / f"{name}.{modality}.npz", table)


def write_ids(root: Path, name: str, vocabulary: str) -> SemanticIDTable:
    """Items i0, i1, ... in reverse, so that a row is not an item's own number."""
    table = toy_table()
    items = [f"i{number}" for number in range(SIZES[name])][::-1]
    codes = table.codes_for(items) if name == "A" else table.codes_for(items)[:, ::-1]
    table = SemanticIDTable(
        tuple(items), np.array(codes), table.codebook_sizes, vocabulary=vocabulary
    )
    write_semantic_ids(root / name / f"{name}.semid", table, {"made_by": "conftest.py"})
    return table


@pytest.fixture(name="toys")
def make_toys(tiny: Tiny) -> Toys:
    """Domains A and B with one vocabulary."""
    sequences, tables = {}, {}
    for seed, name in enumerate(SIZES):
        own = toy_sequences(seed)
        if name == "B":  # fewer items and users; some users too short
            own = {
                user: list(dict.fromkeys(f"i{int(item[1:]) % SIZES[name]}" for item in items))
                for user, items in list(own.items())[:25]
            }
            own["short"] = ["i1", "i2", "i3"]
        (tiny.root / name).mkdir()
        tiny.write_inter(timed_rows(own), name)
        sequences[name] = own
        tables[name] = write_ids(tiny.root, name, "shared")
    return Toys(tiny.root, sequences, tables)
