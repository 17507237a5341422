"""The tune file: what is refused before Ray starts, and the settings that a trial gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Tiny, files_below
from processes import PACKAGE
from tune_toy import SETTINGS, SWEEP, toy_plan, write_sweep

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import build_config
from recbole_qbert.experiments.tune.settings import read_request, write_yaml
from recbole_qbert.training.run_identity import run_folder

FAULTS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "no model": ({"model": ""}, [], "--model=... is missing"),
    "unknown model": ({"model": "QBERT4Rek"}, [], "did you mean 'QBERT4Rec'"),
    "unknown key of the file": ({"trails": 3}, [], "unknown key 'trails'; did you mean 'trials'"),
    "key of the model": ({"hidden_size": 3}, [], "put keys of the model under settings:"),
    "unknown key": (
        {"space": {"n_layer": {"grid": [1]}}},
        [],
        "space: unknown key 'n_layer' for QBERT4Rec; did you mean 'n_layers'?",
    ),
    "unknown nested key": (
        {"space": {"mask_ratios.tial": {"uniform": [0, 1]}}},
        [],
        "did you mean 'tail'?",
    ),
    "unknown fixed key": ({}, ["--hidden_sise=3"], "did you mean 'hidden_size'?"),
    "kind": ({"space": {"n_layers": {"gird": [1]}}}, [], "did you mean 'grid'?"),
    "no space": ({"space": {}}, [], "sweep.yaml: space: empty; give lines"),
    "space no mapping": ({"space": [1]}, [], "space: [1] is not a mapping"),
    "fractions of a whole number": (
        {"space": {"n_layers": {"uniform": [1, 4]}}},
        [],
        "space: n_layers: 1.0 is not a whole number",
    ),
    "text for a number": (
        {"space": {"hidden_dropout_prob": {"choice": [0.1, "much"]}}},
        [],
        "space: hidden_dropout_prob: 'much' is not a number",
    ),
    "type of a nested value": (
        {"space": {"mask_ratios.tail": {"grid": ["x"]}}},
        [],
        "space: mask_ratios.tail: 'x' is not a number",
    ),
    "entry of auto": (
        {"space": {"mask_mix.tail": {"uniform": [0, 1]}}},
        [],
        "space: mask_mix.tail: mask_mix is auto, without entries; give mask_mix in settings",
    ),
    "epochs": ({"space": {"epochs": {"grid": [1]}}}, [], "cannot be searched; see max_epochs"),
    "epochs as a flag": ({}, ["--epochs=2"], "--epochs: max_epochs is given; use --max_epochs"),
    "both kinds of epochs": (
        {"settings": {**SETTINGS, "epochs": 2}},
        [],
        "settings: epochs: max_epochs is given; remove one",
    ),
    "seed": ({"settings": {"seed": 3}}, [], "settings: seed: give it at the top level"),
    "protocol": ({"space": {"valid_metric": {"choice": ["MRR@5"]}}}, [], "cannot be searched"),
    "searched and fixed": (
        {"settings": {**SETTINGS, "n_layers": 2}},
        [],
        "space: n_layers: also fixed in",
    ),
    "searched and given": ({}, ["--learning_rate=0.1"], "space: learning_rate: also fixed in"),
    "whole and entry": (
        {"space": {"mask_ratios": {"choice": [{}]}, "mask_ratios.tail": {"grid": [1]}}},
        [],
        "mask_ratios is searched too",
    ),
    "trials": ({"trials": 0}, [], "trials: 0 is not a whole number from 1"),
    "trials no number": ({}, ["--trials=many"], "trials: 'many' is not a whole number"),
    "baseline": ({"baseline": 1}, [], "baseline: 1 is not True or False"),
    "scheduler": ({"scheduler": "pbt"}, [], "scheduler: 'pbt' is none of none, asha"),
    "reduction": ({"reduction": 1}, [], "reduction: 1 is not a number in (1, 1000]"),
    "grace": ({"grace": 5}, [], "grace: 5 is more than the 4 evaluations of a trial; decrease"),
    "grace in evaluations": ({"grace": 3}, ["--eval_step=2"], "more than the 2 evaluations"),
    "no evaluation": ({}, ["--eval_step=9"], "eval_step: 9 epochs between evaluations"),
    "GPUs": ({"gpus_per_trial": 2}, [], "gpus_per_trial: 2 is not a number in [0, 1]"),
    "GPU": ({}, ["--gpu_id=1"], "gpu_id: cannot be set: Ray assigns GPUs"),
    "processes": ({}, ["--nproc=2"], "nproc: cannot be set: a trial is one process"),
    "place of a key": (
        {"settings": {"model": "SASRec"}},
        [],
        "give it at the top level of the file",
    ),
    "section on the command line": ({}, ["--space=x"], "--space: give it in the file"),
    "name": ({"name": "a/b"}, [], "name: 'a/b' is not a folder name"),
    "folder above": ({}, ["--name=.."], "name: '..' is not a folder name"),
    "the folder itself": ({}, ["--name=."], "name: '.' is not a folder name"),
    "protocol of a trial": ({}, ["--valid_metric=NDCG@7"], "valid_metric: NDCG@7 is not computed"),
    "samples of a grid": (
        {"space": {"n_layers": {"grid": [1, 2]}}},
        [],
        "trials: 2 samples of a grid",
    ),
    "resume": ({}, ["--resume=maybe"], "--resume=maybe: write True or False"),
    "value of a trial": (
        {"space": {"train_stage": {"grid": ["finetune", "pretrain"]}}, "trials": 1},
        [],
        "trial 2 (train_stage=pretrain): train_stage: 'pretrain'",
    ),
    "no data": ({}, ["--data_path=elsewhere"], "elsewhere/toy: no such folder"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(tiny: Tiny, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """One line, exit status 2, nothing written, and Ray never started."""
    changes, flags, message = FAULTS[name]
    file = write_sweep(tiny, **changes)
    before = files_below(tiny.root)
    assert main(["tune", str(file), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recbole-qbert: ")
    assert message in line
    assert files_below(tiny.root) == before


def test_no_file(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune"]) == 2
    assert main(["tune", "--trials=3"]) == 2
    assert main(["tune", "absent.yaml"]) == 2
    assert "absent.yaml: no such config file" in capsys.readouterr().err
    assert main(["tune", "--help"]) == 0


def test_neither_the_command_line_nor_a_plan_needs_ray(tiny: Tiny) -> None:
    script = (
        "import sys; from recbole_qbert.cli import main\n"
        "main(['tune', 'sweep.yaml', '--n_layers=3'])\n"
        "import recbole_qbert.experiments.tune.sweep\n"
        "sys.exit('ray' in sys.modules)"
    )
    write_sweep(tiny)
    run = PACKAGE.run(script)
    assert run.returncode == 0, run.stderr
    assert "also fixed in" in run.stderr


def test_the_command_line_wins(tiny: Tiny) -> None:
    given = {"trials": "5", "hidden_size": "32", "name": "other", "scheduler": "none", "seed": "3"}
    request = read_request(write_sweep(tiny), given)
    assert (request.trials, request.name, request.seed) == (5, "other", 3)
    assert request.settings == {**SETTINGS, "hidden_size": 32}
    assert request.scheduler == "none"
    assert read_request(write_sweep(tiny, max_epochs=None, name=None), {}).name is None


def test_epochs_of_the_file_and_of_a_flag(tiny: Tiny) -> None:
    """Without max_epochs, the settings have them; --max_epochs overrides those of a file."""
    own = {"max_epochs": None, "settings": {**SETTINGS, "epochs": 3}}
    assert toy_plan(tiny, **own).trial_settings(1)["epochs"] == 3
    assert toy_plan(tiny, {"epochs": "2"}, **own).trial_settings(1)["epochs"] == 2
    assert toy_plan(tiny, {"max_epochs": "1"}, **own).trial_settings(1)["epochs"] == 1


def test_the_seed_of_the_command_line_is_that_of_every_trial(tiny: Tiny) -> None:
    """Also where a file of `run` has another one, which counts if no seed is given."""
    (tiny.root / "mine.yaml").write_text("seed: 7\n")
    seeds = [
        toy_plan(tiny, given, config_files=["mine.yaml"]).trial_settings(1)["seed"]
        for given in ({"seed": "3"}, {})
    ]
    assert seeds == [3, 7]


@pytest.mark.parametrize(
    "key", ["cold_items", "cold_seed", "cold_targets", "cold_interactions", "benchmark_filename"]
)
def test_keys_that_change_the_targets_are_not_searched(tiny: Tiny, key: str) -> None:
    """Metrics on other targets cannot be compared, so no best trial could be chosen."""
    with pytest.raises(InputError, match=f"space: {key}: cannot be searched"):
        toy_plan(tiny, space={key: {"grid": [1, 2]}}, trials=1)


def test_a_trials_settings(tiny: Tiny) -> None:
    """Paths are absolute, nested keys keep their neighbors, `run` reads the file as it is."""
    space = {"mask_ratios.tail": {"quniform": [0.1, 0.9, 0.1]}, "n_layers": {"grid": [1, 2]}}
    (tiny.root / "mine.yaml").write_text(
        "weight_decay: 0.5\nmask_ratios: {span: 0.7}\nper_model: {QBERT4Rec: {hidden_act: relu}}\n"
    )
    plan = toy_plan(
        tiny,
        {"semantic_id_file": "toy/toy.semid"},
        space=space,
        config_files=["mine.yaml"],
        baseline=True,
    )
    assert (plan.n_drawn, plan.n_evaluations) == (5, 4)
    assert plan.trials[0] == {"mask_ratios.tail": 0.1, "n_layers": 2}
    assert [each["n_layers"] for each in plan.trials[1:3]] == [1, 2]
    settings = plan.trial_settings(2)
    assert settings["data_path"] == str(tiny.root)
    assert settings["checkpoint_dir"] == str(tiny.root / "saved")
    assert settings["semantic_id_file"] == str(tiny.folder / "toy.semid")
    assert settings["epochs"] == 4
    assert settings["mask_ratios"] == {
        "random": 0.3,
        "span": 0.7,
        "tail": plan.trials[1]["mask_ratios.tail"],
        "multi_region": 0.15,
    }
    write_yaml(tiny.root / "one.yaml", settings)
    config = build_config("QBERT4Rec", "toy", ["one.yaml"])
    assert (config["weight_decay"], config["hidden_act"], config["n_layers"]) == (0.5, "relu", 1)
    assert config["seed"] == 2026
    # The baseline is the very run that the settings alone would be.
    write_yaml(tiny.root / "first.yaml", plan.trial_settings(1))
    given = {"data_path": ".", "epochs": 4, "semantic_id_file": str(tiny.folder / "toy.semid")}
    alone = build_config("QBERT4Rec", "toy", ["mine.yaml"], {**SETTINGS, **given})
    baseline = build_config("QBERT4Rec", "toy", ["first.yaml"])
    assert run_folder(baseline).name == run_folder(alone).name


def test_the_same_file_draws_the_same_trials(tiny: Tiny) -> None:
    plan = toy_plan(tiny)
    assert plan.trials == toy_plan(tiny).trials
    assert plan.trials != toy_plan(tiny, {"seed": "1"}).trials
    assert len(plan.trials) == 4
    seeds = {"seed": {"choice": [1, 2, 3, 4]}}
    searched = toy_plan(tiny, space=seeds)
    assert searched.trial_settings(1)["seed"] == searched.trials[0]["seed"]


def test_a_file_that_was_written_is_one_that_is_read(tiny: Tiny) -> None:
    content = {"a": 1e-05, "b": "on", "c": None, "d": {"e": [1, "x y"]}}
    write_yaml(tiny.root / "a.yaml", content, "two\nlines")
    assert load_yaml("a.yaml") == content
    assert Path("a.yaml").read_text().startswith("# two\n# lines\n")
    assert SWEEP["settings"] is SETTINGS  # the toy itself is left alone


def test_a_message_of_a_trial_names_no_passing_file(tiny: Tiny) -> None:
    with pytest.raises(InputError) as caught:
        toy_plan(tiny, {"layer_norm": "3", "mask_ratios": "1"})
    assert str(caught.value) == "layer_norm: 3 is none of post, pre"
    assert "trial.yaml" not in str(caught.value)
