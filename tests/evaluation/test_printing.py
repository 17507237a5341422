"""Tables of results: every number whole, every row comparable or marked, whatever the settings."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from toy_results import add_run

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.evaluation.printing import chosen_groups, print_tables
from recbole_qbert.evaluation.results import RunResult, group_runs, read_results
from recbole_qbert.experiments.benchmark.outputs import to_markdown
from recbole_qbert.experiments.benchmark.plan import ModelRow
from recbole_qbert.experiments.benchmark.scores import Row, score
from recbole_qbert.experiments.benchmark.tables import metrics_sheet
from recbole_qbert.reports.seeds import seeds_sheets

GOOD, BAD = [1, 1, 2, 3], [4, 5, 5, 2]
SAME = {"users": "u", "targets": "t", "items": "i", "numbering": "n"}


def printed(results: list[RunResult], width: int) -> str:
    stream = io.StringIO()
    print_tables(results, Console(file=stream, width=width))
    return stream.getvalue()


def joined(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [30, 60, 80, 110, 200])
def test_no_number_is_cut(tmp_path: Path, width: int) -> None:
    """Five values of topk: what does not fit comes in another table."""
    keys = {"topk": [1, 5, 10, 20, 50]}
    values = {f"{prefix}{metric}@{k}": k / 1000 + place / 7
              for prefix in ("", "unseen_") for place, metric in enumerate(("hit", "ndcg"))
              for k in keys["topk"]}  # fmt: skip
    run = add_run(tmp_path, GOOD, keys=keys, test=values, valid=values, n_parameters=123456789)
    shown = printed([run], width)
    assert "…" not in shown and "\n\n" not in shown
    for value in values.values():
        assert shown.count(f"{value:.4f}") == 4  # of valid and test, in both rankings
    assert "123,456,789" in shown
    if width >= 60:
        assert max(map(len, shown.splitlines())) <= width


def test_runs_with_other_metrics_stand_in_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dash where a run has no such metric; nothing fails after the training."""
    add_run(tmp_path, GOOD, model="SASRec")
    few = {"hit@10": 0.25, "unseen_hit@10": 0.5}
    add_run(tmp_path, BAD, model="GRU4Rec", keys={"metrics": ["Hit"], "topk": [10]},
            test=few, valid=few)  # fmt: skip
    results = read_results(tmp_path / "results.jsonl")
    assert main(["compare", str(tmp_path / "results.jsonl"), "--format=markdown"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    row = [dict(zip(head, row, strict=False)) for row in rows if row[0] == "GRU4Rec"][3]
    assert (row["HR@10"], row["NDCG@10"], row["HR@1"]) == ("<u>.5000</u>", "–", "–")
    shown = printed(results, 110)
    assert "0.2500" in shown and "–" in shown


def test_rows_that_are_not_comparable_are_marked(tmp_path: Path) -> None:
    for model, tested_on in (
        ("SASRec", SAME),
        ("GRU4Rec", SAME | {"numbering": "other"}),
        ("FDSA", SAME | {"targets": "other", "items": "other"}),
    ):
        add_run(tmp_path, GOOD, model=model, tested_on=tested_on)
    add_run(tmp_path, GOOD, model="FDSA", dataset="second", tested_on=SAME | {"items": "more"})
    results = read_results(tmp_path / "results.jsonl")
    shown = printed(results, 110)
    assert shown.count("FDSA †") == shown.count("† FDSA: other test") == 1
    assert "other test targets, items than the first row of its data set" in joined(shown)
    text = to_markdown(seeds_sheets(group_runs(results))[0])
    assert text.count("| FDSA † |") == 4
    assert "SASRec †" not in text and "GRU4Rec †" not in text
    assert "\n- † FDSA: other test targets, items than the first row of its data set" in text


def test_the_footnote_of_a_benchmark_names_what_was_compared_with(tmp_path: Path) -> None:
    """The second row is the reference; the first one differs from it."""
    rows = tuple(
        Row(ModelRow(model, model), (add_run(tmp_path, GOOD, model=model, tested_on=tested_on),))
        for model, tested_on in (("FDSA", SAME | {"items": "other"}), ("QBERT4Rec", SAME))
    )
    notes = " ".join(metrics_sheet(score("toy", rows, "QBERT4Rec")).notes)
    assert "† FDSA: other test items than the reference" in notes


def test_the_best_epoch_is_counted_as_in_the_table_of_a_results_file(tmp_path: Path) -> None:
    """Of the allowed epochs, with the mark at its number."""
    run = add_run(tmp_path, GOOD, best_epoch=8, epochs=9, max_epochs=9)
    early = add_run(tmp_path, GOOD, model="GRU4Rec", best_epoch=1, epochs=4, max_epochs=9)
    shown = printed([run, early], 200)
    sheet = seeds_sheets([[run], [early]])[-1]
    texts = [row[sheet.head.index("best epoch")].text for row in sheet.sections[0][1]]
    assert texts == ["9 ! of 9", "2 of 9, stopped early"]
    assert all(text.partition(",")[0] in shown for text in texts)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{}:SASRec", "{}:GRU4Rec", "--format=markdown"], "--format=markdown: has no effect with"),
        (["{}:SASRec", "{}:GRU4Rec", "--runs=last"], "--runs=last: has no effect with two sides"),
        (["{}", "--metric=hit@5"], "--metric=hit@5: has no effect with one file; leave it out"),
    ],
)
def test_flags_of_the_other_form_of_compare_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    for model in ("SASRec", "GRU4Rec"):
        add_run(tmp_path, GOOD, model=model)
    assert main(["compare", *(word.format(tmp_path / "results.jsonl") for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and said in err


def test_settings_of_one_model_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        add_run(tmp_path, GOOD, seed=seed, keys={"hidden_size": 32, "n_layers": 2})
    add_run(tmp_path, GOOD, model="GRU4Rec")
    add_run(tmp_path, BAD, keys={"hidden_size": 64, "n_layers": 2})
    path = tmp_path / "results.jsonl"
    sheet, _ = seeds_sheets(chosen_groups(read_results(path)))
    results = read_results(path)
    assert results[1].hash == results[3].hash  # the toy's folders
    first, last = (f"SASRec @{results[1].hash} ({number})" for number in (1, 2))
    for _, rows in sheet.sections:
        assert [row[0].text for row in rows] == [first, "GRU4Rec", last]
    assert sheet.notes == [f"{first}: hidden_size=32", f"{last}: hidden_size=64"]
    assert main(["compare", str(path), "--runs=last", "--format=markdown"]) == 0
    out = capsys.readouterr().out
    assert out.count("| SASRec |") == 5 and "hidden_size" not in out  # four of metrics, one of runs


@pytest.mark.parametrize("width", ["60", "100", ""])
def test_all_settings_that_differ_are_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: str
) -> None:
    """However many they are, and also where one run alone has the setting."""
    keys = {f"long_setting_{n}": n for n in range(7)}
    add_run(tmp_path, GOOD, keys=keys, folder=str(tmp_path / "toy" / "SASRec-11111111"))
    add_run(tmp_path, GOOD, keys={key: 9 for key in keys}, folder="SASRec-22222222")
    add_run(tmp_path, GOOD, dataset="second", keys={"alone": 5}, folder="SASRec-33333333")
    add_run(tmp_path, GOOD, dataset="second", folder="SASRec-44444444")
    monkeypatch.setenv("COLUMNS", width)
    assert main(["compare", str(tmp_path / "results.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "…" not in out and max(map(len, out.splitlines())) <= int(width or 100)
    text = " ".join(out.split())
    for key, n in keys.items():
        assert f"{key}={n}" in text and f"{key}=9" in text
    assert "SASRec @33333333: alone=5" in text and "SASRec @44444444: alone=unset" in text


def test_means_and_deviations_of_a_results_file(tmp_path: Path) -> None:
    """Ranks 1, 1, 2, 3 and 4, 5, 5, 2: HR@1 of .5 and 0, mean .25, deviation .5 / sqrt(2)."""
    add_run(tmp_path, GOOD, seed=1)
    add_run(tmp_path, BAD, seed=2)
    metrics, runs = seeds_sheets(group_runs(read_results(tmp_path / "results.jsonl")))
    assert metrics.head == ("model", "HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
    headings = [heading for heading, _ in metrics.sections]
    assert headings[::3] == ["valid, all items", "test, seen excluded"]
    assert metrics.sections[2][1][0][1].text == ".2500 ± .3536"
    assert runs.head[3:6] == ("chosen by", "seeds", "best epoch")  # no budget is stated


def test_half_a_result_is_told_from_a_whole_one(tmp_path: Path) -> None:
    """The remedy of each never costs a good result."""
    add_run(tmp_path, GOOD)
    path = tmp_path / "results.jsonl"
    whole = path.read_text()
    half = whole[: len(whole) // 2]
    for damaged in (half, half + whole):
        path.write_text(whole + damaged)
        with pytest.raises(InputError, match=r"results.jsonl:2: not a run .* complete result"):
            read_results(path)
    path.write_text(whole + whole)
    assert len(read_results(path)) == 2
