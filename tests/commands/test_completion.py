"""Completion in bash and zsh: commands, keys, and the values of keys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import OWN_MODELS
from processes import COMMAND

from recbole_qbert.cli import COMMANDS
from recbole_qbert.commands import keys as keys_module
from recbole_qbert.commands.complete import candidates
from recbole_qbert.commands.keys import KeyGroup, model_names, run_groups, tokenize_groups
from recbole_qbert.config.fields import Fields
from recbole_qbert.config.settings import RUN
from recbole_qbert.registry import recbole_models
from recbole_qbert.tokenizer.fusion.model import InjectionSettings
from recbole_qbert.tokenizer.fusion.next_item import NextItemSettings
from recbole_qbert.tokenizer.quantizers.registry import METHODS
from recbole_qbert.tokenizer.settings import FIELDS


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ru", {"run"}),
        ("", {name.partition(" ")[0] for name in COMMANDS}),
        ("ids ", {"check", "inspect", "from-columns", "add-items"}),
        ("ids che", {"check"}),
        ("embed text --enc", {"--encoder="}),
        ("run --hidden_dr", {"--hidden_dropout_prob="}),
        ("run --model=GRU4Rec --dropout", {"--dropout_prob="}),
        ("run --model=Nothing --topk", {"--topk="}),
        ("tune a.yaml --tri", {"--trials="}),
        ("benchmark ", set()),
        ("tokenize --opq", {"--opq.iterations=", "--opq.rows_per_code="}),
    ],
)  # fmt: skip
def test_completion(line: str, found: set[str]) -> None:
    assert set(candidates(COMMANDS, line.split(" "))) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("run --model=QB", "QBERT4Rec"),
        ("run --model=SASRec,BERT", "SASRec,BERT4Rec SASRec,BERT4RecFixed"),
        ("tokenize --quantizer=", "rqvae rqkmeans opq"),
        ("tokenize --streams=", "content identity fused bbq"),
        ("tokenize --streams=content,", "content,identity content,fused content,bbq"),
        ("tokenize --rqvae.norm=", "mean sum"),
        ("tokenize --rqvae.restart_dead_codes=F", "False"),
        ("tokenize --rqvae=", ""),
        ("run --loss_type=", "CE BPR none"),
        ("run --learner=ada", "adam adamw adagrad"),
        ("run --use_gpu=", "True False"),
        ("run --model=SASRec --hidden_act=", "gelu relu swish tanh sigmoid"),
        ("run --hidden_act=", "gelu relu"),
        ("run --epochs=", "auto"),
        ("run --seed=", ""),
        ("run --dataset=", ""),
        ("run --nothing=", ""),
        ("tune x.yaml --scheduler=", "none asha"),
        ("compare x --runs=", "all last"),
        ("embed text --encoder=", "tfidf tags sentence"),
        ("embed image --device=", "auto cpu cuda"),
        ("prepare table --time_unit=", "s ms us ns date"),
        ("prepare table --duplicates=", "first last identical all"),
        ("prepare amazon --release=", "2014 2018 2023"),
        ("prepare amazon --require=text,", "text,metadata text,image"),
        ("report saved --projection=", "tsne pca"),
    ],
)
def test_values_are_completed(line: str, found: str) -> None:
    words = line.split(" ")
    flag = words[-1].partition("=")[0]
    assert candidates(COMMANDS, words) == [f"{flag}={value}" for value in found.split()]


def listed(groups: list[KeyGroup]) -> dict[str, list[str]]:
    """The words that the texts list for each key."""
    keys = [key for group in groups for key in group.listed()]
    return {key.name: key.choices for key in keys if key.choices and key.kind != "bool"}


def test_listed_words_are_those_that_the_settings_take() -> None:
    """The texts of the YAML files against the types of the settings."""
    found = listed(run_groups(["--model=QBERT4Rec,IDBERT4Rec,BigramChain,BERT4Rec"]))
    assert len(found) > 10
    for name, words in found.items():
        narrower = name == "hidden_act"  # these models take two of the words
        assert set(words) == set(RUN.words(name)) or narrower and set(words) < set(RUN.words(name))
    found = listed(tokenize_groups())
    classes: dict[str, Any] = {name: method.settings for name, method in METHODS.items()}
    classes |= {"injection": InjectionSettings, "next_item": NextItemSettings}
    for name, words in found.items():
        section, _, key = name.rpartition(".")
        fields = Fields(classes[section]) if section else FIELDS
        if words != ["True", "False"] and name not in ("streams", "quantizer"):
            assert set(words) == set(fields.words(key)), name


def test_no_listed_words_are_forgotten() -> None:
    """A key whose type is some words has them in the text, so that `--help` shows them."""
    found = listed(tokenize_groups())
    for key in FIELDS.keys():  # noqa: SIM118  no mapping
        if len(FIELDS.words(key)) > 1:
            assert key in found


def test_all_models_are_known_before_they_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_registered", lambda module, table: {})
    recboles = {model.__name__ for model in recbole_models()}
    assert model_names() == sorted({*OWN_MODELS, *recboles})


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    """An environment with this command on its path."""
    program = tmp_path / "recbole-qbert"
    program.write_text(f"#!{sys.executable}\n{COMMAND}")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


LINES = {
    "recbole-qbert benchm": "benchmark",
    "recbole-qbert embed text --fiel": "--fields=",
    "recbole-qbert run --model=QBERT4R": "QBERT4Rec",
    "recbole-qbert tokenize --quantizer=": "rqvae rqkmeans opq",
    "recbole-qbert tokenize --streams=content,f": "content,fused",
    "recbole-qbert run --dataset=": "",
    "recbole-qbert run --dataset=x": "",
    "recbole-qbert benchmark ": "",
}


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes(shell_environment: dict[str, str]) -> None:
    """The printed script: the words that replace what follows the last `=`, and their number."""
    script = 'eval "$(recbole-qbert --completion=bash)"\n' + "".join(
        f"COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _recbole_qbert; "
        "echo ${#COMPREPLY[@]} ${COMPREPLY[*]}\n"
        for line in LINES
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=shell_environment, timeout=120
    )
    expected = [f"{len(words.split())} {words}".strip() for words in LINES.values()]
    assert done.stdout.splitlines() == expected, done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(shell_environment: dict[str, str]) -> None:
    """The printed script, with stand-ins for what zsh has within its completion alone.

    zsh does not break words at `=`, so whole words are expected.
    """
    script = """
    compdef() { }
    compset() { }
    compadd() { print -r -- "${${(P)@[-1]}[@]}" }
    _files() { print files }
    eval "$(recbole-qbert --completion=zsh)"
    """
    for line in LINES:
        words = line.split(" ")
        script += f"words=({' '.join(map(repr, words))}); CURRENT=$#words PREFIX=$words[-1]\n"
        script += "_recbole_qbert\n"
    done = subprocess.run(
        ["zsh", "-f", "-c", script], capture_output=True, text=True, env=shell_environment,
        timeout=120,
    )  # fmt: skip
    expected = []
    for line, found in LINES.items():
        start = line.split(" ")[-1].partition("=")[0] + "=" if "=" in line else ""
        expected.append(" ".join(start + word for word in found.split()) or "files")
    assert done.stdout.splitlines() == expected, done.stderr
