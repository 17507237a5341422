"""Settings of `tokenize` and of its stages: the shipped files, sources, and refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import recbole_qbert.properties
import torch
import yaml
from torch import nn
from toy_domain import SMALL, write_domain

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.data.embeddings import check_modality
from recbole_qbert.tokenizer.artifact import Tokenizer
from recbole_qbert.tokenizer.fusion.bbq import BBQSettings
from recbole_qbert.tokenizer.fusion.model import InjectionSettings
from recbole_qbert.tokenizer.fusion.next_item import NextItemSettings
from recbole_qbert.tokenizer.pipeline import tokenize
from recbole_qbert.tokenizer.quantizers.opq import OPQSettings
from recbole_qbert.tokenizer.quantizers.registry import METHODS, Method, fit_quantizer
from recbole_qbert.tokenizer.quantizers.rqkmeans import ResidualKMeans, RQKMeansSettings
from recbole_qbert.tokenizer.quantizers.rqvae import RQVAESettings
from recbole_qbert.tokenizer.settings import tokenize_settings
from recbole_qbert.tokenizer.stages import QuantizerSettings, read_settings

FOLDER = Path(recbole_qbert.properties.__path__[0])
SHIPPED = sorted(FOLDER.glob("*tokenize.yaml"))
SIZES = {"n_levels": 4, "codebook_size": 256}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_is_explained_and_accepted(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for line in text.splitlines():
        assert re.match(r"#|\s*\w+:\s.*#\s\S", line + " "), f"{path.name}: no comment in: {line}"
        assert len(line) <= 200
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    tokenize_settings([path])


STAGES = [
    ("injection", InjectionSettings),
    ("next_item", NextItemSettings),
    ("bbq", BBQSettings),
    *((name, method.settings) for name, method in METHODS.items()),
]


@pytest.mark.parametrize(("section", "kind"), STAGES, ids=str)
def test_the_file_is_the_one_source_of_defaults(section: str, kind: type) -> None:
    """Each key of a section is a field and each field a key; no class has a default of its own."""
    shipped = load_yaml(FOLDER / "tokenize.yaml")[section]
    sizes = SIZES if issubclass(kind, QuantizerSettings) else {}
    assert sorted(kind.model_fields) == sorted([*shipped, *sizes])
    assert all(field.is_required() for field in kind.model_fields.values())
    assert kind(**sizes).model_dump() == {**shipped, **sizes}


def test_every_number_and_word_has_a_range() -> None:
    """Far outside, or misspelled, each is refused as the settings are read, before any file."""
    shipped = load_yaml(FOLDER / "tokenize.yaml")
    flat = {key: value for key, value in shipped.items() if not isinstance(value, dict)}
    for section, values in shipped.items():
        if isinstance(values, dict):
            flat |= {f"{section}.{key}": value for key, value in values.items()}
    for key, value in flat.items():
        if isinstance(value, bool):
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
        ({"rqvae.epoch": "3"}, "rqvae.epoch: unknown setting; did you mean 'epochs'?"),
        ({"rqvae.epochs": "many"}, "command line: rqvae.epochs: 'many' is not a whole number"),
        ({"rqvae": "3"}, "rqvae: 3 is not a mapping"),
        ({"quantizer": "kmeans"}, "quantizer: 'kmeans' is none of rqvae, rqkmeans, opq"),
        (
            {"streams": "txt"},
            "streams: 'txt' is none of text, image, fused, identity, bbq, content",
        ),
        ({"streams": "text,text"}, "['text', 'text']; give at least one name, and each name once"),
        ({"streams": "content,text"}, "content already includes the modalities"),
        ({"modalities": "a.b"}, "modalities: 'a.b'"),
        ({"modalities": "text,type"}, "modalities: 'type'"),
        ({"modalities": "fused"}, "modalities: 'fused'"),
        ({"output": "../x.semid"}, "output: '../x.semid' is not text like semid, text.semid"),
        (
            {"output": "a/X.semid"},
            "it ends the name of the file <data_path>/<dataset>/<dataset>.<ou",
        ),
        ({"output": "inter"}, "output: 'inter' is not text like semid"),
        ({"rqvae.gradient": "rotate"}, "rqvae.gradient: 'rotate' is none of ste, rotation; did"),
        ({"quantizer": "rqkmean"}, "none of rqvae, rqkmeans, opq; did you mean 'rqkmeans'?"),
        ({"injection.batch_size": "1"}, "injection.batch_size: 1 is not a whole number from 2"),
        ({"injection.n_heads": "3"}, "injection.hidden_size: 256 is not a multiple"),
        ({"next_item.n_heads": "3"}, "next_item.hidden_size: 128 is not a multiple"),
        ({"codebook_size": "1"}, "codebook_size: 1 is not auto or a whole number from 2"),
        ({"codebook_size": "[8, many]"}, "codebook_size: [8, 'many'] is not auto or"),
        ({"codebook_size": "[8, 8]", "n_levels": "3"}, "[8, 8] has 2 sizes for 3 levels"),
        ({"n_levels": "0"}, "n_levels: 0 is not auto or a whole number from 1"),
        ({"n_levels": "[2]"}, "n_levels: [2] is not auto or"),
        ({"seed": "4294967296"}, "seed: 4294967296 is not a whole number from 0 to 4294967295"),
        ({"show_progress": "3"}, "show_progress: 3 is not True or False"),
        (
            {"n_levels.text": "3"},
            "n_levels: {'text': 3} is a mapping; n_levels has no keys",
        ),
        ({"seed.x": "1"}, "seed: {'x': 1} is a mapping; seed has no keys, give one value"),
        ({"rqvae": "3", "rqvae.epochs": "2"}, "rqvae: 3 is not a mapping"),
        ({"rqkmeans.n_levels": "2"}, "rqkmeans.n_levels: set n_levels, which is the same for all"),
        ({"opq.codebook_size": "8"}, "opq.codebook_size: set codebook_size, which is the same"),
        (
            {"streams": "bbq", "fit_items": "training"},
            "fit_items: training: the stream bbq is fitted on all items; set --fit_items=all, or",
        ),
    ],
)
def test_refusals(given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        tokenize_settings((), given)
    assert says in str(caught.value)


def test_a_refusal_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rqvae: {epochs: 0}\n")
    with pytest.raises(InputError, match=r"^.*mine\.yaml: rqvae\.epochs: 0 is not a whole number"):
        tokenize_settings([path], {"rqvae.epochs": 3})


# Stages


def test_sizes_of_each_level() -> None:
    given = {"n_levels": 3, "codebook_size": [8, 4, 2]}
    assert read_settings(RQKMeansSettings, "rqkmeans", given).codebook_sizes == (8, 4, 2)
    assert read_settings(RQKMeansSettings, "rqkmeans", SIZES).codebook_sizes == (256,) * 4
    with pytest.raises(InputError, match=r"codebook_size: \[8, 8\] has 2 sizes for 4 levels"):
        fit_quantizer(np.ones((2, 2)), "rqkmeans", {**SIZES, "codebook_size": [8, 8]}, seed=0)


def test_epochs_follow_the_number_of_items() -> None:
    settings = RQVAESettings(**SIZES, epochs=500, max_steps=4000, batch_size=1024)
    assert settings.n_epochs(1_585) == 500  # two steps each
    assert settings.n_epochs(13_839) == 286  # 14 steps each
    assert settings.n_epochs(1_000_000) == 5  # 977 steps each
    assert settings.n_epochs(100_000_000) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epohcs": 3}, "rqvae.epohcs: unknown setting; did you mean 'epochs'"),
        ({"epochs": 2.5}, "rqvae.epochs: 2.5 is not a whole number"),
        ({"epochs": True}, "rqvae.epochs: True is not a whole number"),
        ({"beta": "much"}, "rqvae.beta: 'much' is not a number"),
        ({"beta": float("nan")}, "rqvae.beta: nan is not a number in"),
        ({"ema_decay": 1.5}, r"rqvae.ema_decay: 1.5 is not a number in \[0, 1\]"),
        ({"restart_dead_codes": 1}, "rqvae.restart_dead_codes: 1 is not True or False"),
        ({"hidden_sizes": [64, 0]}, r"rqvae.hidden_sizes: \[64, 0\] is not a list, each a whole"),
        ({"epochs": [1, 2]}, r"rqvae.epochs: \[1, 2\] is not a whole number"),
        ({"hidden_sizes": 64}, "rqvae.hidden_sizes: 64 is not a list"),
    ],
)
def test_refusals_of_a_stage(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        read_settings(RQVAESettings, "rqvae", {**SIZES, **given})
    assert "\n" not in str(refusal.value)


def test_a_setting_of_another_method_is_unknown() -> None:
    with pytest.raises(InputError, match="opq.beta: unknown setting"):
        read_settings(OPQSettings, "opq", {**SIZES, "beta": 0.25})


# Quantizers from outside the package


class FirstDimensionSettings(QuantizerSettings):
    """One setting with a default, one without."""

    order: Literal["up", "down"] = "up"
    dimensions: int


class FirstDimension(ResidualKMeans):
    """The state of residual k-means, under another name."""

    method = "first"


def fit_first(vectors: np.ndarray, settings: FirstDimensionSettings, seed: int) -> ResidualKMeans:
    """Level 0 has the first values of the vectors as codewords; the others are empty."""
    size = settings.codebook_sizes[0]
    words = vectors[:size].copy() * (np.arange(vectors.shape[1]) < settings.dimensions)
    words = words if settings.order == "up" else words[::-1]
    empty = np.zeros((1, vectors.shape[1]), np.float32)
    codebooks = [words, *[empty] * (settings.n_levels - 1)]
    return FirstDimension(codebooks, settings.codebook_sizes)


def test_a_registered_quantizer_brings_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`tokenize` takes it without an entry in the shipped file, and reads its result again."""
    method = Method(FirstDimensionSettings, fit_first, FirstDimension)
    monkeypatch.setitem(METHODS, "first", method)
    assert tokenize_settings()["first"] == {"order": "up"}  # not chosen, so nothing is missing
    chosen = {**SMALL, "quantizer": "first", "streams": "text"}
    with pytest.raises(InputError, match="first.dimensions: missing; set first.dimensions"):
        tokenize_settings((), chosen)
    with pytest.raises(InputError, match="first.dimension: unknown.*did you mean 'dimensions'"):
        tokenize_settings((), {**chosen, "first.dimension": 3})
    (tmp_path / "own.yaml").write_text("first: {dimensions: 3}\n")
    settings = tokenize_settings([tmp_path / "own.yaml"], {**chosen, "first.order": "down"})
    assert settings["first"] == {"order": "down", "dimensions": 3}
    domain = write_domain(tmp_path)
    made = tokenize([domain], tmp_path / "tokenizer", settings)
    assert made is not None
    words = Tokenizer.load(tmp_path / "tokenizer").quantizers["text"].codebooks[0]
    assert words.shape == (8, 12)
    assert not words[:, 3:].any()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"injection.epochs": 3},
            "injection: fusion: next_item does not read it; set --fusion=inj",
        ),
        ({"id_query": "interactions"}, "id_query: fusion: next_item does not read it"),
        ({"fusion": "injection", "next_item.epochs": 3}, "next_item: fusion: injection does not"),
    ],
)
def test_a_flag_for_the_other_stage_1(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tokenize_settings((), {"streams": ["fused"], **given})
    tokenize_settings((), {"streams": ["text"], **given})  # no stage 1


@pytest.mark.parametrize(
    "name", ["training", "get", "copy", "fromkeys", "setdefault", "popitem", "z_ID", "type"]
)
def test_a_modality_that_no_network_could_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"modalities: '{name}' is a reserved word; rename"):
        tokenize_settings((), {"modalities": f"text,{name}"})


def test_every_other_attribute_of_the_modules_is_refused_too() -> None:
    """What is accepted can be a key of both kinds of modules."""
    names = {*dir(nn.ModuleDict()), *dir(nn.ParameterDict()), "text", "Text_2", "title-clip"}
    for name in names:
        try:
            check_modality(name)
        except InputError:
            continue
        nn.ModuleDict({name: nn.Linear(1, 1)})
        found = nn.ParameterDict({name: nn.Parameter(torch.ones(1))})
        assert list(found) == [name] and found[name].shape == (1,)
    for name in ("text", "Text_2", "title-clip"):
        check_modality(name)
