"""A model of a third party, by one class and one YAML: it goes through every command.

It has a first stage of its own and reads semantic IDs; nothing in the package knows its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from rich.console import Console
from test_registry import forget
from torch import Tensor, nn
from toy_plan import lines_of, write_plan
from tune_toy import toy_plan, without_ray

from recbole_qbert.cli import main
from recbole_qbert.experiments.tune.sweep import sweep
from recbole_qbert.registry import register
from recbole_qbert.serving.recommender import Recommender
from recbole_qbert.training.checkpoint import load_checkpoint

DEFAULTS = """\
code_size: 16            # (int) dimension of a code's vector
train_stage: finetune    # (str) pretrain, or finetune
pretrain_epochs: 1       # (int) epochs of the first stage
pre_model_path: ~        # (str) checkpoint of the first stage
"""


class CodeMean(SequentialRecommender):
    """The next item by the mean of the history's code vectors; its first stage scores one item."""

    input_type = InputType.POINTWISE

    @staticmethod
    def reads_semantic_ids(config: Any) -> bool:
        return True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        codes = torch.as_tensor(dataset.item_codes)  # [N, K]
        offsets = torch.arange(codes.shape[1]) * (int(codes.max()) + 1)
        self.register_buffer("rows", codes + offsets)
        self.table = nn.Embedding(int(self.rows.max()) + 1, config["code_size"])
        self.first_stage = config["train_stage"] == "pretrain"
        if config["pre_model_path"] and not self.first_stage:
            self.load_state_dict(load_checkpoint(config["pre_model_path"])["state_dict"])

    def forward(self, interaction: Any) -> Tensor:
        items = self.table(self.rows).sum(dim=1)  # [N, D]
        history = interaction[self.ITEM_SEQ]
        history = history[:, :1] if self.first_stage else history
        present = (history > 0).unsqueeze(-1)
        mean = (items[history] * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
        return mean @ items.T

    def calculate_loss(self, interaction: Any) -> Tensor:
        return nn.functional.cross_entropy(self(interaction), interaction[self.POS_ITEM_ID])

    def predict(self, interaction: Any) -> Tensor:
        return self(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        return self(interaction)


@pytest.fixture
def code_mean(tiny: Tiny) -> Iterator[None]:
    path = tiny.root / "code_mean.yaml"
    path.write_text(DEFAULTS)
    register(CodeMean, defaults=path, first_stage=True)
    yield
    forget("CodeMean")


FLAGS = ["--dataset=toy", "--data_path=.", "--use_gpu=False", "--epochs=2", "--eval_step=1"]


def test_it_runs_in_two_stages_and_recommends(
    tiny: Tiny, code_mean: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--model=CodeMean,SASRec", *FLAGS, "--checkpoint_dir=saved"]) == 0
    assert "CodeMean pretraining, 1 epoch" in capsys.readouterr().out
    result = lines_of("saved")[0]
    assert result["model"] == "CodeMean"
    assert result["test"].keys() == lines_of("saved")[1]["test"].keys()
    assert {"toy.inter", "toy.semid"} <= result["data_sha256"].keys()
    first = next(Path("saved").rglob("pretrain/*.safetensors"))
    assert load_checkpoint(first)["config"]["keys"]["train_stage"] == "pretrain"

    recommender = Recommender.load(result["bundle"])
    (items,) = recommender.recommend([["i3", "i4"]], k=3)
    assert len(items) == 3 and not {"i3", "i4"} & {item for item, _ in items}
    (tiny.folder / "toy.semid").unlink()
    assert main(["run", "--model=CodeMean", *FLAGS, "--checkpoint_dir=other"]) == 2


def test_benchmark_report_and_complexity(tiny: Tiny, code_mean: None) -> None:
    small = {"use_gpu": False, "show_progress": False, "epochs": 2, "train_batch_size": 16}
    path = write_plan(tiny, models=["CodeMean", "SASRec"], reference="CodeMean", settings=small)
    assert main(["benchmark", str(path)]) == 0
    assert [line["model"] for line in lines_of("saved")] == ["CodeMean", "SASRec"]
    assert "CodeMean" in Path("saved/benchmark/table.md").read_text()
    assert main(["report", "saved", "--data_path=."]) == 0
    assert "CodeMean" in Path("report.html").read_text()
    flags = ["--model=CodeMean", "--dataset=toy", "--data_path=.", "--use_gpu=False"]
    assert main(["complexity", *flags, "--json=cost.json"]) == 0
    assert "CodeMean" in Path("cost.json").read_text()


def test_a_sweep(tiny: Tiny, code_mean: None, monkeypatch: pytest.MonkeyPatch) -> None:
    without_ray(monkeypatch)
    settings = {"MAX_ITEM_LIST_LENGTH": 8, "train_batch_size": 16, "eval_batch_size": 32}
    plan = toy_plan(
        tiny, model="CodeMean", space={"code_size": {"grid": [4, 8]}}, settings=settings, trials=1
    )
    result = sweep(plan, Console(quiet=True))
    assert result.config["keys"]["code_size"] in (4, 8)
