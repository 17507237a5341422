"""A small data set with text and image embeddings, some of them missing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.tokenizer.settings import tokenize_settings

N_ITEMS, N_USERS = 60, 40
SMALL: dict[str, Any] = {
    "n_levels": 3,
    "codebook_size": 8,
    "show_progress": False,
    "quantizer": "rqkmeans",
    "fusion": "injection",
    "injection.hidden_size": 16,
    "injection.inner_size": 16,
    "injection.max_depth": 3,
    "injection.epochs": 4,
    "injection.batch_size": 16,
    "next_item.hidden_size": 16,
    "next_item.inner_size": 16,
    "next_item.max_depth": 3,
    "next_item.epochs": 4,
}


def small(**changes: Any) -> dict[str, Any]:
    """Settings of a run of a second; dots in a section's key are written `__`."""
    given = SMALL | {key.replace("__", "."): value for key, value in changes.items()}
    other = "next_item" if given["fusion"] == "injection" else "injection"
    kept = {key: value for key, value in given.items() if not key.startswith(f"{other}.")}
    return tokenize_settings((), kept)


def item_names(name: str) -> list[str]:
    return [f"{name}{number}" for number in range(N_ITEMS)]


def item_vectors(dimension: int, seed: int) -> np.ndarray:
    """Five loose clusters [N, D]; items 10 and 11 are equal."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(5, dimension))
    vectors = centers[np.arange(N_ITEMS) % 5] + 0.4 * rng.normal(size=(N_ITEMS, dimension))
    vectors[11] = vectors[10]
    return vectors.astype(np.float32)


def histories(name: str, seed: int = 5) -> list[list[str]]:
    """The items of each user, in time order."""
    rng = np.random.default_rng(seed)
    return [
        [f"{name}{(start + 5 * step) % N_ITEMS}" for step in range(7)]
        for start in rng.integers(0, N_ITEMS, N_USERS).tolist()
    ]


def write_table(
    domain: DatasetPaths,
    modality: str,
    rows: Sequence[int],
    dimension: int,
    seed: int,
    encoder: str,
) -> None:
    names = item_names(domain.name)
    vectors = item_vectors(dimension, seed)[list(rows)][:, None]
    table = EmbeddingTable(
        tuple(names[row] for row in rows),
        vectors,
        np.ones(vectors.shape[:2], np.bool_),
        {"modality": modality, "encoder": {"name": encoder}},
    )
    write_embeddings(domain.file(f"{modality}.npz"), table)


def write_inter(
    domain: DatasetPaths, sequences: Sequence[Sequence[str]], shuffle: int | None
) -> None:
    rows = [
        f"u{user}\t{item}\t{time}"
        for user, items in enumerate(sequences)
        for time, item in enumerate(items)
    ]
    if shuffle is not None:
        random.Random(shuffle).shuffle(rows)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *rows, ""]
    domain.file("inter").write_text("\n".join(lines), encoding="utf-8")


def write_domain(folder: Path, name: str = "toy", shuffle: int | None = None) -> DatasetPaths:
    """Text for all items but 3 and 7, images for the first 50: item 3 has an image, as has 7."""
    domain = DatasetPaths(name, folder / name)
    domain.folder.mkdir(parents=True, exist_ok=True)
    text = [row for row in range(N_ITEMS) if row not in (3, 7)]
    image = list(range(50))
    names = item_names(name)
    if shuffle is not None:
        for order in (text, image, names):
            random.Random(shuffle).shuffle(order)
    write_table(domain, "text", text, 12, 1, "words")
    write_table(domain, "image", image, 20, 2, "pixels")
    lines = ["item_id:token", *names, ""]
    domain.file("item").write_text("\n".join(lines), encoding="utf-8")
    write_inter(domain, histories(name), shuffle)
    return domain
