"""`--help` of every command: all keys with type, default and meaning, at once."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recbole_qbert.cli import OPEN_ENDED, build_parser, main
from recbole_qbert.commands.help import KeyGroup, help_text, keys_in
from recbole_qbert.config.build import PRETRAIN, default_settings
from recbole_qbert.experiments.benchmark import plan
from recbole_qbert.experiments.tune.settings import SweepRequest
from recbole_qbert.registry import model_entry
from recbole_qbert.tokenizer.settings import tokenize_settings

SLOW = {"torch", "recbole", "numpy", "pandas", "ray", "rich", "transformers"}
SCRIPT = "import sys\nfrom recbole_qbert.cli import main\nsys.exit(main())\n"
REPOSITORY = Path(__file__).resolve().parents[2]


def listed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The keys that `--help` names, and what it says of each."""
    assert main([*arguments, "--help"]) == 0
    text = re.sub(r"\n {34}", " ", capsys.readouterr().out)
    found = re.findall(r"^ +(?:--)?([\w.]+)(=|: ?)(\S*.*)$", text, re.MULTILINE)
    return {name: rest for name, _, rest in reversed(found)}


def expected(command: str) -> set[str]:
    """What the command itself takes, as its code has it."""
    run = set(default_settings("QBERT4Rec"))
    return {
        "run": run | {"model", "dataset", "config_files", "nproc", "use_tuned"},
        "complexity": run | {"model", "dataset", "config_files", "json"},
        "pretrain": set(default_settings("QBERT4Rec", PRETRAIN))
        | {"datasets", "target", "output", "retrain", "nproc"},
        "tokenize": set(tokenize_settings([], {})) | {"dataset", "data_path", "tokenizer"},
        "benchmark": run | plan.KEYS | {"output", "retrain"},
        "tune": SweepRequest.model_fields.keys() - {"source"} | {"resume"},
    }[command]


@pytest.mark.parametrize("command", OPEN_ENDED)
def test_every_key_is_listed_with_its_type(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = listed([command], capsys)
    assert not expected(command) - found.keys()
    untyped = [key for key in expected(command) if not re.search(r"\(\w[\w ]*\) \S", found[key])]
    assert untyped == []


def test_defaults_are_those_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the model that is asked for, and of RecBole where nothing else is said."""
    found = listed(["run"], capsys)
    assert found["hidden_dropout_prob"].startswith(
        str(default_settings("QBERT4Rec")["hidden_dropout_prob"])
    )
    assert found["gpu_id"].startswith("'0'")
    found = listed(["run", "--model=GRU4Rec"], capsys)
    assert found["dropout_prob"].startswith(str(default_settings("GRU4Rec")["dropout_prob"]))
    assert "mask_mix" not in found
    assert main(["run", "--model=GRU4Rec4", "--help"]) == 2
    assert "did you mean 'GRU4Rec'" in capsys.readouterr().err


@pytest.mark.parametrize("help_flag", ["--help", None])
@pytest.mark.parametrize("name", ["GRU4Rek", "GRU4RecKGG", "KSRR", "FEARek", "BPRR", "SASRek"])
def test_only_models_that_can_be_run_are_suggested(
    name: str, help_flag: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", f"--model={name}", *([help_flag] if help_flag else ["--dataset=x"])]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    meant = re.search(r"did you mean '(\w+)'", said)
    if meant:
        model_entry(meant[1])  # which refuses what cannot be run


def test_keys_of_a_text() -> None:
    text = (
        "# head\na: [1, 2]   # (list) some: text\nb:  # (dict) more\n  c: x  # (ours) own\n  d: 3\n"
    )
    found = [tuple(key) for key in keys_in(text)]
    assert found == [
        ("a", "list", "[1, 2]", "some: text", 0),
        ("b", "dict", "", "more", 0),
        ("c", "ours", "x", "own", 1),
        ("d", "", "3", "", 1),
    ]
    assert [key.name for key in keys_in(text, depth=0)] == ["a", "b"]
    twice = help_text(
        "x", "y", [KeyGroup("one", text), KeyGroup("two", "a: 5  # (int) other\n")], 80
    )
    assert twice.count("--a=") == 1 and "two" not in twice
    assert max(map(len, twice.splitlines())) <= 80


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from parsers(each)


def test_every_fixed_flag_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for parser in parsers(build_parser()):
        for action in parser._actions:
            assert action.help or isinstance(action, argparse._SubParsersAction), action
    with pytest.raises(SystemExit):
        main(["embed", "text", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(int) inputs encoded together; default: 32" in text
    assert text.index("needed:") < text.index("--dataset DATASET (str)") < text.index("options:")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--version"], 0, r"^\d+\.\d+\.\d+$"),
        (["--help"], 0, "tokenize"),
        (["run", "--help"], 0, "--hidden_size="),
        (["embed", "text", "--help"], 0, "--fields"),
        (["tune", "-h"], 0, "--trials="),
        (["rnu"], 2, "did you mean 'run'?"),
        ([], 2, "command"),
        (["table", "a", "--wrong"], 2, "--wrong"),
        (["run", "--model"], 2, "^recbole-qbert: command line: --model has no value[^\n]*$"),
        (["benchmark", "x.yaml", "seeds"], 2, "'seeds' is no --key=value"),
    ],
)
@pytest.mark.parametrize("how", ["module", "console script"])
def test_what_needs_no_import_is_answered_without(
    tmp_path: Path, how: str, arguments: list[str], status: int, says: str
) -> None:
    """Nothing slow is imported: -X importtime writes what is."""
    script = tmp_path / "recbole-qbert"
    script.write_text(SCRIPT)
    program = ["-m", "recbole_qbert"] if how == "module" else [str(script)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *program, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status
    lines = done.stderr.splitlines()
    said = [line for line in lines if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "recbole_qbert" in imported
    assert not imported & SLOW
    assert re.search(says, done.stdout.strip() if status == 0 else "\n".join(said), re.MULTILINE)


def test_the_script_of_the_repository_answers_too() -> None:
    script = REPOSITORY / "run_recbole_qbert.py"
    for arguments, says in (
        (["--help"], "--model="),
        (["--version"], "."),
        (["tune", "-h"], "tri"),
    ):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", str(script), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 and says in done.stdout
        assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)


def test_an_import_elsewhere_answers_nothing(tmp_path: Path) -> None:
    """A program of the user's has its own flags, and RecBole is ready for it."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, recbole_qbert\nfrom recbole.utils import get_model\n"
        "assert sys.argv[1:] == ['--help']\nassert get_model('QBERT4Rec')\n"
    )
    done = subprocess.run([sys.executable, str(script), "--help"], timeout=120)
    assert done.returncode == 0
