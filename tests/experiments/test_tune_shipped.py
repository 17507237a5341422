"""Every YAML file in `properties/tune/`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from recbole_qbert.common.yaml_files import load_yaml
from recbole_qbert.config.build import shipped
from recbole_qbert.experiments.tune.settings import (
    SweepPlan,
    SweepRequest,
    make_plan,
    read_request,
)

FOLDER = shipped("tune")
CLUSTER = FOLDER / "cluster.yaml"
SWEEPS = sorted(set(FOLDER.glob("*.yaml")) - {CLUSTER})
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}
FIGURES = {
    "layers": ("n_layers", [1, 2, 3, 4]),
    "dropout": ("hidden_dropout_prob", [0.1, 0.2, 0.3, 0.4]),
    "mask_ratio": ("mask_ratios.span", [0.15, 0.2, 0.25, 0.3]),
}
BASELINES = ("SASRec", "BERT4Rec", "GRU4Rec", "FDSA", "S3Rec")  # tuned on the shipped data sets
RIVALS = ("BBQRec", "ESASRec", "GSASRec", "MISSRec", "MQL4GRec", "P5CID", "SASRecContent", "TIGER")
RIVALS += ("VIP5", "VQRec")


def test_they_are_there() -> None:
    files = {"demo", "qbert4rec", "sasrec_small", "near", "near_gru4rec", "near_qbert4rec"}
    files |= {*FIGURES, *(name.lower() for name in (*BASELINES, *RIVALS))}
    assert {path.stem for path in SWEEPS} == files


@cache
def planned(path: Path) -> SweepPlan:
    """Its plan, which takes seconds to make."""
    return make_plan(read_request(path, {}))


def test_baselines_have_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many trials, epochs and chances each; chosen in one column."""
    monkeypatch.chdir(tmp_path)
    names = [*BASELINES, *RIVALS]
    plans = [planned(FOLDER / f"{name.lower()}.yaml") for name in names]
    assert [plan.request.model for plan in plans] == names
    shared = ("trials", "scheduler", "grace", "reduction", "max_epochs", "baseline", "seed")
    for plan in plans:
        assert plan.n_drawn == 17
        for key in shared:
            assert getattr(plan.request, key) == getattr(plans[0].request, key)
        assert plan.request.settings["valid_metric"] == "unseen_NDCG@10"
        assert plan.trials[0] == {key: plan.configured[key] for key in plan.request.space}


@pytest.mark.parametrize("path", [*SWEEPS, CLUSTER], ids=lambda path: path.name)
def test_every_key_is_explained(path: Path) -> None:
    """Each line says what it is, at the top with a `(type)` that fits the value."""
    content = load_yaml(path)
    explained = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        assert len(line) <= 200
        if match := re.match(r"(\w+):.*?# \((\w+)\) \S", line):
            value = content[match[1]]
            assert value is None or type(value) in (TYPES[match[2]], float, int), line
            explained.add(match[1])
        elif not line.startswith(("#", "  - ")):
            assert re.match(r"  [\w.]+: .*# \S", line), line
    assert explained == content.keys()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_every_sweep_can_be_planned(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(path)
    # A baseline that this very sweep once chose is one of its draws again.
    assert plan.n_drawn - plan.request.baseline <= len(plan.trials) <= plan.n_drawn > 1
    if path.stem in FIGURES:
        key, options = FIGURES[path.stem]
        assert plan.trials == [{key: option} for option in options]
        assert plan.configured["hidden_size"] == 256
        assert key == "n_layers" or plan.configured["n_layers"] == 4


@pytest.mark.parametrize("model", BASELINES)
def test_near_starts_from_what_is_tuned(model: str) -> None:
    """For every model of RecBole's that we compare with."""
    name = "near_gru4rec" if model == "GRU4Rec" else "near"
    plan = make_plan(read_request(FOLDER / f"{name}.yaml", {"model": model, "dataset": "Games"}))
    tuned = load_yaml(FOLDER.parent / "tuned" / f"{model}-Games.yaml")
    assert plan.trials[0] == {key: tuned[key] for key in plan.request.space}


def test_the_demo_shows_every_key() -> None:
    content = load_yaml(FOLDER / "demo.yaml")
    assert content.keys() == SweepRequest.model_fields.keys() - {"source"}
    request = read_request(FOLDER / "demo.yaml", {})
    assert request.baseline and request.trials == 3


def test_ray_accepts_the_cluster() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = util.prepare_config(load_yaml(CLUSTER))
    util.validate_config(config)
    assert config["provider"]["type"] == "local"
