"""Reading YAML: what is refused, and that what is refused is not expanded first."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from recbole.config import Config

from recbole_qbert.common import yaml_files
from recbole_qbert.common.errors import InputError, did_you_mean_path
from recbole_qbert.common.yaml_files import (
    MAX_DEPTH,
    MAX_NODES,
    load_yaml,
    parse_value,
    shipped,
)
from recbole_qbert.config.build import build_config
from recbole_qbert.experiments.benchmark.plan import read_plan
from recbole_qbert.experiments.tune.settings import read_request
from recbole_qbert.tokenizer.settings import tokenize_settings

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
TWICE = "is given twice, first in line"
REFUSED = {
    "a key twice": ("epochs: 1\nseed: 3\nepochs: 2\n", f"line 3: 'epochs' {TWICE} 1"),
    "a key twice in a line": ("{epochs: 1, epochs: 2}\n", f"line 1: 'epochs' {TWICE} 1"),
    "a quoted key twice": ("epochs: 1\n'epochs': 1\n", f"line 2: 'epochs' {TWICE} 1"),
    "an inner key twice": (
        "mask_mix:\n  span: 1\n  tail: 1\n  span: 2\n",
        f"line 4: 'span' {TWICE} 2",
    ),
    "within a list": ("space:\n  - a: 1\n    a: 2\n", f"line 3: 'a' {TWICE} 2"),
    "aliases of aliases": (BOMB, f"line 5: more than {MAX_NODES:,} values"),
    "an alias of itself": ("a: &a [1, *a]\n", "line 1: an alias is inside"),
    "an alias of its mapping": ("a: &a\n  b: *a\n", "line 2: an alias is inside"),
    "deep lists": (
        f"metrics: {'[' * 5000}{']' * 5000}\n",
        f"line 1: more than {MAX_DEPTH} nested",
    ),
    "deep mappings": (
        f"metrics: {'{a: ' * 5000}1{'}' * 5000}\n",
        f"line 1: more than {MAX_DEPTH} nested",
    ),
}
READERS: dict[str, Callable[[str], object]] = {
    "load_yaml": load_yaml,
    "run": lambda file: build_config("SASRec", "toy", [file]),
    "RecBole's own": lambda file: Config("SASRec", "toy", config_file_list=[file]),
    "benchmark": lambda file: read_plan(file, {}),
    "tune": lambda file: read_request(file, {}),
    "tokenize": lambda file: tokenize_settings([file], {}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_every_reader(tmp_path: Path, name: str, reader: str) -> None:
    """One line that names file and line."""
    text, message = REFUSED[name]
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        READERS[reader](str(file))
    assert str(caught.value).startswith(f"{file}, line")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "{span: 1, span: 2}", "[&a [*a]]"])
def test_refused_on_the_command_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_value(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 2001-99-99\n", "not valid YAML"),
        (f"seed: {'9' * 5000}\n", "not valid YAML"),
        ("? [a]\n: 1\n", "not valid YAML"),
        ("a: *b\n", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
        ("off: 1\n", "the key False is not text; quote it"),
        ("1: 2\n", "the key 1 is not text; quote it"),
    ],
)
def test_other_faults(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_yaml(file)
    assert "\n" not in str(caught.value)


def test_what_a_reader_changes_is_not_read_again(tmp_path: Path) -> None:
    """Equal files are parsed once. A file that was changed is parsed again."""
    file = tmp_path / "a.yaml"
    file.write_text("weights: {span: 1.0, tails: [1, 2]}\n")
    first = load_yaml(file)
    first["weights"]["tails"].append(3)
    first["weights"]["span"] = 2.0
    assert load_yaml(file) == {"weights": {"span": 1.0, "tails": [1, 2]}}
    file.write_text("weights: {span: 4.0}\n")
    assert load_yaml(file) == {"weights": {"span": 4.0}}


def test_aliases_and_merges_stay_allowed(tmp_path: Path) -> None:
    """As YAML has them: an own key wins over a merged one."""
    file = tmp_path / "a.yaml"
    file.write_text(
        "base: &base {epochs: 1, topk: &topk [1, 5]}\n"
        "one: &one\n  <<: *base\n  epochs: 2\n"
        "two: {<<: *one, seed: 3}\n"
        "three: *topk\n"
    )
    assert load_yaml(file) == {
        "base": {"epochs": 1, "topk": [1, 5]},
        "one": {"epochs": 2, "topk": [1, 5]},
        "two": {"epochs": 2, "topk": [1, 5], "seed": 3},
        "three": [1, 5],
    }


SHIPPED = shipped("benchmark", "demo.yaml")


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("properties/benchmark/demo.yaml", "", SHIPPED),
        ("benchmark/demo.yaml", "", SHIPPED),
        ("benchmark/demo", "benchmark", SHIPPED),
        ("demo", "benchmark", SHIPPED),
        ("demo.yaml", "benchmark", SHIPPED),
        ("demo.yaml", "", shipped("demo.yaml")),
        ("ml-100k", "benchmark", shipped("benchmark", "ml-100k.yaml")),
        ("demo", "tune", shipped("tune", "demo.yaml")),
        ("properties/paper.yaml", "", shipped("paper.yaml")),
    ],
)
def test_shipped_files_are_found_by_name(
    elsewhere: Path, name: str, folder: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outside a clone, with one line that says so; a file of the user's own comes first."""
    for _ in range(2):
        assert load_yaml(name, folder) == yaml.safe_load(file.read_text())
    said = f"recbole-qbert: {name}: reading the shipped file {file}\n"
    assert capsys.readouterr().err == said
    own = elsewhere / name
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("seed: 1\n")
    assert load_yaml(name, folder) == {"seed": 1}


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder outside the repository, in which nothing has been said yet."""
    monkeypatch.chdir(tmp_path)
    yaml_files._say_shipped.cache_clear()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "folder", "meant"),
    [
        ("propertes/bench.yaml", "", "properties/bench.yaml"),
        ("properties/bnch.yaml", "", "properties/bench.yaml"),
        ("propertes/benhc.yaml", "", "properties/bench.yaml"),
        ("mime.yaml", "", "mine.yaml"),
        ("propertes/paper.yaml", "", "properties/paper.yaml"),
        ("tune/sasrc.yaml", "", "tune/sasrec.yaml"),
        ("scientifc", "benchmark", "scientific"),
        ("sasrek", "tune", "sasrec"),
        ("sasrek.yaml", "tune", "sasrec.yaml"),
        ("tune/sasrek", "tune", "tune/sasrec"),
        ("zzzzzz", "tune", ""),
        ("nothing.yaml", "", ""),
        ("nothing.yaml", "benchmark", ""),
        ("TIGRE.yaml", "benchmark", ""),  # a file of a model is no benchmark
    ],
)
def test_a_missing_file_is_named_with_the_closest(
    elsewhere: Path, name: str, folder: str, meant: str
) -> None:
    (elsewhere / "properties").mkdir()
    for file in ("properties/bench.yaml", "mine.yaml", "mine.inter"):
        (elsewhere / file).write_text("seed: 1\n")
    with pytest.raises(InputError) as caught:
        load_yaml(name, folder)
    hint = f"; did you mean '{meant}'?" if meant else ""
    assert str(caught.value) == f"{name}: no such config file{hint}"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("data/scietific", "data/Scientific"),
        ("dta/Scientific", "data/Scientific"),
        ("dta/scientifc/scientifc.inter", "data/Scientific/Scientific.inter"),
        ("data/Scientific/Scientific.semid", ""),  # the .inter file is not meant
        ("data/Scientific", ""),
        ("data/Quite another", ""),
        ("nothing/at/all", ""),
    ],
)
def test_the_closest_path(elsewhere: Path, path: str, meant: str) -> None:
    (elsewhere / "data" / "Scientific").mkdir(parents=True)
    (elsewhere / "data" / "Scientific" / "Scientific.inter").touch()
    (elsewhere / "data" / "scientific.zip").touch()
    for start in (Path(), elsewhere):
        hint = f"; did you mean '{start / meant}'?" if meant else ""
        assert did_you_mean_path(start / path) == hint


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-1E+3", -1e3),
        ("1.5e3", 1500.0),
        (".5e1", 5.0),
        ("1.e2", 100.0),
        ("1e3x", "1e3x"),
        ("e3", "e3"),
        ("1.5", 1.5),
        ("3", 3),
        ("~", None),
        ("[1, a]", [1, "a"]),
        ("[1", "[1"),
    ],
)
def test_values(text: str, value: object) -> None:
    found = parse_value(text)
    assert (found, type(found)) == (value, type(value))
