"""Parameters, multiply-accumulates and latency: numbers by hand, the paper's, and the command."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny, files_below
from recbole.data.interaction import Interaction
from rich.console import Console

from recbole_qbert.cli import main
from recbole_qbert.config.build import build_config
from recbole_qbert.data.semid import SemanticIDTable
from recbole_qbert.experiments.benchmark.outputs import print_table
from recbole_qbert.experiments.complexity import (
    PAPER_TABLE_6,
    Complexity,
    Latency,
    best_items,
    complexity_table,
    count_parameters,
    counted_macs,
    full_histories,
    measure,
)
from recbole_qbert.experiments.splits import Splits, load_splits
from recbole_qbert.models.qbert4rec import QBERT4Rec
from recbole_qbert.registry import model_entry
from recbole_qbert.serving.stand_in import stand_in

# The toy model: D = 16, an inner size of 32, one block, L = 8, N = 31 with the padding, 3 levels of
# 8 codes. One block: four projections, two feed-forward layers, two LayerNorms.
BLOCK = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 2 * 2 * 16
# T = 1: 8 positions x (4 x 256 + 2 x 512) + attention's two products of 8 x 8 x 16.
BLOCK_MACS = 8 * (4 * 256 + 2 * 512) + 2 * 8 * 8 * 16
# The last block: keys and values of 8 positions, all else of the masked one.
LAST_MACS = 8 * 2 * 256 + (2 * 256 + 2 * 512) + 2 * 8 * 16
HEAD_MACS = 31 * 16


def _built(tiny: Tiny, model: str = "QBERT4Rec", **settings: Any) -> tuple[Any, Any, Splits]:
    config = tiny.make_config(model, **settings)
    loaded = load_splits(config)
    return model_entry(model).model(config, loaded.train._dataset).eval(), config, loaded


def _of_paper_size(n_items: int) -> QBERT4Rec:
    """QBERT4Rec with the paper's settings, a row an item, over a catalog without data."""
    settings = {"item_representation": "word"}
    config = build_config("QBERT4Rec", "none", ["paper.yaml"], settings)
    tuples = itertools.islice(itertools.product(range(256), repeat=4), n_items)
    tokens = [str(number) for number in range(n_items)]
    table = SemanticIDTable(tuple(tokens), np.array([*tuples]), (256,) * 4)
    notes = {
        "iid_field": "item_id",
        "field2type": {"item_id": "token"},
        "field2id_token": {},
        "repeats": False,
    }
    return QBERT4Rec(config, stand_in(config, tokens, table, notes))


# Parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("representation", "of_items", "tokens"),
    [("compose", 24 * 16, 1), ("word", 30 * 16, 1), ("id", 30 * 16, 1), ("flatten", 24 * 16, 3)],
)
def test_parameters_by_hand(tiny: Tiny, representation: str, of_items: int, tokens: int) -> None:
    model, _, _ = _built(tiny, item_representation=representation)
    positions, mask, norm = 8 * tokens * 16, tokens * 16, 2 * 16
    assert count_parameters(model) == (of_items + BLOCK + positions + mask + norm, of_items)


@pytest.mark.parametrize(
    ("name", "of_items", "others"),
    [
        # Positions, a LayerNorm, a block.
        ("SASRec", 31 * 16, 8 * 16 + 32 + BLOCK),
        # Three gates over input and hidden vector without bias, and the layer back to width 16.
        ("GRU4Rec", 31 * 16, 3 * 16 * (16 + 16) + (16 * 16 + 16)),
        # A row for the mask; the head is a layer, a LayerNorm and a bias an item.
        ("BERT4Rec", 32 * 16, 8 * 16 + 32 + BLOCK + (256 + 16) + 32 + 31),
        ("BigramChain", 0, 1),
    ],
)
def test_parameters_of_other_models(tiny: Tiny, name: str, of_items: int, others: int) -> None:
    model, _, _ = _built(tiny, name)
    assert count_parameters(model) == (of_items + others, of_items)


@pytest.mark.parametrize(
    ("dataset", "n_items"), [("Instruments", 6250), ("Arts", 9416), ("Games", 13839)]
)
def test_the_paper_s_sizes(dataset: str, n_items: int) -> None:
    """Table 6 at 50 positions: blocks of 2,108,416 parameters, the total within 0.5 %."""
    mega_flops, mega_parameters, _ = PAPER_TABLE_6[dataset]
    model = _of_paper_size(n_items)
    total, of_items = count_parameters(model)
    blocks = sum(parameter.numel() for parameter in model.encoder.blocks.parameters())
    assert blocks == 2_108_416
    assert of_items == n_items * 256
    assert total == pytest.approx(mega_parameters * 1e6, rel=5e-3)
    assert 50 * total == pytest.approx(mega_flops * 1e6, rel=5e-3)
    # 50 rows through the 4 x 256 x 256 + 2 x 256 x 512 weights of three blocks and the last one's
    # keys and values, one row through its others, attention, and the head once.
    weights = 50 * (3 * 524_288 + 2 * 65_536) + 2 * 65_536 + 2 * 256 * 512
    by_hand = weights + 2 * (3 * 50 * 50 + 50) * 256 + (n_items + 1) * 256
    assert model.closed_form_macs() == by_hand


def test_the_paper_counts_50_macs_a_parameter() -> None:
    """What the formula rests on: every row of Table 6, to the digits it prints."""
    assert PAPER_TABLE_6 == {
        "Instruments": (185.36, 3.71, 2.66),
        "Arts": (225.68, 4.51, 2.67),
        "Games": (282.14, 5.64, 2.69),
    }
    for mega_flops, mega_parameters, _ in PAPER_TABLE_6.values():
        assert round(mega_flops / 50, 2) == mega_parameters


# Multiply-accumulates ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "by_hand"),
    [
        ({}, LAST_MACS + HEAD_MACS),
        ({"item_representation": "word", "score": "cosine"}, LAST_MACS + HEAD_MACS),
        ({"layer_norm": "pre", "mask_context": "previous"}, LAST_MACS + HEAD_MACS),
        (
            {"hidden_act": "relu", "n_layers": 3, "n_heads": 4},
            2 * BLOCK_MACS + LAST_MACS + HEAD_MACS,
        ),
        # 24 positions of width 16, of which three are masked, and three code logits an item.
        (
            {"item_representation": "flatten"},
            24 * 2 * 256 + 3 * (2 * 256 + 2 * 512) + 2 * 3 * 24 * 16 + 3 * HEAD_MACS,
        ),
    ],
)
def test_macs_by_hand(tiny: Tiny, settings: dict[str, Any], by_hand: int) -> None:
    """In closed form and by PyTorch's counter, whatever fused kernels the layers would take."""
    model, config, loaded = _built(tiny, **settings)
    assert torch.backends.mha.get_fastpath_enabled()
    assert model.closed_form_macs() == by_hand
    assert counted_macs(model, full_histories(loaded.test, config, 1)) == by_hand
    assert counted_macs(model, full_histories(loaded.test, config, 15)) == 15 * by_hand
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("SASRec", BLOCK_MACS + HEAD_MACS),
        ("GRU4Rec", 8 * (3 * 16 * (16 + 16) + 16 * 16) + HEAD_MACS),
        # Its head has one layer more, which it applies at every position.
        ("BERT4Rec", BLOCK_MACS + 8 * 16 * 16 + HEAD_MACS),
        ("BigramChain", 0),
    ],
)
def test_macs_of_other_models(tiny: Tiny, name: str, by_hand: int) -> None:
    model, config, loaded = _built(tiny, name)
    assert counted_macs(model, full_histories(loaded.test, config, 1)) == by_hand


def test_the_closed_form_at_the_paper_s_size() -> None:
    """Against the counter, with 6,250 items and a history of 50."""
    model = _of_paper_size(6250).eval()
    history = torch.arange(1, 51).unsqueeze(0)
    batch = Interaction({"item_id_list": history, "item_length": torch.tensor([50])})
    assert counted_macs(model, batch) == model.closed_form_macs() == 91_055_872


# Batches -----------------------------------------------------------------------------------------


def test_histories_are_repeated_from_their_end(tiny: Tiny) -> None:
    """Against the sequences on disk, users starting again after the fortieth."""
    _, config, loaded = _built(tiny, "SASRec")
    batch = full_histories(loaded.test, config, 50)
    assert len(batch) == 50
    tokens = loaded.dataset.field2id_token
    assert batch["item_id_list"].shape == batch["timestamp_list"].shape == (50, 8)
    assert batch["item_length"].tolist() == [8] * 50
    times = {(user, item): time for user, item, time in tiny.rows}
    users = [tokens["user_id"][user] for user in batch["user_id"].tolist()]
    assert len(set(users)) == 40 and users[40:] == users[:10]
    short = 0
    for row, user in enumerate(users):
        history = tiny.sequences[user][:-1][-8:]
        short += len(history) < 8
        expected = (history * 8)[-8:]
        assert [tokens["item_id"][item] for item in batch["item_id_list"][row]] == expected
        found = batch["timestamp_list"][row].tolist()
        assert found == [times[user, item] for item in expected]
    assert short > 10


def test_best_items() -> None:
    class Fixed:
        def full_sort_predict(self, batch: Interaction) -> torch.Tensor:
            return scores.flatten()  # some of RecBole's models give [B * N]

    batch = Interaction({"item_length": torch.tensor([1, 1])})
    scores = torch.stack([torch.arange(12.0), -torch.arange(12.0)])
    assert best_items(Fixed(), batch).tolist() == [[*range(11, 1, -1)], [*range(10)]]
    scores = scores[:, :3]
    assert best_items(Fixed(), batch).tolist() == [[2, 1, 0], [0, 1, 2]]


# Table and command -------------------------------------------------------------------------------


def _measured(model: str, dataset: str) -> Complexity:
    latencies = [Latency("CPU", 1.25, 2.5, 0.75), Latency("A GPU", 0.5, 0.625, 0.0625)]
    return Complexity(model, dataset, 6250, 50, 100, 60, 5000, None, 2_500_000, latencies)


def _rendered(*found: Complexity) -> list[list[str]]:
    """The cells of each line of the table."""
    page = io.StringIO()
    print_table(complexity_table(found), Console(width=110, file=page))
    lines = page.getvalue().replace("┃", "│").splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_the_paper_stands_beside_its_own_data() -> None:
    rows = _rendered(_measured("QBERT4Rec", "Instruments"), _measured("SASRec", "Instruments"))
    assert rows[0] == ["", "QBERT4Rec", "Table 6", "SASRec"]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["items"] == ["6,250", "", "6,250"]
    assert cells["parameters"] == ["100", "3.71 M", "100"]
    assert cells["of the rest"] == ["40", "", "40"]
    assert cells["M MACs, L x parameters"] == ["0.01", "185.36", "0.01"]
    assert cells["counted"] == ["2.50", "", "2.50"]
    assert "closed form" not in cells
    assert cells["CPU, ms, 95th percentile"] == ["2.50", "", "2.50"]
    assert cells["A GPU, ms a user, 256 at once"] == ["0.06", "", "0.06"]
    assert cells["RTX 4090 (the paper's), ms"] == ["", "2.66", ""]

    assert _rendered(_measured("SASRec", "Instruments"))[0] == ["", "SASRec"]
    assert _rendered(_measured("QBERT4Rec", "toy"))[0] == ["", "QBERT4Rec"]


FLAGS = [
    "--data_path=.",
    "--use_gpu=False",
    "--MAX_ITEM_LIST_LENGTH=8",
    "--hidden_size=16",
    "--n_layers=1",
    "--n_heads=2",
    "--inner_size=32",
]


def run(*arguments: str) -> int:
    return main(["complexity", "--dataset=toy", *FLAGS, *arguments])


def test_the_command(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    plain = "item_representation: compose, score: dot, mask_context: none"
    Path("plain.yaml").write_text(f"per_model: {{QBERT4Rec: {{{plain}}}}}\n")
    before = files_below(tiny.root)
    flags = ("--model=QBERT4Rec,SASRec", "--config_files=plain.yaml", "--json=out/toy.json")
    assert run(*flags) == 0
    output = capsys.readouterr().out
    assert "Table 6" not in output
    assert "threads: 1, torch" in output
    assert sorted({*files_below(tiny.root)} - {*before}) == ["out", "out/toy.json"]
    written = json.loads(Path("out/toy.json").read_text())
    assert written["threads"] == 1 and written["machine"] in output
    qbert, sasrec = written["models"]
    sizes = {"n_items": 30, "max_length": 8, "dataset": "toy"}
    assert qbert.items() >= {**sizes, "model": "QBERT4Rec", "item_parameters": 24 * 16}.items()
    assert sasrec.items() >= {**sizes, "model": "SASRec", "item_parameters": 31 * 16}.items()
    assert sasrec["parameters"] == 31 * 16 + 8 * 16 + 32 + BLOCK
    assert (qbert["macs_closed_form"], sasrec["macs_closed_form"]) == (6_384, None)
    for model, counted in ((qbert, 6_384), (sasrec, BLOCK_MACS + HEAD_MACS)):
        assert model["macs_counted"] == counted
        assert model["macs_by_formula"] == 8 * model["parameters"]
        assert f"{model['parameters']:,}" in output
        (latency,) = model["latencies"]
        assert latency["device"] == "CPU"
        assert 0 < latency["median_ms"] <= latency["p95_ms"]
        assert latency["batch_ms"] > 0


def test_models_and_data_from_a_file(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    Path("all.yaml").write_text(
        "model: BigramChain, FDSA\ndataset: toy\ndata_path: .\nuse_gpu: False\n"
        "MAX_ITEM_LIST_LENGTH: 8\nper_model: {FDSA: {selected_features: [semantic_id]}}\n"
    )
    assert main(["complexity", "--config_files=all.yaml"]) == 0
    output = capsys.readouterr().out
    assert "BigramChain" in output and "FDSA" in output


FAULTS = {
    "unknown model": (["--model=QBERT4Rek"], "did you mean 'QBERT4Rec'"),
    "no model": ([], "--model=... is required"),
    "missing data": (["--model=SASRec", "--dataset=none"], "none: no such folder"),
    "unknown key": (["--model=SASRec", "--hidden_siz=8"], "did you mean 'hidden_size'"),
    "no catalog": (["--model=DIN"], "model DIN: it needs labels"),
    "broken ids": (["--model=QBERT4Rec", "--semantic_id_file=no.semid"], "no.semid: no such file"),
    "a folder": (["--model=SASRec", "--json=toy"], "--json=toy: is a folder"),
    "no place": (["--model=SASRec", "--json=toy/toy.inter/x.json"], "x.json: "),
}


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_one_line_and_status_2(
    tiny: Tiny, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, message = FAULTS[fault]
    where = ["--data_path=.", "--use_gpu=False", "--MAX_ITEM_LIST_LENGTH=8"]
    if not any(argument.startswith("--dataset") for argument in arguments):
        where.append("--dataset=toy")
    before = files_below(tiny.root)
    capfd.readouterr()
    assert main(["complexity", *where, *arguments]) == 2
    errors = capfd.readouterr().err
    assert message in errors
    assert errors.startswith("recbole-qbert: ")
    assert errors.count("\n") == 1, errors
    assert files_below(tiny.root) == before


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complexity", "--help"]) == 0
    assert "--model=" in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_beside_the_cpu(tiny: Tiny) -> None:
    for name in ("QBERT4Rec", "GRU4Rec"):
        config = tiny.make_config(name, use_gpu=True)
        loaded = load_splits(config)
        found = measure(config, loaded.train._dataset, loaded.test)
        cpu, gpu = found.latencies
        assert (cpu.device, gpu.device) == ("CPU", torch.cuda.get_device_name())
        assert 0 < gpu.median_ms <= gpu.p95_ms and gpu.batch_ms > 0
