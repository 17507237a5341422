"""RecBole itself, without this plug-in, loads atomic files in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import LIBRARIES

# Load each data set with all its columns, split it, print what is there.
ALONE = """
import json, sys
import numpy as np
from recbole.config import Config
from recbole.data import create_dataset

data_path, *names = sys.argv[1:]
sys.argv = sys.argv[:1]
read = {}
for name in names:
    settings = {
        "data_path": data_path, "load_col": None, "train_neg_sample_args": None,
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"},
    }
    dataset = create_dataset(Config("SASRec", name, config_dict=settings))
    users = dataset.id2token("user_id", dataset.inter_feat["user_id"]).tolist()
    items = dataset.id2token("item_id", dataset.inter_feat["item_id"]).tolist()
    found = {
        "counts": [dataset.user_num - 1, dataset.item_num - 1, dataset.inter_num],
        "pairs": sorted(zip(users, items, strict=True)),
        "fields": sorted(dataset.field2type),
    }
    if dataset.item_feat is not None:
        found["items"] = sorted(
            dataset.id2token("item_id", dataset.item_feat["item_id"][1:]).tolist()
        )
    test = dataset.build()[2].inter_feat
    pair = [dataset.id2token(field, test[field]) for field in ("user_id", "item_id")]
    found["last"] = dict(zip(*(np.atleast_1d(tokens).tolist() for tokens in pair), strict=True))
    read[name] = found
assert not [name for name in sys.modules if name.startswith("recbole_qbert")]
print(json.dumps(read))
"""


def skip_with_numpy_2() -> None:
    """RecBole alone, without this plug-in, uses names that NumPy 2 removed."""
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        pytest.skip("RecBole alone needs NumPy below 2")


def load_alone(data_path: Path, names: list[str], where: Path) -> dict[str, Any]:
    """What RecBole read of each data set."""
    skip_with_numpy_2()
    done = LIBRARIES.run(ALONE, str(data_path), *names, cwd=where)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read
