"""Tables of results: every number whole, every row comparable or marked, whatever the settings."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from toy_results import add_run

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.evaluation.printing import chosen_groups, print_tables, seeds_markdown
from recbole_qbert.evaluation.results import RunResult, group_runs, read_results

GOOD, BAD = [1, 1, 2, 3], [4, 5, 5, 2]
SAME = {"users": "u", "targets": "t", "items": "i", "numbering": "n"}


def printed(results: list[RunResult], width: int) -> str:
    stream = io.StringIO()
    print_tables(results, Console(file=stream, width=width))
    return stream.getvalue()


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
    assert main(["compare", str(tmp_path / "results.jsonl")]) == 0
    lines = capsys.readouterr().out.splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    row = dict(zip(head, [cell.strip() for cell in lines[-1].strip("|").split("|")], strict=True))
    assert (row["HR@10"], row["NDCG@10"], row["HR@1"]) == (".5000", "–", "–")
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
    assert "other test targets, items than the first row" in " ".join(shown.split())
    lines = seeds_markdown(group_runs(results)).splitlines()
    assert sum("| FDSA † |" in line for line in lines) == 4
    assert not any("SASRec †" in line or "GRU4Rec †" in line for line in lines)
    assert lines[-1].startswith("† FDSA: other test targets, items")


def test_settings_of_one_model_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        add_run(tmp_path, GOOD, seed=seed, keys={"hidden_size": 32, "n_layers": 2})
    add_run(tmp_path, GOOD, model="GRU4Rec")
    add_run(tmp_path, BAD, keys={"hidden_size": 64, "n_layers": 2})
    path = tmp_path / "results.jsonl"
    lines = seeds_markdown(chosen_groups(read_results(path))).splitlines()
    assert lines[0].startswith("| data | model | settings | repeats |")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    settings = list(dict.fromkeys((cell[1], cell[2]) for cell in cells))
    results = read_results(path)
    assert settings == [
        ("SASRec", f"hidden_size=32 @{results[1].hash}"),
        ("GRU4Rec", ""),
        ("SASRec", f"hidden_size=64 @{results[3].hash}"),
    ]
    assert main(["compare", str(path), "--runs=last"]) == 0
    out = capsys.readouterr().out
    assert "settings" not in out and out.count("| SASRec |") == 4
    assert out.count("| .0000 |") and "hidden_size" not in out


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
