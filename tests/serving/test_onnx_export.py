"""ONNX files: ONNX Runtime gives the scores of the live model, or nothing is written."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import bundled, live_scores
from conftest import N_ITEMS, Tiny, files_below

from recbole_qbert.cli import main

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from recbole_qbert.serving import onnx_export  # noqa: E402

LENGTH = 8


def exported(folder: Path) -> Any:
    """A session of the model of a bundle."""
    assert main(["export-onnx", str(folder), "--output=model.onnx"]) == 0
    return onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("QBERT4Rec", {}),
        ("QBERT4Rec", {"item_representation": "compose", "exclude_visible": "off"}),
        ("QBERT4Rec", {"item_representation": "flatten", "position_order": "backward"}),
        ("QBERT4Rec", {"item_representation": "word", "mask_context": "none", "score": "dot"}),
        ("QBERT4Rec", {"n_layers": 2, "layer_norm": "pre"}),
        ("QBERT4Rec", {"popularity_discount": 0.4, "new_item_bonus": 0.3, "cold_items": 0.1}),
        ("QBERT4Rec", {"logit_adjustment": 0.3}),
        ("QBERT4Rec", {"use_content": True}),
        ("QBERT4Rec", {"use_content": True, "item_representation": "word"}),
        ("IDBERT4Rec", {}),
        ("BBQRec", {}),
        ("VQRec", {}),
        ("ESASRec", {}),
        ("SASRecContent", {}),
        ("SASRec", {}),
        ("BERT4Rec", {}),
        ("GRU4Rec", {}),
    ],
)
def test_scores_are_those_of_the_live_model(
    tiny: Tiny, model: str, settings: dict[str, Any]
) -> None:
    """Histories of all lengths, together and one by one."""
    if "use_content" in settings:
        settings = {**settings, "item_vectors": tiny.item_vectors()}
    live, loaded, folder = bundled(tiny, model, **settings)
    session = exported(folder)
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1]) == ("items", "tensor(int64)", LENGTH)
    assert (answer.name, answer.type) == ("scores", "tensor(float)")
    tokens = json.loads((folder / "items.json").read_text())
    draw = np.random.default_rng(0)
    rows, expected = [], []
    for length in [*range(1, LENGTH + 1)] * 3:
        places = draw.integers(0, N_ITEMS, length)
        rows.append(np.pad(places + 1, (0, LENGTH - length)))
        history = [tokens[place] for place in places]
        expected.append(live_scores(live, loaded, history).view(-1)[1:].numpy())
    found = session.run(None, {"items": np.stack(rows)})[0]
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
    for row, scores in zip(rows, found, strict=True):
        alone = session.run(None, {"items": row[None]})[0]
        np.testing.assert_allclose(alone[0], scores, atol=1e-5)


@pytest.mark.parametrize("output", ["toy", "toy/toy.inter/model.onnx"])
def test_an_output_that_cannot_be_written(
    tiny: Tiny, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before the bundle is loaded: there is none."""
    assert main(["export-onnx", "none", f"--output={output}"]) == 2
    assert capsys.readouterr().err.startswith(f"recbole-qbert: --output={output}: ")


def test_the_file_names_its_bundle(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundled(tiny)[2]
    exported(folder)
    assert "model.onnx: QBERT4Rec; scores differ" in capsys.readouterr().out
    notes = {each.key: each.value for each in onnx.load("model.onnx").metadata_props}
    assert notes["model"] == "QBERT4Rec" and len(notes["bundle"]) == 64


def test_a_model_that_searches_is_refused(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """TIGER's beam search depends on the scores. One line, and no file."""
    folder = bundled(tiny, "TIGER")[2]
    before = files_below(tiny.root)
    assert main(["export-onnx", str(folder), "--output=model.onnx"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("recbole-qbert: model TIGER: cannot be exported to ONNX")
    assert "\n" not in said
    assert files_below(tiny.root) == before


@pytest.mark.parametrize("model", ["BigramChain", "MISSRec"])
def test_a_refusal_is_one_line(tiny: Tiny, model: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The exporter's C++ prints the graph, past Python's streams; these work afterwards."""
    folder = bundled(tiny, model)[2]
    capfd.readouterr()
    assert main(["export-onnx", str(folder), "--output=model.onnx"]) == 2
    os.write(1, b"still there")
    said = capfd.readouterr()
    assert said.out == "still there"
    assert said.err.startswith(f"recbole-qbert: model {model}: cannot be exported to ONNX")
    assert said.err.count("\n") == 1


def test_other_scores_are_an_error(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that gives other scores when it is traced leaves no file."""
    folder = bundled(tiny, "SASRec")[2]
    before = files_below(tiny.root)
    forward = onnx_export.ItemScores.forward
    monkeypatch.setattr(
        onnx_export.ItemScores, "forward", lambda self, items: forward(self, items) + 2e-4
    )
    assert main(["export-onnx", str(folder), "--output=model.onnx"]) == 2
    assert "scores differ from PyTorch's by up to 2.0e-04" in capsys.readouterr().err
    assert files_below(tiny.root) == before


def test_a_file_is_replaced_on_demand_alone(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundled(tiny, "SASRec")[2]
    Path("model.onnx").write_text("mine")
    command = ["export-onnx", str(folder)]
    assert main([*command, "--output=model.onnx"]) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert Path("model.onnx").read_text() == "mine"
    assert main([*command, "--output=."]) == 2
    assert main([*command, "--output=model.onnx", "--overwrite"]) == 0
    assert onnx.load("model.onnx").graph.input[0].name == "items"


def test_pytorch_is_as_before(tiny: Tiny) -> None:
    folder = bundled(tiny)[2]
    fused = torch.backends.mha.get_fastpath_enabled()
    exported(folder)
    assert torch.backends.mha.get_fastpath_enabled() == fused


def test_the_example_of_the_page_runs(tiny: Tiny) -> None:
    """With the tokens of the toy items."""
    page = Path(__file__).parents[2] / "docs" / "serve.md"
    (block,) = page.read_text("utf-8").split("```py\n")[1:]
    bundled(tiny)
    exported(tiny.root / "bundle")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block.partition("```")[0].replace('"50"', '"i5"').replace('"56"', '"i6"'), {})
    assert printed.getvalue().count("'i") == 10
