"""`ablate` on the toy data: what differs between the runs, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import N_ITEMS, Tiny, files_below

from recbole_qbert.cli import main
from recbole_qbert.data.embeddings import EmbeddingTable, write_embeddings
from recbole_qbert.data.semid import read_semantic_ids
from recbole_qbert.evaluation.results import RunResult, read_results
from recbole_qbert.experiments import ablation
from recbole_qbert.experiments.ablation import ABLATIONS, only

SMALL = {
    "hidden_size": 16,
    "n_layers": 1,
    "n_heads": 2,
    "inner_size": 32,
    "use_gpu": False,
    "show_progress": False,
    "epochs": 1,
    "MAX_ITEM_LIST_LENGTH": 8,
    "tokenize.n_levels": 2,
    "tokenize.codebook_size": 6,
    "tokenize.show_progress": False,
    "tokenize.injection.hidden_size": 8,
    "tokenize.injection.inner_size": 8,
    "tokenize.injection.n_heads": 2,
    "tokenize.injection.epochs": 2,
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
    return ["ablate", name, "--dataset=toy", *flags, *places, *more]


def results(tiny: Tiny) -> list[RunResult]:
    return read_results(tiny.root / "saved" / "results.jsonl")


def add_embeddings(tiny: Tiny) -> None:
    draw = np.random.default_rng(2)
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


def test_masks(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tiny, "masks", "--seeds=1,2")) == 0
    shown = capsys.readouterr().out
    found = results(tiny)
    assert len(found) == 2 * 9
    assert differing(found) == {"mask_mix", "seed", "checkpoint_dir"}
    mixes = [run.config["keys"]["mask_mix"] for run in found[::2]]
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
    assert mixes[-1]["next_item"] == 7.0 and mixes[-2]["next_item"] == 1.0
    table = (tiny.root / "saved" / "ablate-masks-toy.md").read_text(encoding="utf-8")
    lines = table.splitlines()
    assert len(lines) == 2 + 9
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    values = [run.test["unseen_ndcg@10"] for run in found[:2]]
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert cells[:2] == ["random", "2"]
    assert cells[-1] == f"{mean:.4f} ({deviation:.4f})".replace("0.", ".")
    assert "ablate-masks-toy.md" in shown

    # Again: every run is there.
    assert main(command(tiny, "masks", "--seeds=2,1")) == 0
    assert len(results(tiny)) == 2 * 9


def test_modality_leaves_the_data_set_as_it_was(tiny: Tiny) -> None:
    add_embeddings(tiny)
    before = {path: path.read_bytes() for path in tiny.folder.iterdir() if path.is_file()}
    assert main(command(tiny, "modality")) == 0
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


def test_fusion(tiny: Tiny) -> None:
    add_embeddings(tiny)
    assert main(command(tiny, "fusion")) == 0
    fixed, dynamic = results(tiny)
    assert differing([fixed, dynamic]) == {"semantic_id_file", "checkpoint_dir"}
    for run, gate in ((fixed, "fixed"), (dynamic, "dynamic")):
        file = Path(run.config["keys"]["semantic_id_file"])
        source = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))["source"]
        assert source["settings"]["injection"]["gate"] == gate
        assert source["settings"]["streams"] == ["fused"]


def test_pretraining(tiny: Tiny) -> None:
    assert main(command(tiny, "pretraining", "--sources=toy")) == 0
    none, mlm, multi = results(tiny)
    assert differing([none, mlm, multi]) == {"pre_model_path", "checkpoint_dir"}
    assert [run.pretrained_on for run in (none, mlm, multi)] == [[], ["toy"], ["toy"]]
    for run, schemes in ((mlm, {"random"}), (multi, {"span", "tail", "multi_region"})):
        folder = Path(run.config["keys"]["pre_model_path"])
        keys = json.loads((folder / "config.json").read_text(encoding="utf-8"))["keys"]
        assert {name for name, weight in keys["mask_mix"].items() if weight} == schemes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablate"], "ablate: '' is none of modality, pretraining, fusion, masks"),
        (["ablate", "mask"], "ablate: 'mask' is none of"),
        (["ablate", "masks"], "--dataset=... is needed"),
        (["ablate", "masks", "--dataset=toy", "--seeds=1,1"], "give different whole numbers"),
        (["ablate", "masks", "--dataset=toy", "--seeds=x"], "give different whole numbers"),
        (["ablate", "pretraining", "--dataset=toy"], "--sources=A,B is needed"),
        (["ablate", "masks", "--dataset=toy", "--n_layer=1"], "did you mean 'n_layers'"),
        (
            ["ablate", "fusion", "--dataset=toy", "--tokenize.n_level=1"],
            "did you mean 'n_levels'",
        ),
        (["ablate", "modality", "--dataset=toy"], "no embeddings"),
    ],
)
def test_bad_input(
    tiny: Tiny, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = files_below(tiny.root)
    more = [f"--data_path={tiny.root}"] if len(arguments) > 2 else []
    assert main([*arguments, *more]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    left = [name for name in files_below(tiny.root) if name not in before]
    assert not [name for name in left if name.endswith((".semid", ".safetensors", ".jsonl"))]


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
    for name, (section, rows) in sections.items():
        for variant, row in zip(ABLATIONS[name](), rows, strict=True):
            for dataset, printed in tables[section].items():
                expected = tuple(float(printed[row][column]) for column in columns[name])
                assert tuple(variant.paper[dataset]) == expected


def test_only_names_every_scheme() -> None:
    assert only("tail")["mask_mix"] == {
        "random": 0.0,
        "span": 0.0,
        "tail": 1.0,
        "multi_region": 0.0,
        "next_item": 0.0,
    }
    assert set(ablation.MASKS) < set(only()["mask_mix"])
