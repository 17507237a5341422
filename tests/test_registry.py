"""Every model trains, scores, saves and reloads; third parties' models run by name in RecBole."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import recbole.data.dataset
import recbole.trainer
import torch
from conftest import Tiny, assert_equal_weights, fitted, new_trainer, scores
from recbole.config import Config
from recbole.data.dataset import SequentialDataset
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.quick_start import run_recbole
from recbole.utils import InputType, ModelType, get_model, get_trainer
from rich.console import Console
from torch import Tensor, nn

from recbole_qbert.common.errors import InputError
from recbole_qbert.config.build import known_keys
from recbole_qbert.data.dataset import SemanticIDDataset
from recbole_qbert.experiments.checks import check_run
from recbole_qbert.experiments.run import run_models
from recbole_qbert.experiments.splits import load_splits
from recbole_qbert.registry import MODEL_TABLE, model_entry, register
from recbole_qbert.training.checkpoint import load_checkpoint
from recbole_qbert.training.trainer import ResumableTrainer

# FPMC and TransRec learn from pairs of items alone.
RECBOLE_MODELS = ("SASRec", "BERT4Rec", "GRU4Rec", "FDSA", "S3Rec", "FPMC", "TransRec")
MODELS = [*MODEL_TABLE, *RECBOLE_MODELS]


class LearnedScores(SequentialRecommender):
    """A third party's model: one learned score an item. Its key is known from its source."""

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.item_scores = nn.Parameter(torch.zeros(self.n_items))
        self.temperature = config["heat"] or 1.0

    def forward(self, interaction: Any) -> Tensor:
        """One row of scores for each row of the batch."""
        row = self.item_scores / self.temperature
        return row.repeat(len(interaction[self.ITEM_SEQ]), 1)

    def calculate_loss(self, interaction: Any) -> Tensor:
        return nn.functional.cross_entropy(self(interaction), interaction[self.POS_ITEM_ID])

    def predict(self, interaction: Any) -> Tensor:
        return self(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        return self(interaction)


def forget(name: str) -> None:
    """Undo `register`."""
    MODEL_TABLE.pop(name, None)
    sys.modules.pop(f"recbole.model.sequential_recommender.{name.lower()}", None)
    for module, kind in ((recbole.data.dataset, "Dataset"), (recbole.trainer, "Trainer")):
        if hasattr(module, f"{name}{kind}"):
            delattr(module, f"{name}{kind}")
    known_keys.cache_clear()


@pytest.fixture
def learned_scores() -> Iterator[type]:
    """The third party's model, registered for one test."""
    yield register(LearnedScores)
    forget("LearnedScores")


def as_user(tiny: Tiny, model: str, **settings: Any) -> dict[str, Any]:
    """A `config_dict` for RecBole's own functions, which know nothing of this package."""
    return tiny.settings(model, **settings)


def best_file(tiny: Tiny, model: str) -> Path:
    """What the only run of `run_recbole` left."""
    found = (tiny.root / "saved").glob(f"{model}-*.safetensors")
    (path,) = (path for path in found if ".last." not in path.name)
    return path


# Every model -------------------------------------------------------------------------------------


def pretrained(tiny: Tiny, **settings: Any) -> str:
    """S3Rec's first stage on whole sequences; returns the checkpoint that the second one loads."""
    config = tiny.make_config(
        "S3Rec",
        train_stage="pretrain",
        augmentation="none",
        checkpoint_dir=str(tiny.root / "first"),
        **settings,
    )
    trainer, loaded = new_trainer(config)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.fit(loaded.train, None, verbose=False)
    after = trainer.model.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert_equal_weights(load_checkpoint(trainer.saved_model_file)["state_dict"], after)
    return str(trainer.saved_model_file)


@pytest.mark.parametrize("name", MODELS)
def test_trains_scores_saves_and_reloads(tiny: Tiny, name: str) -> None:
    """Scores of a new model with the saved weights equal those of the trained one."""
    from recbole.quick_start import load_data_and_model

    settings: dict[str, Any] = {}
    if name == "S3Rec":
        settings = {"train_stage": "finetune", "pre_model_path": pretrained(tiny)}
    config = tiny.make_config(name, epochs=1, **settings)
    trainer, loaded = fitted(config)
    assert torch.isfinite(torch.tensor(list(trainer.train_loss_dict.values()))).all()
    live = scores(trainer.model, loaded.test)
    assert live.shape == (40, 30)
    assert torch.isfinite(live).any(dim=1).all()
    assert live[live.isfinite()].std() > 0
    saved = trainer.evaluate(loaded.test)  # loads the file

    again, other = new_trainer(config)
    again._load_weights(trainer.saved_model_file)
    torch.testing.assert_close(scores(again.model, other.test), live, rtol=1e-5, atol=1e-5)
    assert again.evaluate(other.test, load_best_model=False) == saved

    _, model, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    assert isinstance(model, model_entry(name).model)
    # RecBole's layers before any training of ours: GELU in other operations.
    torch.testing.assert_close(scores(model, test), live, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_predict_agrees_with_full_sort(tiny: Tiny, name: str) -> None:
    settings: dict[str, Any] = {}
    if name == "S3Rec":
        settings = {"train_stage": "finetune", "pre_model_path": pretrained(tiny, epochs=1)}
    trainer, loaded = new_trainer(tiny.make_config(name, **settings))
    trainer.model.eval()
    with torch.no_grad():
        for interaction, _, _, targets in loaded.test:
            full = trainer.model.full_sort_predict(interaction).view(len(targets), -1)
            single = trainer.model.predict(interaction)
            expected = full.gather(1, targets.unsqueeze(1)).squeeze(1)
            torch.testing.assert_close(single, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_recbole_finds_the_classes_by_name(name: str) -> None:
    entry = model_entry(name)
    assert get_model(name) is entry.model
    assert issubclass(get_trainer(ModelType.SEQUENTIAL, name), entry.trainer)
    assert getattr(recbole.data.dataset, f"{name}Dataset") is entry.dataset


# RecBole's own functions -------------------------------------------------------------------------


def run_by_recbole(tiny: Tiny, model: str, **settings: Any) -> dict[str, Any]:
    return dict(
        run_recbole(model=model, dataset="toy", config_dict=as_user(tiny, model, **settings))
    )


def test_run_recbole_and_load_data_and_model(tiny: Tiny) -> None:
    """By name, with nothing but a `config_dict`; the result is that of our own runner."""
    from recbole.quick_start import load_data_and_model

    result = run_by_recbole(tiny, "QBERT4Rec")
    trainer, loaded = fitted(tiny.make_config(checkpoint_dir=str(tiny.root / "ours")))
    assert result["best_valid_score"] == trainer.best_valid_score
    assert dict(result["test_result"]) == dict(trainer.evaluate(loaded.test))

    path = best_file(tiny, "QBERT4Rec")
    config, model, dataset, train, _, test = load_data_and_model(str(path))
    assert config["model"] == "QBERT4Rec"
    assert isinstance(dataset, SemanticIDDataset)
    assert train._dataset.item_codes.shape == (31, 3)
    assert torch.equal(scores(model, test), scores(trainer.model, loaded.test))


@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec"])
def test_run_and_run_recbole_give_the_same_numbers(tiny: Tiny, model: str) -> None:
    """Bit for bit on one thread, with what `properties/tuned` says for a data set of the name, in
    batches of users; nothing is written outside the folder that was named."""
    games = tiny.folder.rename(tiny.root / "Games")
    for path in games.iterdir():
        path.rename(games / path.name.replace("toy", "Games"))
    given = tiny.settings(model, eval_step=1)
    before = set(tiny.root.iterdir())
    (result,) = run_models([model], "Games", settings=given, console=Console(quiet=True))
    recboles = run_recbole(model=model, dataset="Games", config_dict=dict(given))
    assert dict(recboles["test_result"]) == result.test
    assert dict(recboles["best_valid_result"]) == result.valid
    assert set(tiny.root.iterdir()) - before == {tiny.root / "saved"}


def test_other_models_of_recbole_stay_as_they_are(tiny: Tiny) -> None:
    """Importing this package changes nothing of models that have no place in its protocol."""
    for model in ("BPR", "DIN"):
        config = Config(model, "toy", config_dict={"threshold": {"rating": 3}})
        assert (config["topk"], config["seed"], config["use_tuned"]) == ([10], 2020, None)
    with pytest.raises(InputError, match="did you mean 'QBERT4Rec'"):
        Config("QBERT4REC", "toy")


def test_objective_function(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's function for hyper-parameter search; only the report to Ray is replaced."""
    from recbole.quick_start import objective_function, quick_start

    reported: dict[str, float] = {}
    monkeypatch.setattr(quick_start.tune, "report", lambda **result: reported.update(result))
    settings = as_user(tiny, "QBERT4Rec") | {"model": "QBERT4Rec", "dataset": "toy"}
    result = objective_function(settings)
    assert result["model"] == "QBERT4Rec"
    assert reported == dict(result["test_result"])
    assert "unseen_ndcg@10" in reported


def test_flags_of_a_ray_worker_are_no_settings(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole reads every `--key=value` of the process; a worker's flags are Ray's own."""
    flags = ["--node-ip-address=127.0.0.1", "--webui=", "--worker-preload-modules=", "--storage=x"]
    worker = "/somewhere/ray/_private/workers/default_worker.py"
    monkeypatch.setattr(sys, "argv", [worker, *flags])
    run_by_recbole(tiny, "BigramChain")
    monkeypatch.setattr(sys, "argv", ["run_recbole.py", "--learning_rat=0.1"])
    with pytest.raises(
        InputError, match="unknown key 'learning_rat'.*did you mean 'learning_rate'"
    ):
        run_by_recbole(tiny, "BigramChain")


def test_unknown_keys_are_refused_in_recboles_own_run_too(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="unknown key 'hiden_size'.*did you mean 'hidden_size'"):
        run_by_recbole(tiny, "QBERT4Rec", hiden_size=8)


# Third parties -----------------------------------------------------------------------------------


def test_a_third_partys_model_runs_by_name(tiny: Tiny, learned_scores: type) -> None:
    from recbole.quick_start import load_data_and_model

    result = run_by_recbole(tiny, "LearnedScores", heat=2.0, learning_rate=0.1)
    assert 0 < result["test_result"]["hit@10"] <= 1
    path = best_file(tiny, "LearnedScores")
    config, model, *_ = load_data_and_model(str(path))
    assert (config["heat"], model.temperature) == (2.0, 2.0)
    assert isinstance(model, learned_scores)
    with pytest.raises(
        InputError, match="unknown key 'heet' for LearnedScores; did you mean 'heat'"
    ):
        tiny.make_config("LearnedScores", heet=1)


def test_a_third_partys_defaults_file_and_classes(tiny: Tiny) -> None:
    """Its YAML comes before the user's settings; its data set and trainer are used."""

    class OwnDataset(SequentialDataset):
        pass

    class OwnTrainer(ResumableTrainer):
        pass

    defaults = tiny.root / "learned_scores.yaml"
    defaults.write_text("heat: 3.0  # (float) temperature\nlearning_rate: 0.5\n")
    try:
        register(LearnedScores, OwnDataset, OwnTrainer, str(defaults))
        config = tiny.make_config("LearnedScores", learning_rate=0.25)
        assert (config["heat"], config["learning_rate"]) == (3.0, 0.25)
        assert model_entry("LearnedScores").dataset is OwnDataset
        trainer, loaded = fitted(config)
        assert type(trainer) is OwnTrainer
        assert type(loaded.train._dataset) is OwnDataset
        assert issubclass(get_trainer(ModelType.SEQUENTIAL, "LearnedScores"), OwnTrainer)
        with pytest.raises(InputError, match="OwnDataset is not derived from SemanticIDDataset"):
            check_run(config)
    finally:
        forget("LearnedScores")


def test_registering_twice_and_clashes(learned_scores: type) -> None:
    assert register(LearnedScores) is LearnedScores
    other = type("LearnedScores", (LearnedScores,), {})
    with pytest.raises(InputError, match="LearnedScores: this name is already registered"):
        register(other)
    for name in ("SASRec", "LightGCN"):
        with pytest.raises(InputError, match=f"{name}: RecBole has a model of that name"):
            register(type(name, (LearnedScores,), {}))
    assert MODEL_TABLE["LearnedScores"].model is LearnedScores
    assert "SASRec" not in MODEL_TABLE


def test_a_model_defined_where_there_is_no_source(tiny: Tiny) -> None:
    """A model typed into a shell: its keys cannot be read, RecBole's are still known."""
    module = types.ModuleType("shell")
    exec("class Typed(Base):\n    pass\n", module.__dict__ | {"Base": LearnedScores}, space := {})
    try:
        register(space["Typed"])
        assert "learning_rate" in known_keys("Typed")
    finally:
        forget("Typed")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("QBERT4Rek", "did you mean 'QBERT4Rec'"),
        ("SASRek", "did you mean 'SASRec'"),
        ("BPR", "not a sequential model"),
        ("LightGCN", "not a sequential model"),
        ("", "not a model of this package"),
        ("..", "not a model of this package"),
        ("a.b", "not a model of this package"),
        ("os", "not a model of this package"),
        ("sasrec", "did you mean 'SASRec'"),
        ("QBERT4REC", "did you mean 'QBERT4Rec'"),
        ("Cazer", "did you mean 'Caser'"),
        ("DIN", "needs labels, a knowledge graph or"),
        ("FEARec", "needs labels, a knowledge graph or"),
        ("DIEN", "needs labels, a knowledge graph or"),
        ("KSR", "needs labels, a knowledge graph or"),
        ("GRU4RecKG", "needs labels, a knowledge graph or"),
    ],
)
def test_names_that_are_no_model(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        model_entry(name)
    assert "\n" not in str(caught.value)


def test_a_model_of_recboles_that_cannot_be_built(tiny: Tiny) -> None:
    loaded = load_splits(tiny.make_config("SASRec"))
    with pytest.raises(InputError, match="KeyError: 'flavour'") as caught:
        new_trainer(tiny.make_config("SASRecF", selected_features=["flavour"]), loaded)
    assert str(caught.value).startswith("model SASRecF on toy: RecBole cannot build it")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["GRU4RecCPR", "SASRecCPR"])
def test_a_model_of_recboles_that_cannot_be_trained(tiny: Tiny, name: str) -> None:
    """Both rank more items again than there are."""
    with pytest.raises(InputError, match="RuntimeError: selected index k out of range") as caught:
        fitted(tiny.make_config(name))
    assert str(caught.value).startswith(f"model {name} on toy: RecBole cannot train it")
    assert "\n" not in str(caught.value)


def test_faults_of_other_models_and_of_later_steps_stay_what_they_are(
    tiny: Tiny, learned_scores: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, n_good in (("LearnedScores", 0), ("NPE", 1), ("NPE", 0)):
        trainer, loaded = new_trainer(tiny.make_config(name))
        steps = []

        def fails(model: Any, batch: Any, good: int = n_good, steps: list[int] = steps) -> Any:
            steps.append(len(steps))
            if len(steps) > good:
                raise ValueError("spoilt")
            return sum(each.sum() for each in model.parameters())

        expected = InputError if (name, n_good) == ("NPE", 0) else ValueError
        with monkeypatch.context() as patch:
            patch.setattr(type(trainer.model), "calculate_loss", fails)
            with pytest.raises(expected, match="spoilt"):
                trainer.fit(loaded.train, loaded.valid, verbose=False)
        assert len(steps) == n_good + 1


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("VQRec", {"pretrain_epochs": 1}, "set pretrain_epochs: 0"),
        ("MISSRec", {"pretrain_epochs": 1}, "set pretrain_epochs: 0"),
        ("S3Rec", {}, "set pretrain_epochs: 0"),
        ("VQRec", {"train_stage": "pretrain"}, "train_stage: pretrain; leave it out"),
        ("MQL4GRec", {"train_stage": "pretrain"}, "train_stage: pretrain; leave it out"),
    ],
)
def test_a_source_that_a_first_stage_would_ignore(
    tiny: Tiny, model: str, given: dict[str, Any], said: str
) -> None:
    config = tiny.make_config(model, pre_model_path="/no/such/file.safetensors", **given)
    with pytest.raises(InputError, match=f"pre_model_path: has no effect .*{said}"):
        check_run(config)
