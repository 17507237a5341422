"""Settings: where they come from, which keys are known, and which values."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import recbole
import yaml
from conftest import Tiny
from recbole.config import Config

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml, parse_value
from recbole_qbert.config.build import build_config, check_keys, known_keys, shipped
from recbole_qbert.config.recbole_hooks import warn_without_gpu
from recbole_qbert.data.dataset import vector_files
from recbole_qbert.training.run_identity import run_hash

# Keys --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "model", "hint"),
    [
        ("learning_rat", "QBERT4Rec", "; did you mean 'learning_rate'?"),
        ("mask_mixx", "QBERT4Rec", "; did you mean 'mask_mix'?"),
        ("hidden_sise", "SASRec", "; did you mean 'hidden_size'?"),
        ("selected_feature", "FDSA", "; did you mean 'selected_features'?"),
        ("zzzzzz", "SASRec", ""),
        ("hidden_size", "BigramChain", ""),
        ("", "QBERT4Rec", ""),
    ],
)
def test_unknown_keys(tiny: Tiny, key: str, model: str, hint: str) -> None:
    """On the command line and in a file, which is named."""
    with pytest.raises(InputError) as caught:
        build_config(model, "toy", settings={key: "1"})
    assert str(caught.value) == f"command line: unknown key '{key}' for {model}{hint}"
    (tiny.root / "mine.yaml").write_text(f"'{key}': 1\n")
    with pytest.raises(InputError) as caught:
        build_config(model, "toy", ["mine.yaml"])
    assert str(caught.value) == f"mine.yaml: unknown key '{key}' for {model}{hint}"


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("QBERT4Rec", "mask_mix layer_norm resume item_vectors metrics gpu_id eval_args seq_len"),
        ("IDBERT4Rec", "mask_mix word_init"),
        ("S3Rec", "item_attribute pretrain_epochs pretrain_batch_size pre_model_path"),
        ("GRU4Rec", "embedding_size num_layers dropout_prob"),
        ("SASRec", "loss_type warmup_ratio lr_decay augmentation"),
        ("BigramChain", "epochs train_batch_size"),
    ],
)
def test_known_keys(model: str, keys: str) -> None:
    check_keys(model, keys.split(), "test")


def test_recboles_own_shipped_keys_are_all_known() -> None:
    """Nothing in RecBole's defaults of a sequential model is refused."""
    for model in ("SASRec", "BERT4Rec", "GRU4Rec", "FDSA", "S3Rec", "Caser", "STAMP", "NARM"):
        with_defaults = Config(model, "toy", config_dict={"train_neg_sample_args": None})
        check_keys(model, with_defaults.internal_config_dict.keys() - {"MODEL_TYPE"}, "RecBole")


def test_recboles_own_files_have_the_values_that_recbole_reads() -> None:
    """Ours refuses duplicate keys and has no Python tags; RecBole's files need neither."""
    files = sorted((Path(recbole.__file__).parent / "properties").rglob("*.yaml"))
    assert len(files) > 90
    loader = Config._build_yaml_loader(None)
    for file in files:
        theirs = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
        assert load_yaml(file) == (theirs or {}), file


# Precedence --------------------------------------------------------------------------------------


def test_later_sources_win(tiny: Tiny) -> None:
    """RecBole < base < model < tuned < file < later file < command line."""
    first, second = tiny.root / "1.yaml", tiny.root / "2.yaml"
    first.write_text("seed: 1\nepochs: 1\ntrain_batch_size: 1\n")
    second.write_text("epochs: 2\ntrain_batch_size: 2\n")
    config = build_config("QBERT4Rec", "toy", [first, second], {"train_batch_size": "3"})
    assert [config[key] for key in ("seed", "epochs", "train_batch_size")] == [1, 2, 3]
    assert config["learner"] == "adamw"  # model over base
    assert config["MAX_ITEM_LIST_LENGTH"] == 50  # base
    assert config["weight_decay"] == 0.01
    assert config["worker"] == 0  # RecBole
    assert build_config("SASRec", "toy")["weight_decay"] == 0.0
    assert build_config("SASRec", "toy")["MAX_ITEM_LIST_LENGTH"] == 50
    assert build_config("SASRec", "Instruments")["MAX_ITEM_LIST_LENGTH"] == 20
    for off in (False, "False", "false"):
        settings = {"use_tuned": off}
        assert build_config("SASRec", "Instruments", (), settings)["MAX_ITEM_LIST_LENGTH"] == 50
    assert build_config("IDBERT4Rec", "toy")["item_representation"] == "id"
    assert build_config("IDBERT4Rec", "toy")["n_layers"] == 2
    tuned, control = (build_config(model, "Instruments") for model in ("QBERT4Rec", "IDBERT4Rec"))
    assert (tuned["item_representation"], control["item_representation"]) == ("compose", "id")
    assert tuned["epochs"] == control["epochs"] == 24


@pytest.mark.parametrize("dataset", ["toy", "ml-100k", "Games", "Beauty"])
@pytest.mark.parametrize("model", ["QBERT4Rec", "SASRec", "GRU4Rec", "FDSA", "IDBERT4Rec", "S3Rec"])
def test_recboles_own_config_is_the_same(tiny: Tiny, model: str, dataset: str) -> None:
    """Key by key, from a dict and from a file with a section for the model; with what
    `properties/tuned` says, unless it is switched off."""
    sections = "  QBERT4Rec: {mask_mix: {span: 9}}\n  SASRec: {n_layers: 3}\n"
    (tiny.root / "a.yaml").write_text(f"epochs: 7\neval_step: 1\nper_model:\n{sections}")
    given: dict[str, Any]
    for files in ((), ["a.yaml"]):
        for given in ({}, {"use_tuned": False, "seed": 5}):
            ours = build_config(model, dataset, files, given).final_config_dict
            theirs = Config(model, dataset, files, dict(given)).final_config_dict
            assert ours.keys() == theirs.keys()
            for key, value in ours.items():
                assert theirs[key] == value, key
    path = shipped("tuned", f"{model}-{dataset}.yaml")
    assert path.is_file() or model in ("QBERT4Rec", "IDBERT4Rec") or dataset == "toy"
    config = Config(model, dataset)
    for key, value in (load_yaml(path) if path.is_file() else {}).items():
        if key not in ("mask_mix", "mask_ratios"):  # whose entries are merged
            assert config[key] == value, key


def test_what_a_data_set_says_wins_over_a_models_file(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was tuned over both; a control's own file over what was tuned for its base."""
    folder = tiny.root / "properties"
    shutil.copytree(shipped(), folder)
    monkeypatch.setattr(
        "recbole_qbert.config.build.shipped", lambda *parts: folder.joinpath(*parts)
    )
    with open(folder / "model" / "QBERT4Rec.yaml", "a") as handle:
        handle.write("worker: 1\n")
    assert build_config("QBERT4Rec", "new")["worker"] == 1
    (folder / "dataset" / "new.yaml").write_text("worker: 2\n")
    assert build_config("QBERT4Rec", "new")["worker"] == 2
    assert build_config("SASRec", "new")["worker"] == 2
    for model in ("QBERT4Rec", "SASRec"):
        text = "worker: 3\n" + "item_representation: hybrid\n" * (model == "QBERT4Rec")
        (folder / "tuned" / f"{model}-new.yaml").write_text(text)
        assert build_config(model, "new")["worker"] == 3
        assert build_config(model, "new", (), {"use_tuned": False})["worker"] == 2
        assert build_config(model, "new", (), {"worker": 4})["worker"] == 4
    control = build_config("IDBERT4Rec", "new")
    assert (control["worker"], control["item_representation"]) == (3, "id")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"use_gpu": True, "gpu_id": 7}, "gpu_id 7 is not available; using the CPU"),
        ({"gpu_id": "7"}, "gpu_id 7 is not available; using the CPU"),
        ({"use_gpu": True}, "a GPU is not available; using the CPU"),
        ({"use_gpu": False, "gpu_id": 7}, ""),
        ({}, ""),
    ],
)
def test_a_gpu_that_is_not_there(
    tiny: Tiny,
    given: dict[str, Any],
    said: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, once, however many configs there are."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    warn_without_gpu.cache_clear()
    for model in ("SASRec", "QBERT4Rec"):
        assert build_config(model, "toy", (), given)["device"].type == "cpu"
    assert capfd.readouterr().err == (f"recbole-qbert: {said}\n" if said else "")


@pytest.mark.parametrize(
    ("model", "settings", "loss", "negatives"),
    [
        ("SASRec", {}, "CE", None),
        ("SASRec", {"loss_type": "BPR"}, "BPR", 1),
        ("FPMC", {}, "BPR", 1),
        ("TransRec", {}, "BPR", 1),
        ("FPMC", {"train_neg_sample_args": {"sample_num": 3}}, "BPR", 3),
    ],
)
def test_models_that_learn_from_pairs(
    tiny: Tiny, model: str, settings: dict[str, Any], loss: str, negatives: int | None
) -> None:
    """Cross-entropy has no negatives; BPR has RecBole's own number of them, or the user's."""
    config = build_config(model, "toy", (), settings)
    assert config["loss_type"] == loss
    drawn = config["train_neg_sample_args"]
    assert (None if drawn["distribution"] == "none" else drawn["sample_num"]) == negatives


def test_a_section_for_one_model(tiny: Tiny) -> None:
    """`per_model` wins over the file's common keys, later files over it; keys are checked."""
    (tiny.root / "a.yaml").write_text(
        "epochs: 3\nseed: 5\nper_model: {SASRec: {epochs: 7}, QBERT4Rec: {mask_mix: {span: 9}}}\n"
    )
    (tiny.root / "b.yaml").write_text("seed: 6\n")
    sasrec = build_config("SASRec", "toy", ["a.yaml", "b.yaml"])
    assert (sasrec["epochs"], sasrec["seed"], sasrec["mask_mix"]) == (7, 6, None)
    ours = build_config("QBERT4Rec", "toy", ["a.yaml"], {"epochs": "4"})
    assert (ours["epochs"], ours["seed"], ours["mask_mix"]) == (4, 5, {"span": 9})
    for text, message in (
        ("per_model: {SASRec: {mask_mix: {}}}", "a.yaml: per_model: unknown key 'mask_mix'"),
        ("per_model: {SASRek: {epochs: 1}}", "did you mean 'SASRec'"),
        ("per_model: [SASRec]", "a.yaml: per_model: `model: {key: value}` was expected"),
        ("per_model: {SASRec: 3}", "a.yaml: per_model: `model: {key: value}` was expected"),
    ):
        (tiny.root / "a.yaml").write_text(text)
        with pytest.raises(InputError, match=re.escape(message)):
            build_config("SASRec", "toy", ["a.yaml"])


def test_a_section_for_a_base_model(tiny: Tiny) -> None:
    """As in a benchmark: a control takes QBERT4Rec's sizes, and keeps what makes it a control.

    `mask_ratios` of the section is merged with the file's common one.
    """
    (tiny.root / "a.yaml").write_text(
        "mask_ratios: {random: 0.5}\nper_model:\n"
        "  QBERT4Rec: {hidden_size: 24, item_representation: compose, mask_ratios: {span: 0.2}}\n"
        "  IDBERT4Rec: {inner_size: 40}\n"
    )
    ours, control = (
        build_config(model, "toy", ["a.yaml"]) for model in ("QBERT4Rec", "IDBERT4Rec")
    )
    assert (ours["hidden_size"], ours["item_representation"]) == (24, "compose")
    assert ours["inner_size"] == 512
    assert (control["hidden_size"], control["item_representation"]) == (24, "id")
    assert control["inner_size"] == 40
    for config in (ours, control):
        assert (config["mask_ratios"]["random"], config["mask_ratios"]["span"]) == (0.5, 0.2)


def test_the_mask_dictionaries_are_merged(tiny: Tiny) -> None:
    """Entries that a user leaves out keep their value, but for `auto`; other dicts are replaced."""
    defaults = load_yaml(shipped("model", "QBERT4Rec.yaml"))
    (tiny.root / "a.yaml").write_text("mask_mix: {span: 0.25}\nclip_grad_norm: {max_norm: 2}\n")
    settings = {"mask_mix": "{tail: 0.5}", "mask_ratios": "{tail: 0.7}"}
    config = build_config("QBERT4Rec", "toy", ["a.yaml"], settings)
    assert config["mask_mix"] == {"span": 0.25, "tail": 0.5}
    assert config["mask_ratios"] == {**defaults["mask_ratios"], "tail": 0.7}
    assert config["clip_grad_norm"] == {"max_norm": 2}
    again = build_config("QBERT4Rec", "toy")
    assert again["mask_ratios"] == defaults["mask_ratios"]  # nothing is shared between configs


def test_the_process_command_line_does_not_leak(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["pytest", "--learning_rate=9", "--tb=short", "--seed=4", "x"]
    monkeypatch.setattr(sys, "argv", argv)
    config = build_config("QBERT4Rec", "toy")
    assert (config["learning_rate"], config["seed"]) == ("auto", 2026)
    assert "tb" not in config
    assert sys.argv is argv


# Values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3", 3),
        ("[1, 5]", [1, 5]),
        ("{a: 1}", {"a": 1}),
        ("~", None),
        ("true", True),
        ("False", False),
        ("NDCG@10", "NDCG@10"),
        ("a: b: c", "a: b: c"),
        ("[1, 2", "[1, 2"),
        ("", None),
        (4, 4),
    ],
)
def test_values_of_the_command_line(text: Any, value: Any) -> None:
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


CODE = "__import__('os').mkdir('trapped')"


@pytest.mark.parametrize("key", ["semantic_id_file", "checkpoint_dir", "wandb_project"])
def test_strings_are_not_evaluated(tiny: Tiny, key: str) -> None:
    """By `build_config`, a file, or RecBole's own `Config` in either of its ways."""
    (tiny.root / "a.yaml").write_text(f'{key}: "{CODE}"\n')
    assert build_config("QBERT4Rec", "toy", (), {key: CODE})[key] == CODE
    assert build_config("QBERT4Rec", "toy", ["a.yaml"])[key] == CODE
    for model in ("QBERT4Rec", "SASRec"):
        given = {key: CODE, "train_neg_sample_args": None}
        assert Config(model, "toy", config_dict=given)[key] == CODE
    assert not os.path.exists("trapped")


@pytest.mark.parametrize("source", ["file", "argument"])
def test_yaml_tags_run_nothing(tiny: Tiny, source: str) -> None:
    text = "!!python/object/apply:os.mkdir ['trapped']"
    if source == "file":
        (tiny.root / "a.yaml").write_text(f"wandb_project: {text}\n")
        with pytest.raises(InputError, match=r"a\.yaml: not valid YAML"):
            build_config("QBERT4Rec", "toy", ["a.yaml"])
    else:
        assert (
            build_config("QBERT4Rec", "toy", (), {"wandb_project": text})["wandb_project"] == text
        )
    assert not os.path.exists("trapped")


def test_flags_of_recboles_own_run_are_not_evaluated(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", f"--wandb_project={CODE}", "--topk=[1,10]"])
    config = Config("QBERT4Rec", "toy")
    assert (config["wandb_project"], config["topk"]) == (CODE, [1, 10])
    assert not os.path.exists("trapped")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1,\n", "not valid YAML: .*line 2"),
        (b"- 1\n", "lines were expected"),
        (b"just text\n", "lines were expected"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (None, "no such config file"),
    ],
)
def test_broken_files(tiny: Tiny, content: bytes | None, message: str) -> None:
    if content is not None:
        (tiny.root / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        build_config("QBERT4Rec", "toy", ["a.yaml"])
    assert str(caught.value).startswith("a.yaml: ")
    assert "\n" not in str(caught.value)
    (tiny.root / "empty.yaml").write_text("# nothing\n")
    assert build_config("QBERT4Rec", "toy", ["empty.yaml"])["seed"] == 2026
    with pytest.raises(InputError, match="Is a directory"):
        build_config("QBERT4Rec", "toy", [tiny.root])


@pytest.mark.parametrize("names", [["text", "image"], "text,image", "image, text"])
def test_names_of_tables_are_files_of_the_data_set(tiny: Tiny, names: Any) -> None:
    """They name a run, whatever their order and wherever the data lie."""
    config = tiny.make_config("SASRecContent", item_vectors=names)
    assert config["item_vectors"] == ["image", "text"]
    assert vector_files(config) == {
        name: tiny.folder / f"toy.{name}.npz" for name in ("image", "text")
    }
    elsewhere = {"data_path": os.path.relpath(tiny.root), "item_vectors": ["image", "text"]}
    assert run_hash(tiny.make_config("SASRecContent", **elsewhere)) == run_hash(config)


def test_a_table_that_is_named_twice(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="item_vectors: text, text: name each table once"):
        tiny.make_config("SASRecContent", item_vectors="text,text")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eval_args": "x"}, "eval_args: 'x' is not a mapping"),
        (
            {"item_vectors": "{text:a.npz}"},  # the blank after the colon is missing
            "item_vectors: {'text:a.npz': None} is not names of tables, such as text,image, or a",
        ),
        ({"epochs": "2.5"}, "epochs: 2.5 is not a whole number"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast' is not a number"),
        ({"show_progress": "1"}, "show_progress: 1 is not True or False"),
    ],
)
def test_values_of_the_wrong_type(tiny: Tiny, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_config("SASRec", "toy", (), settings)
    assert build_config("SASRec", "toy", (), {"weight_decay": 0})["weight_decay"] == 0


def test_known_keys_are_cached_and_frozen() -> None:
    assert known_keys("SASRec") is known_keys("SASRec")
    assert isinstance(known_keys("SASRec"), frozenset)
