"""Write the bundles of `stored_bundles/` again, with what they recommend.

    PYTHONPATH=.:tests python tests/serving/store_bundle.py

`test_stored_bundle.py` loads them under every Python that runs the tests. They have to be written
again when the format of bundles changes.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

import torch
from conftest import Tiny, fitted, timed_rows, toy_sequences, toy_table

from recbole_qbert.data.semid import write_semantic_ids
from recbole_qbert.serving.bundle import save_bundle
from recbole_qbert.serving.recommender import Recommender

FOLDER = Path(__file__).parent.resolve() / "stored_bundles"
MODELS = ("QBERT4Rec", "SASRec")
HISTORIES = [["i1"], ["i3", "i4", "i5"], [f"i{number}" for number in range(12, 27)]]


def main() -> None:
    """Train each model on the toy data and store its bundle and lists."""
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)
        tiny = Tiny(Path(root), toy_sequences(), toy_table(), timed_rows(toy_sequences()))
        tiny.folder.mkdir()
        tiny.write_inter(tiny.rows)
        write_semantic_ids(tiny.folder / "toy.semid", tiny.table, {"made_by": "store_bundle.py"})
        lists = {}
        for model in MODELS:
            # Relative paths, so that the bundle names no folder of this machine.
            config = tiny.make_config(model, data_path=".", checkpoint_dir="saved")
            trainer, loaded = fitted(config)
            folder = FOLDER / model
            shutil.rmtree(folder, ignore_errors=True)
            save_bundle(folder, trainer.model, config, loaded.train._dataset)
            lists[model] = Recommender.load(folder).recommend(HISTORIES, k=10)
    made_by = {"python": platform.python_version(), "torch": torch.__version__}
    content = {"made_by": made_by, "histories": HISTORIES, "lists": lists}
    (FOLDER / "lists.json").write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
