"""Marks, tests, groups and the three ways to write a table, on hand-made results."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import ttest_rel, wilcoxon
from toy_results import add_run

from recbole_qbert.common.errors import InputError
from recbole_qbert.evaluation.results import RunResult
from recbole_qbert.evaluation.significance import change_text
from recbole_qbert.experiments.benchmark.benchmark import PlannedRun, collect
from recbole_qbert.experiments.benchmark.outputs import (
    CSV_HEAD,
    csv_lines,
    to_latex,
    to_markdown,
    to_rich,
    write_files,
)
from recbole_qbert.experiments.benchmark.plan import BenchmarkPlan, ModelRow
from recbole_qbert.experiments.benchmark.scores import Row, Scores, score, spread
from recbole_qbert.experiments.benchmark.tables import (
    BEST,
    SECOND,
    BenchmarkTable,
    TableCell,
    all_sheets,
    comparisons_sheet,
    groups_sheet,
    mark_column,
    metrics_sheet,
    p_text,
    published_gains_sheet,
    published_sheet,
    runs_sheet,
)

MakeRun = Callable[..., RunResult]
MakeRow = Callable[..., Row]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run of four users with these ranks in both rankings, or lower ones of unseen items."""

    def make(
        raw: Sequence[int], unseen: Sequence[int] = (), seed: int = 1, **more: object
    ) -> RunResult:
        base = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        of_seed = {"seconds": 10.0 * seed, "peak_memory_mb": 100.0 * seed}
        return add_run(base, raw, seed=seed, unseen=unseen, **(of_seed | more))

    return make


@pytest.fixture
def make_row(make_run: MakeRun) -> MakeRow:
    """A row of runs with these ranks, one a seed."""

    def make(name: str, *ranks: Sequence[int], **more: object) -> Row:
        runs = [make_run(one, seed=seed, **more) for seed, one in enumerate(ranks, start=1)]
        return Row(ModelRow(name, "SASRec"), tuple(runs))

    return make


@pytest.fixture
def scores(make_row: MakeRow) -> Scores:
    """Two seeds of the reference, one of two others."""
    rows = (
        make_row("ours", [1, 1, 3, 20], [1, 3, 3, 20]),
        make_row("theirs", [1, 20, 3, 20]),
        make_row("worst | of_all", [20, 20, 20, 20]),
    )
    return score("toy", rows, "ours")


def texts(sheet: BenchmarkTable) -> list[list[list[str]]]:
    return [[[entry.text for entry in line] for line in lines] for _, lines in sheet.sections]


# Numbers -----------------------------------------------------------------------------------------


def test_best_and_second_of_a_column() -> None:
    """By unrounded means; equals share a mark; a number alone has none."""
    values = [0.3, 0.50001, 0.5, 0.1 + 0.2, 0.1]
    marks = [entry.mark for entry in mark_column([spread([value]) for value in values])]
    assert marks == ["", BEST, SECOND, "", ""]
    values = [0.3, 0.1 + 0.2, 0.2, 0.2, 0.1]  # .1 + .2 is .30000000000000004
    marks = [entry.mark for entry in mark_column([spread([value]) for value in values])]
    assert marks == [BEST, BEST, SECOND, SECOND, ""]
    assert mark_column([spread([0.5])]) == [TableCell(".5000")]


NUMBERING = {"numbers of users": "numbering"}  # by which ranks are paired


@pytest.mark.parametrize("part", ["users", "targets", "items", "numbers of users"])
def test_a_row_tested_on_something_else_is_marked_and_in_no_test(
    make_row: MakeRow, part: str
) -> None:
    """It has the highest numbers, and is neither best nor what the reference is measured by."""
    same = {"users": "u", "targets": "t", "items": "i", "numbering": "n"}
    rows = (
        make_row("ours", [1, 3, 3, 20], tested_on=same),
        make_row("theirs", [1, 20, 3, 20], tested_on=same),
        make_row("odd", [1, 1, 1, 1], tested_on=same | {NUMBERING.get(part, part): "other"}),
    )
    found = score("toy", rows, "ours")
    assert found.unlike == {"odd": part}
    assert list(found.tested) == ["theirs"]
    sheet = metrics_sheet(found)
    _, lines = sheet.sections[0]
    assert [line[0].text for line in lines] == [
        "ours", "theirs", "odd †", "ours vs. best other"
    ]  # fmt: skip
    marks = {line[0].text: line[-1].mark for line in lines}
    assert (marks["ours"], marks["theirs"], marks["odd †"]) == (BEST, SECOND, "")
    # NDCG@10 of ranks 1, 3, 3, 20 and of 1, 20, 3, 20: 2 and 1.5 of 4.
    assert lines[-1][-1].text.startswith("+33.3 %")
    assert any(note.startswith(f"† odd: other test {part} than") for note in sheet.notes)
    assert any("over 1 comparison" in note for note in sheet.notes)


def test_changes_are_those_of_the_means_in_the_table(make_row: MakeRow) -> None:
    """Of test rows. The tests are over users, of whom one has three rows here."""
    several = {"users": (1, 1, 1, 2)}
    rows = (
        make_row("ours", [1, 1, 1, 20], **several),
        make_row("theirs", [20, 20, 20, 1], **several),
    )
    test = score("toy", rows, "ours").tested["theirs"]["hit@10"]
    assert test.change == pytest.approx(200)  # 3 of 4 rows against 1 of 4
    assert test.p_value == 1  # 1 of 2 users against 1 of 2


@pytest.mark.parametrize("width", [40, 80, 110])
def test_no_number_of_a_sheet_is_cut(scores: Scores, width: int) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=width)
    for sheet in all_sheets(scores):
        for table in to_rich(sheet, console):
            console.print(table, crop=False)
    shown = stream.getvalue()
    assert "…" not in shown
    assert shown.count(".3750 ± .1768") >= 2
    for entry in metrics_sheet(scores).sections[0][1][0][1:]:
        assert entry.text in shown


def test_mean_and_sample_deviation() -> None:
    """.1 and .2: mean .15, deviation .1 / sqrt(2)."""
    found = spread([0.1, 0.2])
    assert found.mean == pytest.approx(0.15)
    assert found.deviation == pytest.approx(0.1 / math.sqrt(2))
    assert mark_column([found])[0].text == ".1500 ± .0707"
    assert spread([0.1]).deviation is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.0004, "<.001"), (0.0006, ".001"), (0.05, ".050"), (1.0, "1.000")]
)
def test_p_values_as_text(value: float, text: str) -> None:
    assert p_text(value) == text


def test_changes_as_text() -> None:
    assert change_text(9.75) == "+9.8 %"
    assert change_text(-3.0) == "-3.0 %"
    assert change_text(math.inf) == "–"


def test_the_reference_against_each_other_row(scores: Scores) -> None:
    """NDCG@10 of ranks 1, 3, 20 is 1, .5, 0; means over seeds first, then users, then Holm."""
    ours, theirs = [1.0, 0.75, 0.5, 0.0], [1.0, 0.0, 0.5, 0.0]
    nothing = [0.0] * 4
    t = [ttest_rel(ours, other).pvalue for other in (theirs, nothing)]  # .39 and .09
    w = [wilcoxon(ours, other).pvalue for other in (theirs, nothing)]
    found = [scores.tested[name]["ndcg@10"] for name in ("theirs", "worst | of_all")]
    assert [one.change for one in found] == [pytest.approx(50.0), math.inf]
    assert found[1].p_value == pytest.approx(2 * t[1])
    assert found[0].p_value == pytest.approx(max(t[0], 2 * t[1]))
    assert found[1].p_ranks == pytest.approx(2 * min(w))
    assert not found[0].significant
    assert scores.others == list(scores.rows[1:])


def test_significance_needs_both_tests(scores: Scores) -> None:
    test = scores.tested["theirs"]["ndcg@10"]
    assert test._replace(p_value=0.049, p_ranks=0.049).significant
    assert not test._replace(p_value=0.05, p_ranks=0.01).significant
    assert not test._replace(p_value=0.01, p_ranks=0.05).significant


# Tables ------------------------------------------------------------------------------------------


def test_the_table_of_metrics(scores: Scores) -> None:
    sheet = metrics_sheet(scores)
    assert sheet.head == ("model", "HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
    assert [heading for heading, _ in sheet.sections] == ["all items", "seen excluded"]
    lines = sheet.sections[0][1]
    assert [entry.text for entry in lines[0]][:3] == ["ours", ".3750 ± .1768", ".7500 ± .0000"]
    assert [entry.mark for entry in lines[0]] == ["", *[BEST] * 5]
    assert [entry.mark for entry in lines[1]] == ["", *[SECOND] * 5]
    assert [entry.mark for entry in lines[2]] == [""] * 6
    last = [entry.text for entry in lines[3]]
    assert last == [
        "ours vs. best other",
        "+50.0 %",
        "+50.0 %",
        "+50.0 %",
        "+50.0 %",
        "+50.0 %",
    ]


def test_a_significant_gain_is_marked(scores: Scores) -> None:
    tests = {
        name: one._replace(p_value=0.01, p_ranks=0.01)
        for name, one in scores.tested["theirs"].items()
    }
    marked = dataclasses.replace(scores, tested={**scores.tested, "theirs": tests})
    assert metrics_sheet(marked).sections[0][1][3][1].text == "+50.0 % *"
    assert "correction over 2 comparisons" in metrics_sheet(marked).notes[0]
    assert comparisons_sheet(marked).sections[1][1][0][5].text == "+50.0 %\n.010 / .010"


def test_a_table_without_the_reference(make_row: MakeRow) -> None:
    """It failed: the others are still compared by eye."""
    alone = score("toy", (make_row("a", [1, 2, 3, 4]), make_row("b", [2, 2, 3, 4])), "ours")
    assert alone.reference is None and alone.tested == {}
    sheets = all_sheets(alone)
    assert [len(lines) for _, lines in sheets[0].sections] == [2, 2]
    assert not any("vs." in sheet.title for sheet in sheets)


def test_beside_published_figures(scores: Scores) -> None:
    """Ours NDCG@10: .5625; printed .6: .0375 less. By model, whatever the row's name."""
    figures = {"SASRec": {"hit@10": 0.7, "ndcg@10": 0.6}, "TIGER": {"hit@10": 1, "ndcg@10": 1}}
    sheet = published_sheet(scores, figures, "the source")
    assert sheet.head == ("model", "", "HR@10", "NDCG@10")
    assert texts(sheet)[0] == [
        ["ours", "ours", ".7500", ".5625"],
        ["", "published", ".7000", ".6000"],
        ["", "difference", "+.0500", "-.0375"],
    ]
    assert sheet.notes == ["the source"]
    assert not any("published" in sheet.title for sheet in all_sheets(scores))  # no such data set
    # Values of a row replace those of its model.
    first, *others = scores.rows
    own = dataclasses.replace(first.model_row, published={"toy": {"hit@1": 0.25}})
    rows = (dataclasses.replace(first, model_row=own), *others)
    sheet = published_sheet(dataclasses.replace(scores, rows=rows), figures, "the source")
    assert texts(sheet) == [
        [["ours", "ours", ".3750"], ["", "published", ".2500"], ["", "difference", "+.1250"]]
    ]
    assert sheet.notes == ["published: values from the benchmark's file"]


def test_beside_published_gains(scores: Scores) -> None:
    """HR@10: ours .75, theirs .5, worst 0. Only `theirs` has published values of both data sets."""
    first, second, worst = scores.rows
    values = ({"x": {"hit@10": 0.3, "ndcg@10": 0.2}, "y": {"hit@10": 0.6}}, {"x": {"hit@10": 0.25}})
    own, other = (
        dataclasses.replace(row, model_row=dataclasses.replace(row.model_row, published=published))
        for row, published in zip((first, second), values, strict=True)
    )
    both = dataclasses.replace(scores, rows=(own, other, worst), reference=own)
    sheet = published_gains_sheet(both)
    assert sheet.head == ("other row", "data", "HR@10", "NDCG@10")
    gain = both.tested["theirs"]["ndcg@10"].change
    assert texts(sheet) == [
        [["theirs", "toy, ours", "+50.0 %", f"{gain:+.1f} %"], ["", "x", "+20.0 %", "–"]]
    ]
    assert [sheet.title for sheet in all_sheets(both)].count(sheet.title) == 1
    assert published_gains_sheet(scores).sections == []
    assert published_gains_sheet(dataclasses.replace(both, reference=None)).sections == []


def test_groups_by_hand(scores: Scores) -> None:
    """Targets 1 to 4 occur 0, 5, 6 and 30 times; ranks of `theirs` are 1, 20, 3 and 20."""
    sheet = groups_sheet(scores, "target")
    assert sheet.head[2:] == (
        "never\n1 user",
        "1-5\n1 user",
        "6-20\n1 user",
        "over 20\n1 user",
    )
    ours, theirs, _ = texts(sheet)[0]
    # Shown by `ours`: items 1, 3, 20 in each seed; 20 is an id like any other here.
    assert ours[1] == ".6000 ± .0000"
    assert ours[2:] == ["1.0000 / 1.0000", "1.0000 / .7500", "1.0000 / .5000", ".0000 / .0000"]
    assert theirs[2:] == ["1.0000 / 1.0000", ".0000 / .0000", "1.0000 / .5000", ".0000 / .0000"]
    assert texts(sheet)[1][0][1] == ".2000 ± .0000"  # of unseen items, everybody sees item 1
    by_history = groups_sheet(scores, "history")
    assert by_history.head[1:] == (
        "1-5\n1 user",
        "6-10\n1 user",
        "11-20\n1 user",
        "over 20\n1 user",
    )
    assert texts(by_history)[0][1][1:] == theirs[2:]


def test_a_run_without_lists_is_named(make_row: MakeRow) -> None:
    """Of a version that kept ranks alone: still tested, but in no group."""
    old = make_row("old", [1, 2, 3, 4])
    path = Path(old.runs[0].folder) / "test_ranks.npz"
    np.savez(path, users=np.arange(1, 5), raw=[1, 2, 3, 4], unseen=[1, 2, 3, 4])
    found = score("toy", (old, make_row("new", [1, 1, 1, 1])), "new")
    assert found.tested["old"]["hit@1"].change == pytest.approx(300.0)
    sheet = groups_sheet(found, "target")
    assert [[line[0] for line in lines] for lines in texts(sheet)] == [["new"], ["new"]]
    assert sheet.notes[-1].startswith(
        "old: an older version wrote test_ranks.npz without top lists"
    )
    only = score("toy", (old,), "old")
    assert not any("users by" in sheet.title for sheet in all_sheets(only))


def test_an_empty_group_is_a_dash(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    for row in scores.rows:
        kept = {name: value for name, value in row.details.items() if "never" not in name}
        monkeypatch.setitem(row.__dict__, "details", kept)
    assert texts(groups_sheet(scores, "target"))[0][0][2] == "–"


def test_runs_say_what_one_must_know(make_run: MakeRun) -> None:
    runs = (
        make_run([1, 2, 3, 4], exclude_visible=True, epochs=5, steps=50),
        make_run([1, 2, 3, 4], seed=2, best_epoch=8, epochs=9, steps=90),
    )
    row = Row(ModelRow("ours", "SASRec", {}, "9 trials"), runs)
    sheet = runs_sheet(score("toy", (row,), "ours"))
    line = ["ours", "CE", "excluded", "NDCG@10", "9 trials", "1, 2"]
    line += ["2, 9 ! of 9, stopped early", "70", "15", "1,234", "200"]
    assert texts(sheet) == [[line]]
    late = "! the best epoch was the last allowed one, at a constant learning rate: train longer"
    assert sheet.notes[-1] == late
    assert sheet.head[3:5] == ("chosen by", "budget")
    calm = score("toy", (Row(row.model_row, runs[:1]),), "ours")
    assert len(runs_sheet(calm).notes) == 1


@pytest.mark.parametrize(
    ("loss", "decay", "cell"),
    [("CE", "none", "1 ! of 1"), ("CE", "linear", "1 of 1"), ("none", "none", "1 of 1")],
)
def test_one_epoch_is_too_short_for_what_is_trained(
    make_run: MakeRun, loss: str, decay: str, cell: str
) -> None:
    """Not where the learning rate has fallen to zero by then."""
    config = {"keys": {"lr_decay": decay, "metrics": ["NDCG"], "topk": [10]}}
    run = make_run([1, 2, 3, 4], loss=loss, config=config, best_epoch=0, epochs=1, max_epochs=1)
    row = Row(ModelRow("ours", "SASRec"), (run,))
    assert texts(runs_sheet(score("toy", (row,), "ours")))[0][0][5] == cell


def test_rows_go_by_data_set_and_name(make_run: MakeRun) -> None:
    """A data set without a run has no scores; seeds of one name are one row."""
    plan = BenchmarkPlan(source="b.yaml", datasets=["toy", "none"], reference="a")
    results = []
    for name, seed in (("a", 1), ("b", 1), ("a", 2)):
        cell = PlannedRun(ModelRow(name, "SASRec"), "toy", seed, config=None)  # type: ignore[arg-type]
        results.append((cell, make_run([1, 2, 3, 4], seed=seed)))
    (found,) = collect(plan, results)
    assert found.dataset == "toy" and found.reference is found.rows[0]
    assert [(row.name, len(row.runs)) for row in found.rows] == [("a", 2), ("b", 1)]


def test_rows_of_other_users(make_row: MakeRow) -> None:
    other = make_row("other", [1, 2, 3, 4])
    path = Path(other.runs[0].folder) / "test_ranks.npz"
    np.savez(path, users=np.arange(2, 6), raw=[1, 2, 3, 4], unseen=[1, 2, 3, 4])
    with pytest.raises(InputError, match="other and ours were tested on different users"):
        score("toy", (make_row("ours", [1, 2, 3, 4]), other), "ours")


# Files -------------------------------------------------------------------------------------------


def test_markdown(scores: Scores) -> None:
    lines = to_markdown(metrics_sheet(scores)).splitlines()
    assert lines[0] == "## toy: test, whole catalog ranked, mean ± deviation over seeds"
    assert lines[2] == "| model | HR@1 | HR@5 | HR@10 | NDCG@5 | NDCG@10 |"
    assert lines[3] == "|---|---:|---:|---:|---:|---:|"
    assert lines[4] == "| *all items* |  |  |  |  |  |"
    assert lines[5].startswith("| ours | **.3750 ± .1768** | **.7500 ± .0000** |")
    assert lines[6].startswith("| theirs | <u>.2500</u> | <u>.5000</u> |")
    assert lines[7].startswith("| worst &#124; of_all | .0000 |")
    assert lines[-1].startswith("- &ast; p &lt; 0.05 in both paired tests")
    assert {line.count("|") for line in lines if line.startswith("|")} == {7}
    assert "+50.0 %, " in to_markdown(comparisons_sheet(scores))


def test_latex(scores: Scores) -> None:
    lines = to_latex(metrics_sheet(scores)).splitlines()
    assert lines[1:5] == [
        r"\begin{tabular}{lrrrrr}",
        r"\toprule",
        r"model & HR@1 & HR@5 & HR@10 & NDCG@5 & NDCG@10 \\",
        r"\midrule",
    ]
    assert lines[5] == r"\multicolumn{6}{l}{\emph{all items}} \\"
    assert lines[6].startswith(r"ours & \textbf{.3750 $\pm$ .1768} & ")
    assert lines[7].startswith(r"theirs & \underline{.2500} & ")
    assert lines[8].startswith(r"worst | of\_all & .0000 & ")
    assert lines[9].startswith(r"ours vs. best other & +50.0 \% & ")
    assert lines[-3:-1] == [r"\bottomrule", r"\end{tabular}"]


def test_the_screen(scores: Scores) -> None:
    """Names are no markup, and everything fits into 110 columns."""
    row = dataclasses.replace(scores.rows[2], model_row=ModelRow("[bold]x[/bold]", "SASRec"))
    odd = score("toy", (*scores.rows[:2], row), "ours")
    stream = io.StringIO()
    console = Console(file=stream, width=110)
    for sheet in all_sheets(odd):
        for table in to_rich(sheet, console):
            console.print(table, crop=False)
    shown = stream.getvalue()
    assert "[bold]x[/bold]" in shown
    assert "…" not in shown
    assert shown.count("seen excluded") == 4


def test_csv_is_every_number_of_the_runs(scores: Scores) -> None:
    """Against a plain loop over the runs."""
    expected = {}
    for row in scores.rows:
        for split in ("valid", "test"):
            for name in row.runs[0].test:
                values = [getattr(run, split)[name] for run in row.runs]
                ranking = "seen excluded" if name.startswith("unseen_") else "all items"
                key = (row.name, split, ranking, name.removeprefix("unseen_"))
                for run, value in zip(row.runs, values, strict=True):
                    expected[(*key, str(run.seed))] = (value, None)
                deviation = np.std(values, ddof=1) if len(values) > 1 else None
                expected[(*key, "mean")] = (np.mean(values), deviation)
    lines = [dict(zip(CSV_HEAD, line, strict=True)) for line in csv_lines(scores)]
    found = {}
    for line in lines:
        key = tuple(line[name] for name in ("model", "split", "ranking", "metric", "seed"))
        assert key not in found
        deviation = float(line["deviation"]) if line["deviation"] else None
        found[key] = (float(line["value"]), deviation)
    assert {line["dataset"] for line in lines} == {"toy"}
    for key, (value, deviation) in expected.items():
        assert found[key][0] == pytest.approx(value, abs=1e-15)
        assert found[key][1] == (None if deviation is None else pytest.approx(deviation))
    rest = {key[3] for key in found.keys() - expected.keys()}
    assert rest == {
        "coverage@10",
        *(
            f"{metric} {group}"
            for metric in ("hit@10", "ndcg@10")
            for group in (
                *(f"target: {name}" for name in ("never", "1-5", "6-20", "over 20")),
                *(f"history: {name}" for name in ("1-5", "6-10", "11-20", "over 20")),
            )
        ),
    }
    assert found["theirs", "test", "all items", "ndcg@10 target: 6-20", "1"] == (0.5, None)


def test_the_three_files(scores: Scores, tmp_path: Path) -> None:
    sheets = all_sheets(scores)
    write_files(tmp_path / "out", [scores, scores], [sheets, sheets], ["x on toy, seed 1: why"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["table.csv", "table.md", "table.tex"]
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert text.count("## toy: runs") == 2
    assert text.endswith("## Failed\n\n- x on toy, seed 1: why\n")
    latex = (tmp_path / "out" / "table.tex").read_text(encoding="utf-8")
    assert latex.count(r"\begin{tabular}") == 2
    with open(tmp_path / "out" / "table.csv", encoding="utf-8", newline="") as handle:
        lines = list(csv.reader(handle))
    assert tuple(lines[0]) == CSV_HEAD
    assert len(lines) == 1 + 2 * len(list(csv_lines(scores)))
    write_files(tmp_path / "out", [], [], [])
    assert (tmp_path / "out" / "table.md").read_text(encoding="utf-8") == ""
