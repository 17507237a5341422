"""The paired test of two models over the same users."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny

from recbole_qbert.cli import main
from recbole_qbert.errors import InputError
from recbole_qbert.evaluation.paired import compare, holm, paired_tests, read_runs
from recbole_qbert.evaluation.results import RunResult


@pytest.fixture
def runs(tiny: Tiny) -> list[RunResult]:
    """Two seeds of a model without training, whose ranks the tests replace."""
    for seed in (1, 2):
        assert main(["run", "--model=BigramChain", "--dataset=toy", "--data_path=.",
                     f"--seed={seed}", "--show_progress=False"]) == 0  # fmt: skip
    return read_runs("saved/results.jsonl:BigramChain")


def _with_ranks(run: RunResult, folder: str, raw: list[int]) -> RunResult:
    Path(folder).mkdir()
    ranks = np.array(raw)
    users = np.arange(len(raw))[::-1]  # the order of a file means nothing
    np.savez(Path(folder) / "test_ranks.npz", users=users, raw=ranks[::-1], unseen=ranks[::-1])
    return dataclasses.replace(run, folder=folder)


def test_by_hand(runs: list[RunResult]) -> None:
    left = [_with_ranks(runs[0], "a", [1, 1, 3, 20]), _with_ranks(runs[1], "b", [1, 3, 3, 20])]
    right = [_with_ranks(runs[0], "c", [1, 20, 3, 20])]
    found = compare(left, right, "ndcg@10")
    # Ranks 1, 3 and 20 have an NDCG@10 of 1, 1 / log2(4) = .5 and 0.
    assert found.left == pytest.approx((1 + 0.75 + 0.5 + 0) / 4)
    assert found.right == pytest.approx((1 + 0 + 0.5 + 0) / 4)
    # Differences 0, .75, 0, 0: mean .1875, deviation .375, t = .1875 / (.375 / 2) = 1 with 3
    # degrees of freedom, whose two-sided p is .391.
    assert found.p_value == pytest.approx(0.391, abs=5e-4)
    assert (found.n_users, found.n_seeds) == (4, (2, 1))
    assert "+50.0 %" in str(found)


def test_wilcoxon_by_hand() -> None:
    """Five differences, all of one sign: 2 of the 32 patterns of signs are as extreme."""
    ours, theirs = np.array([0.1, 0.3, 0.5, 0.7, 0.9]), np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    assert paired_tests("ndcg@10", ours, theirs, (1, 1)).p_ranks == pytest.approx(2 / 32)
    nothing = paired_tests("ndcg@10", ours, ours, (1, 1))
    assert (nothing.p_value, nothing.p_ranks, nothing.change) == (1.0, 1.0, 0.0)


def test_holm_by_hand() -> None:
    """.01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .5 x 1 = .5, each at least the one before."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_real_runs_equal_themselves(
    runs: list[RunResult], capsys: pytest.CaptureFixture[str]
) -> None:
    """A model without seeds is as good as itself: nothing to test, and no fault."""
    name = "saved/results.jsonl:BigramChain"
    assert main(["compare", name, name, "--metric=hit@5"]) == 0
    assert "(+0.0 %)" in capsys.readouterr().out
    assert compare(runs, runs, "hit@5").left == pytest.approx(runs[0].test["hit@5"])


def test_what_cannot_be_compared(runs: list[RunResult]) -> None:
    left = [_with_ranks(runs[0], "a", [1, 2])]
    with pytest.raises(InputError, match="ndcg@10"):
        compare(left, left, "auc@10")
    with pytest.raises(InputError, match="other users"):
        compare(left, [_with_ranks(runs[0], "b", [1, 2, 3])], "ndcg@10")
    with pytest.raises(InputError, match="no such file"):
        compare(left, [dataclasses.replace(runs[0], folder="gone")], "ndcg@10")
    with pytest.raises(InputError, match="one data set"):
        compare(left, [dataclasses.replace(runs[0], dataset="other")], "ndcg@10")
    with pytest.raises(InputError, match="no run of SASRec"):
        read_runs("saved/results.jsonl:SASRec")
    Path("twice.jsonl").write_text(Path("saved/results.jsonl").read_text() * 2)
    with pytest.raises(InputError, match="several runs"):
        read_runs("twice.jsonl:BigramChain")
