"""What a command prints: plain text in files, nothing after a pipe was closed, UTF-8 everywhere."""

from __future__ import annotations

import errno
import gc
import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tiny
from test_files import room

from recbole_qbert.cli import main
from recbole_qbert.common import progress
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import report_disk_full, system_faults, write_npz
from recbole_qbert.common.output import ended_by_closed_pipe, plain_output
from recbole_qbert.common.progress import Progress

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
RUN = ["run", "--dataset=toy", "--data_path=.", "--use_gpu=False", "--epochs=2", "--n_heads=2"]
RUN += ["--hidden_size=16", "--train_batch_size=16"]


class Terminal(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


def command(*arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings.pop("env", {})}
    line = [sys.executable, "-W", "ignore", "-m", "recbole_qbert", *arguments]
    return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, **settings)


# Plain text ---------------------------------------------------------------------------------------


def test_a_run_with_progress_prints_plain_text(
    tiny: Tiny, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With RecBole's own messages, and bars that have something to say at each step."""
    monkeypatch.setattr(progress, "SECONDS_A_LINE", 0.0)
    capfd.readouterr()
    assert main([*RUN, "--model=SASRec", "--show_progress=True"]) == 0
    captured = capfd.readouterr()
    assert not CONTROLS.search(captured.out + captured.err)
    assert re.search(r"^Train +1: \d+/\d+ step, \d\d:\d\d$", captured.err, re.MULTILINE)
    assert "\n\n" not in captured.err


def test_short_work_is_not_spoken_of(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(total=3, desc="x") as bar:
        for _ in range(3):
            bar.set_postfix(loss=1)
            bar.update()
    assert capfd.readouterr().err == ""


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(Progress(range(3), desc="x", mininterval=0)) == [0, 1, 2]
    assert "\r" in terminal.getvalue() and "100%" in terminal.getvalue()


def test_colors_stay_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with plain_output():
        for stream in (sys.stdout, sys.stderr):
            print("\x1b[1;35mTrain\x1b[0m \x1b[2Kend", file=stream)
    assert terminal.getvalue().startswith("\x1b[1;35m")
    assert capsys.readouterr().out == "Train end\n"


# Closed pipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["run", "--help"], ["compare", "absent.jsonl"]])
def test_a_closed_pipe_ends_quietly(tmp_path: Path, arguments: list[str]) -> None:
    """Of both outputs: the second command has something to say on stderr alone."""
    reader, writer = os.pipe()
    os.close(reader)
    process = command(*arguments, stdout=writer, cwd=tmp_path)
    os.close(writer)
    errors = process.communicate(timeout=200)[1].decode()
    assert "Traceback" not in errors and "BrokenPipe" not in errors
    assert process.returncode == (1 if arguments[0] == "run" else 2)


def test_large_output_into_a_closed_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than the buffers hold fails at once, what is less at the end."""
    for n_bytes in (10, 1_000_000):
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w", encoding="utf-8") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            with pytest.raises(SystemExit) as ended, ended_by_closed_pipe():
                print("x" * n_bytes)
            assert ended.value.code == 1


def test_a_broken_pipe_of_another_kind_is_told() -> None:
    with pytest.raises(BrokenPipeError), ended_by_closed_pipe():
        raise BrokenPipeError(errno.EPIPE, "of a child")


# UTF-8 --------------------------------------------------------------------------------------------


def test_utf8_in_an_ascii_locale(tiny: Tiny) -> None:
    """Titles are read and printed; flags come as they were given."""
    item = tiny.folder / "toy.item"
    item.write_text(item.read_text().replace("Thing 1", "Trommel für 打楽器 €"), encoding="utf-8")
    arguments = ["ids", "inspect", "--dataset=toy", "--data_path=.", "--title_field=title"]
    process = command(*arguments, env=ASCII, stdout=subprocess.PIPE, cwd=tiny.root)
    output, errors = process.communicate(timeout=200)
    assert (process.returncode, errors) == (0, b"")
    assert "für 打楽器 €" in output.decode("utf-8")
    process = command("run", "für", env=ASCII, cwd=tiny.root)
    errors = process.communicate(timeout=200)[1]
    assert (process.returncode, errors.decode("utf-8").count("'für'")) == (2, 1)


# What the system refuses --------------------------------------------------------------------------


def test_an_archive_on_a_full_disk_says_one_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    arrays = {"a": np.arange(300.0), "b": np.arange(50_000)}
    np.savez(tmp_path / "numpy.npz", **arrays)
    n_bytes = (tmp_path / "numpy.npz").stat().st_size
    for size in (1, 100, 2500, 9000, n_bytes - 9000, n_bytes - 100, n_bytes - 1):
        with room(size), pytest.raises(InputError, match=r"x\.npz: File too large; free space"):
            write_npz(tmp_path / "x.npz", **arrays)
        gc.collect()
    assert said == []
    assert [path.name for path in tmp_path.iterdir()] == ["numpy.npz"]
    write_npz(tmp_path / "x.npz", **arrays)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "numpy.npz").read_bytes()


def test_numpys_own_words_for_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"^here: .*; free space"),
        report_disk_full("here"),
        room(1000),
    ):
        np.save(tmp_path / "x.npy", np.arange(50_000))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_only_be_read_is_named(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: int
) -> None:
    make = os.mkdir

    def refuse(path: Any, *given: Any, **named: Any) -> None:
        if "locked" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        make(path, *given, **named)

    monkeypatch.setattr(os, "mkdir", refuse)
    if sys.version_info < (3, 11):  # pathlib has a reference of its own there
        monkeypatch.setattr("pathlib._NormalAccessor.mkdir", staticmethod(refuse))
    assert main([*RUN, "--model=SASRec", "--checkpoint_dir=locked"]) == 2
    errors = capfd.readouterr().err
    assert re.search(rf"^recbole-qbert: checkpoint_dir: locked.*\({os.strerror(code)}\)", errors)
    assert errors.count("\n") == 1


def test_faults_of_the_system_name_their_place(tmp_path: Path) -> None:
    for fault, says in (
        (OSError(errno.ENOSPC, "full", "a/b"), "^a/b: No space left on device; free space"),
        (OSError(errno.ENOSPC, "full"), "^the current folder, checkpoint_dir or .*: No space left"),
        (OSError(errno.ELOOP, "Too many symbolic links", b"a/b"), "^a/b: Too many symbolic links"),
    ):
        with pytest.raises(InputError, match=says), system_faults():
            raise fault
    with pytest.raises(ConnectionResetError), system_faults():
        raise ConnectionResetError(errno.ECONNRESET, "no file")
