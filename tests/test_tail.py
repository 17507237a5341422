"""`benchmarks.tail`: one trained model ranked with several discounts equals runs with each."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny

from benchmarks.tail import HEAD, frontier, main
from recbole_qbert.evaluation.groups import BY_TARGET
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.experiments.benchmark.scores import details_of, group_metric
from recbole_qbert.experiments.run import run_models

DISCOUNTS = [0.0, 0.4]


@pytest.fixture
def runs(tiny: Tiny) -> list[RunResult]:
    """Runs with each discount, trained alike."""
    found = []
    for discount in DISCOUNTS:
        terms = {"popularity_discount": discount, "new_item_bonus": 0.5}
        cold = {"cold_items": 0.1, "semantic_id_file": "toy/toy.semid"}
        settings = tiny.settings("QBERT4Rec", epochs=1, **cold, **terms)
        found += run_models(["QBERT4Rec"], "toy", settings=settings)
    return found


def test_the_rows_are_those_of_runs_with_each_discount(runs: list[RunResult]) -> None:
    rows = frontier(Path(runs[0].folder), Path("."), DISCOUNTS)
    for row, run in zip(rows, runs, strict=True):
        details = details_of(run)
        groups = [group_metric("unseen_hit@10", "target", group.name) for group in BY_TARGET]
        expected = [run.valid["unseen_ndcg@10"], run.test["unseen_ndcg@10"]]
        expected += [run.test["unseen_hit@10"], details["unseen_coverage@10"]]
        expected += [details.get(name, np.nan) for name in groups]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)
    assert not np.array_equal(*rows, equal_nan=True)


def test_the_table_has_means_over_the_runs(
    runs: list[RunResult], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [runs[0].folder, runs[0].folder, "--data_path=.", "--discounts=0,0.4"]
    monkeypatch.setattr(sys, "argv", ["tail", *words])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| discount | " + " | ".join(HEAD) + " |"
    cells = lines[3].split(" | ")
    assert cells[0] == "| 0.4"
    value = frontier(Path(runs[0].folder), Path("."), [0.4])[0, 0]
    assert cells[1] == f"{value:.4f}".lstrip("0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "none: no such folder of a bundle"),
        (["RUN", "--discounts=x"], "discounts: 'x' is not numbers with commas between them"),
        (["RUN", "--discounts=0,-1"], "popularity_discount: -1.0 is not a number in [0"),
        (["RUN", "--discounts=nan"], "popularity_discount: nan is not a number"),
        (["RUN", "--data_path=gone"], "gone"),
        (["OTHER"], "SASRec has no popularity_discount; give a run of QBERT4Rec"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    tiny: Tiny,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folders = {}
    for word, model in (("RUN", "QBERT4Rec"), ("OTHER", "SASRec")):
        if word in words:
            settings = tiny.settings(model, epochs=1)
            folders[word] = run_models([model], "toy", settings=settings)[0].folder
    capsys.readouterr()
    given = [folders.get(word, word) for word in words]
    monkeypatch.setattr(sys, "argv", ["tail", "--data_path=.", *given])
    assert main() == 2
    said = capsys.readouterr()
    assert message in said.err and len(said.err.splitlines()) == 1 and not said.out
