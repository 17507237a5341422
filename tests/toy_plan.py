"""A benchmark's YAML on the toy data, and what came of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from conftest import TINY_SIZES, Tiny

SIZES = {key: TINY_SIZES[key] for key in ("n_layers", "n_heads", "hidden_size", "inner_size")}
SETTINGS = {
    **SIZES,
    "use_gpu": False,
    "show_progress": False,
    "epochs": 2,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 16,
}
# The weights grow by a factor of 19 a step, beyond what a float holds.
DIVERGING = {"learner": "sgd", "learning_rate": 2.0, "weight_decay": 10.0, "train_batch_size": 1}


def write_plan(tiny: Tiny, **content: Any) -> Path:
    """What is not given: QBERT4Rec and SASRec, one seed, no controls."""
    path = tiny.root / "bench.yaml"
    base: dict[str, Any] = {
        "models": ["QBERT4Rec", "SASRec"],
        "datasets": ["toy"],
        "seeds": [1],
        "data_path": ".",
        "settings": SETTINGS,
        "controls": False,
    }
    path.write_text(yaml.safe_dump(base | content, sort_keys=False))
    return path


def lines_of(folder: str) -> list[dict[str, Any]]:
    """The runs in a folder's results.jsonl."""
    text = Path(folder, "results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
