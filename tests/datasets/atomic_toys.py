"""Small atomic files drawn at random, and RecBole alone reading what was written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from processes import LIBRARIES
from recbole_alone import skip_with_numpy_2

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
settings = json.loads(sys.argv.pop())
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
    skip_with_numpy_2()
    given = {
        "dataset": dataset, "data_path": str(data_path), "train_neg_sample_args": None,
        "state": "ERROR", "checkpoint_dir": str(data_path / "saved"), "use_gpu": False,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, **settings,
    }  # fmt: skip
    done = LIBRARIES.run(ALONE, json.dumps(given), cwd=data_path)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))


def unisrec_like(folder: Path, sequences: dict[str, list[str]], n_items: int) -> None:
    """As UniSRec writes its folders: a user's longest training row first."""
    folder.mkdir(parents=True)
    lines: dict[str, list[str]] = {part: [] for part in ("train", "valid", "test")}
    for user, items in sequences.items():
        train = items[:-2]
        for place in range(1, len(train)):
            lines["train"].append(f"{user}\t{' '.join(train[:-place][-50:])}\t{train[-place]}")
        lines["valid"].append(f"{user}\t{' '.join(train[-50:])}\t{items[-2]}")
        lines["test"].append(f"{user}\t{' '.join(items[:-1][-50:])}\t{items[-1]}")
    for part, rows in lines.items():
        header = "user_id:token\titem_id_list:token_seq\titem_id:token"
        (folder / f"x.{part}.inter").write_text("\n".join([header, *rows, ""]))
    texts = [f"{n}\ttext of {n}" for n in range(n_items)]
    (folder / "x.text").write_text("\n".join(["item_id:token\ttext:token_seq", *texts, ""]))
    vectors = np.arange(n_items * 4, dtype=np.float32).reshape(n_items, 4)
    vectors.tofile(folder / "x.feat1CLS")
    for suffix, count in (("item2index", n_items), ("user2index", len(sequences))):
        tokens = [f"{suffix[0]}{n}\t{n}\n" for n in range(count)]
        (folder / f"x.{suffix}").write_text("".join(tokens))
