"""Small atomic files drawn at random, and RecBole alone reading what was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Rows = list[tuple[str, str, int]]

# users -> items in order; every item once a user, as in leave-one-out data
SEQUENCES = st.dictionaries(
    st.text("uvw0123", min_size=1, max_size=3),
    st.lists(st.integers(0, 12).map(lambda number: f"i{number}"), min_size=1, max_size=9),
    min_size=1,
    max_size=6,
)

ALONE = """
import json, sys, warnings
warnings.filterwarnings("ignore")
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
sys.argv = sys.argv[:1]
settings = json.loads(sys.stdin.read())
config = Config(model="SASRec", dataset=settings.pop("dataset"), config_dict=settings)
dataset = create_dataset(config)
parts = data_preparation(config, dataset)
assert not any(name.startswith("recbole_qbert") for name in sys.modules)
out = {"items": dataset.item_num - 1, "users": dataset.user_num - 1, "rows": []}
for part in parts:
    rows = part._dataset.inter_feat
    for user, history, length, item in zip(
        rows["user_id"], rows["item_id_list"], rows["item_length"], rows["item_id"]
    ):
        out["rows"].append([
            str(dataset.id2token("user_id", int(user))),
            [str(dataset.id2token("item_id", int(each))) for each in history[:int(length)]],
            str(dataset.id2token("item_id", int(item))),
        ])
    out["rows"].append(None)
print("RESULT" + json.dumps(out))
"""


def write_inter(path: Path, rows: Sequence[tuple[str, str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"{user}\t{item}\t{time}" for user, item, time in rows]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def placed(sequences: Mapping[str, Sequence[str]]) -> Rows:
    """Rows whose times are places."""
    return [
        (user, item, place) for user, items in sequences.items() for place, item in enumerate(items)
    ]


def recbole_alone(data_path: Path, dataset: str, **settings: Any) -> dict[str, Any]:
    """What RecBole itself, in a process without this package, reads: users, items, rows by part."""
    given = {
        "dataset": dataset, "data_path": str(data_path), "train_neg_sample_args": None,
        "state": "ERROR", "checkpoint_dir": str(data_path / "saved"), "use_gpu": False,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, **settings,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=data_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))
