"""`recbole-qbert pretrain` and `run --pre_model_path` on the toy domains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny, assert_equal_weights, files_below, new_trainer
from safetensors.torch import load_file
from two_domains import Toys, make_toys  # noqa: F401

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.config.build import PRETRAIN, build_config, default_settings
from recbole_qbert.evaluation.results import read_results
from recbole_qbert.models.layers.item_representation import REPRESENTATIONS
from recbole_qbert.models.qbert4rec import QBERT4Rec
from recbole_qbert.pretraining import fit
from recbole_qbert.pretraining.fit import PretrainTrainer, pretrain, tuned_sizes
from recbole_qbert.pretraining.loader import ValidRows, valid_users
from recbole_qbert.pretraining.transfer import load_pretrained, read_source

SMALL = {
    "hidden_size": 16,
    "n_layers": 1,
    "n_heads": 2,
    "inner_size": 32,
    "use_gpu": False,
    "show_progress": False,
    "epochs": 2,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 8,
    "valid_users": 10,
}


def settings(tiny: Tiny, **more: Any) -> dict[str, Any]:
    return {"data_path": str(tiny.root), "checkpoint_dir": str(tiny.root / "saved")} | SMALL | more


def flags(tiny: Tiny, **more: Any) -> list[str]:
    return [f"--{key}={value}" for key, value in settings(tiny, **more).items()]


@pytest.mark.parametrize("representation", REPRESENTATIONS)
@pytest.mark.parametrize("softmax_samples", [0, 3])
def test_every_representation_pretrains(
    tiny: Tiny, toys: Toys, representation: str, softmax_samples: int
) -> None:
    more = {"item_representation": representation, "softmax_samples": softmax_samples}
    folder = pretrain("AB", settings=settings(tiny, **more))
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "corpus.json",
        "items.json",
        "manifest.json",
        "model.safetensors",
    ]
    weights = load_file(folder / "model.safetensors")
    assert all(torch.isfinite(each).all() for each in weights.values())


def test_the_chosen_epoch_is_what_is_saved(tiny: Tiny, toys: Toys) -> None:
    folder = pretrain("AB", settings=settings(tiny, epochs=3))
    curve = json.loads((folder.parent / "QBERT4Rec.curve.json").read_text(encoding="utf-8"))
    scores = [row["ndcg@10"] for row in curve["curve"]]
    config = build_config("QBERT4Rec", "A+B", settings=settings(tiny), stage=PRETRAIN)
    corpus = toys.corpus()
    model = QBERT4Rec(config, corpus)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    trainer = PretrainTrainer(config, model)
    from recbole_qbert.pretraining.corpus import FieldNames

    names = FieldNames(model.ITEM_SEQ, model.ITEM_SEQ_LEN, model.POS_ITEM_ID)
    rows = ValidRows(corpus, valid_users(corpus, 10, config["seed"]), 4, 8, names)
    found = trainer.evaluate(rows, load_best_model=False)
    assert found["ndcg@10"] == pytest.approx(max(scores), abs=1e-9)
    by_domain = [each["ndcg@10"] for each in trainer.by_domain.values()]
    assert found["ndcg@10"] == pytest.approx(np.mean(by_domain))
    assert list(trainer.by_domain) == ["A", "B"]


def test_valid_ranks_are_those_of_a_loop(tiny: Tiny, toys: Toys) -> None:
    """Each user of B alone: how many unseen items of B score as high as the valid item."""
    from recbole_qbert.pretraining.corpus import VALID, FieldNames

    config = build_config("QBERT4Rec", "A+B", settings=settings(tiny), stage=PRETRAIN)
    corpus = toys.corpus()
    torch.manual_seed(4)
    model = QBERT4Rec(config, corpus).eval()
    names = FieldNames(model.ITEM_SEQ, model.ITEM_SEQ_LEN, model.POS_ITEM_ID)
    users = valid_users(corpus, 0, 1)
    trainer = PretrainTrainer(config, model)
    ranks = trainer._ranks(ValidRows(corpus, users, 7, 8, names), 1)
    long = [items for items in toys.sequences["B"].values() if len(items) >= 4]
    tokens = toys.tables["B"].items
    for row, items in enumerate(long):
        batch = corpus.batch(1, users[1][row : row + 1], VALID, 8, names)
        with torch.no_grad():
            scores = model.full_sort_predict(batch)[0, 1:]
        own = {token: float(score) for token, score in zip(tokens, scores, strict=True)}
        target = items[-2]
        ahead = [token for token in tokens if own[token] >= own[target]]
        assert ranks.raw[row] == len(ahead)
        unseen = [token for token in ahead if token == target or token not in items[:-2]]
        assert ranks.unseen[row] == len(unseen)
    for weights in model.parameters():
        weights.data.fill_(float("nan"))
    with pytest.raises(InputError, match="diverged"):
        trainer._ranks(ValidRows(corpus, users, 7, 8, names), 1)


def test_a_killed_pretraining_goes_on_to_the_same_weights(
    tiny: Tiny, toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain("AB", settings=settings(tiny, epochs=3, checkpoint_dir=str(tiny.root / "1")))

    class Killed(Exception):
        pass

    class Fragile(PretrainTrainer):
        def _train_epoch(self, *given: Any, **named: Any) -> Any:
            if len(self.train_loss_dict) == 2:
                raise Killed
            return super()._train_epoch(*given, **named)

    base = {"epochs": 3, "checkpoint_dir": str(tiny.root / "2")}
    monkeypatch.setattr(fit, "PretrainTrainer", Fragile)
    with pytest.raises(Killed):
        pretrain("AB", settings=settings(tiny, **base))
    monkeypatch.undo()
    again = pretrain("AB", settings=settings(tiny, **base, resume=True))
    assert_equal_weights(
        load_file(whole / "model.safetensors"), load_file(again / "model.safetensors")
    )


def test_retrain_goes_on_or_begins_anew_and_writes_where_it_is_told(
    tiny: Tiny, toys: Toys, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tiny.root / "mine"
    command = ["pretrain", "--datasets=A,B", *flags(tiny, epochs=2), "--retrain=True"]
    command += [f"--output={place}"]

    def epochs() -> int:
        """How many are trained."""
        capsys.readouterr()
        assert main(command) == 0
        return len(re.findall(r"^ *epoch", capsys.readouterr().out, re.MULTILINE))

    assert epochs() == 2
    weights = place / "model.safetensors"
    before = weights.read_bytes()
    assert not list(tiny.root.rglob("pretrained"))
    (place / "manifest.json").unlink()
    assert epochs() == 0
    assert (place / "manifest.json").is_file() and weights.read_bytes() == before
    path = tiny.root / "A" / "A.inter"
    path.write_text(path.read_text() + "u0\ti1\t99999.0\n")
    assert main([*command[:-2], "--resume=True"]) == 2
    assert "A.inter changed" in capsys.readouterr().err
    assert epochs() == 2
    assert weights.read_bytes() != before
    (place / "mine.txt").touch()
    assert main(command) == 2
    assert f"output: {place}: contains other files (mine.txt); give" in capsys.readouterr().err
    assert main([*command[:-2], "--retrain=maybe"]) == 2
    assert "--retrain=maybe: write True or False" in capsys.readouterr().err


def test_a_pretraining_is_reused_unless_a_file_changed(tiny: Tiny, toys: Toys) -> None:
    given = settings(tiny)
    weights = pretrain("AB", settings=given) / "model.safetensors"
    before = weights.read_bytes()
    pretrain("AB", settings=given, reuse=True)
    path = tiny.root / "A" / "A.inter"
    path.write_text(path.read_text() + "u0\ti1\t99999.0\n")
    with pytest.raises(InputError, match="A.inter changed since this pretraining; add --retrain="):
        pretrain("AB", settings=given, reuse=True)
    assert weights.read_bytes() == before
    pretrain("AB", settings=given, reuse=True, retrain=True)
    assert weights.read_bytes() != before


def test_an_adapter_of_item_vectors_goes_over(
    tiny: Tiny, toys: Toys, capsys: pytest.CaptureFixture[str]
) -> None:
    toys.write_vectors("text", 6)
    toys.write_vectors("image", 4)
    content = ["--use_content=True", "--item_vectors=text,image"]
    assert main(["pretrain", "--datasets=A,B", *flags(tiny), *content]) == 0
    (folder,) = tiny.root.glob("saved/pretrain/A+B/*/pretrained")
    given = [flag for flag in flags(tiny) if "valid_users" not in flag]
    run = ["run", "--model=QBERT4Rec", "--dataset=B", f"--pre_model_path={folder}", *given]
    capsys.readouterr()
    assert main([*run, *content, "--item_representation=hybrid"]) == 0
    assert "not loaded" not in capsys.readouterr().out
    source = load_file(folder / "model.safetensors")
    assert source["content.vectors"].shape == (51, 10)

    config = build_config(
        "QBERT4Rec", "B", settings=dict(flag[2:].split("=", 1) for flag in [*given, *content])
    )
    trainer, loaded = new_trainer(config)
    load_pretrained(trainer.model, config, loaded.train._dataset, read_source(folder))
    own = trainer.model.state_dict()
    adapter = [name for name in own if name.startswith("content.adapter.")]
    assert len(adapter) == 4
    for name in adapter:
        assert torch.equal(own[name], source[name])
    ids = loaded.dataset.field2token_id["item_id"]
    for row, item in enumerate(toys.tables["B"].items, start=31):
        if item in ids:
            assert torch.equal(own["content.vectors"][ids[item]], source["content.vectors"][row])

    for more, message in (
        ("--whitening_dims=5", "whitening_dims: 5, but pre_model_path was trained with 256; give"),
        (
            "--item_vectors=text",
            "item_vectors: text, but pre_model_path was trained with",
        ),
    ):
        changed = [flag for flag in content if flag.split("=")[0] != more.split("=")[0]]
        assert main([*run, *changed, more]) == 2
        assert message in capsys.readouterr().err
    toys.write_vectors("image", 4, encoder="another")
    assert main([*run, *content, "--seed=1"]) == 2
    said = capsys.readouterr().err
    assert "B.image.npz: its encoder, or the data that it was fitted on, differs" in said
    toys.write_vectors("image", 6)  # as many columns in all
    toys.write_vectors("text", 4)
    assert main([*run, *content, "--seed=1"]) == 2
    said = capsys.readouterr().err
    assert "B.image.npz: vectors of dimension 6, but pre_model_path was trained with 4" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--item_vectors={text: a.npz}"], "item_vectors: pretraining reads a table of each data"),
        (["--item_vectors=text"], "A.text.npz: no such file"),
        (["--item_vectors=text.npz"], "item_vectors: 'text.npz' is not names of tables"),
        ([], "item_vectors: pretraining reads a table of each data"),
    ],
)
def test_item_vectors_that_cannot_be_used(
    tiny: Tiny, toys: Toys, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert main(["pretrain", "--datasets=A,B", *flags(tiny), "--use_content=True", *given]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(tiny.root.glob("saved/**/*.safetensors"))


@pytest.mark.slow
def test_two_processes_pretrain_as_one(tiny: Tiny, toys: Toys) -> None:
    """Also the first to read the domains: no sequences are there yet."""
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "eval_batch_size": 3}
    given = flags(tiny, **still, checkpoint_dir=str(tiny.root / "2"))
    command = [sys.executable, "-m", "recbole_qbert", "pretrain", "--datasets=A,B", "--nproc=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *given], env=environment, check=True, timeout=200)
    one = pretrain("AB", settings=settings(tiny, **still))
    (two,) = tiny.root.glob("2/pretrain/A+B/*/pretrained")
    left, right = (load_file(folder / "model.safetensors") for folder in (one, two))
    for name, tensor in left.items():
        torch.testing.assert_close(right[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    curves = [json.loads((f.parent / "QBERT4Rec.curve.json").read_text()) for f in (one, two)]
    for row, other in zip(*(curve["curve"] for curve in curves), strict=True):
        row.pop("seconds"), other.pop("seconds")
        assert row == pytest.approx(other, abs=1e-6)


def test_run_starts_from_it_and_prints_scratch_beside(
    tiny: Tiny, toys: Toys, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--datasets=A,B", *flags(tiny)]) == 0
    (folder,) = tiny.root.glob("saved/pretrain/A+B/*/pretrained")
    run = ["run", "--model=QBERT4Rec", "--dataset=B", f"--pre_model_path={folder}"]
    given = {key: value for key, value in SMALL.items() if key != "valid_users"}
    run += [f"--{key}={value}" for key, value in given.items()]
    run += [f"--data_path={tiny.root}", f"--checkpoint_dir={tiny.root / 'saved'}"]
    capsys.readouterr()
    assert main(run) == 0
    shown = capsys.readouterr().out
    assert "parameters loaded, pretrained on A + B" in shown
    assert "(pretrained: A, B)" in shown
    results = read_results(tiny.root / "saved" / "results.jsonl")
    assert [result.pretrained_on for result in results] == [["A", "B"], []]
    first, second = (result.config["keys"] for result in results)
    assert {key for key in first if first[key] != second.get(key)} == {
        "pre_model_path",
        "checkpoint_dir",
    }
    assert results[0].valid != results[1].valid
    # Scratch is there already, and is not trained again.
    assert main([*run, "--seed=2026"]) == 0
    results = read_results(tiny.root / "saved" / "results.jsonl")
    assert [bool(result.pretrained_on) for result in results] == [True, False, True]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--datasets="], "--datasets=... is required"),
        (["--datasets=A,A"], "name each data set once"),
        (["--datasets=A,C"], "no such folder"),
        (["--datasets=A,B", "--domain_balanc=1"], "did you mean 'domain_balance'?"),
        (["--datasets=A,B", "--domain_balance=2"], "domain_balance: 2"),
        (["--datasets=A,B", "--valid_users=-1"], "valid_users: -1 is not a whole number from 0"),
        (["--datasets=A,B", "--train_batch_size=many"], "'many' is not a whole number"),
    ],
)
def test_bad_input_is_one_line(
    tiny: Tiny, toys: Toys, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    mine = [flag for flag in flags(tiny) if flag.split("=")[0] not in " ".join(given)]
    assert main(["pretrain", *given, *mine]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tiny.root.glob("saved/**/*.safetensors"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "--pre_model_path=nowhere",
            "nowhere/manifest.json: this folder is neither a pretrained model nor a bundle",
        ),
        ("--pre_model_codes=all", "pre_model_codes: 'all' is none of auto, load, skip"),
        ("--train_stage=pretrain", "recbole-qbert pretrain --datasets=A,B"),
        ("--domain_balance=1", "unknown key 'domain_balance'"),
        ("--cold_items=0.1", "cold_items: toy.semid may be made with the interactions"),
    ],
)
def test_run_refuses_before_anything_is_trained(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], given: str, message: str
) -> None:
    before = files_below(tiny.root)
    command = ["run", "--model=QBERT4Rec", "--dataset=toy", f"--data_path={tiny.root}", given]
    assert main(command) == 2
    assert message in capsys.readouterr().err
    assert files_below(tiny.root) == before


def test_sizes_for_a_target() -> None:
    sizes = tuned_sizes("Instruments")
    assert sizes["hidden_size"] == 128
    assert sizes["position_order"] == "backward"
    assert "learning_rate" not in sizes
    config = build_config("QBERT4Rec", "A+B", stage=PRETRAIN, sizes=sizes)
    assert config["hidden_size"] == 128
    assert config["mask_mix"] == default_settings("QBERT4Rec", PRETRAIN)["mask_mix"]
    own = build_config(
        "QBERT4Rec", "A+B", settings={"hidden_size": 64}, stage=PRETRAIN, sizes=sizes
    )
    assert own["hidden_size"] == 64


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--help"]) == 0
    assert "--datasets=" in capsys.readouterr().out


def test_the_pretrained_folder_is_written_where_it_says(
    tiny: Tiny, toys: Toys, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "--datasets=B", *flags(tiny)]) == 0
    (written,) = [line for line in capsys.readouterr().out.splitlines() if "written" in line]
    (folder,) = tiny.root.glob("saved/pretrain/B/*/pretrained")
    assert written == f"  written: {folder}"


@pytest.mark.parametrize(
    "flag",
    ["--augmentation=none", "--batch_by=user", "--cold_items=0.1", "--logit_adjustment=0.1",
     "--new_item_bonus=1", "--popularity_discount=0.1", "--pre_model_path=/no/such",
     "--semantic_id_file=/no/such.semid", "--softmax_items=trained", "--item_vectors=text"],
)  # fmt: skip
def test_settings_that_pretraining_does_not_read(
    tiny: Tiny, toys: Toys, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert main(["pretrain", "--datasets=A,B", *flags(tiny), flag]) == 2
    said = capsys.readouterr().err
    key = flag[2:].partition("=")[0]
    assert f"{key}: pretraining does not read it" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "key", ["epochs", "eval_step", "train_batch_size", "learning_rate", "hidden_dropout_prob",
            "mask_mix", "softmax_samples", "stopping_step"],
)  # fmt: skip
def test_auto_has_no_data_set_to_follow(
    tiny: Tiny, toys: Toys, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    given = [flag for flag in flags(tiny) if not flag.startswith(f"--{key}=")]
    assert main(["pretrain", "--datasets=A,B", *given, f"--{key}=auto"]) == 2
    said = capsys.readouterr().err
    assert f"{key}: auto cannot be used in pretraining" in said and said.count("\n") == 1
