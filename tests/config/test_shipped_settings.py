"""The shipped YAML files of models: which apply, what they say of each key, and that they build."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import recbole_qbert.properties
import yaml
from conftest import READ_VECTORS, Tiny

from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import FINETUNE, PRETRAIN, build_config, settings_for, shipped_files
from recbole_qbert.data.budget import AUTO
from recbole_qbert.experiments.splits import load_splits
from recbole_qbert.registry import MODEL_TABLE, model_entry

FOLDER = Path(recbole_qbert.properties.__path__[0])
# Files of models; those of `tokenize` are looked at in tests/tokenizer/test_settings.py, those of
# `benchmark` in tests/experiments/test_benchmark_shipped.py, of `tune` in test_tune_shipped.py, of
# `pipeline` in test_workflows.py, of `command` in tests/commands/test_help.py.
OTHERS = {*FOLDER.glob("*tokenize.yaml"), FOLDER / "published.yaml", FOLDER / "amazon.yaml"}
OTHERS |= {
    path
    for name in ("benchmark", "tune", "pipeline", "command")
    for path in FOLDER.glob(f"{name}/*")
}
SHIPPED = sorted(set(FOLDER.rglob("*.yaml")) - OTHERS)
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
}


def relative(path: Path) -> str:
    return str(path.relative_to(FOLDER))


def belongs_to(path: Path) -> tuple[str, str]:
    """Model and data set that a shipped file is for."""
    if path.parent.name == "model":
        return path.stem, "toy"
    if path.parent.name == "tuned":
        model, _, dataset = path.stem.partition("-")
        return model, dataset
    return "QBERT4Rec", path.stem if path.parent.name == "dataset" else "toy"


def test_shipped_files_in_order() -> None:
    names = [relative(path) for path in shipped_files("IDBERT4Rec", "toy", True)]
    assert names == ["base.yaml", "model/QBERT4Rec.yaml", "model/IDBERT4Rec.yaml"]
    names = [relative(path) for path in shipped_files("IDBERT4Rec", "Instruments", True)]
    assert names[-2:] == ["tuned/QBERT4Rec-Instruments.yaml", "model/IDBERT4Rec.yaml"]
    names = [relative(path) for path in shipped_files("SASRec", "Instruments", True)]
    assert names[-1] == "tuned/SASRec-Instruments.yaml"
    assert "tuned/SASRec-Instruments.yaml" not in [
        relative(path) for path in shipped_files("SASRec", "Instruments", False)
    ]


def stage_of(path: Path) -> str:
    """Which of the two stages a shipped file is for."""
    return PRETRAIN if path.name == "pretrain.yaml" else FINETUNE


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_every_shipped_key_is_known_and_explained(path: Path) -> None:
    """Each key is one that its model reads, with a `# (type)` that fits the value."""
    content = load_yaml(path)
    assert content
    settings_for(belongs_to(path)[0], content, relative(path), stage_of(path))
    explained = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\w+):(.*)", line):
            comment = re.search(r"#\s*\(([\w ]+)\) \S", match[2])
            assert comment, f"{relative(path)}: no '# (type) text' in: {line}"
            explained[match[1]] = comment[1]
        assert len(line) <= 200
    assert explained.keys() == content.keys()
    for key, kind in explained.items():
        assert content[key] in (None, AUTO) or type(content[key]) in TYPES[kind.split()[0]], key


def test_no_shipped_file_names_a_key_twice() -> None:
    """YAML keeps the last one and says nothing."""
    for path in SHIPPED:
        node = yaml.compose(path.read_text(encoding="utf-8"))
        assert isinstance(node, yaml.MappingNode)
        keys = [key.value for key, _ in node.value]
        assert len(set(keys)) == len(keys), relative(path)


def test_every_registered_model_has_a_file_of_its_own_or_its_bases() -> None:
    for name, entry in MODEL_TABLE.items():
        if entry.model.__module__.startswith("recbole_qbert."):
            lineage = [base.__name__ for base in entry.model.__mro__]
            stems = {path.stem for path in SHIPPED if path.parent.name == "model"}
            assert stems & set(lineage), name


@pytest.mark.parametrize("path", SHIPPED, ids=relative)
def test_every_shipped_file_builds_its_model(tiny: Tiny, path: Path) -> None:
    """With its sizes as given, on the toy data under the data set's name."""
    model, dataset = belongs_to(path)
    if dataset != "toy":
        shutil.copytree(tiny.folder, tiny.root / dataset)
        for file in (tiny.root / dataset).iterdir():
            file.rename(file.with_name(file.name.replace("toy", dataset, 1)))
        # The items' column is called as the data set's file calls it.
        extra = build_config("SASRec", dataset)["load_col"].get("item", ["class"])[-1]
        item = tiny.root / dataset / f"{dataset}.item"
        text = item.read_text(encoding="utf-8").replace("class", extra, 1)
        item.write_text(text, encoding="utf-8")
    stage = stage_of(path)
    several = path.parent == FOLDER and stage == FINETUNE
    for name in {model, "SASRec"} if several else {model}:
        settings: dict[str, Any] = {"data_path": str(tiny.root), "use_gpu": False}
        if name == "FDSA":
            settings["selected_features"] = ["semantic_id"]
        if name == "S3Rec":
            settings["item_attribute"] = "semantic_id"
        if name in READ_VECTORS:
            settings["item_vectors"] = tiny.item_vectors()
        if name == "MQL4GRec":
            settings |= {"text_levels": 2, "image_levels": 1}
        files = [path] if path.parent == FOLDER else []
        config = build_config(name, dataset, files, settings, stage)
        given = dict(config.final_config_dict)
        loaded = load_splits(config)
        for key, value in settings_for(name, load_yaml(path), relative(path), stage).items():
            if key in {"mask_mix", "mask_ratios"} and value != AUTO:
                assert config[key].items() >= value.items()
            elif key not in {"eval_args", "train_neg_sample_args", *settings}:
                assert given[key] == value, key
            assert config[key] != AUTO or key in {"exclude_visible", "pre_model_codes"}, key
        built = model_entry(name).model(config, loaded.train._dataset)
        assert sum(each.numel() for each in built.parameters()) > 0
