"""The paired test of two models over the same users."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny
from scipy.stats import ttest_rel, wilcoxon
from toy_results import add_run

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.hashes import sha256_file
from recbole_qbert.evaluation.comparable import differences
from recbole_qbert.evaluation.results import RunResult, append_result, read_results
from recbole_qbert.evaluation.significance import (
    SignificanceResult,
    compare,
    holm,
    paired_tests,
    read_runs,
    split_name,
)


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
    digest = sha256_file(Path(folder) / "test_ranks.npz")
    return dataclasses.replace(run, folder=folder, ranks_sha256=digest)


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
    others = [dataclasses.replace(run, model="SASRec") for run in right]
    assert str(compare(left, others, "NDCG@10")).startswith(
        "BigramChain against SASRec on toy, NDCG@10: 0.5625 against 0.3750 (+50.0 %), p = 0.39 "
    )
    keys = {"learning_rate": 0.5, "epochs": 7, "topk": [10], "eval_step": 2}
    deeper = [dataclasses.replace(run, config=_settings(run, **keys).config) for run in right]
    head, *settings = str(compare(left, deeper, "unseen_hr@10")).splitlines()
    assert f"BigramChain @{left[-1].hash} against BigramChain @{deeper[-1].hash} on toy" in head
    assert len(settings) == 2
    for key in keys:
        assert all(f"{key}=" in line for line in settings)


def test_rows_of_one_user_count_once(runs: list[RunResult]) -> None:
    """A temporal split has several test rows a user: users 0 to 3 have 3, 1, 2 and 1."""
    found = []
    for run, name, raw in (
        (runs[0], "a", [1, 1, 3, 1, 20, 3, 20]),
        (runs[0], "b", [20, 20, 20, 1, 20, 20, 20]),
    ):
        Path(name).mkdir()
        ranks, users = np.array(raw), np.array([0, 0, 0, 1, 2, 2, 3])
        order = np.array([4, 0, 6, 2, 3, 5, 1])
        file = Path(name) / "test_ranks.npz"
        np.savez(file, users=users[order], raw=ranks[order], unseen=ranks[order])
        found.append(dataclasses.replace(run, folder=name, ranks_sha256=sha256_file(file)))
    result = compare(found[:1], found[1:], "ndcg@10")
    # Means of the users: (1 + 1 + .5) / 3, 1, (0 + .5) / 2 and 0, against 0, 1, 0 and 0.
    ours, theirs = np.array([2.5 / 3, 1, 0.25, 0]), np.array([0, 1, 0, 0])
    assert (result.n_users, result.left) == (4, pytest.approx(ours.mean()))
    assert result.p_value == pytest.approx(ttest_rel(ours, theirs).pvalue)
    assert "over 4 users" in str(result)


def test_wilcoxon_by_hand() -> None:
    """Five differences, all of one sign: 2 of the 32 patterns of signs are as extreme."""
    ours, theirs = np.array([0.1, 0.3, 0.5, 0.7, 0.9]), np.array([0.0, 0.1, 0.2, 0.3, 0.4])
    assert paired_tests("ndcg@10", ours, theirs, (1, 1)).p_ranks == pytest.approx(2 / 32)
    nothing = paired_tests("ndcg@10", ours, ours, (1, 1))
    assert (nothing.p_value, nothing.p_ranks, nothing.change) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("n_seeds", [3, 5, 7])
def test_wilcoxon_of_means_over_seeds(n_seeds: int) -> None:
    """Equal differences have equal ranks, as those of the sums over seeds, which are exact."""
    draw = np.random.default_rng(n_seeds)
    ours, theirs = draw.integers(0, n_seeds + 1, (2, 500))
    found = paired_tests("hit@10", ours / n_seeds, theirs / n_seeds, (n_seeds, n_seeds))
    assert found.p_ranks == pytest.approx(wilcoxon(ours, theirs).pvalue)
    rounded = [np.round(each / n_seeds, 12) for each in (ours, theirs)]
    assert paired_tests("hit@10", *rounded, (1, 1)).p_ranks == found.p_ranks


def test_one_user_decides_nothing() -> None:
    found = paired_tests("hit@1", np.array([1.0]), np.array([0.5]), (1, 1))
    assert (found.p_value, found.p_ranks, found.change) == (1.0, 1.0, 100.0)


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
    said = capsys.readouterr().out
    side = f"BigramChain @{runs[-1].hash}"
    assert said.startswith(f"{side} against {side} on toy, HR@5: ") and "(+0.0 %)" in said
    assert compare(runs, runs, "hit@5").left == pytest.approx(runs[0].test["hit@5"])


def test_what_cannot_be_compared(runs: list[RunResult]) -> None:
    left = [_with_ranks(runs[0], "a", [1, 2])]
    with pytest.raises(InputError, match="ndcg@10"):
        compare(left, left, "auc@10")
    with pytest.raises(InputError, match="were tested on different users"):
        compare(left, [_with_ranks(runs[0], "b", [1, 2, 3])], "ndcg@10")
    with pytest.raises(InputError, match="no such file"):
        compare(left, [dataclasses.replace(runs[0], folder="gone")], "ndcg@10")
    with pytest.raises(InputError, match="one data set"):
        compare(left, [dataclasses.replace(runs[0], dataset="other")], "ndcg@10")
    with pytest.raises(InputError, match="no run of SASRec"):
        read_runs("saved/results.jsonl:SASRec")


def _settings(run: RunResult, **keys: object) -> RunResult:
    """The same run with other settings, in a folder of its own."""
    digits = f"{len(keys)}{abs(hash(str(keys))) % 10**7:07d}"
    folder = f"{run.folder.rpartition('-')[0]}-{digits}"
    config = run.config | {"keys": run.config["keys"] | keys}
    bundle = f"{folder}/bundle"
    return dataclasses.replace(run, config=config, folder=folder, bundle=bundle)


def test_one_of_several_settings_is_chosen(runs: list[RunResult]) -> None:
    """By `last`, by the digits of a folder, or by the folder: all seeds of those settings."""
    path = Path("saved/results.jsonl")
    others = [_settings(run, learning_rate=0.5) for run in runs]
    for run in others:
        append_result(path, run)
    name = f"{path}:BigramChain"
    with pytest.raises(InputError) as caught:
        read_runs(name)
    said = str(caught.value)
    assert f"@{runs[-1].hash} (learning_rate=0.001)" in said
    assert f"@{others[-1].hash} (learning_rate=0.5)" in said and "\n" not in said
    assert read_runs(f"{name}@last") == others
    for run in runs:
        assert read_runs(f"{name}@{run.hash}") == read_runs(run.folder) == runs
    Path(others[0].folder).mkdir(parents=True)
    assert read_runs(others[0].folder) == others
    with pytest.raises(InputError, match=f"nothing: no such run; .*{runs[0].hash}"):
        read_runs(f"{name}@nothing")


@pytest.mark.parametrize("folder", ["a", "a:b"])
def test_a_title_may_hold_a_colon(tmp_path: Path, folder: str) -> None:
    run = add_run(tmp_path / folder, [1, 1, 3, 20], "QBERT4Rec", pretrained_on=["A"])
    add_run(tmp_path / folder, [1, 1, 3, 20], "QBERT4Rec", seed=2)
    file, title = f"{tmp_path}/{folder}/results.jsonl", "QBERT4Rec (pretrained: A)"
    assert split_name(f"{file}:{title}") == (file, title)
    assert read_runs(f"{file}:{title}") == [run]


def test_a_name_without_a_results_file(tmp_path: Path) -> None:
    missing = f"{tmp_path}/gone.jsonl"
    for title in ("SASRec", "QBERT4Rec (pretrained: A)"):
        assert split_name(f"{missing}:{title}") == (missing, title)
    assert split_name("SASRec") == ("SASRec", "")
    with pytest.raises(InputError, match=r"^.*/gone\.jsonl: no such results file"):
        read_runs(f"{missing}:SASRec")
    with pytest.raises(InputError, match=r"^'SASRec': use results\.jsonl:MODEL"):
        read_runs("SASRec")


def test_the_same_run_twice_counts_once(runs: list[RunResult]) -> None:
    path = Path("saved/results.jsonl")
    path.write_text(path.read_text() * 2)
    assert read_runs(f"{path}:BigramChain") == runs
    assert main(["compare", str(path)]) == 0


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("users", "other users"),
        ("targets", "other targets"),
        ("items", "other items"),
        ("numbering", "in another order"),
    ],
)
def test_a_test_refuses_what_was_tested_on_something_else(
    runs: list[RunResult], part: str, said: str
) -> None:
    changed = dataclasses.replace(runs[1], tested_on=runs[1].tested_on | {part: "0"})
    with pytest.raises(InputError, match=said):
        compare(runs[:1], [changed], "ndcg@10")
    with pytest.raises(InputError, match=said):
        compare([runs[0], changed], runs[:1], "ndcg@10")


def test_old_runs_without_hashes_are_told_apart_by_their_counts(runs: list[RunResult]) -> None:
    old = [dataclasses.replace(run, tested_on={}) for run in runs]
    assert compare(old[:1], runs[1:], "ndcg@10").change == 0
    fewer = dataclasses.replace(old[1], counts=old[1].counts | {"items": 18})
    with pytest.raises(InputError, match=r"other items .*30 items; .* 18 items"):
        compare(old[:1], [fewer], "ndcg@10")


def test_the_order_of_rows_moves_the_numbering_alone(tiny: Tiny, runs: list[RunResult]) -> None:
    """The same data in another order: no mark in a table, and no pairing of the wrong users."""
    tiny.write_inter(sorted(tiny.rows, reverse=True))
    assert main(["run", "--model=BigramChain", "--dataset=toy", "--data_path=.", "--seed=3",
                 "--show_progress=False"]) == 0  # fmt: skip
    again = read_results("saved/results.jsonl")[-1]
    assert differences(runs[0], again) == []
    with pytest.raises(InputError, match="the .inter file lists the users in another order"):
        compare(runs[:1], [again], "ndcg@10")
    tiny.write_inter(
        [(user, "i0" if item == "i1" else item, time) for user, item, time in tiny.rows]
    )
    assert main(["run", "--model=BigramChain", "--dataset=toy", "--data_path=.", "--seed=4",
                 "--show_progress=False"]) == 0  # fmt: skip
    assert "items" in differences(runs[0], read_results("saved/results.jsonl")[-1])


def test_a_change_from_zero_is_a_dash() -> None:
    result = SignificanceResult("ndcg@10", 0.1, 0.0, 0.5, 0.5, 7, (1, 1), ("A", "B"), "toy")
    assert "0.1000 against 0.0000 (–), p = 0.5" in str(result)
