"""Check printed command lines without running them: each by its command's own parser."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from recbole_qbert.cli import OPEN_ENDED, build_parser
from recbole_qbert.commands.settings import parse_settings, pop_models
from recbole_qbert.common.startup import script_line
from recbole_qbert.common.yaml_files import load_yaml, split_files
from recbole_qbert.config.build import build_config, check_keys
from recbole_qbert.experiments.benchmark.plan import read_plan
from recbole_qbert.experiments.tune.settings import read_request
from recbole_qbert.pretraining.fit import pretrain_config
from recbole_qbert.tokenizer.settings import tokenize_settings

REPOSITORY = Path(__file__).resolve().parents[1]
PREFIXES = ("python", ".venv/bin/python", "python3.13")


class Parsed(Exception):
    """A script's flags were accepted; the script goes no further."""


def check_line(words: Sequence[str]) -> None:
    """Refuse a line that its command would refuse.

    Files of settings are read, data are not.

    Raises:
        Exception: whatever the command's parser raises.
    """
    program, *rest = words
    if program == "recbole-qbert":
        check_command(rest)
    elif program == "make":
        check_make(rest)
    elif program == "snakemake":
        check_snakemake(rest)
    elif program == "torchrun":
        (script,) = (each for each in rest if each in ("recbole_qbert", "my_run.py"))
        check_command(rest[rest.index(script) + 1 :])
    elif program in PREFIXES and rest[0] == "-m":
        assert rest[1] in ("recbole_qbert", "benchmarks", "pytest", "build", "venv"), words
        if rest[1] == "recbole_qbert":
            check_command(rest[2:])
    elif program in PREFIXES and Path(rest[0]).name == "run_recbole_qbert.py":
        check_command(script_line(list(rest[1:])))
    elif program in PREFIXES and rest[0] == "docs/make_settings.py":
        assert rest[1:] == [], words
    elif program in PREFIXES:
        check_script(Path(rest[0]), rest[1:])
    else:
        raise AssertionError(f"{program}: a command that nobody checks")


def check_command(words: Sequence[str]) -> None:
    """One of `recbole-qbert`."""
    name, *rest = words or ["..."]
    if words[-1:] in ([], ["..."], ["--help"]):  # the last word stands for all flags in a sentence
        with pytest.raises(SystemExit) as ended:
            build_parser().parse_args([*words[:-1], "--help"])
        assert not ended.value.code, words
    elif name == "tune":
        flags = [f"{each}=True" if each == "--resume" else each for each in rest[1:]]
        given = parse_settings(flags)
        given.pop("resume", None)
        request = read_request(rest[0], given)
        check_keys(request.model, request.settings, "command line")
    elif name == "benchmark":
        given = without(parse_settings(rest[1:]), "output", "retrain")
        assert read_plan(rest[0], given).model_rows
    elif name in OPEN_ENDED:
        CHECKS[name](parse_settings(rest))
    else:
        build_parser().parse_args([name, *rest])


def check_run(given: dict[str, str]) -> None:
    """Models, data set, files and keys; `complexity` takes the same."""
    models, dataset, files = pop_models(without(given, "nproc", "json"))
    for model in models:
        build_config(model, dataset, files, given)


def check_tokenize(given: dict[str, str]) -> None:
    """`--dataset` and the keys of tokenize.yaml."""
    assert given.pop("dataset")
    files = split_files(given.pop("config_files", ""))
    assert tokenize_settings(files, without(given, "data_path", "tokenizer"))


def check_pretrain(given: dict[str, str]) -> None:
    """`--datasets` and keys of `run`."""
    names = given.pop("datasets").split(",")
    without(given, "nproc", "target", "output", "retrain")
    files = split_files(given.pop("config_files", ""))
    assert pretrain_config(names, files, given)["epochs"]


CHECKS: dict[str, Any] = {
    "run": check_run,
    "complexity": check_run,
    "tokenize": check_tokenize,
    "pretrain": check_pretrain,
}


def check_script(path: Path, flags: Sequence[str]) -> None:
    """A script of `dataset_scripts/`, by its own parser."""
    file = REPOSITORY / "dataset_scripts" / path.name
    with parsing_only(file, flags), pytest.raises(Parsed):
        runpy.run_path(str(file), run_name="__main__")


@contextlib.contextmanager
def parsing_only(file: Path, flags: Sequence[str]) -> Iterator[None]:
    """In the block a program ends with `Parsed` once it has parsed its flags."""
    parse_args = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        try:
            parse_args(self, args, namespace)
        except SystemExit as error:  # --help ends well
            assert not error.code, f"{file.name} {' '.join(flags)}"
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(file), *flags])
        patch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        yield


def check_make(words: Sequence[str]) -> None:
    """A target of the Makefile, and variables that it reads."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        assert re.search(rf"^{name}( \?=|:)", text, re.MULTILINE), f"make {word}"
        assert equals or re.search(rf"^\.PHONY:.*\b{name}\b", text, re.MULTILINE), word


def check_snakemake(words: Sequence[str]) -> None:
    """A shipped workflow and its variables; the flags by Snakemake's parser, if it is there."""
    file = REPOSITORY / words[words.index("-s") + 1]
    assert file.is_file(), file
    if "--config" in words:
        known = load_yaml(file.with_suffix(".yaml"))
        for word in words[words.index("--config") + 1 :]:
            if word.startswith("-"):
                break
            assert word.partition("=")[0] in known, word
    if importlib.util.find_spec("snakemake") is not None:
        from snakemake.cli import get_argument_parser

        get_argument_parser().parse_args(list(words))


def without(given: dict[str, str], *keys: str) -> dict[str, str]:
    """The mapping itself, these keys taken out."""
    for key in keys:
        given.pop(key, None)
    return given
