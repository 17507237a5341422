"""Figures on searches: beams against exact ranking, credited collisions, and their table."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from conftest import N_ITEMS, Tiny, fitted, scores
from rich.console import Console

from recbole_qbert.evaluation.ranking import LIST_LENGTH
from recbole_qbert.evaluation.results import read_results
from recbole_qbert.experiments.benchmark.plan import ModelRow
from recbole_qbert.experiments.benchmark.scores import Row, score
from recbole_qbert.experiments.benchmark.tables import generation_sheets
from recbole_qbert.experiments.generation import generation_figures, generation_note
from recbole_qbert.experiments.run import run_models
from recbole_qbert.reports.report import ReportRequest, report


def figures_of(tiny: Tiny, model: str, **settings: Any) -> tuple[Any, Any, dict[str, float]]:
    """A trained model's trainer and data, and its figures after the test."""
    small = {"epochs": 1, "train_batch_size": 64, "eval_batch_size": 7}
    trainer, loaded = fitted(tiny.make_config(model, **small, **settings))
    trainer.list_length = LIST_LENGTH
    trainer.evaluate(loaded.test)
    figures = generation_figures(trainer.model, loaded.test, trainer.ranks, trainer.config)
    return trainer, loaded, figures


def test_the_gain_is_that_of_exact_scores(tiny: Tiny) -> None:
    """On the first rows, by ranks of a plain comparison."""
    trainer, loaded, figures = figures_of(tiny, "TIGER", beam_size=22, exact_rows=17)
    assert figures["exact_rows"] == 17
    assert figures["valid_beams"] == 1 and 0 < figures["outside"] < 1
    found = scores(trainer.model, loaded.test)[:17]
    trainer.model.ranks_exactly = True
    exact = scores(trainer.model, loaded.test)[:17]
    targets = torch.cat([batch[0]["item_id"] for batch in loaded.test])[:17, None] - 1
    hits = [
        float(((each >= each.gather(1, targets)).sum(dim=1) <= 10).float().mean())
        for each in (found, exact)
    ]
    assert figures["exact_gain_hit@10"] == pytest.approx(hits[1] - hits[0])
    best, held = exact.topk(LIST_LENGTH)[1].tolist(), found.topk(LIST_LENGTH)[1].tolist()
    same = [len({*a} & {*b}) / LIST_LENGTH for a, b in zip(best, held, strict=True)]
    assert figures["same_items"] == pytest.approx(np.mean(same))


def test_all_beams_lose_nothing(tiny: Tiny) -> None:
    for model in ("TIGER", "MQL4GRec"):
        _, _, figures = figures_of(tiny, model, beam_size=N_ITEMS)
        assert figures["same_items"] == 1
        gains = {name: value for name, value in figures.items() if name.startswith("exact_gain_")}
        assert len(gains) == 12 and not any(gains.values())
        note = generation_note(figures, "unseen_ndcg@10")
        assert "ranking 40 users exactly keeps 100.0% of their top 10" in note
        assert note.endswith("changes unseen_NDCG@10 by +0.0000")


def test_who_has_no_figures(tiny: Tiny) -> None:
    assert figures_of(tiny, "SASRec")[2] == {} and generation_note({}, "ndcg@10") == ""
    assert figures_of(tiny, "TIGER", ranking="exact")[2] == {}
    figures = figures_of(tiny, "TIGER", exact_rows=0)[2]
    assert figures.keys() == {"valid_beams", "outside"}
    assert generation_note(figures, "ndcg@10").endswith("leads to codes of no item")


def test_the_tables_show_them(tiny: Tiny) -> None:
    """Of a benchmark, `compare` and the report; runs without figures have no row."""
    models = ["SASRec", "TIGER", "MQL4GRec"]
    settings = {**tiny.settings("MQL4GRec"), **tiny.settings("TIGER", train_batch_size=64)}
    small = {key: settings.pop(key) for key in ("head_size", "n_decoder_layers")}
    levels = {key: settings.pop(key) for key in ("text_levels", "image_levels")}
    sizes = {"per_model": {"TIGER": small, "MQL4GRec": {**small, **levels}}}
    (tiny.root / "sizes.yaml").write_text(json.dumps(sizes))
    run_models(models, "toy", [tiny.root / "sizes.yaml"], settings)
    results = read_results(tiny.root / "saved/results.jsonl")
    rows = tuple(Row(ModelRow(each.model, each.model), (each,)) for each in results)
    (sheet,) = generation_sheets(score("toy", rows, ""))
    ((_, lines),) = sheet.sections
    cells = {
        line[0].text: dict(zip(sheet.head, (c.text for c in line), strict=True)) for line in lines
    }
    assert cells.keys() == {"TIGER", "MQL4GRec"}
    assert cells["TIGER"]["valid beams"] == "100.0%"
    assert cells["TIGER"]["exact: NDCG@10"] == "+0.0000"
    assert cells["TIGER"]["collisions credited: HR@10"] == "–"
    credited = results[2].generation["credited_hit@10"]
    assert cells["MQL4GRec"]["collisions credited: HR@10"] == f"{credited:.4f}".lstrip("0")
    assert generation_sheets(score("toy", rows[:1], "")) == []
    (alone,) = generation_sheets(score("toy", rows[:2], ""))
    assert alone.head == sheet.head[:-2] and alone.notes == sheet.notes[:-1]
    page = tiny.root / "page.html"
    report(ReportRequest((tiny.root / "saved",), page), Console(quiet=True))
    assert "toy: generation of codes, test" in page.read_text(encoding="utf-8")
