"""Whole reports: of a benchmark that was run, of hostile data, in a real browser."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from browser import NO_BROWSER, find_browser, open_browser
from conftest import Tiny, files_below
from page_parser import Page
from PIL import Image
from test_reporting_items import write_tokenizer
from toy_results import add_run, add_sweep

from recbole_qbert.cli import main
from recbole_qbert.evaluation.results import append_result
from recbole_qbert.experiments.benchmark.outputs import to_markdown
from recbole_qbert.experiments.benchmark.plan import ModelRow
from recbole_qbert.experiments.benchmark.scores import Row, score
from recbole_qbert.experiments.benchmark.table_json import write_sidecar
from recbole_qbert.experiments.benchmark.tables import metrics_sheet
from recbole_qbert.reports.comparisons import compare_all
from recbole_qbert.reports.discovery import find_results

EVIL = "</script><img src=x onerror=alert(1)>&amp;$x$"
SECTIONS = ["tables", "curves", "sweeps", "space", "ids", "users"]
SPACE = {"n_layers": {"grid": [1, 2]}, "score": {"choice": ["dot", "cosine"]}}


def sections(page: Page) -> list[str]:
    """Keys of the tabs, in their order."""
    return [key for key in page.ids if key in SECTIONS]


def everything(tiny: Tiny, title: str = "Thing") -> list[str]:
    """A benchmark of two models and two seeds, a sweep, a tokenizer, pictures; the command."""
    keys = ("n_layers", "n_heads", "hidden_size", "inner_size")
    settings = {key: value for key, value in tiny.settings("QBERT4Rec").items() if key in keys}
    plan = {
        "models": ["QBERT4Rec", {"name": f"SASRec {title}", "model": "SASRec"}],
        "datasets": ["toy"],
        "seeds": [1, 2],
        "data_path": ".",
        "controls": False,
        "settings": {**settings, "epochs": 2, "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False},
    }
    (tiny.root / "bench.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    item = tiny.folder / "toy.item"
    text = item.read_text(encoding="utf-8").replace("Thing", title)
    item.write_text(text.replace("round", title.replace(" ", "")), encoding="utf-8")
    assert main(["benchmark", "bench.yaml", "--show_progress=False"]) == 0
    tried = [
        ({"n_layers": n, "score": score}, 0.1 * n + 0.05 * (score == "dot"), "finished")
        for n in (1, 2) for score in ("dot", "cosine")
    ]  # fmt: skip
    add_sweep(tiny.root / "saved" / "tune" / "s", SPACE, tried)
    write_tokenizer(tiny.folder / "tokenizer")
    (tiny.root / "pictures").mkdir()
    for number in range(30):
        Image.new("RGB", (20, 90), (8 * number, 0, 0)).save(tiny.root / f"pictures/i{number}.png")
    return [
        "report", "saved", "--title_field=title", "--category_field=class", "--images=pictures",
        "--n_users=4", "--projection=pca",
    ]  # fmt: skip


def test_a_report_of_everything(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    command = everything(tiny)
    before = files_below(tiny.root)
    assert main([*command, "--output=new/page.html", "--plots=plots"]) == 0
    page = Page(tiny.root / "new" / "page.html")
    assert sections(page) == SECTIONS
    assert len(set(page.ids)) == len(page.ids)
    assert all(each.startswith(("#", "data:image/jpeg;base64,")) for each in page.addresses)
    assert page.tags.count("img") > 4
    assert str(tiny.root) not in page.text
    for words in ("all items", "seen excluded", "best epoch was the last", "Thing 3"):
        assert words in page.text
    new = set(files_below(tiny.root)) - set(before)
    plots = {Path(name).name for name in new if name.startswith("plots/")}
    assert {name for name in new if not name.startswith("plots")} == {"new", "new/page.html"}
    assert {"stage1-depth.svg", "map-pca.png", "parallel-s-toy.svg"} <= plots
    figures = {name.removesuffix(".svg") for name in plots if name.endswith(".svg")}
    assert figures <= set(page.ids) and len(plots) == 2 * len(figures)
    assert "usage-figure" in figures and "tree-figure" in set(page.ids) - figures
    assert "plots written to plots" in capsys.readouterr().out

    # The numbers are the benchmark's own.
    (one,) = compare_all(find_results([tiny.root / "saved"]))
    written = (tiny.root / "saved" / "benchmark" / "table.md").read_text(encoding="utf-8")
    assert to_markdown(metrics_sheet(one.scores)) in written
    # Again, and the same.
    first = (tiny.root / "new" / "page.html").read_bytes()
    assert main([*command, "--output=again.html"]) == 0
    assert (tiny.root / "again.html").read_bytes() == first


def test_whatever_the_data_hold_is_text(tiny: Tiny) -> None:
    """The page of hostile names has the tags of a page of harmless ones."""
    assert main([*everything(tiny, EVIL), "--output=evil.html", "--plots=plots"]) == 0
    evil = Page(tiny.root / "evil.html")
    text = (tiny.root / "evil.html").read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert f"{EVIL} 3" in evil.text and f"SASRec {EVIL}" in evil.text
    item = tiny.folder / "toy.item"
    plain = item.read_text(encoding="utf-8").replace(EVIL, "Thing")
    item.write_text(plain, encoding="utf-8")
    for path in (tiny.root / "saved").rglob("table.json"):
        path.write_text(path.read_text(encoding="utf-8").replace(EVIL, "Thing"), encoding="utf-8")
    command = ["report", "saved", "--title_field=title", "--category_field=class"]
    more = ["--images=pictures", "--n_users=4", "--projection=pca", "--output=plain.html"]
    assert main([*command, *more]) == 0
    assert Page(tiny.root / "plain.html").tags == evil.tags


def test_only_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    add_run(tmp_path / "runs", [1, 1, 3, 20], curve=(0.1,))
    assert main(["report", "runs", "--metric=HR@5"]) == 0
    page = Page(tmp_path / "report.html")
    assert sections(page) == ["tables"] and "test HR@5, seen excluded" in page.text
    add_sweep(tmp_path / "tune", {"n": {"grid": [1]}}, [({"n": 1}, 0.1, "finished")])
    assert main(["report", "tune"]) == 0
    assert sections(Page(tmp_path / "report.html")) == ["sweeps"]
    assert main(["report", "runs", "tune"]) == 0
    page = Page(tmp_path / "report.html")
    assert sections(page) == ["tables", "sweeps"] and "details" not in page.tags


def test_published_values_of_a_row_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HR@1 of ours is .5; the shipped file has no figures of this data set."""
    monkeypatch.chdir(tmp_path)
    own = ModelRow("ours", "SASRec", published={"toy": {"hit@1": 0.375}})
    rows = (Row(own, (add_run(tmp_path / "runs", [1, 1, 3, 20]),)),)
    write_sidecar(tmp_path / "runs" / "benchmark", [score("toy", rows, "ours")], [], "b.yaml")
    assert main(["report", "runs"]) == 0
    texts = [text for text in Page(tmp_path / "report.html").texts if text.strip()]
    place = texts.index("toy: comparison with published values, all items ranked")
    lines = [["ours", "ours", ".5000"], ["published", ".3750"], ["difference", "+.1250"]]
    assert texts[place + 1 : place + 10] == ["model", "HR@1", *sum(lines, [])]


def test_where_much_comes_from_is_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abcdefgh":
        add_sweep(tmp_path / f"tune-{name}", {"n": {"grid": [1]}}, [({"n": 1}, 0.1, "finished")])
    assert main(["report", "."]) == 0
    page = Page(tmp_path / "report.html")
    assert page.tags.count("details") == 1 and "tune-h/trials.csv" in page.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["none"], "none: no such folder"),
        (["runs", "--output=page.txt"], "--output=page.txt: the file name must end with .html"),
        (["runs", "--metric=ndgc@10"], "the runs have the metrics hit@1, hit@10"),
        (["runs", "--projection=umap"], "--projection=umap: must be tsne or pca"),
        (["runs", "--n_users=0"], "--n_users=0: must be at least 1"),
        (["runs", "--plots=runs/results.jsonl"], "--plots=runs/results.jsonl: not a folder"),
        (["runs", "--dataset=other"], "dataset/other: no such folder"),
        (["broken"], "broken/results.jsonl:1: not a run of this version"),
        (["curve"], "SASRec.curve.json: not a learning curve"),
    ],
)
def test_refusals_are_one_line_and_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    add_run(tmp_path / "runs", [1, 1, 3, 20])
    run = add_run(tmp_path / "curve", [1, 1, 3, 20])
    Path(run.folder, "SASRec.curve.json").write_text(json.dumps({"curve": [1]}), encoding="utf-8")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.jsonl").write_text("{}\n", encoding="utf-8")
    before = files_below(tmp_path)
    assert main(["report", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert files_below(tmp_path) == before


# Browser -----------------------------------------------------------------------------------------


@pytest.mark.skipif(find_browser() is None, reason=NO_BROWSER)
def test_in_a_browser(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every tab at two widths: nothing asked for, nothing to complain of, nothing sticks out."""
    assert main([*everything(tiny, EVIL), "--output=page.html"]) == 0
    program = find_browser()
    assert program is not None
    with open_browser(program, tmp_path_factory.mktemp("profile")) as tab:
        for width in (1280, 400):
            tab.open(tiny.root / "page.html", width)
            tabs = tab.run("Array.from(document.querySelectorAll('[role=tab]'), tab => tab.id)")
            assert tabs == [f"tab-{key}" for key in SECTIONS]
            for name in tabs:
                tab.run(f"document.getElementById('{name}').click()")
                check_panel(tab, name.removeprefix("tab-"))
            check_keys(tab)
            check_legend(tab)
            (page,) = tab.requests()
            assert page.startswith("file:")
            assert tab.complaints() == []


def check_panel(tab: Any, key: str) -> None:
    """It alone is shown, its plots fill their boxes, and the page does not scroll sideways."""
    shown = tab.run(
        "Array.from(document.querySelectorAll('[role=tabpanel]')).filter(one => !one.hidden)"
        ".map(one => one.id)"
    )
    assert shown == [key]
    page, window = tab.run("[document.documentElement.scrollWidth, window.innerWidth]")
    assert page <= window
    plots = tab.run(
        f"new Promise(done => setTimeout(() => done(Array.from(document.querySelectorAll("
        f"'#{key} .js-plotly-plot'), plot => [plot.parentElement.clientWidth, "
        f"plot.querySelector('.main-svg').clientWidth])), 300))"
    )
    assert all(abs(box - drawn) <= 2 for box, drawn in plots)
    assert plots or key == "users"


def check_keys(tab: Any) -> None:
    """Arrows, Home and End go from tab to tab and come round."""
    selected = "document.querySelector('[aria-selected=true]').id"
    tab.run("document.getElementById('tab-users').focus()")
    places = []
    for key in ("ArrowRight", "ArrowRight", "End", "ArrowLeft", "Home"):
        tab.press(key)
        places.append(tab.run(selected))
        assert tab.run("document.activeElement.id") == places[-1]
    assert places == ["tab-tables", "tab-curves", "tab-users", "tab-ids", "tab-tables"]


def check_legend(tab: Any) -> None:
    """A name in the legend hides its lines in all charts of its group, and shows them again."""
    tab.run("document.getElementById('tab-curves').click()")
    hidden = (
        "Array.from(document.querySelectorAll('#curves .js-plotly-plot'), "
        "plot => plot.data.filter(one => one.visible === false).length)"
    )
    click = "document.querySelector('#curves .legend button').click()"
    assert tab.run(hidden) == [0, 0]
    tab.run(click)
    assert tab.run(hidden) == [4, 4]  # a line and a point of each of two seeds
    tab.run(click)
    assert tab.run(hidden) == [0, 0]


def test_runs_of_other_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only metrics that all rows have are in charts; the tables have the common ones."""
    monkeypatch.chdir(tmp_path)
    runs = [add_run(tmp_path / "runs", [1, 1, 3, 20], keys={"n_layers": n}) for n in (1, 2, 3)]
    file = tmp_path / "runs" / "results.jsonl"
    file.unlink()
    for number, run in enumerate(runs):
        if number:
            short = {name: value for name, value in run.test.items() if name.endswith("@5")}
            keys = {**run.config["keys"], "topk": [5]}
            run = replace(
                run, valid=short, test=short, valid_metric="ndcg@5", config={"keys": keys}
            )
        append_result(file, run)
    assert main(["report", "runs"]) == 0
    assert main(["report", "runs", "--metric=ndcg@5"]) == 0
    assert "NDCG@5" in Page(tmp_path / "report.html").text


def test_flags_of_a_data_set_where_there_are_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for dataset in ("one", "two"):
        add_run(tmp_path / "runs", [1, 1, 3, 20], dataset=dataset)
    assert main(["report", "runs"]) == 0
    for flag in ("--title_field=title", "--category_field=class", "--data_path=."):
        assert main(["report", "runs", flag]) == 2
        said = capsys.readouterr().err
        assert "there are several data sets (one, two); give --dataset" in said


def test_ranks_of_one_run_that_changed_do_not_end_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told from the others, which keep their groups of users."""
    monkeypatch.chdir(tmp_path)
    for model, ranks in (("QBERT4Rec", [1, 1, 3, 20]), ("SASRec", [1, 20, 3, 20])):
        run = add_run(tmp_path / "x", ranks, model)
        path = Path(run.folder, "test_ranks.npz")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        append_result(tmp_path / "runs" / "results.jsonl", replace(run, ranks_sha256=digest))
    assert main(["report", "runs"]) == 0
    np.savez(path, users=[1], raw=[1], unseen=[1])
    assert main(["report", "runs"]) == 0
    text = " ".join(Page(tmp_path / "report.html").text.split())
    assert "no test_ranks.npz of SASRec, or not as the run wrote it: no tests" in text
    assert str(tmp_path) not in text
    table = "HR@10 / NDCG@10 of test users by"
    start, end = (text.index(f"{table} {what}") for what in ("how often", "the number of items"))
    assert "QBERT4Rec" in text[start:end] and "SASRec" not in text[start:end]
