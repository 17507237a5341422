"""A pipeline runs what changed and nothing else, and goes on after any kill."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import files_below
from toy_pipeline import planned, quiet, ran, write_pipeline
from waiting import until

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import exclusive
from recbole_qbert.experiments.pipeline import runner
from recbole_qbert.experiments.pipeline.runner import dry_run, judge, run
from recbole_qbert.experiments.pipeline.state import State

FORK = multiprocessing.get_context("fork")  # a fresh interpreter would import torch each time


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def verdicts(path: Path, **flags: str) -> dict[str, str]:
    """What a dry run says of each step."""
    console = quiet()
    dry_run(planned(path, **flags), console)
    said = [line for line in console.export_text().splitlines() if line[:4] in ("run ", "skip")]
    return {line[6:].partition(": ")[0]: line[:4].strip() + ": " + line.partition(": ")[2]
            for line in said}  # fmt: skip


def test_a_second_run_does_nothing_and_says_so(here: Path) -> None:
    path = write_pipeline(here)
    assert run(planned(path), quiet()) == 3
    assert Path("c.txt").read_text() == "raw+a+b+c"
    times = {each: os.stat(each).st_mtime_ns for each in ("a.txt", "b.txt", "c.txt")}
    console = quiet()
    assert run(planned(path), console) == 0
    assert "nothing to do" in console.export_text()
    assert ran(here) == "abc"
    assert times == {each: os.stat(each).st_mtime_ns for each in times}


def test_only_what_depends_on_a_change_runs_again(here: Path) -> None:
    path = write_pipeline(here)
    run(planned(path), quiet())
    assert run(planned(path, b="+B"), quiet()) == 2
    assert ran(here) == "abc" + "bc"
    assert Path("c.txt").read_text() == "raw+a+B+c"
    Path("raw.txt").write_text("new")
    assert run(planned(path, b="+B"), quiet()) == 3
    assert Path("c.txt").read_text() == "new+a+B+c"


def test_the_same_bytes_again_stop_there(here: Path) -> None:
    """b writes the same whatever it reads, so c has nothing to do."""
    path = write_pipeline(here, b={"settings": {"fixed": True}})
    run(planned(path), quiet())
    assert run(planned(path, a="+A"), quiet()) == 2
    assert ran(here) == "abc" + "ab"


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_output_is_made_again(here: Path, damage: str) -> None:
    path = write_pipeline(here)
    run(planned(path), quiet())
    if damage == "gone":
        Path("b.txt").unlink()
    else:
        Path("b.txt").write_text("raw+a+X")  # of the same length
    assert run(planned(path), quiet()) == 1
    assert ran(here) == "abc" + "b"
    assert Path("c.txt").read_text() == "raw+a+b+c"


def test_killed_at_each_step_it_goes_on_from_there(here: Path) -> None:
    path = write_pipeline(here)
    expected = ""
    for name, again in (("a", "a"), ("b", "ab"), ("c", "bc")):  # what was killed, then the next
        Path(f"kill-{name}").touch()
        process = FORK.Process(target=lambda: run(planned(path), quiet()))
        process.start()
        process.join(60)
        assert process.exitcode == -9
        expected += again
        _wait_for_the_lock(here)
        assert ran(here) == expected
        if name == "a":
            assert verdicts(path)["a"] == "run: was stopped here, goes on"
    assert run(planned(path), quiet()) == 1
    assert ran(here) == expected + "c"
    assert Path("c.txt").read_text() == "raw+a+b+c"
    assert run(planned(path), quiet()) == 0


def _wait_for_the_lock(folder: Path) -> None:
    """Until the step that the killed pipeline left has ended too."""

    def free() -> bool:
        with contextlib.suppress(InputError), exclusive(folder / "state" / "here.json.lock", 0):
            return True
        return False

    until(free)


def _held_at(folder: Path, path: Path, steps: str) -> Any:
    """A pipeline in a process of its own, whose last one of these steps waits to be let go."""
    Path(f"wait-{steps[-1]}").touch()
    process = FORK.Process(target=lambda: run(planned(path), quiet()))
    process.start()
    until(lambda: ran(folder) == steps)
    return process


def test_a_step_that_outlives_its_pipeline_keeps_others_off(here: Path) -> None:
    path = write_pipeline(here)
    process = _held_at(here, path, "ab")
    process.kill()
    process.join(60)
    with pytest.raises(InputError, match=r"here\.json\.lock: another process .*\(process \d+\)"):
        run(planned(path), quiet())
    Path("wait-b").unlink()
    _wait_for_the_lock(here)
    run(planned(path), quiet())
    assert Path("c.txt").read_text() == "raw+a+b+c"


def test_sigterm_ends_the_step_too(here: Path) -> None:
    path = write_pipeline(here)
    process = _held_at(here, path, "a")
    process.terminate()
    process.join(60)
    assert process.exitcode not in (None, 0)
    Path("wait-a").unlink()
    assert run(planned(path), quiet()) == 3  # nobody holds the lock


def test_a_failed_step_stops_the_pipeline(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_pipeline(here)
    Path("fail-b").touch()
    assert main(["pipeline", str(path)]) == 2
    errors = capsys.readouterr().err
    assert errors == ("recbole-qbert: step 'b' failed (status 3); mend it and repeat the command\n")
    Path("fail-b").unlink()
    assert main(["pipeline", str(path)]) == 0
    assert ran(here) == "ab" + "bc"


def test_a_step_must_leave_what_it_promises(here: Path) -> None:
    path = write_pipeline(here)
    Path("lazy-a").touch()
    with pytest.raises(InputError, match=r"step 'a' ended without writing a\.txt"):
        run(planned(path), quiet())
    Path("lazy-a").unlink()
    assert run(planned(path), quiet()) == 3


def test_a_missing_input_is_found_before_anything_runs(here: Path) -> None:
    path = write_pipeline(here, c={"inputs": ["b.txt", "absent.txt"]})
    before = files_below(here)
    with pytest.raises(InputError, match=r"step 'c': missing: absent\.txt"):
        run(planned(path), quiet())
    assert files_below(here) == before
    assert verdicts(path)["c"] == "run: cannot run yet, missing: absent.txt"


def test_a_dry_run_says_why_and_writes_nothing(here: Path) -> None:
    path = write_pipeline(here)
    before = files_below(here)
    assert set(verdicts(path).values()) == {"run: has not run yet"}
    assert files_below(here) == before
    run(planned(path), quiet())
    done = "skip: done; settings, inputs and outputs are unchanged"
    assert verdicts(path) == {"a": done, "b": done, "c": done}
    assert verdicts(path, b="+B") == {
        "a": done,
        "b": "run: settings changed: --add=+B, was --add=+b",
        "c": "run: if b changes what it reads",
    }
    Path("raw.txt").write_text("other")
    assert verdicts(path)["a"] == "run: its input raw.txt changed"
    Path("raw.txt").write_text("raw")
    Path("c.txt").unlink()
    assert verdicts(path) == {"a": done, "b": done, "c": "run: its output c.txt is gone"}
    record = json.loads(Path("state/here.json").read_text())
    record["steps"]["a"]["done"]["version"] = "0.0.9"
    record["steps"]["a"]["done"]["key"] = "?"
    record["steps"]["a"]["begun"] = "?"
    Path("state/here.json").write_text(json.dumps(record))
    assert verdicts(path)["a"] == "run: was made by version 0.0.9"


def test_a_changed_script_is_a_changed_input(here: Path) -> None:
    path = write_pipeline(here)
    run(planned(path), quiet())
    with open("step.py", "a") as script:
        script.write("# mended\n")
    assert run(planned(path), quiet()) == 3


def test_a_foreign_state_file_is_refused(here: Path) -> None:
    path = write_pipeline(here)
    Path("state").mkdir()
    Path("state/here.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="no state file of this version"):
        run(planned(path), quiet())


def test_a_run_resumes_only_what_was_begun_with_the_same_inputs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of other data under the same settings must not be gone on from."""
    Path("x.yaml").write_text(
        "steps:\n- {name: train, command: run, inputs: [data.txt], "
        "settings: {model: SASRec, dataset: toy, use_gpu: False}}\n"
    )
    Path("data.txt").write_text("1")
    Path("dataset/toy").mkdir(parents=True)
    Path("dataset/toy/toy.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n")
    called: list[list[str]] = []

    def fail(line: list[str], lock: object) -> int:
        called.append(line)
        return 1

    monkeypatch.setattr(runner, "_call", fail)
    for text, resumes in (("1", False), ("1", True), ("2", False), ("2", True)):
        Path("data.txt").write_text(text)
        with pytest.raises(InputError, match="step 'train' failed"):
            run(planned(Path("x.yaml")), quiet())
        assert ("--resume=True" in called[-1]) is resumes
    state = State(Path("saved/pipeline/x.json"))
    assert judge(planned(Path("x.yaml")).steps[0], state).why == "was stopped here, goes on"


def test_folders_and_patterns_count_by_their_content(here: Path) -> None:
    path = write_pipeline(here, a={"inputs": ["raw.txt", "pictures", "raw/**/*_x.*"]})
    Path("pictures/deep").mkdir(parents=True)
    Path("pictures/deep/1.jpg").write_bytes(b"1")
    Path("raw/2018").mkdir(parents=True)
    Path("raw/2018/meta_x.json").write_text("{}")
    run(planned(path), quiet())
    os.utime("pictures/deep/1.jpg")  # touched, not changed
    assert run(planned(path), quiet()) == 0
    Path("pictures/deep/2.jpg").write_bytes(b"2")
    assert verdicts(path)["a"] == "run: its input pictures changed"
    Path("pictures/deep/2.jpg").unlink()
    Path("raw/ratings_x.csv").write_text("")
    assert verdicts(path)["a"] == "run: new input raw/ratings_x.csv"
