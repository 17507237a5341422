"""Settings of `tokenize`: the shipped files, and what is refused."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import recbole_qbert.properties
import yaml

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.tokenizer.fusion.fit import TrainingSettings
from recbole_qbert.tokenizer.fusion.model import InjectionSettings
from recbole_qbert.tokenizer.quantizers.registry import METHODS
from recbole_qbert.tokenizer.quantizers.rqvae import LossSettings
from recbole_qbert.tokenizer.settings import injection_settings, tokenize_settings
from recbole_qbert.tokenizer.stage_settings import read_settings

FOLDER = Path(recbole_qbert.properties.__path__[0])
SHIPPED = sorted(FOLDER.glob("*tokenize.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_is_explained_and_builds(path: Path) -> None:
    """A comment a key, no key twice, and each stage takes its section."""
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        assert re.match(r"#|\s*\w+:\s.*#\s\S", line + " "), f"{path.name}: no comment in: {line}"
        assert len(line) <= 200
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    for mapping in [node, *(value for _, value in node.value)]:
        if isinstance(mapping, yaml.MappingNode):
            keys = [key.value for key, _ in mapping.value]
            assert len(set(keys)) == len(keys)
    settings = tokenize_settings([path])
    injection_settings(settings)
    for method in METHODS:
        sizes = {"n_levels": 1, "codebook_size": 2}
        read_settings(METHODS[method].settings, method, {**sizes, **settings[method]})


STAGES: list[tuple[str, list[type]]] = [
    ("injection", [InjectionSettings, TrainingSettings]),
    *((name, [method.settings]) for name, method in METHODS.items()),
]


@pytest.mark.parametrize(("section", "kinds"), STAGES, ids=lambda each: str(each))
def test_the_file_is_the_one_source_of_defaults(section: str, kinds: list[type]) -> None:
    """Each key of a section is a field and each field a key; no class says a default itself."""
    shipped = load_yaml(FOLDER / "tokenize.yaml")[section]
    above = {"n_levels", "codebook_size"}  # above the sections
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    assert sorted(field.name for field in fields if field.name not in above) == sorted(shipped)
    for field in fields:
        assert field.default is dataclasses.MISSING
        if field.name not in above:
            assert field.default_factory is not dataclasses.MISSING
            value = shipped[field.name]
            default = field.default_factory()
            assert (list(default) if isinstance(default, tuple) else default) == value


def test_losses_have_no_defaults_of_their_own() -> None:
    for field in dataclasses.fields(LossSettings):
        assert field.default is field.default_factory is dataclasses.MISSING


def test_every_number_and_word_has_a_range() -> None:
    """Far outside, or misspelt, each is refused as the settings are read, before any file."""
    shipped = load_yaml(FOLDER / "tokenize.yaml")
    flat = {key: value for key, value in shipped.items() if not isinstance(value, dict)}
    for section, values in shipped.items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
    free = {"show_progress"}
    for key, value in flat.items():
        if key in free or isinstance(value, bool):
            wrong: Any = "perhaps"
        elif isinstance(value, list):
            wrong = [-5] if isinstance(value[0], int) else ["no such.thing"]
        else:
            wrong = "no such thing" if isinstance(value, str) else -5
        for bad in (wrong, None):
            with pytest.raises(InputError) as refusal:
                tokenize_settings((), {key: bad})
            said = str(refusal.value)
            assert key in said and "\n" not in said, (key, bad, said)


def test_later_sources_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("quantizer: opq\nrqvae: {beta: 0.5, epochs: 7}\n")
    settings = tokenize_settings([tmp_path / "a.yaml"], {"rqvae.epochs": "9", "streams": "text"})
    assert settings["quantizer"] == "opq"
    assert (settings["rqvae"]["beta"], settings["rqvae"]["epochs"]) == (0.5, 9)
    assert settings["rqvae"]["code_size"] == 32
    assert settings["streams"] == ["text"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"quantiser": "opq"}, "command line: unknown key 'quantiser'; did you mean 'quantizer'?"),
        ({"rqvae.epoch": "3"}, "unknown key 'rqvae.epoch'; did you mean 'epochs'?"),
        ({"rqvae.epochs": "many"}, "rqvae.epochs: 'many' is not a whole number"),
        ({"rqvae": "3"}, "rqvae: `key: value` lines were expected, got 3"),
        ({"quantizer": "kmeans"}, "quantizer: 'kmeans' is none of rqvae, rqkmeans, opq"),
        ({"streams": "txt"}, "streams: 'txt' is none of text, image, fused, identity, content"),
        ({"streams": "text,text"}, "streams: ['text', 'text']; name at least one, each once"),
        ({"streams": "content,text"}, "content already names the modalities"),
        ({"modalities": "a.b"}, "modalities: 'a.b'; use letters, digits, _ and - only"),
        ({"modalities": "text,type"}, "modalities: 'type' is a reserved word; rename"),
        ({"modalities": "fused"}, "modalities: 'fused' is a reserved word"),
        ({"output": "../x.semid"}, "output: '../x.semid': write semid, or a name: text.semid"),
        ({"output": "inter"}, "output: 'inter': write semid"),
        ({"rqvae.gradient": "rotate"}, "rqvae.gradient: 'rotate' is none of ste, rotation; did"),
        ({"quantizer": "rqkmean"}, "none of rqvae, rqkmeans, opq; did you mean 'rqkmeans'?"),
        ({"injection.batch_size": "1"}, "injection.batch_size: 1 is less than 2"),
        ({"injection.n_heads": "3"}, "injection.hidden_size: 256 is not a multiple"),
        ({"codebook_size": "1"}, "codebook_size: 1 is less than 2"),
        ({"codebook_size": "[8, many]"}, "codebook_size: 'many' is not a whole number or auto"),
        ({"n_levels": "0"}, "n_levels: 0 is less than 1"),
        ({"n_levels": "[2]"}, "n_levels: [2] is not a whole number or auto"),
        ({"seed": "4294967296"}, "seed: 4294967296 is more than 4294967295"),
        ({"show_progress": "3"}, "show_progress: 3 is not True or False"),
    ],
)
def test_what_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        tokenize_settings((), given)
    assert says in str(caught.value)
