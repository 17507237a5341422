"""Check printed command lines without running them: each by its command's own parser."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recbole_qbert.cli import GROUPS, find, main
from recbole_qbert.commands.run import models_and_dataset
from recbole_qbert.common.startup import script_line
from recbole_qbert.common.yaml_files import load_yaml, split_names
from recbole_qbert.config.build import build_config, check_keys
from recbole_qbert.experiments.benchmark.plan import read_plan
from recbole_qbert.experiments.tune.settings import read_request
from recbole_qbert.pretraining.fit import pretrain_config
from recbole_qbert.tokenizer.settings import tokenize_settings

REPOSITORY = Path(__file__).resolve().parents[1]
PREFIXES = ("python", ".venv/bin/python", "python3.13")


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
    elif program in PREFIXES and rest[0] in ("docs/make_settings.py", "results/make_pages.py"):
        assert rest[1:] == [], words
    elif program in PREFIXES:
        check_script(Path(rest[0]), rest[1:])
    else:
        raise AssertionError(f"{program}: a command that nobody checks")


def check_command(words: Sequence[str]) -> None:
    """One of `recbole-qbert`."""
    if words[:1] and words[0].startswith("--"):  # --properties: no command, but printed at once
        assert main(words) == 0
        return
    if words[-1:] in ([], ["..."], ["--help"]):  # a sentence names a command without its flags
        named = [word for word in words if word not in ("...", "--help")]
        if named and (named[0] not in GROUPS or len(named) > 1):
            find(named)
        return
    command, rest = find(words)
    options = command.parse(rest)
    if command.name in CHECKS:
        CHECKS[command.name](options)


def check_run(options: Any) -> None:
    """Models, data set, files and keys; `complexity` takes the same."""
    given = options.settings
    for key in ("nproc", "json"):
        given.pop(key, None)
    models, dataset, files = models_and_dataset(given)
    for model in models:
        build_config(model, dataset, files, given)


def check_tokenize(options: Any) -> None:
    """The keys of tokenize.yaml."""
    assert tokenize_settings(split_names(options.config_files or ""), options.settings)


def check_pretrain(options: Any) -> None:
    """The keys of `pretrain` and `run`."""
    files = split_names(options.config_files or "")
    assert pretrain_config(options.datasets, files, options.settings)["epochs"]


def check_tune(options: Any) -> None:
    """The file and its keys."""
    request = read_request(options.file, options.settings)
    check_keys(request.model, request.settings, "command line")


def check_benchmark(options: Any) -> None:
    """The file and its keys."""
    assert read_plan(options.file, options.settings).model_rows


CHECKS: dict[str, Callable[[Any], None]] = {
    "run": check_run,
    "complexity": check_run,
    "tokenize": check_tokenize,
    "pretrain": check_pretrain,
    "tune": check_tune,
    "benchmark": check_benchmark,
}


def check_script(path: Path, flags: Sequence[str]) -> None:
    """A script of `dataset_scripts/`, as the command that it stands for."""
    text = (REPOSITORY / "dataset_scripts" / path.name).read_text(encoding="utf-8")
    match = re.search(r'main\(\["prepare", "(\w+)", \*sys.argv', text)
    assert match, path
    check_command(["prepare", match[1], *flags])


def check_make(words: Sequence[str]) -> None:
    """A target of the Makefile, and variables that it reads."""
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, equals, _ = word.partition("=")
        assert re.search(rf"^{name}( \?=|:)", text, re.MULTILINE), f"make {word}"
        assert equals or re.search(rf"^\.PHONY:.*\b{name}\b", text, re.MULTILINE), word


def check_snakemake(words: Sequence[str]) -> None:
    """A shipped workflow and its variables; the flags by Snakemake's parser, if it is there."""
    name = words[words.index("-s") + 1].replace("$(recbole-qbert --properties)", "properties")
    file = REPOSITORY / name
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
