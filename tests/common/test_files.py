"""Files and folders that appear whole or not at all, on a disk with room and on one without."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Tiny, files_below
from processes import COMMAND, PACKAGE

from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import (
    append_line,
    atomic_folder,
    atomic_write,
    exclusive_folder,
    read_line,
    recovered,
)
from recbole_qbert.common.hashes import check_folder, sha256_folder

FULL = r"(?s)^[^\n]*: (File too large|No space left on device); free space there and [^\n]*$"


@contextlib.contextmanager
def room(n_bytes: int) -> Iterator[None]:
    """As on a disk of so many bytes: the system writes what has room, and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write(folder: Path, text: str) -> None:
    with atomic_folder(folder) as work:
        (work / "a").write_text(text, encoding="utf-8")


def test_a_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "x"
    write(folder, "1")
    (folder / "left over").touch()
    write(folder, "2")
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert (folder / "a").read_text(encoding="utf-8") == "2"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failure_leaves_the_older_one_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write(folder, "1")
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as work:
        (work / "a").write_text("2", encoding="utf-8")
        raise KeyboardInterrupt
    assert (folder / "a").read_text(encoding="utf-8") == "1"
    assert list(tmp_path.iterdir()) == [folder]


def read(folder: Path) -> str:
    return (recovered(folder) / "a").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["x", "[x]*"])
@pytest.mark.parametrize("killed_at", range(2))
def test_a_kill_at_either_rename_leaves_one_of_both(
    tmp_path: Path, killed_at: int, name: str
) -> None:
    """Nothing runs after a kill: what is on the disk then is what the next one finds."""
    folder = tmp_path / name
    write(folder, "1")
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom recbole_qbert.common import files\n"
        "replace, calls = os.replace, []\n"
        "def killed(*given):\n"
        "    calls.append(given)\n"
        "    os._exit(9) if len(calls) > int(sys.argv[2]) else replace(*given)\n"
        "os.replace = killed\n"
        "with files.atomic_folder(sys.argv[1]) as work:\n"
        "    (work / 'a').write_text('2')\n"
    )
    assert PACKAGE.start(script, str(folder), str(killed_at)).wait() == 9
    assert folder.exists() is (killed_at == 0)
    assert read(folder) == "1"
    write(folder, "3")
    assert read(folder) == "3"
    assert not list(tmp_path.glob(".*.old"))


def test_a_failed_rename_puts_the_older_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x"
    write(folder, "1")
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target) == folder and not str(source).endswith(".old"):
            raise PermissionError(errno.EPERM, "no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(PermissionError):
        write(folder, "2")
    assert read(folder) == "1"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("n_reads", [1, 2])
def test_a_reader_between_the_renames_does_not_stop_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_reads: int
) -> None:
    """It takes the writer for killed, and moves the older folder back."""
    folder, replace = tmp_path / "x", os.replace
    write(folder, "1")
    found: list[str] = []

    def interrupted(source: Path, target: Path) -> None:
        replace(source, target)
        if source == folder and len(found) < n_reads:
            found.append(read(folder))

    monkeypatch.setattr(os, "replace", interrupted)
    write(folder, "2")
    assert found == ["1"] * n_reads
    assert read(folder) == "2"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_locked_folder_that_stays_empty_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    with exclusive_folder(folder):
        assert files_below(tmp_path) == ["x", "x/lock"]
    assert files_below(tmp_path) == []
    with exclusive_folder(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c" / "lock").is_file()
    assert files_below(tmp_path) == []
    with pytest.raises(KeyboardInterrupt), exclusive_folder(folder):
        raise KeyboardInterrupt
    assert files_below(tmp_path) == []


def test_a_locked_folder_with_files_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), exclusive_folder(tmp_path / "x"):
        (tmp_path / "x" / "a").touch()
        raise KeyboardInterrupt
    assert files_below(tmp_path) == ["x", "x/a", "x/lock"]
    with exclusive_folder(tmp_path / "x"):  # the lock is free again
        pass
    assert files_below(tmp_path) == ["x", "x/a", "x/lock"]


def test_a_locked_folder_is_refused_to_another_process(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from recbole_qbert.common.files import exclusive_folder\n"
        "with exclusive_folder(Path(sys.argv[1])):\n    pass\n"
    )
    with exclusive_folder(tmp_path / "x"):
        done = PACKAGE.run(script, str(tmp_path / "x"))
        assert files_below(tmp_path) == ["x", "x/lock"]
    said = f"x/lock: another process uses this folder (process {os.getpid()}); wait"
    assert done.returncode == 1 and said in done.stderr
    assert PACKAGE.run(script, str(tmp_path / "x")).returncode == 0


@pytest.mark.parametrize(("umask", "modes"), [(0o022, (0o755, 0o644)), (0o027, (0o750, 0o640))])
def test_folders_and_files_get_the_modes_of_the_umask(
    tmp_path: Path, umask: int, modes: tuple[int, int]
) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "x", "1")
        with atomic_write(tmp_path / "b") as handle:
            handle.write("1")
        (tmp_path / "plain").mkdir()
    finally:
        os.umask(before)
    found = [(tmp_path / name).stat().st_mode & 0o777 for name in ("x", "x/a", "b", "plain")]
    assert found == [modes[0], modes[1], modes[1], modes[0]]


def test_changed_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    write(folder, "1")
    digests = sha256_folder(folder)
    # SHA-256 of "1".
    assert digests == {"a": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"}
    check_folder(folder, digests)
    (folder / "a").write_text("2", encoding="utf-8")
    with pytest.raises(InputError, match="x/a: missing or changed"):
        check_folder(folder, digests)
    (folder / "a").unlink()
    with pytest.raises(InputError, match="x/a: missing or changed"):
        check_folder(folder, digests)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    lines, file, folder = tmp_path / "a.jsonl", tmp_path / "b", tmp_path / "c"
    append_line(lines, {"text": "x" * 80})
    file.write_text("old")
    write(folder, "old")
    before = lines.read_bytes()
    with room(120):
        with pytest.raises(InputError, match=FULL):
            append_line(lines, {"text": "y" * 80})
        with pytest.raises(InputError, match=FULL), atomic_write(file) as handle:
            handle.write("y" * 1000)
        with pytest.raises(InputError, match=FULL):
            write(folder, "y" * 1000)
    assert lines.read_bytes() == before
    assert (file.read_text(), (folder / "a").read_text()) == ("old", "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b", "c"]
    append_line(lines, {"text": "z"})
    assert [json.loads(line)["text"][0] for line in lines.read_text().splitlines()] == ["x", "z"]


@pytest.mark.parametrize("command", ["run", "benchmark"])
def test_a_run_on_a_full_disk_is_one_line(tiny: Tiny, command: str) -> None:
    """A checkpoint has no room; what was there before stays."""
    flags = ["--data_path=.", "--epochs=1", "--use_gpu=False", "--hidden_size=64", "--n_heads=2"]
    arguments = ["run", "--model=SASRec", "--dataset=toy"]
    if command == "benchmark":
        plan = {"models": ["SASRec"], "datasets": ["toy"], "seeds": [1], "reference": "SASRec"}
        Path("plan.json").write_text(json.dumps(plan | {"controls": False, "max_concurrent": 2}))
        arguments = ["benchmark", "plan.json"]
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
    words = [*arguments, *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = PACKAGE.run(limit + COMMAND, *words, env=environment, program="recbole-qbert")
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "SASRec" in last and "File too large; free space there" in last
    assert not list(Path("saved").rglob("*.safetensors")) and not list(Path().rglob("*.part"))


def test_a_line_behind_half_a_line_stands_on_its_own(tmp_path: Path) -> None:
    """Whatever a kill left of the line before."""
    path = tmp_path / "results.jsonl"
    append_line(path, {"run": 1})
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole + whole[:end])
        append_line(path, {"run": 2})
        *before, last = path.read_bytes().splitlines()
        assert before[0] == whole.strip() and read_line(last) == {"run": 2}
        assert len(before) == 1 + (end > 0)


def test_any_changed_byte_of_a_line_is_found(tmp_path: Path) -> None:
    """Or the content is as it was: in white space, and in the name of the SHA-256 itself."""
    path = tmp_path / "results.jsonl"
    content = {"model": "Ä", "test": {"hit@1": 0.1607}, "seed": 1, "none": None}
    append_line(path, content)
    line = path.read_bytes().rstrip(b"\n")
    assert read_line(line) == content
    for place in range(len(line)):
        for turned in range(1, 256):
            damaged = line[:place] + bytes([line[place] ^ turned]) + line[place + 1 :]
            try:
                found = read_line(damaged)
            except ValueError:
                continue
            assert {key: found[key] for key in content} == content


def test_a_line_by_other_hands_is_read(tmp_path: Path) -> None:
    assert read_line('{"run": 1}') == {"run": 1}
    with pytest.raises(ValueError, match="not a JSON object"):
        read_line("[1]")
