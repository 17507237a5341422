"""A toy data set with semantic IDs, and what the tests need to train on it in a blink."""

from __future__ import annotations

import gc
import json
import logging
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.utils import init_seed

import recbole_qbert.training.trainer
from recbole_qbert.common.hashes import sha256_folder
from recbole_qbert.config.build import build_config, known_keys
from recbole_qbert.data.semid import SemanticIDTable, write_semantic_ids
from recbole_qbert.experiments.splits import Splits, load_splits
from recbole_qbert.registry import build_model, model_entry

torch.set_num_threads(1)

N_ITEMS = 30
N_USERS = 40
CODEBOOK_SIZES = (8, 8, 8)
OWN_MODELS = ("BBQRec", "BERT4RecFixed", "BigramChain", "ContentKNN", "ESASRec", "GSASRec")
OWN_MODELS += ("IDBERT4Rec", "MISSRec", "MQL4GRec", "P5CID", "Popularity", "QBERT4Rec")
OWN_MODELS += ("SASRecCodes", "SASRecContent", "TIGER", "VIP5", "VQRec")
READ_VECTORS = ("ContentKNN", "MISSRec", "SASRecContent", "VIP5")
# Applied where the model knows the key; what a test sets wins.
TINY_SIZES: dict[str, Any] = {
    "n_layers": 1,
    "n_heads": 2,
    "hidden_size": 16,
    "embedding_size": 16,
    "inner_size": 32,
    "num_layers": 1,
    "n_decoder_layers": 1,
    "head_size": 8,
    "text_levels": 2,
    "image_levels": 1,
    "n_clusters": 3,
    "max_leaf": 4,
    "id_base": 4,
}
NO_DROPOUT: dict[str, Any] = dict.fromkeys(
    ("hidden_dropout_prob", "attn_dropout_prob", "code_dropout_prob", "row_dropout_prob"), 0.0
)
# QBERT4Rec's loss without draws, so that it can be computed again as a plain cross-entropy.
PLAIN_LOSS: dict[str, Any] = NO_DROPOUT | {
    "code_loss_weight": 0.0,
    "label_smoothing": 0.0,
    "score": "dot",
    "exclude_visible": "off",
}
LEFT_OUT: set[str] = set()  # modules whose objects no garbage collection looks at
Row = tuple[str, str, float]
# What an edited file may hold in place of its JSON, in Latin-1.
OTHER_JSON = {
    "none": "",
    "null": "null",
    "list": "[]",
    "object": "{}",
    "number": "7",
    "text": '"x"',
    "deep": "[" * 100_000,
    "deeper": '{"a":' * 100_000,
    "digits": "9" * 9_999,
    "latin": "\xff",
}


@dataclass
class Tiny:
    """The toy data on disk: `<root>/toy/toy.{inter,item,semid}`."""

    root: Path
    sequences: dict[str, list[str]]  # user -> raw item tokens in order of time
    table: SemanticIDTable
    rows: list[Row]  # as they stand in the .inter file

    @property
    def folder(self) -> Path:
        """Where the atomic files lie."""
        return self.root / "toy"

    def write_inter(self, rows: Iterable[Row], dataset: str = "toy") -> None:
        """Replace the .inter file."""
        path = self.root / dataset / f"{dataset}.inter"
        lines = [f"{user}\t{item}\t{time!r}" for user, item, time in rows]
        header = "user_id:token\titem_id:token\ttimestamp:float"
        path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")

    def settings(self, model: str, **settings: Any) -> dict[str, Any]:
        """Small sizes, no GPU, everything written below the test's folder."""
        known = known_keys(model)
        base = {
            **{key: value for key, value in TINY_SIZES.items() if key in known},
            "data_path": str(self.root),
            "checkpoint_dir": str(self.root / "saved"),
            "use_gpu": False,
            "show_progress": False,
            "epochs": 2,
            "MAX_ITEM_LIST_LENGTH": 8,
            "train_batch_size": 16,
            "eval_batch_size": 32,
        }
        if model == "FDSA":
            base["selected_features"] = ["semantic_id"]
        if model == "S3Rec":
            base["item_attribute"] = "semantic_id"
        if model in READ_VECTORS:
            base["item_vectors"] = self.item_vectors(partial=model != "SASRecContent")
        return base | settings

    def remove_semantic_ids(self) -> None:
        """Delete the IDs of the toy data set."""
        for path in self.folder.glob("toy.semid*"):
            path.unlink()

    def item_vectors(self, partial: bool = False) -> dict[str, str]:
        """Write vectors of two modalities of all toy items, or of all but a few; their paths."""
        draw, paths, kind = np.random.default_rng(5), {}, "partial" if partial else "full"
        for modality, width, lacking in (("text", 6, (3,)), ("image", 5, (5, 3, 21))):
            vectors = draw.normal(size=(N_ITEMS, width)).astype(np.float32)
            kept = [n for n in range(N_ITEMS) if not (partial and n in lacking)]
            paths[modality] = str(self.root / f"{kind}.{modality}.npz")
            np.savez(paths[modality], items=[f"i{n}" for n in kept], vectors=vectors[kept])
        return paths

    def make_config(
        self, model: str = "QBERT4Rec", dataset: str = "toy", **settings: Any
    ) -> Config:
        """A checked config of the toy data."""
        return build_config(model, dataset, settings=self.settings(model, **settings))


def toy_sequences(seed: int = 7) -> dict[str, list[str]]:
    """Walks around a ring of items, mostly one step at a time: 4 to 12 items, no repeats."""
    draw = random.Random(seed)
    sequences = {}
    for user in range(N_USERS):
        place, sequence = draw.randrange(N_ITEMS), []
        for _ in range(draw.randint(4, 12)):
            sequence.append(f"i{place % N_ITEMS}")
            place += 1 if draw.random() < 0.8 else 2
        sequences[f"u{user}"] = sequence
    return sequences


def timed_rows(sequences: Mapping[str, list[str]], step: float = 10.0) -> list[Row]:
    """One row an interaction, users in turn, times rising within a user."""
    return [
        (user, item, 100.0 * number + step * place)
        for number, (user, sequence) in enumerate(sequences.items())
        for place, item in enumerate(sequence)
    ]


def toy_table() -> SemanticIDTable:
    """Unique code tuples that are no function of the item's number alone."""
    items = [f"i{number}" for number in range(N_ITEMS)]
    drawn = np.random.default_rng(3).choice(8**3, N_ITEMS, replace=False)
    codes = np.stack([drawn // 64, drawn // 8 % 8, drawn % 8], axis=1)
    return SemanticIDTable(tuple(items), codes.astype(np.int64), CODEBOOK_SIZES)


def new_trainer(config: Config, loaded: Splits | None = None) -> tuple[Any, Splits]:
    """A fresh model in its trainer, and its data."""
    loaded = loaded or load_splits(config)
    entry = model_entry(config["model"])
    init_seed(config["seed"], config["reproducibility"])
    return entry.trainer(config, build_model(config, loaded.train._dataset)), loaded


def fitted(config: Config) -> tuple[Any, Splits]:
    """Trained on the toy data."""
    trainer, loaded = new_trainer(config)
    trainer.fit(loaded.train, loaded.valid, verbose=False)
    return trainer, loaded


def renumber(loaded: Splits) -> None:
    """Change the internal numbers of all items of loaded data, with those of the users kept."""
    order = torch.randperm(N_ITEMS, generator=torch.Generator().manual_seed(2)) + 1
    new = torch.cat([torch.zeros(1, dtype=torch.long), order])  # old number -> new number
    done = set()
    for part in (loaded.train, loaded.valid, loaded.test):
        own = part._dataset
        own.inter_feat["item_id"] = new[own.inter_feat["item_id"]]
        own.item_codes = torch.empty_like(own.item_codes).index_copy(0, new, own.item_codes)
        if id(own._flat) not in done:
            own._flat["item_id"] = new[own._flat["item_id"]]
        done.add(id(own._flat))


def first_batch(loader: Any) -> Any:
    """The first batch of a loader, without RecBole's further columns."""
    batch = next(iter(loader))
    return batch[0] if isinstance(batch, tuple) else batch


def loss_and_gradients(loss: Any, model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Both of a loss of this model, and nothing of earlier ones."""
    model.zero_grad()
    loss.backward()
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return loss.item(), {name: gradient.clone() for name, gradient in found.items()}


def scores(model: Any, loader: Any) -> torch.Tensor:
    """All scores of a loader's rows, padding column left out; [rows, items]."""
    model.eval()
    with torch.no_grad():
        parts = [model.full_sort_predict(batch[0]).view(len(batch[3]), -1) for batch in loader]
    return torch.cat(parts)[:, 1:]


def assert_equal_weights(left: Mapping[str, Any], right: Mapping[str, Any]) -> None:
    """Two state dicts agree bit for bit."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def sign(folder: Path) -> None:
    """Give a manifest the hashes of the files as they are."""
    manifest = json.loads((folder / "manifest.json").read_text())
    digests = sha256_folder(folder)
    digests.pop("manifest.json")
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": digests}))


def files_below(folder: Path) -> list[str]:
    """Every path below a folder, to see that nothing was written."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def leave_out_modules() -> None:
    """Let garbage collections, of which every run makes one, pass over what modules hold."""
    if len(sys.modules.keys() - LEFT_OUT) > 100:
        gc.collect()
        gc.freeze()
        LEFT_OUT.update(sys.modules)


def pytest_collection_finish() -> None:
    """All that the tests themselves import is there."""
    leave_out_modules()


def pytest_runtest_logfinish() -> None:
    """What a test needed first, such as the compiler of PyTorch, is there now."""
    leave_out_modules()


@pytest.fixture(autouse=True)
def process_wide_switches() -> Iterator[None]:
    """Undo what a command run in this process sets for all of it."""
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(1)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tiny]:
    """The toy data; the working directory is the test's folder, the command line is empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])  # RecBole reads the flags of whoever runs it
    monkeypatch.delenv("COLUMNS", raising=False)  # set by pytest-xdist; tables follow it
    folder = tmp_path / "toy"
    folder.mkdir()
    sequences, table = toy_sequences(), toy_table()
    rows = timed_rows(sequences)
    random.Random(11).shuffle(rows)
    toy = Tiny(tmp_path, sequences, table, rows)
    toy.write_inter(rows)
    write_semantic_ids(folder / "toy.semid", table, {"made_by": "conftest.py"})
    kinds = ("red", "green", "blue", "round")
    lines = ["item_id:token\ttitle:token_seq\tclass:token_seq"]
    for number in range(N_ITEMS):
        classes = [kind for place, kind in enumerate(kinds) if (number + 1) % (place + 2) == 0]
        lines.append(f"i{number}\tThing {number}\t{' '.join(classes or ['plain'])}")
    (folder / "toy.item").write_text("\n".join([*lines, ""]), encoding="utf-8")
    writers: list[Any] = []
    make_writer = recbole_qbert.training.trainer.SummaryWriter

    def writer_below(folder: str) -> Any:
        writers.append(make_writer(folder))
        return writers[-1]

    monkeypatch.setattr(recbole_qbert.training.trainer, "SummaryWriter", writer_below)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield toy
    for writer in writers:
        writer.close()  # its thread would go on writing below whatever folder comes next
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)  # RecBole's init_logger leaves its own
        handler.close()
    root.setLevel(level)


@pytest.fixture
def make_config(tiny: Tiny) -> Callable[..., Config]:
    """`make_config(model="QBERT4Rec", **settings)` on the toy data."""
    return tiny.make_config


def with_columns(tiny: Tiny) -> dict[str, list[str]]:
    """The toy items with one word and one number more each; the `load_col` that reads them."""
    path = tiny.folder / "toy.item"
    header, *lines = path.read_text().splitlines()
    rows = [f"{line}\tk{number % 4}\t{number}.5" for number, line in enumerate(lines)]
    path.write_text("\n".join([f"{header}\tkind:token\tprice:float", *rows, ""]))
    return {
        "inter": ["user_id", "item_id", "timestamp"],
        "item": ["item_id", "class", "kind", "price"],
    }
