"""Published counts are as printed, and are shown beside ours only where they mean the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run_script

from recbole_qbert.datasets.amazon import amazon_categories, published
from recbole_qbert.datasets.interactions import Counts
from recbole_qbert.datasets.prepare import Published, comparison

# Table 1's other columns: sparsity and mean length.
PRINTED = {
    "Pet": ("99.97", "8.55"), "Cell": ("99.98", "7.05"), "Automotive": ("99.98", "8.01"),
    "Tools": ("99.98", "8.00"), "Toys": ("99.98", "8.53"), "Sports": ("99.99", "7.84"),
    "Instruments": ("99.87", "7.96"), "Arts": ("99.92", "7.85"), "Games": ("99.94", "8.84"),
}  # fmt: skip
# RecBole's list prints the sparsity of all ratings.
RECBOLE = {
    "Pet": "99.9984", "Cell": "99.9995", "Automotive": "99.9995", "Tools": "99.9994",
    "Toys": "99.9995", "Sports": "99.9997", "Instruments": "99.9982", "Games": "99.9968",
}  # fmt: skip


def sparsity(counts: Counts) -> float:
    """Share of user-item pairs without an interaction, in percent."""
    return 100 * (1 - counts.interactions / counts.users / counts.items)


@pytest.mark.parametrize("name", PRINTED)
def test_counts_give_the_printed_sparsity_and_length(name: str) -> None:
    counts = amazon_categories()[name].counts
    paper = counts["paper"]
    # The paper cuts or rounds its decimals.
    assert abs(sparsity(paper) - float(PRINTED[name][0])) < 0.01
    assert abs(paper.interactions / paper.users - float(PRINTED[name][1])) < 0.011
    if name in RECBOLE:
        assert abs(sparsity(counts["recbole"]) - float(RECBOLE[name])) < 0.0001
    else:
        assert set(counts) == {"paper"}


def test_counts_are_compared_only_with_the_same_release_and_core() -> None:
    assert set(published("Games", 2018, 5)) == {"final"}
    assert set(published("Games", 2014, 5)) == {"raw"}
    assert published("Arts", 2014, 5) == published("Games", 2018, 3) == {}
    assert published("Games", 2023, 5) == published(None, 2018, 5) == {}


def test_a_difference_is_said() -> None:
    table = Published(Counts(200, 10, 1000), "the table")
    assert comparison(Counts(200, 10, 1000), table) == "The counts equal those of the table."
    assert comparison(Counts(198, 10, 1100), table) == (
        "The counts differ from the table: users -2 (-1.0%), interactions +100 (+10.0%)."
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--release=2018", "--category=Gmaes"], "did you mean 'Games'"),
        (["--release=2018", "--category=Games"], "has none of Video_Games.csv, Video_Games.json"),
        (["--release=2018"], "give --category, or --dataset and --reviews"),
    ],
)
def test_faults_are_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = run_script("amazon.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("recbole-qbert: ")
    assert message in done.stderr
    assert not list(tmp_path.iterdir())
