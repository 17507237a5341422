"""Shipped ablation plans on the toy data: what differs between the runs, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import N_ITEMS, Tiny, files_below

from recbole_qbert.cli import main
from recbole_qbert.common.yaml_files import shipped
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.evaluation.results import RunResult, read_results
from recbole_qbert.experiments.benchmark.benchmark import planned_runs
from recbole_qbert.experiments.benchmark.plan import read_plan
from recbole_qbert.models.layers.masking import SCHEMES

SMALL = {
    "hidden_size": 16,
    "n_layers": 1,
    "n_heads": 2,
    "inner_size": 32,
    "use_gpu": False,
    "show_progress": False,
    "epochs": 1,
    "MAX_ITEM_LIST_LENGTH": 8,
    "ids.n_levels": 2,
    "ids.codebook_size": 6,
    "ids.show_progress": False,
    "ids.injection.hidden_size": 8,
    "ids.injection.inner_size": 8,
    "ids.injection.n_heads": 2,
    "ids.injection.epochs": 2,
    "pretrain.epochs": 1,
    "pretrain.hidden_size": 16,
    "pretrain.n_layers": 1,
    "pretrain.n_heads": 2,
    "pretrain.inner_size": 32,
    "pretrain.MAX_ITEM_LIST_LENGTH": 8,
}


def command(tiny: Tiny, name: str, *more: str) -> list[str]:
    flags = [f"--{key}={value}" for key, value in SMALL.items()]
    places = [f"--data_path={tiny.root}", f"--checkpoint_dir={tiny.root / 'saved'}"]
    return ["benchmark", plan_file(name), "--dataset=toy", *flags, *places, *more]


def plan_file(name: str) -> str:
    return str(shipped("benchmark", f"ablation_{name}.yaml"))


def results(tiny: Tiny) -> list[RunResult]:
    return read_results(tiny.root / "saved" / "results.jsonl")


def add_embeddings(tiny: Tiny, seed: int = 2) -> None:
    draw = np.random.default_rng(seed)
    for modality, dimension in (("text", 12), ("image", 10)):
        vectors = draw.standard_normal((N_ITEMS, 1, dimension)).astype(np.float32)
        table = EmbeddingTable(
            tuple(f"i{n}" for n in range(N_ITEMS)),
            vectors,
            np.ones((N_ITEMS, 1), np.bool_),
            {"modality": modality, "encoder": "made up"},
        )
        write_embeddings(tiny.folder / f"toy.{modality}.npz", table)


def differing(runs: list[RunResult]) -> set[str]:
    """Keys in which any two runs differ."""
    keys = [run.config["keys"] for run in runs]
    return {key for key in keys[0] if any(each.get(key) != keys[0][key] for each in keys)}


@pytest.mark.slow
def test_masks(tiny: Tiny) -> None:
    assert main(command(tiny, "masks", "--seeds=1,2")) == 0
    found = results(tiny)
    assert len(found) == 2 * 9
    assert differing(found) == {"mask_mix", "seed", "checkpoint_dir"}
    mixes = [run.config["keys"]["mask_mix"] for run in found[:9]]
    drawn = [{scheme for scheme, weight in mix.items() if weight} for mix in mixes]
    assert drawn == [
        {"random"},
        {"span"},
        {"tail"},
        {"multi_region"},
        {"next_item"},
        {"span", "tail", "multi_region"},
        {"random", "next_item"},
        {"span", "tail", "multi_region", "next_item"},
        {"span", "tail", "multi_region", "next_item"},
    ]
    assert all(mix.keys() == set(SCHEMES) for mix in mixes)
    assert mixes[-1]["next_item"] == 7.0 and mixes[-2]["next_item"] == 1.0
    table = (tiny.root / "saved" / "benchmark" / "table.md").read_text(encoding="utf-8")
    values = [run.test["unseen_ndcg@10"] for run in (found[0], found[9])]
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    row = [line for line in table.splitlines() if line.startswith("| random |")][1]
    assert f"{mean:.4f} ± {deviation:.4f}".replace("0.", ".") in row

    assert main(command(tiny, "masks", "--seeds=2,1")) == 0  # all runs are finished
    assert len(results(tiny)) == 2 * 9


def test_modality_leaves_the_data_set_unchanged(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    add_embeddings(tiny)
    before = {path: path.read_bytes() for path in tiny.folder.iterdir() if path.is_file()}
    shared = "--ids.seed=2026"  # one file of IDs for all seeds, unlike the shipped file
    assert main(command(tiny, "modality", "--seeds=1", shared)) == 0
    assert {p: p.read_bytes() for p in tiny.folder.iterdir() if p.is_file()} == before
    image, text, id_only, whole = results(tiny)
    assert id_only.model == "IDBERT4Rec"
    assert {run.model for run in (image, text, whole)} == {"QBERT4Rec"}
    assert differing([image, text, whole]) == {"semantic_id_file", "checkpoint_dir"}
    levels = []
    for run, streams in ((image, ["image"]), (text, ["text"]), (whole, ["content", "identity"])):
        file = Path(run.config["keys"]["semantic_id_file"])
        source = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))["source"]
        assert source["settings"]["streams"] == streams
        levels.append(read_semantic_ids(file).n_levels)
    assert levels == [2, 2, 6]

    # Repeated, nothing is made again; a second seed reads the same IDs.
    assert main(command(tiny, "modality", "--seeds=1", shared)) == 0
    flags = ("--models=text", "--reference=text")
    assert main(command(tiny, "modality", "--seeds=1,2", *flags, shared)) == 0
    *_, last = results(tiny)
    assert len(results(tiny)) == 5 and last.seed == 2
    assert last.config["keys"]["semantic_id_file"] == text.config["keys"]["semantic_id_file"]

    # With `ids.seed: run`, as shipped, each seed reads IDs that were made with it.
    assert main(command(tiny, "modality", "--seeds=3,4", *flags)) == 0
    for run, seed in zip(results(tiny)[5:], (3, 4), strict=True):
        file = Path(run.config["keys"]["semantic_id_file"])
        source = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))["source"]
        assert run.seed == source["settings"]["seed"] == seed

    # Other vectors change the IDs, so the run that read the old ones is refused.
    add_embeddings(tiny, seed=3)
    assert main(command(tiny, "modality", "--seeds=1", *flags, shared)) == 2
    message = capsys.readouterr().err
    assert (
        f"{text.folder}: toy.semid, toy.semid.json changed since this run; add --retra" in message
    )
    assert main(command(tiny, "modality", "--seeds=1", *flags, shared, "--retrain=True")) == 0


def test_fusion(tiny: Tiny) -> None:
    add_embeddings(tiny)
    assert main(command(tiny, "fusion", "--seeds=1")) == 0
    fixed, dynamic = results(tiny)
    assert differing([fixed, dynamic]) == {"semantic_id_file", "checkpoint_dir"}
    for run, gate in ((fixed, "fixed"), (dynamic, "dynamic")):
        file = Path(run.config["keys"]["semantic_id_file"])
        source = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))["source"]
        assert source["settings"]["injection"]["gate"] == gate
        assert source["settings"]["streams"] == ["fused"]


def test_pretraining(tiny: Tiny) -> None:
    assert main(command(tiny, "pretraining", "--seeds=1", "--sources=toy")) == 0
    none, mlm, multi = results(tiny)
    assert differing([none, mlm, multi]) == {"pre_model_path", "checkpoint_dir"}
    assert [run.pretrained_on for run in (none, mlm, multi)] == [[], ["toy"], ["toy"]]
    for run, schemes in ((mlm, {"random"}), (multi, {"span", "tail", "multi_region"})):
        folder = Path(run.config["keys"]["pre_model_path"])
        keys = json.loads((folder / "config.json").read_text(encoding="utf-8"))["keys"]
        assert {name for name, weight in keys["mask_mix"].items() if weight} == schemes
    names = [row.name for row in read_plan(plan_file("pretraining"), {}).model_rows]
    table = (tiny.root / "saved" / "benchmark" / "table.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in table for name in names) and "from scratch" not in table


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("masks", ["--seeds=1,1"], "seeds: [1, 1] has duplicates"),
        ("masks", ["--seeds=x"], "seeds: ['x'] is not a list, each a whole number"),
        ("masks", ["--n_layer=1"], "did you mean 'n_layers'"),
        ("fusion", ["--ids.n_level=1"], "ids: unknown key 'n_level'; did you mean 'n_levels'"),
        ("modality", [], "no embeddings"),
        ("pretraining", ["--sources="], "MLM: pretrain: no data sets to pretrain on; give --sou"),
        ("pretraining", ["--sources=gone"], "gone: no such folder"),
        ("pretraining", ["--pretrain.epoch=1"], "MLM: pretrain: unknown key 'epoch' for QBERT4"),
    ],
)
def test_bad_input(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], name: str, flags: list[str], message: str
) -> None:
    before = files_below(tiny.root)
    arguments = ["benchmark", plan_file(name), "--dataset=toy", f"--data_path={tiny.root}"]
    assert main([*arguments, "--show_progress=False", *flags]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    left = [path for path in files_below(tiny.root) if path not in before]
    assert not [path for path in left if path.endswith((".semid", ".safetensors", ".jsonl"))]


def test_vectors_that_do_not_go_over_are_refused_before_pretraining(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs whiten them as `pretrain` does."""
    add_embeddings(tiny)
    given = ("use_content=True", "item_vectors=text")
    flags = [f"--{part}{key}" for part in ("", "pretrain.") for key in given]
    flags.append("--whitening_dims=0")
    assert main(command(tiny, "pretraining", "--sources=toy", *flags)) == 2
    said = capsys.readouterr().err
    assert "MLM on toy: whitening_dims: 0, but pre_model_path was trained with 256; give" in said
    assert not list(tiny.root.glob("saved/**/*.safetensors"))


def test_a_model_that_cannot_be_pretrained(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"model": "SASRec", "pretrain": {"sources": "toy"}}
    path = tiny.root / "plan.yaml"
    path.write_text(yaml.safe_dump({"models": [row], "datasets": ["toy"], "seeds": [1]}))
    assert main(["benchmark", str(path), "--reference=SASRec"]) == 2
    assert "SASRec: pretrain: SASRec cannot start from pretrained" in capsys.readouterr().err


def test_paper_rows_are_the_reference(request: pytest.FixtureRequest) -> None:
    """Against the tables as they were typed from the paper."""
    path = request.config.rootpath.parent / "shared" / "reference" / "paper_tables.yaml"
    if not path.is_file():
        pytest.skip(f"{path}: not here")
    tables: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    columns = {"modality": (1, 3), "pretraining": (0, 1), "fusion": (0, 1)}
    sections = {
        "modality": ("table3_modalities", ["image", "text", "id_only", "all"]),
        "pretraining": ("table4_pretraining", ["none", "mlm", "multi_mask"]),
        "fusion": ("table5_fusion", ["fixed", "dynamic"]),
    }
    for name, (section, names) in sections.items():
        rows = read_plan(plan_file(name), {}).model_rows
        for model_row, row in zip(rows, names, strict=True):
            for dataset, printed in tables[section].items():
                hit, ndcg = (float(printed[row][column]) for column in columns[name])
                assert model_row.published[dataset] == {"hit@10": hit, "ndcg@10": ndcg}


def test_transfer_has_the_rows_of_the_pretraining_ablation() -> None:
    """With the paper's figures, and two more."""
    rows = read_plan("transfer", {}).model_rows
    assert rows[:3] == read_plan(plan_file("pretraining"), {}).model_rows


def test_one_run_from_scratch_beside_several_pretrained_rows(tiny: Tiny) -> None:
    """It has no published values of the pretrained rows."""
    rows = [
        {
            "name": name,
            "model": "QBERT4Rec",
            "pretrain": {"sources": "toy", "epochs": epochs},
            "published": {"toy": {"hit@10": 0.5}},
            "seeds": seeds,
        }
        for name, epochs, seeds in (("A", 1, [1]), ("B", 2, [1, 2]))
    ]
    path = tiny.root / "plan.yaml"
    path.write_text(yaml.safe_dump({"models": rows, "datasets": ["toy"], "seeds": [1, 2]}))
    given = {"data_path": str(tiny.root), "reference": "A", "controls": False}
    plan = read_plan(str(path), given)
    cells = planned_runs(plan)
    scratch = "A, from scratch"  # one row, also for the seed that A does not have
    found = [(cell.seed, cell.model_row.name) for cell in cells]
    assert found == [(1, "A"), (1, scratch), (1, "B"), (2, "B"), (2, scratch)]
    for cell in cells:
        assert bool(cell.model_row.published) == (cell.model_row.name != scratch)
