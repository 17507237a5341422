"""Lines of a results file, their groups and numbers as text, and the peak memory of a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tiny
from toy_results import add_run

from recbole_qbert.cli import main
from recbole_qbert.common.process import peak_memory_mb, reset_peak_memory
from recbole_qbert.evaluation.ranking import metric_key
from recbole_qbert.evaluation.results import (
    choose,
    differing_settings,
    group_runs,
    metric_title,
    read_results,
    short,
    without_zero,
)
from recbole_qbert.experiments.run import run_models


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.08244, ".0824"),
        (0.1234, ".1234"),
        (0.0, ".0000"),
        (1.0, "1.0000"),
        (-0.0375, "-.0375"),
        (-0.5, "-.5000"),
        (10.0123, "10.0123"),
        (20.53, "20.5300"),
        (float("nan"), "nan"),
    ],
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("text", "without"),
    [("+0.5", "+.5"), ("-0.05", "-.05"), ("0.012", ".012"), ("10.03", "10.03"), ("0", "0")],
)
def test_without_zero(text: str, without: str) -> None:
    assert without_zero(text) == without


def test_an_empty_file_has_no_runs(tmp_path: Path) -> None:
    """As a full disk leaves it."""
    path = tmp_path / "results.jsonl"
    path.touch()
    assert read_results(path) == []


def test_line_ends_inside_a_setting(tmp_path: Path) -> None:
    """JSON leaves them as they are; Python's `splitlines` would end a line at each."""
    keys = {"note": "a\u2028b\u2029c\x85d"}
    runs = [add_run(tmp_path, [1, 1, 3, 20], seed=seed, keys=keys) for seed in (1, 2)]
    assert "\u2028" in (tmp_path / "results.jsonl").read_text(encoding="utf-8")
    assert read_results(tmp_path / "results.jsonl") == runs


def test_metric_titles() -> None:
    names = ("hit@10", "ndcg@5", "unseen_NDCG@10", "mrr@1", "recall@3")
    titles = ["HR@10", "NDCG@5", "unseen_NDCG@10", "MRR@1", "Recall@3"]
    assert [metric_title(name) for name in names] == titles


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("HR@10", "hit@10"),
        ("unseen_HR@5", "unseen_hit@5"),
        ("NDCG@1", "ndcg@1"),
        ("myHR@10", "myhr@10"),  # a metric of the user's own
        ("unseen_myhr@10", "unseen_myhr@10"),
        ("myunseen_hr@10", "myunseen_hr@10"),
    ],
)
def test_metric_keys(given: str, stored: str) -> None:
    assert metric_key(given) == stored


def test_runs_with_a_first_stage_are_grouped_over_seeds(
    tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each one starts from the model of its own folder, which is no setting of the user."""
    settings = tiny.settings("S3Rec", epochs=1, pretrain_epochs=1, checkpoint_dir="saved")
    runs = [run_models(["S3Rec"], "toy", settings=settings | {"seed": seed})[0] for seed in (1, 2)]
    assert len({run.config["keys"]["pre_model_path"] for run in runs}) == 2
    assert [len(group) for group in group_runs(read_results("saved/results.jsonl"))] == [2]
    capsys.readouterr()
    assert main(["compare", "saved/results.jsonl", "--format=markdown"]) == 0
    out = capsys.readouterr().out
    assert "| 1, 2 |" in out and "pre_model_path" not in out


def test_models_to_start_from_tell_runs_apart(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a", "b")]
    runs = [
        add_run(tmp_path, [1, 1, 3, 20], keys={"pre_model_path": path, "pretrain_epochs": 0},
                folder=str(tmp_path / "toy" / f"x-{place}"))
        for place, path in enumerate(paths)
    ]  # fmt: skip
    assert [len(group) for group in group_runs(runs)] == [1, 1]
    assert differing_settings(runs) == ["pre_model_path=a", "pre_model_path=b"]


def test_a_run_is_found_where_another_has_its_settings_and_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one whose `auto` became the number that the other one was given."""
    auto, other, given = (
        add_run(tmp_path / name, ranks, seed=seed, keys={"epochs": 5},
                folder=str(tmp_path / "toy" / f"SASRec-seed{seed}-{name * 8}"))
        for name, ranks, seed in (("a", [1] * 4, 1), ("b", [2] * 4, 2), ("c", [5] * 4, 1))
    )  # fmt: skip
    every = [auto, other, given]
    assert choose(every, "a" * 8) == [auto, other]
    assert choose(every, auto.folder) == [auto, other]
    assert choose(every, "c" * 8) == choose(every, "last") == [given, other]
    lines = "".join((tmp_path / name / "results.jsonl").read_text() for name in "abc")
    (tmp_path / "results.jsonl").write_text(lines)
    (tmp_path / "toy").mkdir()
    for name, run in zip("abc", every, strict=True):  # their ranks beside the one file
        (tmp_path / name / "toy" / f"SASRec-seed{run.seed}-epochs5").rename(run.folder)
    sides = [f"{tmp_path}/results.jsonl:SASRec@{name * 8}" for name in "ac"]
    assert main(["compare", *sides, "--metric=hit@1"]) == 0
    # Ranks 1 and 2 against 5 and 2: HR@1 of (1 + 0) / 2 against 0.
    assert "0.5000 against 0.0000" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can forget a peak")
def test_a_run_does_not_inherit_the_peak_of_the_one_before() -> None:
    reset_peak_memory()
    before = peak_memory_mb()
    block = bytearray(200 << 20)
    high = peak_memory_mb()
    assert high > before + 150
    del block
    reset_peak_memory()
    assert peak_memory_mb() < high - 150


CHILD = """
import resource
from recbole_qbert.common.process import peak_memory_mb
print(peak_memory_mb(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_process_does_not_inherit_the_peak_of_the_one_that_started_it() -> None:
    block = bytearray(1 << 30)
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True)
    own, with_parent = map(float, done.stdout.split())
    assert with_parent > len(block) / 1024**2  # what the system says of a new process
    assert own < with_parent - 100
