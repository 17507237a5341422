"""Numbers as text, and the peak memory of one run among several in a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from recbole_qbert.common.process import peak_memory_mb, reset_peak_memory
from recbole_qbert.evaluation.results import metric_title, short


@pytest.mark.parametrize(
    ("value", "text"), [(0.08244, ".0824"), (0.0, ".0000"), (1.0, "1.0000"), (-0.0375, "-.0375")]
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


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
