"""Every model that can be run has a bundle, which scores as the model does, or says why not."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny, files_below, fitted, new_trainer, with_columns
from recbole.data.interaction import Interaction
from rich.console import Console
from test_registry import LearnedScores, forget, pretrained
from torch import Tensor, nn

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.dataset import SemanticIDDataset
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.experiments.run import run_models
from recbole_qbert.registry import MODEL_TABLE, model_entry, register
from recbole_qbert.serving.bundle import NotBundled, save_bundle
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.speedups.trimmed_forward import MODELS as LEAN
from recbole_qbert.training.checkpoint import load_checkpoint

OF_RECBOLE = (
    # fmt: off
    "BERT4Rec",
    "CORE",
    "FDSA",
    "GCSAN",
    "GRU4Rec",
    "GRU4RecF",
    "LightSANs",
    "NARM",
    "NextItNet",
    "RepeatNet",
    "S3Rec",
    "SASRec",
    "SASRecF",
    "SINE",
    "SRGNN",
    "STAMP",
    # fmt: on
)
OF_USERS = ("Caser", "FOSSIL", "FPMC", "HGN", "HRM", "NPE", "SHAN", "TransRec")
READ_FEATURES = {"FDSA", "GRU4RecF", "MISSRec", "S3Rec", "SASRecF", "VIP5"}


def own_scores(model: Any, loaded: Any, histories: list[list[str]]) -> list[dict[str, float]]:
    """What a model's own `full_sort_predict` says of items after histories, those excluded out."""
    ids = loaded.dataset.field2token_id["item_id"]
    items = torch.zeros(len(histories), 8, dtype=torch.long)
    for row, history in enumerate(histories):
        for place, item in enumerate(history[-8:]):
            items[row, place] = ids[item]
    lengths = torch.tensor([min(len(history), 8) for history in histories])
    batch = Interaction(
        {"item_id_list": items, "item_length": lengths, "item_id": lengths + 20}  # as in evaluation
    )
    with torch.no_grad():
        scores = model.eval().full_sort_predict(batch).view(len(histories), -1)
    tokens = loaded.dataset.field2id_token["item_id"]
    return [
        {tokens[i]: score for i, score in enumerate(row) if i and score > -torch.inf}
        for row in scores.tolist()
    ]


def assert_scores_alike(tiny: Tiny, trainer: Any, loaded: Any, folder: Path) -> None:
    """A bundle scores as its model does, though data set and checkpoints are gone."""
    histories = [sequence[:-1] for sequence in tiny.sequences.values()]
    expected = own_scores(trainer.model, loaded, histories)
    shutil.rmtree(tiny.folder)
    for path in trainer.saved_model_file, tiny.root / "first":
        shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink(missing_ok=True)
    lists = Recommender.load(folder).recommend(histories, k=30, exclude_seen=False)
    for found, row in zip(lists, expected, strict=True):
        assert dict(found) == pytest.approx(row, rel=1e-5, abs=1e-6)
        scores = [score for _, score in found]
        assert scores == sorted(scores, reverse=True)
        assert len(set(row.values())) > 1


@pytest.mark.parametrize("trim", [True, False])
@pytest.mark.parametrize("name", [*MODEL_TABLE, *OF_RECBOLE])
def test_a_bundle_scores_as_the_model_does(tiny: Tiny, name: str, trim: bool) -> None:
    """`trim_padding` cuts the padding off where it can, in bundles too."""
    if not trim and name not in LEAN:
        pytest.skip("nothing is cut for it")
    settings: dict[str, Any] = {"epochs": 1, "trim_padding": trim}
    if name == "QBERT4Rec":
        settings["softmax_samples"] = 8  # it asks for the training rows too
    if name in ("SASRecF", "GRU4RecF"):
        settings["selected_features"] = ["semantic_id"]
    if name in ("SASRecCPR", "GRU4RecCPR"):
        settings["reranker_CAN_NUM"] = "5"
    if name == "S3Rec":
        settings |= {"train_stage": "finetune", "pre_model_path": pretrained(tiny)}
    config = tiny.make_config(name, **settings)
    trainer, loaded = fitted(config)
    state = torch.get_rng_state()
    folder = tiny.root / "bundle"
    save_bundle(folder, trainer.model, config, loaded.train._dataset)
    assert ("item_feat" in load_checkpoint(folder / "dataset.safetensors")) == (
        name in READ_FEATURES
    )
    assert_scores_alike(tiny, trainer, loaded, folder)
    assert torch.equal(torch.get_rng_state(), state)  # training could go on


@pytest.mark.parametrize("name", ["FDSA", "SASRecF", "GRU4RecF"])
def test_item_features_of_every_type(tiny: Tiny, name: str) -> None:
    """A word, several, a number, a vector from a file of its own, and semantic IDs."""
    path = tiny.root / "vectors.npz"
    items = [f"i{number}" for number in range(30)]
    vectors, mask = np.random.default_rng(5).random((30, 1, 4)), np.ones((30, 1), dtype=bool)
    write_embeddings(path, EmbeddingTable(tuple(items), vectors.astype(np.float32), mask, {}))
    config = tiny.make_config(
        name,
        epochs=1,
        load_col=with_columns(tiny),
        item_vectors={"vector": str(path)},
        selected_features=["class", "kind", "price", "semantic_id"],
        numerical_features=["price"],
    )
    trainer, loaded = fitted(config)
    save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
    path.unlink()
    assert_scores_alike(tiny, trainer, loaded, tiny.root / "bundle")


@pytest.mark.parametrize("name", OF_USERS)
def test_a_model_of_users_has_none(tiny: Tiny, name: str) -> None:
    """A bundle knows histories, not who has them. An older bundle stays."""
    older = tiny.make_config("SASRec")
    trainer, loaded = new_trainer(older)
    save_bundle(tiny.root / "bundle", trainer.model, older, loaded.train._dataset)
    config = tiny.make_config(name)
    trainer, loaded = new_trainer(config)
    before = files_below(tiny.root)
    with pytest.raises(NotBundled, match=f"^{name} has no bundle: .*'user_id' is missing") as error:
        save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
    assert "\n" not in str(error.value)
    assert files_below(tiny.root) == before
    assert Recommender.load(tiny.root / "bundle").config["model"] == "SASRec"


def test_a_run_says_that_there_is_none(tiny: Tiny) -> None:
    """In one line at its end, and in the result; the others of the command have one."""
    console = Console(file=io.StringIO(), width=400)
    models = ["FPMC", "SASRec", "BigramChain"]
    results = [
        run_models([name], "toy", (), tiny.settings(name, epochs=1), console)[0] for name in models
    ]
    assert [bool(result.bundle) for result in results] == [False, True, True]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("has no bundle") == said.count("FPMC has no bundle: ") == 1
    for result in results[1:]:
        assert len(Recommender.load(result.bundle).recommend([["i1", "i2"]])[0]) == 10
    assert not (Path(results[0].folder) / "bundle").exists()


# Third parties -----------------------------------------------------------------------------------


class GraphDataset(SemanticIDDataset):
    """A third party's data set: what else it knows of its items."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.neighbors = {"of": torch.arange(self.item_num).flip(0), "weight": (0.25, 4)}
        self.secret = object()

    def n_neighbors(self) -> int:
        """From an attribute."""
        return len(self.neighbors["of"])


class GraphModel(LearnedScores):
    """Asks for attributes, methods, fields and the counts of a data set."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.neighbors = dataset.neighbors["of"]  # neither parameter nor buffer
        self.share = dataset.neighbors["weight"][0]
        self.embedding = nn.Embedding(dataset.n_neighbors() + dataset.user_num, 4)
        self.classes = nn.Embedding(dataset.num("class"), 4)
        self.same_classes = nn.Embedding(dataset.num("class"), 4)
        self.same_classes.weight = self.classes.weight
        self.turned = nn.Parameter(torch.rand(3, self.n_items).T)
        self.features = dataset.get_item_feature()["class"]  # [N, words]
        assert dataset.get_user_feature()["user_id"].shape == (dataset.user_num,)
        assert dataset.field2type["class"].value == "token_seq"
        items, _ = dataset.training_sequences()
        pairs = torch.unique(items)
        self.register_buffer("observed", pairs)  # as many as there are in training
        self.wrapped = nn.Module()
        self.wrapped.register_buffer("first", dataset.inter_feat["item_id"].clone())

    def forward(self, interaction: Any) -> Tensor:
        of_classes = self.classes(self.features).mean(dim=(1, 2))
        own = self.item_scores + self.share * self.item_scores[self.neighbors]
        row = own + self.embedding.weight[: self.n_items, 0] + of_classes
        row = row + self.turned.mean(dim=1) + self.same_classes.weight.mean()
        row = row + self.observed.float().mean() + self.wrapped.first.float().mean()
        return row.repeat(len(interaction[self.ITEM_SEQ]), 1)


@pytest.fixture
def graph_model() -> Iterator[type]:
    yield register(GraphModel, GraphDataset)
    forget("GraphModel")


def load_classes() -> dict[str, list[str]]:
    return {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}


def test_what_a_third_partys_model_asks_of_its_data_set(tiny: Tiny, graph_model: type) -> None:
    """Comes from the bundle, which holds no user and no interaction."""
    renamed = {f"person-{user}": sequence for user, sequence in tiny.sequences.items()}
    rows = [(f"person-{user}", item, time) for user, item, time in tiny.rows]
    tiny.write_inter(rows)
    config = tiny.make_config("GraphModel", epochs=1, load_col=load_classes())
    trainer, loaded = fitted(config)
    folder = tiny.root / "bundle"
    save_bundle(folder, trainer.model, config, loaded.train._dataset)
    for path in folder.iterdir():
        assert b"person-" not in path.read_bytes(), path
    notes = load_checkpoint(folder / "dataset.safetensors")
    assert all(len(values) == 0 for values in notes["inter_feat"].values())
    tiny.sequences = renamed
    assert_scores_alike(tiny, trainer, loaded, folder)


class Secretive(LearnedScores):
    """Keeps what no file of a bundle can hold."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.kept = dataset.secret


class Drawing(LearnedScores):
    """Never says the same."""

    def forward(self, interaction: Any) -> Tensor:
        return super().forward(interaction) + torch.rand(self.n_items)


class Broken(LearnedScores):
    """Says that everything is not a number."""

    def forward(self, interaction: Any) -> Tensor:
        return super().forward(interaction) * torch.nan


class Cheating(LearnedScores):
    """Knows the target."""

    def forward(self, interaction: Any) -> Tensor:
        targets = interaction[self.POS_ITEM_ID]
        return super().forward(interaction) + nn.functional.one_hot(targets, self.n_items)


class Spoiled(LearnedScores):
    """Its weights were lost in training."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.item_scores.data[3] = torch.nan


class Counting(LearnedScores):
    """Remembers in a plain attribute what it saw in training: an empty one would say otherwise."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.seen = torch.bincount(dataset.training_sequences()[0], minlength=self.n_items)

    def forward(self, interaction: Any) -> Tensor:
        return super().forward(interaction) + self.seen


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Secretive, "cannot hold a object"),
        (Drawing, "the rebuilt model gives other scores"),
        (Broken, "the rebuilt model gives other scores"),
        (Cheating, "the rebuilt model gives other scores"),
        (Spoiled, "some weights are not numbers"),
        (Counting, "the rebuilt model gives other scores"),
    ],
)
def test_a_third_partys_model_that_cannot_be_kept(tiny: Tiny, model: type, message: str) -> None:
    """Is found out before anything is written, and said in one line."""
    try:
        register(model, GraphDataset)
        config = tiny.make_config(model.__name__)
        trainer, loaded = new_trainer(config)
        before = files_below(tiny.root)
        with pytest.raises(NotBundled, match=f"^{model.__name__} has no bundle: .*{message}") as e:
            save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
        assert "\n" not in str(e.value)
        assert files_below(tiny.root) == before
    finally:
        forget(model.__name__)


def test_a_bundle_of_a_model_that_is_not_registered(tiny: Tiny, graph_model: type) -> None:
    config = tiny.make_config("GraphModel", load_col=load_classes())
    trainer, loaded = new_trainer(config)
    save_bundle(tiny.root / "bundle", trainer.model, config, loaded.train._dataset)
    entry = model_entry("GraphModel")
    forget("GraphModel")
    with pytest.raises(InputError, match="bundle: .*model GraphModel: not a model of this package"):
        Recommender.load(tiny.root / "bundle")
    register(entry.model, entry.dataset)
