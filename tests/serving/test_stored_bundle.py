"""Bundles of another Python (`store_bundle.py` wrote them) give the lists they gave there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_qbert.serving.recommender import Recommender

FOLDER = Path(__file__).parent / "stored_bundles"
STORED = json.loads((FOLDER / "lists.json").read_text(encoding="utf-8"))


def test_the_bundles_were_written_by_another_python_than_ci_runs() -> None:
    assert STORED["made_by"]["python"].startswith("3.13.")
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == STORED["lists"].keys()


@pytest.mark.parametrize("model", STORED["lists"])
def test_a_stored_bundle_gives_the_lists_of_its_training(model: str) -> None:
    found = Recommender.load(FOLDER / model).recommend(STORED["histories"], k=10)
    for row, expected in zip(found, STORED["lists"][model], strict=True):
        assert [item for item, _ in row] == [item for item, _ in expected]
        assert [score for _, score in row] == pytest.approx([s for _, s in expected], abs=1e-5)
