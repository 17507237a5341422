"""The whole tokenizer on real text and image vectors: Amazon Scientific, 1,585 items."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.embeddings import import_matrix, write_embeddings
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.settings import tokenize_settings

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "Scientific"
N_ITEMS = 1585
QUICK = {"show_progress": False, "codebook_size": 64}
PAPER = {"streams": ["fused"], "fusion": "injection", "injection.hidden_size": 64}


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> DatasetPaths:
    if not SHARED.is_dir():
        pytest.skip("../shared/data/Scientific is absent")
    made = DatasetPaths("Scientific", tmp_path_factory.mktemp("data") / "Scientific")
    made.folder.mkdir()
    for suffix in ("item", "inter"):
        shutil.copyfile(SHARED / f"Scientific.{suffix}", made.file(suffix))
    for modality in ("text", "image"):
        matrix = SHARED / f"Scientific.clip_{modality}.npy"
        items = SHARED / "Scientific.embedding_items.txt"
        table = import_matrix(matrix, items, modality, "CLIP")
        write_embeddings(made.file(f"{modality}.npz"), table)
    return made


@pytest.mark.parametrize("quantizer", ["rqkmeans", pytest.param("opq", marks=pytest.mark.slow)])
def test_modalities_and_identity_side_by_side(
    domain: DatasetPaths, tmp_path: Path, quantizer: str
) -> None:
    """Every code of every level is used; a few tuples of 12 codes repeat, and are told apart."""
    given = {**QUICK, "streams": ["text", "image", "identity"], "quantizer": quantizer}
    tokenizer = tokenize([domain], tmp_path, tokenize_settings((), given))
    assert tokenizer is not None
    table = read_semantic_ids(domain.file("semid"))
    assert (table.n_items, table.codebook_sizes) == (N_ITEMS, (64,) * 12)
    assert len(np.unique(table.codes, axis=0)) == N_ITEMS
    assert all(len(np.unique(level)) == 64 for level in table.codes.T)
    assert tokenizer.report["unique"]["moved"] <= 20


@pytest.mark.slow
def test_the_papers_recipe(domain: DatasetPaths, tmp_path: Path) -> None:
    """Fused vectors keep neighbors of both modalities; no level of the RQ-VAE collapses."""
    tokenizer = tokenize([domain], tmp_path, tokenize_settings((), QUICK | PAPER))
    assert tokenizer is not None
    stage1 = tokenizer.report["stage 1"]
    assert sum(stage1["depths"]) == N_ITEMS
    near = stage1["neighbors"]
    assert min(near["text"], near["image"]) > 10 * near["chance"]
    levels = tokenizer.report["stage 2, fused"]["levels"]
    assert all(level["usage"] >= 0.95 for level in levels)
    errors = [level["relative_error"] for level in levels]
    assert errors == sorted(errors, reverse=True)
    assert len(np.unique(tokenizer.codes, axis=0)) == N_ITEMS
