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
from processes import COMMAND, LIBRARIES, PACKAGE, Server
from test_files import room

from recbole_qbert.cli import main
from recbole_qbert.common import output, progress
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import report_disk_full, system_faults, write_npz
from recbole_qbert.common.output import (
    counted,
    duration,
    ended_by_closed_pipe,
    plain_output,
    time_left,
)
from recbole_qbert.common.progress import Progress

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
RUN = ["run", "--dataset=toy", "--data_path=.", "--use_gpu=False", "--epochs=2", "--n_heads=2"]
RUN += ["--hidden_size=16", "--train_batch_size=16"]

# Ends of ranges, shares and means.
PLURAL_ALWAYS = {
    "{self.length.epochs_of(trial)} epochs",
    "{length.epochs_of(best)} epochs",
    "{row['shared']:.0%} of items",
    "{row['mean_group']:.1f} items",
    "{found.n_nearest} nearest items",
}


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


@pytest.mark.parametrize(
    ("columns", "width"), [("", 100), ("0", 100), ("wide", 100), ("57", 57), ("140", 140)]
)
def test_tables_in_a_pipe_are_as_wide_as_columns_says(columns: str, width: int) -> None:
    code = """if True:
        from recbole_qbert.common.output import new_console
        print(new_console().width, end="")
    """
    assert PACKAGE.run(code, env={**os.environ, "COLUMNS": columns}).stdout == str(width)


def test_every_command_that_prints_tables_keeps_the_width(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No number is cut, which an ellipsis would show, and no line of a table is longer.

    Other lines, such as those with paths, are never wrapped.
    """
    where = ["--dataset=toy", "--data_path=."]
    commands = (
        ["run", "--model=BigramChain", *where],
        ["compare", "saved/results.jsonl"],
        ["prepare", "stats", *where],
        ["ids", "inspect", *where, "--title_field=title", "--category_field=class"],
    )
    for width in (100, 60):
        monkeypatch.setenv("COLUMNS", str(width))
        for arguments in commands:
            assert main(arguments) == 0
            lines = capsys.readouterr().out.splitlines()
            tables = [line for line in lines if line[:1] in ("│", "┃", "┏", "└", "├", "┡")]
            assert tables or arguments[0] == "ids"
            assert not any("…" in line for line in lines), arguments
            assert all(len(line) <= width for line in tables), arguments


def test_counts_with_their_nouns() -> None:
    assert [counted(n, "item") for n in (0, 1, 2, 1234)] == [
        "0 items", "1 item", "2 items", "1,234 items"
    ]  # fmt: skip
    assert counted(1, "category", "categories") == "1 category"
    assert counted(2, "item has", "items have") == "2 items have"


def test_no_message_has_one_of_several() -> None:
    """Numbers stand with their nouns through `counted`, unless they are always more than one."""
    pattern = re.compile(
        r"(?<!of )(?<!all )\{(?!counted)[^{}]*\}(?: [a-z]+)? "
        r"(items|users|rows|lines|trials|seeds|epochs)\b"
    )
    package = Path(output.__file__).parents[1]
    found = {
        match.group(0)
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if 'f"' in line
        for match in pattern.finditer(line)
    }
    assert found <= PLURAL_ALWAYS, found - PLURAL_ALWAYS


def test_durations() -> None:
    assert [duration(each) for each in (0.2, 35.0, 99.0, 119.0, 185.0, 3590.0, 3900.0)] == [
        "0 s", "35 s", "99 s", "2 min", "3 min", "1 h 00 min", "1 h 05 min"
    ]  # fmt: skip
    assert [time_left(each) for each in (0.0, 0.1, 1.0, 7200.0)] == [
        "", ", at most 1 s left", ", at most 1 s left", ", at most 2 h 00 min left"
    ]  # fmt: skip


# Closed pipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "arguments", "status"),
    [(LIBRARIES, ["run", "--help"], 1), (PACKAGE, ["compare", "absent.jsonl"], 2)],
)
def test_a_closed_pipe_ends_quietly(
    tmp_path: Path, server: Server, arguments: list[str], status: int
) -> None:
    """Of both outputs: the second command has something to say on stderr alone."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(tmp_path / "errors", "wb") as file:
        streams = {"stdout": writer, "stderr": file.fileno()}
        process = server.start(COMMAND, *arguments, **streams, program="recbole-qbert")
    os.close(writer)
    assert process.wait() == status
    errors = (tmp_path / "errors").read_text()
    assert "Traceback" not in errors and "BrokenPipe" not in errors


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
    of_torch = type("OutOfMemoryError", (RuntimeError,), {})
    for fault in (MemoryError("x"), of_torch("x"), RuntimeError("DefaultCPUAllocator: can't x")):
        with pytest.raises(InputError, match="^memory ran out .*x.*; use smaller"), system_faults():
            raise fault
    with pytest.raises(RuntimeError, match="^shapes"), system_faults():
        raise RuntimeError("shapes")
    with pytest.raises(ConnectionResetError), system_faults():
        raise ConnectionResetError(errno.ECONNRESET, "no file")
