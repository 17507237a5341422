"""Any table to atomic files: four formats with the same content give the same bytes."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from datetime import date, timedelta
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import SCRIPTS, run_script
from recbole_alone import load_alone

from recbole_qbert.cli import main
from recbole_qbert.common.errors import InputError
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.atomic_writing import write_header, write_rows
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.prepare import Prepared
from recbole_qbert.datasets.table import Columns, ItemColumns, prepare_table
from recbole_qbert.datasets.table_source import open_source
from recbole_qbert.datasets.text import MISSING, clean_column

EVENTS = [(7, 30, "2024-01-03", 2.5), (7, 10, "2024-01-01", 1.0), (8, 10, "2024-01-02", 4.0)]
SECONDS = {"2024-01-01": 1704067200, "2024-01-02": 1704153600, "2024-01-03": 1704240000}
INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "7\t10\t1\t1704067200\n7\t30\t2.5\t1704240000\n8\t10\t4\t1704153600\n"
)
NAMES = ["who", "what", "when", "stars"]


def write_events(folder: Path, kind: str) -> Path:
    """The events as a table of a format."""
    path = folder / f"events.{kind}"
    frame = pd.DataFrame(EVENTS, columns=NAMES)
    if kind == "parquet":
        frame["when"] = pd.to_datetime(frame["when"])
        pq.write_table(pa.Table.from_pandas(frame), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    elif kind == "csv.gz":
        path.write_bytes(gzip.compress(frame.to_csv(index=False).encode()))
    else:
        frame.to_csv(path, sep="\t" if kind == "tsv" else ",", index=False)
    return path


def prepared(folder: Path, path: Path, *columns: str, **options: object) -> tuple[str, Prepared]:
    """The `.inter` file's text, and what was made."""
    domain = DatasetPaths("t", folder / "out" / "t")
    made = prepare_table(
        domain, open_source(path), Columns(*columns), overwrite=True, **options  # type: ignore[arg-type]
    )  # fmt: skip
    return domain.file("inter").read_text(), made


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet", "jsonl"])
def test_every_format_gives_the_same_file(tmp_path: Path, kind: str) -> None:
    path = write_events(tmp_path, kind)
    assert prepared(tmp_path, path, "who", "what", "when", "date", "stars")[0] == INTER


def test_the_order_of_rows_is_the_order_in_time(tmp_path: Path) -> None:
    text, _ = prepared(tmp_path, write_events(tmp_path, "csv"), "who", "what")
    # Row 1 is the header, so the rows are 2, 3 and 4.
    assert text == "user_id:token\titem_id:token\ttimestamp:float\n7\t30\t2\n7\t10\t3\n8\t10\t4\n"


def test_units_and_rows_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.write_bytes(
        b'u;i;t\nu1;i1;1500\nu1;i2\n\n ;i2;1\nu1;i\xff;1\nu1;i3;soon\n"u 2";"i;4";2000\n'
    )
    domain = DatasetPaths("t", tmp_path / "t")
    source = open_source(path, format="csv", delimiter=";")
    made = prepare_table(domain, source, Columns("u", "i", "t", "ms"))
    assert domain.file("inter").read_text().splitlines()[1:] == ["u 2\ti;4\t2", "u1\ti1\t1.5"]
    assert sorted(made.rejected) == [
        "events.txt:3\t2 fields instead of 3\t'u1;i2'\n",
        "events.txt:5\tuser ID is blank\t' '\n",
        "events.txt:6\tcolumn 'i' is not valid UTF-8 (--encoding)\n",
        "events.txt:7\ttime is not a finite number\t'soon'\n",
    ]


def test_items(tmp_path: Path) -> None:
    events = write_events(tmp_path, "csv")
    rows = [
        {"id": 10, "Name": 'A "big"\n<b>thing</b>', "tags": ["red one", "blue"], "price": 1.5},
        {"id": 30, "Name": None, "tags": [], "price": "x"},
        {"id": 99, "Name": "nobody has it", "tags": [], "price": 2},
        {"id": 10, "Name": "less", "tags": [], "price": None},
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "[]\n")
    domain = DatasetPaths("t", tmp_path / "t")
    fields = (("Name", "token_seq"), ("tags", "token_seq"), ("price", "float"))
    made = prepare_table(
        domain, open_source(events), Columns("who", "what"),
        (open_source(path), ItemColumns("id", fields)),
    )  # fmt: skip
    assert domain.file("item").read_text() == (
        "item_id:token\tName:token_seq\ttags:token_seq\tprice:float\n"
        '10\tA "big" thing\tred_one blue\t1.5\n30\t\t\t\n'
    )
    assert made.coverage == {"metadata": 2, "Name": 1, "tags": 1, "price": 1}
    assert made.repeated == 1 and made.reasons == {"not a JSON object": 1}


def test_script_from_files_to_what_recbole_loads(tmp_path: Path) -> None:
    events, items = write_events(tmp_path, "tsv"), tmp_path / "items.csv"
    items.write_text('what,full name,brand\n10,"Ten, or\nso",NA\n30,"",B\n')
    arguments = [
        "--dataset=shop", f"--data_path={tmp_path}", f"--inter_file={events}", "--user=who",
        "--item=what", "--time=when", "--time_unit=date", "--rating=stars", f"--item_file={items}",
        "--item_fields=full name,brand:token",
    ]  # fmt: skip
    command = [sys.executable, str(SCRIPTS / "table.py"), *arguments]  # which imports for itself
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "shop" / "shop.inter").read_text() == INTER
    assert (tmp_path / "shop" / "shop.item").read_text() == (
        "item_id:token\tfull_name:token_seq\tbrand:token\n10\tTen, or so\tNA\n30\t\tB\n"
    )
    again = run_script("table.py", *arguments, cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("recbole-qbert: ") and again.stderr.count("\n") == 1
    read = load_alone(tmp_path, ["shop"], tmp_path)["shop"]
    assert read["counts"] == [2, 2, 3] and read["items"] == ["10", "30"]


def parquet(folder: Path, **columns: object) -> Path:
    """A table of two rows; ids unless given."""
    path = folder / "x.parquet"
    pq.write_table(pa.table({"u": ["a", "b"], "i": [1.0, 2.0], **columns}), path)
    return path


@pytest.mark.parametrize(
    ("times", "unit", "written"),
    [
        (pa.array(["1.5", "2"]).dictionary_encode(), "s", ("1.5", "2")),
        (pa.array(["2024-01-01", "2024-01-02"]).dictionary_encode(), "date",
         ("1704067200", "1704153600")),
        (pa.array([20240101, 20240102]), "date", ("1704067200", "1704153600")),
        (pa.array([Decimal("1500.5"), Decimal("7")]), "ms", ("1.5005", "0.007")),
        (pa.array([date(2024, 1, 1), date(2024, 1, 2)]), "s", ("1704067200", "1704153600")),
    ],
)  # fmt: skip
def test_types_of_parquet(
    tmp_path: Path, times: pa.Array, unit: str, written: tuple[str, str]
) -> None:
    path = parquet(tmp_path, t=times)
    text, made = prepared(tmp_path, path, "u", "i", "t", unit)
    assert text.splitlines()[1:] == [f"a\t1\t{written[0]}", f"b\t2\t{written[1]}"]
    assert not made.reasons


@pytest.mark.parametrize("unit", ["s", "date"])
@pytest.mark.parametrize(
    "times", [[timedelta(1)] * 2, [clock(1)] * 2, [["a"]] * 2, [b"1", b"2"], [{"a": 1}] * 2]
)
def test_parquet_columns_of_no_use_are_named(
    tmp_path: Path, times: list[object], unit: str
) -> None:
    path = parquet(tmp_path, t=pa.array(times))
    with pytest.raises(InputError, match=r"x\.parquet: the column 't' is of type .*; "):
        prepared(tmp_path, path, "u", "i", "t", unit)
    with pytest.raises(InputError, match="the column 't' is of type"):
        prepared(tmp_path, path, "u", "t" if isinstance(times[0], list) else "i", "t", "s", "t")


def test_items_of_parquet(tmp_path: Path) -> None:
    domain = DatasetPaths("t", tmp_path / "t")
    path = parquet(
        tmp_path, c=pa.array(["7", "x"]).dictionary_encode(), b=[b"a", b"b"], l=[["a b", "c"], None]
    )
    fields = (("c", "float"), ("l", "token_seq"))
    source = open_source(path)
    prepare_table(domain, source, Columns("u", "i"), (source, ItemColumns("i", fields)))
    assert domain.file("item").read_text().splitlines()[1:] == ["1\t7\ta_b c", "2\t\t"]
    for kind, wanted in (("token_seq", "text"), ("float", "numbers")):
        with pytest.raises(InputError, match=f"'b' is of type binary; convert it to {wanted}"):
            prepare_table(
                domain, source, Columns("u", "i"), (source, ItemColumns("i", (("b", kind),))),
                overwrite=True,
            )  # fmt: skip
    data = bytearray(path.read_bytes())
    data[8:40] = bytes(32)  # the first page
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        prepare_table(domain, source, Columns("u", "i"), overwrite=True)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (("wo", "what"), "no column 'wo'; it has .*did you mean 'who'"),
        (("who", "what", "when", "dat"), "time_unit: 'dat' .*did you mean 'date'"),
    ],
)
def test_wrong_columns(tmp_path: Path, columns: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(tmp_path, write_events(tmp_path, "csv"), *columns)
    assert not (tmp_path / "out").exists()


def test_wrong_files(tmp_path: Path) -> None:
    path = tmp_path / "x.dat"
    with pytest.raises(InputError, match="no such file"):
        open_source(path)
    path.write_text("")
    with pytest.raises(InputError, match="unknown format; give --format"):
        open_source(path)
    with pytest.raises(InputError, match="encoding 'utf-88' is unknown"):
        open_source(path, format="csv", encoding="utf-88")
    for delimiter in ("", ";;", "é", '"', "\n"):
        with pytest.raises(InputError, match="delimiter .* give one ASCII character"):
            open_source(path, format="csv", delimiter=delimiter)
    with pytest.raises(InputError, match="columns: 'a' occurs twice"):
        open_source(path, format="csv", names=["a", "b", "a"])
    with pytest.raises(InputError, match="line 1 is empty"):
        prepare_table(
            DatasetPaths("t", tmp_path / "t"), open_source(path, format="csv"), Columns("a", "b")
        )
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        open_source(path, format="parquet").check(["a"])
    with pytest.raises(InputError, match="no line is a JSON object"):
        path.write_text("1\n2\n")
        open_source(path, format="json").check(["a"])
    path.write_text("{}\n")
    with pytest.raises(InputError, match="no column 'a'"):
        open_source(path, format="json").check(["a"])


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_tables_of_other_encodings(tmp_path: Path, kind: str, encoding: str) -> None:
    path = write_events(tmp_path, kind)
    packed = kind.endswith(".gz")
    text = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    data = text.decode().encode(encoding)
    path.write_bytes(gzip.compress(data) if packed else data)
    if encoding in ("utf-16-le", "utf-16-be"):  # no mark tells which
        with pytest.raises(
            InputError, match=r"is not UTF-8 \(NUL characters\).* --encoding=utf-16-le"
        ):
            open_source(path)
    else:
        assert prepared(tmp_path, path, "who", "what", "when", "date", "stars")[0] == INTER
    source = open_source(path, encoding=encoding)
    assert source.columns() == NAMES


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_json_lines_of_other_encodings_are_refused(tmp_path: Path, encoding: str) -> None:
    path = write_events(tmp_path, "jsonl")
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(InputError, match=r"events.jsonl: line 1 is not UTF-8; convert the file"):
        open_source(path)


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
def test_another_delimiter_is_told_of(tmp_path: Path, kind: str, delimiter: str) -> None:
    path = tmp_path / f"events.{kind}"
    pd.DataFrame(EVENTS, columns=NAMES).to_csv(path, sep=delimiter, index=False)
    source = open_source(path)
    if delimiter == source.delimiter:
        source.check(NAMES)
        return
    with pytest.raises(InputError) as caught:
        source.check(NAMES)
    assert f"if the delimiter is {delimiter!r}, give it with --delimiter" in str(caught.value)
    open_source(path, delimiter=delimiter).check(NAMES)


def test_a_header_of_endless_names_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("x" * 10_000)
    with pytest.raises(InputError) as caught:
        open_source(path).check(["who"])
    assert len(str(caught.value)) < 400


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(
        st.text(max_size=40) | st.text(st.sampled_from('"a <&'), max_size=6), min_size=1, max_size=8
    )
)
def test_clean_text_is_one_field_for_pandas_as_recbole_reads_it(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    cleaned = clean_column(pa.array(texts, pa.string())).to_pylist()
    path = tmp_path_factory.mktemp("clean") / "x.item"
    with open(path, "wb") as handle:
        write_header(handle, ["item_id:token", "title:token_seq"])
        write_rows(handle, [pa.array(map(str, range(len(cleaned)))), pa.array(cleaned)])
    assert read_columns(path, ["title"])["title"].tolist() == cleaned
    frame = pd.read_csv(path, delimiter="\t", dtype=str, encoding="utf-8", engine="python")
    wanted = [text if text not in MISSING else None for text in cleaned]
    assert [None if pd.isna(v) else v for v in frame["title:token_seq"]] == wanted


def test_reserved_words_are_those_of_pandas() -> None:
    from pandas._libs.parsers import STR_NA_VALUES

    assert set(MISSING) == set(STR_NA_VALUES)


def test_a_table_with_few_valid_rows_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dates without `--time_unit=date`: one row of 30 happens to be a number."""
    rows = "".join(f"u{n},i{n % 5},2024-05-{n % 28 + 1:02}\n" for n in range(29))
    (tmp_path / "events.csv").write_text(f"who,what,when\nu,i,5\n{rows}")
    arguments = [
        "prepare", "table", "--dataset=shop", f"--data_path={tmp_path}", "--user=who",
        f"--inter_file={tmp_path / 'events.csv'}", "--item=what", "--time=when",
    ]  # fmt: skip
    assert main(arguments) == 2
    assert re.search("only 1 of 30 lines are valid interactions .*: 29", capfd.readouterr().err)
    assert not (tmp_path / "shop" / "shop.inter").exists()


@pytest.mark.parametrize(
    "column",
    [pa.array([uuid4().bytes] * 2, getattr(pa, "uuid", lambda: pa.binary(16))()),
     pa.array([b"1234", b"5678"], pa.binary(4)), pa.array([b"1", b"2"], pa.large_binary())],
)  # fmt: skip
def test_columns_of_items_that_are_no_text(tmp_path: Path, column: pa.Array) -> None:
    source = open_source(parquet(tmp_path, key=column))
    domain = DatasetPaths("t", tmp_path / "t")
    for kind, wanted in (("token_seq", "text"), ("token", "text"), ("float", "numbers")):
        items = source, ItemColumns("i", (("key", kind),))
        with pytest.raises(InputError, match=f"'key' is of type .*; convert it to {wanted}"):
            prepare_table(domain, source, Columns("u", "i"), items)
    assert not domain.folder.exists()


@pytest.mark.parametrize(
    ("column", "written"),
    [
        (pa.array([date(2024, 1, 2), None]), ["2024-01-02", ""]),
        (pa.array([clock(1, 2), None]), ["01:02:00.000000", ""]),
        (pa.array([timedelta(seconds=1), None]), ["1000000", ""]),
        (pa.array([True, None]), ["true", ""]),
        (pa.array([None, None], pa.null()), None),
    ],
)
def test_columns_of_items_that_become_text(
    tmp_path: Path, column: pa.Array, written: list[str] | None
) -> None:
    source = open_source(parquet(tmp_path, key=column))
    domain = DatasetPaths("t", tmp_path / "t")
    items = source, ItemColumns("i", (("key", "token_seq"),))
    prepare_table(domain, source, Columns("u", "i"), items)
    expected = ["1", "2"] if written is None else [f"1\t{written[0]}", f"2\t{written[1]}"]
    assert domain.file("item").read_text().splitlines()[1:] == expected
