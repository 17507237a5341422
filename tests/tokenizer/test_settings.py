"""Settings of `tokenize`: the shipped files, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import recbole_qbert.properties
from recbole_qbert.errors import InputError
from recbole_qbert.tokenizer.opq import OPQSettings
from recbole_qbert.tokenizer.pipeline import injection_settings
from recbole_qbert.tokenizer.quantiser import METHODS
from recbole_qbert.tokenizer.quantiser_settings import QuantiserSettings, read_settings
from recbole_qbert.tokenizer.rqkmeans import RQKMeansSettings
from recbole_qbert.tokenizer.rqvae_settings import RQVAESettings
from recbole_qbert.tokenizer.settings import tokenize_settings
from recbole_qbert.yaml_files import load_yaml

FOLDER = Path(recbole_qbert.properties.__path__[0])
SHIPPED = sorted(FOLDER.glob("*tokenize.yaml"))
KINDS: dict[str, type[QuantiserSettings]] = {
    "rqvae": RQVAESettings,
    "rqkmeans": RQKMeansSettings,
    "opq": OPQSettings,
}


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
        read_settings(KINDS[method], method, settings[method])


@pytest.mark.parametrize("method", METHODS)
def test_sections_hold_every_setting_with_its_default(method: str) -> None:
    """The file is the list of settings: none is missing, and none says another default."""
    section = load_yaml(FOLDER / "tokenize.yaml")[method]
    kind = KINDS[method]
    assert read_settings(kind, method, section) == kind()
    shared = {"n_levels", "codebook_size"}  # above the sections
    assert section.keys() == kind.__dataclass_fields__.keys() - shared


def test_later_sources_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("quantiser: opq\nrqvae: {beta: 0.5, epochs: 7}\n")
    settings = tokenize_settings([tmp_path / "a.yaml"], {"rqvae.epochs": "9", "streams": "text"})
    assert settings["quantiser"] == "opq"
    assert (settings["rqvae"]["beta"], settings["rqvae"]["epochs"]) == (0.5, 9)
    assert settings["rqvae"]["code_size"] == 32
    assert settings["streams"] == ["text"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"quantizer": "opq"}, "command line: unknown key 'quantizer'; did you mean 'quantiser'?"),
        ({"rqvae.epoch": "3"}, "unknown key 'rqvae.epoch'; did you mean 'epochs'?"),
        ({"rqvae.epochs": "many"}, "rqvae.epochs: 'many' is not a whole number"),
        ({"rqvae": "3"}, "rqvae: `key: value` lines were expected, got 3"),
        ({"quantiser": "kmeans"}, "quantiser: 'kmeans' is none of rqvae, rqkmeans, opq"),
        ({"streams": "txt"}, "streams: 'txt' is none of text, image, fused, identity, content"),
        ({"streams": "text,text"}, "streams: ['text', 'text']; name at least one, each once"),
        ({"streams": "content,text"}, "content already names the modalities"),
        ({"modalities": "a.b"}, "modalities: 'a.b'; use letters, digits, _ and - only"),
        ({"modalities": "text,type"}, "modalities: 'type' is a reserved word; rename"),
        ({"modalities": "fused"}, "modalities: 'fused' is a reserved word"),
        ({"output": "../x.semid"}, "output: '../x.semid': write semid, or a name: text.semid"),
        ({"output": "inter"}, "output: 'inter': write semid"),
        ({"show_progress": "3"}, "show_progress: 3 is not True or False"),
    ],
)
def test_what_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        tokenize_settings((), given)
    assert says in str(caught.value)
