"""Numbers as text, and the peak memory of one run among several in a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from toy_results import add_run

from recbole_qbert.common.process import peak_memory_mb, reset_peak_memory
from recbole_qbert.evaluation.results import metric_title, read_results, short, without_zero


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
