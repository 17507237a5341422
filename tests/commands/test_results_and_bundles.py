"""Which bundle a command takes from a results file, and what it says of wrong files."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from conftest import Tiny

from recbole_qbert.cli import main
from recbole_qbert.commands.recommend import find_bundle
from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.evaluation.results import RunResult, append_result, read_results
from recbole_qbert.experiments.run import run_models
from recbole_qbert.serving.recommender import Recommender


@pytest.fixture
def run(tiny: Tiny) -> RunResult:
    """A run of SASRec whose folders are named relative to the working directory, as by default."""
    settings = tiny.settings("SASRec", epochs=1, checkpoint_dir="saved")
    (result,) = run_models(["SASRec"], "toy", settings=settings)
    return result


def test_the_bundle_is_that_beside_the_results_file(
    run: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one of the same name below the working directory."""
    shutil.copytree("saved", "other/saved")
    monkeypatch.chdir("other")
    for name in ("../saved/results.jsonl", "../saved/results.jsonl:SASRec"):
        assert find_bundle(name).resolve() == Path("..", run.bundle).resolve()
    assert Recommender.load(Path("..", run.folder)).tokens  # a run's folder will do


def test_one_data_set_of_several(run: RunResult) -> None:
    file = Path("saved/results.jsonl")
    append_result(file, dataclasses.replace(run, dataset="top", folder="x/top/SASRec-12345678"))
    with pytest.raises(
        InputError, match=r"several data sets of SASRec: @\w+ \(toy\), @12345678 \("
    ):
        find_bundle(f"{file}:SASRec")
    for which in ("", "@last"):
        assert find_bundle(f"{file}:SASRec{which}", "toy") == Path(run.bundle)
    with pytest.raises(InputError, match="no run of SASRec on shop; it has runs on top, toy"):
        find_bundle(f"{file}:SASRec", "shop")


def test_the_command_says_what_it_used_and_whom_it_left_out(
    tiny: Tiny, run: RunResult, capsys: pytest.CaptureFixture[str]
) -> None:
    """Users who have seen both candidates get no list; the others one or two items."""
    Path("few.txt").write_text("i3\ni4\n", encoding="utf-8")
    words = ["--history_file=toy/toy.inter", "--candidates=few.txt", "--k=2", "--output=o.tsv"]
    capsys.readouterr()
    assert main(["recommend", "saved/results.jsonl", *words]) == 0
    left = [2 - len({"i3", "i4"} & set(items)) for items in tiny.sequences.values()]
    said = capsys.readouterr().out
    assert f"SASRec trained on toy, {run.bundle}\n" in said
    assert (
        f"o.tsv: {len(left) - left.count(0)} users; {left.count(0)} users without an item to "
        f"recommend; {left.count(1)} lists shorter than 2\n"
    ) in said
    assert len(Path("o.tsv").read_text().splitlines()) == 1 + sum(left)


@pytest.mark.parametrize("content", [b"who,what\nu1,i1\n", b"\x8a\x00\xff"])
def test_another_file_is_no_results_file(
    tiny: Tiny, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("events.csv").write_bytes(content)
    assert main(["recommend", "events.csv", "--history=i1"]) == 2
    said = capsys.readouterr().err
    assert said == "recbole-qbert: events.csv: not a results file; give results.jsonl\n"


def test_a_list_of_candidates_is_no_text(run: RunResult) -> None:
    recommender = Recommender.load(run.bundle)
    for name in ("candidates", "exclude"):
        with pytest.raises(InputError, match=f"^{name}: 'i2' is not a list of item tokens"):
            recommender.recommend([["i1"]], **{name: "i2"})


@pytest.mark.parametrize("model", ["ContentKNN", "SASRecContent", "MISSRec", "VIP5"])
def test_missing_item_vectors_are_found_before_any_training(
    tiny: Tiny, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset=toy", "--data_path=.", "--checkpoint_dir=saved"]
    assert main(["run", f"--model=SASRec,{model}", *flags]) == 2
    assert f"item_vectors: {model} needs at least one table" in capsys.readouterr().err
    assert not Path("saved").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "", "a/"])
def test_the_name_of_a_data_set_is_that_of_one_folder(name: str) -> None:
    with pytest.raises(InputError, match="not a name of a data set"):
        DatasetPaths(name, Path("dataset") / name)


def test_names_of_models_with_blanks(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """`A, B` on the command line and in a file; a YAML list is told how to write it."""
    flags = ["--dataset=toy", "--data_path=.", "--checkpoint_dir=saved"]
    flags += ["--epochs=1", "--use_gpu=False", "--show_progress=False"]
    assert main(["run", "--model=BigramChain, Popularity", *flags]) == 0
    Path("mine.yaml").write_text("model: Popularity, BigramChain\n")
    assert main(["run", "--config_files=mine.yaml", *flags]) == 0
    names = [run.model for run in read_results("saved/results.jsonl")]
    assert names == ["BigramChain", "Popularity", "Popularity", "BigramChain"]
    Path("mine.yaml").write_text("model: [Popularity, BigramChain]\n")
    capsys.readouterr()
    assert main(["run", "--config_files=mine.yaml", *flags]) == 2
    said = "mine.yaml: model: not a list; write the names as `model: Popularity, BigramChain`"
    assert capsys.readouterr().err == f"recbole-qbert: {said}\n"
