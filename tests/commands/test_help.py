"""`--help` of every command: all keys with type, default and meaning, at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import COMMAND, LIBRARIES, RUN_PATH

from recbole_qbert.cli import COMMANDS, main
from recbole_qbert.commands.command import Command
from recbole_qbert.commands.keys import KeyGroup, format_groups, keys_in
from recbole_qbert.common.errors import InputError
from recbole_qbert.config.build import PRETRAIN, default_settings
from recbole_qbert.experiments.benchmark import plan
from recbole_qbert.experiments.tune.settings import SweepRequest
from recbole_qbert.registry import model_entry
from recbole_qbert.tokenizer.settings import tokenize_settings

SLOW = {"torch", "recbole", "numpy", "pandas", "ray", "rich", "transformers"}
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


@pytest.mark.parametrize("command", [each.name for each in COMMANDS.values() if each.keys])
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
    groups = [KeyGroup("one", text), KeyGroup("two", "a: 5  # (int) other\n")]
    twice = "\n".join(format_groups(groups, 80))
    assert twice.count("--a=") == 1 and "two" not in twice
    assert max(map(len, twice.splitlines())) <= 80


def test_every_flag_has_a_type_and_a_meaning() -> None:
    types = {"str", "int", "float", "bool", "list", "path"}
    for command in COMMANDS.values():
        for key in keys_in(command.flags):
            assert key.kind in types or " | " in key.kind, (command.name, key)
            assert key.meaning, (command.name, key)


def test_a_default_is_of_its_own_type() -> None:
    """Each command takes a line with its required flags alone, and each default parses."""
    for command in (each for each in COMMANDS.values() if not each.open_ended):
        words = [name.rstrip("?.").lower() for name in command.arguments]
        for key in keys_in(command.flags):
            if key.meaning.startswith("required"):
                value = key.kind.split(" |")[0] if "|" in key.kind else "1"
                words.append(f"--{key.name}={value}")
        assert command.parse(words).settings == {}


def test_help_lists_flags_with_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "text", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--batch_size=32 (int) number of inputs that are encoded together" in text
    assert "--dataset= (str) required; name of the data set" in text
    assert main(["ids", "--help"]) == 0
    assert "from-columns" in capsys.readouterr().out


FLAGS = """
name:            # (str) required; a name
size: 3          # (int) a size
rate:            # (float) a rate
parts:           # (list) parts
file:            # (path) a file
force: False     # (bool) whether to force
way: up          # (up | down) a way
"""


class Toy(Command):
    """A command with the flags above."""

    flags = FLAGS  # type: ignore[assignment]


def command(**more: Any) -> Command:
    return Toy("x y", "Do x.", lambda options: 0, **more)


def test_flags_are_typed() -> None:
    found = command(arguments=("FROM", "MORE?")).parse(
        ["a.yaml", "--name", "n=m", "--size=4", "--rate", "1e-3", "--parts=a,b,", "--file=b/c",
         "--force", "--way=down"]
    )  # fmt: skip
    assert vars(found) == {
        "from": "a.yaml", "file": Path("b/c"), "more": None, "name": "n=m", "size": 4,
        "rate": 0.001,
        "parts": ["a", "b"], "force": True, "way": "down", "settings": {},
    }  # fmt: skip
    found = command(arguments=("FOLDER...",)).parse(["a", "b", "--name=n"])
    assert found.folder == ["a", "b"] and found.size == 3 and found.parts == []
    assert found.rate is None and found.file is None and found.force is False


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size=4"], "--name=... is required; a name"),
        (["--nam=q"], "--name=... is required; a name; is --nam meant for it?"),
        (["--name=n", "--size=4.5"], "--size=4.5: '4.5' is not a whole number"),
        (["--name=n", "--rate=fast"], "--rate=fast: 'fast' is not a number"),
        (["--name=n", "--force=maybe"], "--force=maybe: write True or False"),
        (["--name=n", "--way=upp"], "--way=upp: 'upp' is none of up, down; did you mean 'up'?"),
        (["--name=n", "--forse=True"], "x y has no flag --forse; did you mean 'force'?"),
        (["--name=n", "--zzz=1"], "x y has no flag --zzz; see recbole-qbert x y --help"),
        (["--name"], "--name has no value; write --name=value"),
        (["--name=n", "--name=m"], "--name is given twice with different values"),
        (["--name=n", "more"], "'more' is no --key=value"),
        (["--name=n", "-x"], "'-x' is no --key=value"),
    ],
)
def test_wrong_flags(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=f"{re.escape(says)}$"):
        command().parse(words)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(InputError, match="FILE is missing; write recbole-qbert x y FILE$"):
        command(arguments=("FILE",)).parse(["--name=n"])


# Without the slow imports -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--version"], 0, r"^\d+\.\d+\.\d+$"),
        (["--help"], 0, "tokenize"),
        (["run", "--help"], 0, "--hidden_size="),
        (["embed", "text", "--help"], 0, "--fields"),
        (["tune", "-h"], 0, "--trials="),
        (["rnu"], 2, "did you mean 'run'?"),
        ([], 2, "^recbole-qbert: name a command; recbole-qbert --help lists them$"),
        (["compare", "a", "--wrong=1"], 2, "--wrong"),
        (["ids", "chekc"], 2, "'chekc' is no sub-command of ids .*; did you mean 'check'"),
        (["ids"], 2, "^recbole-qbert: ids: name one .check, inspect"),
        (["--properties"], 0, r"properties$"),
        (["--completion=fish"], 2, "none of bash, zsh"),
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
    script.write_text(COMMAND)
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
    done = LIBRARIES.run(RUN_PATH, str(script), "--help")
    assert done.returncode == 0, done.stderr


def test_help_of_a_registered_model(tmp_path: Path) -> None:
    """The keys of its defaults file, which is found beside the module from any folder."""
    (tmp_path / "toys.yaml").write_text("width: 3  # (int) width of the toy\n")
    (tmp_path / "toys.py").write_text(
        "from recbole.model.sequential_recommender import SASRec\n"
        "from recbole_qbert.quick_start import register\n"
        "class Toy(SASRec):\n    pass\n"
        "register(Toy, defaults='toys.yaml')\n"
    )
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import toys\n{COMMAND}"
    done = LIBRARIES.run(script, "run", "--model=Toy", "--help")
    assert done.returncode == 0, done.stderr
    assert re.search(r"--width=3 +\(int\) width of the toy", done.stdout)
