"""Files in parts: the same rows in every format, after a kill too, and never half a file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import files_below

from recbole_qbert.common.errors import InputError
from recbole_qbert.serving.part_files import FORMATS, check_output, write_in_parts

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = pa.schema([("user", pa.string()), ("rank", pa.int32()), ("score", pa.float32())])


def part(number: int) -> pa.Table:
    """Three rows, with characters that formats quote."""
    users = [f"u{number}", f'"{number}" of', f"\u00e9 {number} \\ 'x'"]
    scores = pa.array([0.1 * number, -1e-4, 12345.678], pa.float32())
    return pa.table([pa.array(users), pa.array([1, 2, 3], pa.int32()), scores], schema=SCHEMA)


def makers(n: int, made: list[int] | None = None) -> list[Callable[[], pa.Table]]:
    """Functions that make parts, and note which they made."""

    def maker(number: int) -> Callable[[], pa.Table]:
        def make() -> pa.Table:
            if made is not None:
                made.append(number)
            return part(number)

        return make

    return [maker(number) for number in range(n)]


def read(path: Path) -> pd.DataFrame:
    """The rows of a file of any format."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pandas()
    if path.suffix == ".jsonl":
        lines = path.read_text("utf-8").splitlines()
        frame = pd.DataFrame([json.loads(line) for line in lines])
    else:
        frame = pd.read_csv(path, sep="\t", dtype={"user": str})
    return frame.astype({"rank": "int32", "score": "float32"})


@pytest.mark.parametrize("format", FORMATS)
def test_all_formats_have_the_same_rows(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"out.{format}"
    assert write_in_parts(path, format, SCHEMA, makers(4), {"a": 1}) == 0
    expected = pa.concat_tables([part(number) for number in range(4)]).to_pandas()
    pd.testing.assert_frame_equal(read(path), expected)
    assert files_below(tmp_path) == [path.name]
    if format == "parquet":
        assert pq.ParquetFile(path).num_row_groups == 4
    write_in_parts(path, format, SCHEMA, [], {"a": 1})
    assert len(pq.read_table(path) if format == "parquet" else path.read_text()) in (0, 16)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_parts_of_a_killed_process_are_kept(tmp_path: Path, format: str) -> None:
    """Killed while the third part is made, and again while the parts are joined."""
    program = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
import recbole_qbert.serving.part_files as files
from test_part_files import SCHEMA, makers
steps = makers(5)
if sys.argv[1] == "making":
    steps[2] = lambda: os.kill(os.getpid(), signal.SIGKILL)
else:
    class Killing:
        write = files.FORMATS[{format!r}].write
        def join(handle, parts, schema):
            handle.write(b"half")
            handle.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    files.FORMATS[{format!r}] = Killing
files.write_in_parts(Path("out.{format}"), {format!r}, SCHEMA, steps, {{"plan": [1, "x"]}})
"""
    for moment in ("making", "joining"):
        ended = subprocess.run([sys.executable, "-c", program, moment], cwd=tmp_path)
        assert ended.returncode == -signal.SIGKILL
        assert not (tmp_path / f"out.{format}").exists()
        if moment == "making":
            made: list[int] = []
    path = tmp_path / f"out.{format}"
    assert write_in_parts(path, format, SCHEMA, makers(5, made), {"plan": [1, "x"]}) == 5
    assert made == []
    whole = tmp_path / f"whole.{format}"
    write_in_parts(whole, format, SCHEMA, makers(5), {"plan": [1, "x"]})
    assert path.read_bytes() == whole.read_bytes()
    assert not (tmp_path / f"out.{format}.parts").exists()


def test_parts_of_another_plan_are_made_again(tmp_path: Path) -> None:
    path, made = tmp_path / "out.tsv", []
    steps = makers(3, made)

    def fail() -> pa.Table:
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write_in_parts(path, "tsv", SCHEMA, [*steps[:2], fail], {"k": 1})
    assert made == [0, 1] and not path.exists()
    with pytest.raises(InputError, match="no more"):
        write_in_parts(path, "tsv", SCHEMA, [*steps[:2], fail], {"k": 2})
    assert made == [0, 1, 0, 1]
    assert write_in_parts(path, "tsv", SCHEMA, steps, {"k": 2}) == 2
    assert made == [0, 1, 0, 1, 2]
    (tmp_path / "out.tsv.parts").mkdir()
    (tmp_path / "out.tsv.parts" / "plan.json").write_text("half")
    (tmp_path / "out.tsv.parts" / "part-000000.tsv").write_text("of another")
    write_in_parts(path, "tsv", SCHEMA, steps, {"k": 2})
    assert "of another" not in path.read_text()


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    there = tmp_path / "there.tsv"
    there.write_text("x")
    assert check_output(there, None, overwrite=True) == "tsv"
    assert check_output(tmp_path / "x", "jsonl", overwrite=False) == "jsonl"
    for path, format, said in (
        (there, None, "exists; add --overwrite, or choose another name$"),
        (tmp_path, "tsv", "exists; add --overwrite"),
        (tmp_path / "x.csv", None, "x.csv: format: 'csv' is none of tsv, jsonl, parquet"),
        (tmp_path / "x", None, "x: format: '' is none of tsv, jsonl, parquet"),
        (there / "x.tsv", None, "is not writable"),
    ):
        with pytest.raises(InputError, match=said):
            check_output(path, format, overwrite=False)
    assert files_below(tmp_path) == ["there.tsv"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_part_without_rows(tmp_path: Path, format: str) -> None:
    """As where no user of a part has an item left."""
    path, empty = tmp_path / f"out.{format}", SCHEMA.empty_table()
    full = makers(1)[0]()
    write_in_parts(path, format, SCHEMA, [lambda: empty, lambda: full, lambda: empty], {"a": 1})
    alone = tmp_path / f"alone.{format}"
    write_in_parts(alone, format, SCHEMA, [lambda: full], {"a": 1})
    if format == "parquet":
        assert pq.read_table(path).equals(pq.read_table(alone))
    else:
        assert path.read_bytes() == alone.read_bytes()
