"""Shipped benchmarks build, each key of theirs is explained; published figures are as printed."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import Tiny

from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import shipped
from recbole_qbert.experiments.benchmark.benchmark import planned_runs
from recbole_qbert.experiments.benchmark.plan import KEYS, read_plan
from recbole_qbert.experiments.benchmark.published import published_figures, published_source

PUBLISHED = shipped("published.yaml")
SHIPPED = sorted(PUBLISHED.parent.glob("benchmark/*.yaml"))


@pytest.mark.parametrize("path", [*SHIPPED, PUBLISHED], ids=lambda path: path.name)
def test_every_key_is_explained(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    content = load_yaml(path)
    explained = set()
    for line in text.splitlines():
        if match := re.match(r"(\w+):.*#\s*\((\w+)\) \S", line):
            explained.add(match[1])
            assert type(content[match[1]]).__name__ == match[2], match[1]
        assert len(line) <= 200
    assert explained == content.keys()
    node = yaml.compose(text)
    assert isinstance(node, yaml.MappingNode)
    assert len(node.value) == len(content)  # YAML keeps the last of two and says nothing


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_benchmark_builds_all_its_cells(tiny: Tiny, path: Path) -> None:
    content = load_yaml(path)
    assert content.keys() <= KEYS and (path.stem != "demo" or content.keys() == KEYS)
    for dataset in [*content["datasets"], *content.get("sources", [])]:
        shutil.copytree(tiny.folder, tiny.root / dataset)
        for file in (tiny.root / dataset).iterdir():
            file.rename(file.with_name(file.name.replace("toy", dataset, 1)))
        for folder in (Path("dataset"), tiny.root):  # item_vectors are paths, or names of tables
            for modality in ("text", "image", "attributes"):
                vectors = folder / dataset / f"{dataset}.{modality}.npz"
                vectors.parent.mkdir(parents=True, exist_ok=True)
                vectors.touch()
    for row in content["models"]:
        if isinstance(row, dict) and "semantic_id_file" in row.get("settings", {}):
            shutil.copy(tiny.folder / "toy.semid", row["settings"]["semantic_id_file"])
    plan = read_plan(path, {"data_path": str(tiny.root), "use_gpu": "False"})
    cells = planned_runs(plan)
    n_seeds = sum(len(row.seeds or plan.seeds) for row in plan.model_rows)
    assert len(cells) == n_seeds * len(plan.datasets)
    controls = [cell.config for cell in cells if cell.model_row.name == "IDBERT4Rec"]
    assert {config["item_representation"] for config in controls} <= {"id"}
    rows = (row for row in content["models"] if isinstance(row, dict))
    own = [row for row in rows if row.get("name", row["model"]) == "IDBERT4Rec"]
    assert bool(controls) == (content["controls"] or bool(own))


def test_published_figures_are_those_of_the_paper(request: pytest.FixtureRequest) -> None:
    """Against the table as it was typed from the paper."""
    path = request.config.rootpath.parent / "shared" / "reference" / "paper_table2.csv"
    if not path.is_file():
        pytest.skip(f"{path}: not here")
    expected: dict[str, dict[str, dict[str, float]]] = {}
    with open(path, encoding="utf-8") as handle:
        for line in csv.DictReader(handle):
            metric = line["metric"].replace("HR", "hit").replace("NDCG", "ndcg")
            models = expected.setdefault(line["dataset"], {})
            model = line["model"].replace("-", "")  # P5-CID
            models.setdefault(model, {})[metric] = float(line["value"])
    assert expected.keys() == load_yaml(PUBLISHED)["figures"].keys()
    for dataset, models in expected.items():
        assert published_figures(dataset) == models


def test_a_data_set_without_figures() -> None:
    assert published_figures("toy") == {}
    assert published_figures("Games")["SASRec"]["ndcg@10"] == 0.0461
    assert "Table 2" in published_source()
