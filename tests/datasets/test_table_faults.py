"""Tables of strangers: odd ids, odd times, repeats, ties, two preparations at once."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import date, datetime, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import SCRIPTS, run_script

from recbole_qbert.common.errors import InputError
from recbole_qbert.config.build import build_config
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.merge import merge
from recbole_qbert.datasets.arrow_cache import Source, open_cache, parse_file
from recbole_qbert.datasets.interactions import Interactions
from recbole_qbert.datasets.items import item_columns, read_records
from recbole_qbert.datasets.kcore import Rules, held_out, tied_tests, without_repeats
from recbole_qbert.datasets.prepare import Prepared
from recbole_qbert.datasets.table import Columns, ItemColumns, prepare_table
from recbole_qbert.datasets.table_source import open_source
from recbole_qbert.datasets.times import divided, odd_times
from recbole_qbert.experiments.splits import load_splits

T = 1_600_000_000  # a time of 2020


def prepared(
    folder: Path, text: str, *columns: str, items: str | None = None, **options: object
) -> tuple[list[str], Prepared, dict[str, object]]:
    """Rows of the `.inter` file, what was made, and the sidecar."""
    (folder / "e.csv").write_text(text, encoding="utf-8")
    table = None
    if items is not None:
        (folder / "i.csv").write_text(items, encoding="utf-8")
        table = (open_source(folder / "i.csv"), ItemColumns("id"))
    domain = DatasetPaths("d", folder / "d")
    made = prepare_table(
        domain, open_source(folder / "e.csv"), Columns(*(columns or ("u", "i", "t"))), table,
        overwrite=True, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    sidecar = json.loads((folder / "d" / "d.inter.json").read_text())
    return domain.file("inter").read_text().splitlines()[1:], made, sidecar


def remark(made: Prepared, part: str) -> str:
    """The one remark that says so."""
    (found,) = [line for line in made.remarks if part in line]
    return found


# Ids ----------------------------------------------------------------------------------------------


def test_rejected_lines_carry_the_value_and_a_reason_of_their_own(tmp_path: Path) -> None:
    rows = [
        f"a,x,{T}", f" a ,x ,{T + 1}", f",y,{T}", f"  ,y,{T}", f"[PAD],y,{T}", f'a,"5\ty",{T}',
        f'a,"y"" z",{T}', f"b,y,{T}",
    ]  # fmt: skip
    found, made, sidecar = prepared(tmp_path, "\n".join(["u,i,t", *rows]))
    assert found == [f"a\tx\t{T}", f"a\tx\t{T + 1}", f"b\ty\t{T}"]
    assert sorted((tmp_path / "d" / "d.rejected").read_text().splitlines()) == [
        "e.csv:4\tuser ID is blank",
        "e.csv:5\tuser ID is blank\t'  '",
        "e.csv:6\tuser ID is [PAD], which RecBole reserves for padding\t'[PAD]'",
        "e.csv:7\titem ID has a tab, line end or control character\t'5\\ty'",
        "e.csv:8\titem ID has a double quote\t'y\" z'",
    ]
    for name in ("user", "item"):
        assert remark(made, f"{name} IDs had surrounding blanks").startswith("1 ")
    assert sum(sidecar["notes"].values()) == 2  # type: ignore[attr-defined]


def test_words_that_pandas_takes_for_nothing_are_ids(tmp_path: Path) -> None:
    words = ["NA", "null", "nan", "None", "N/A", "NULL", "<NA>", "n/a", "NaN", "#N/A"]
    text = "\n".join(["u,i,t", *(f"{w},{w},{T + n}" for n, w in enumerate(words))])
    found, made, _ = prepared(tmp_path, text, items="\n".join(["id,c", *(f"{w},x" for w in words)]))
    assert sorted(row.split("\t")[0] for row in found) == sorted(words)
    assert made.coverage["metadata"] == len(words) and not made.reasons
    assert remark(made, "user IDs are words such as NA").startswith("10 ")


def test_items_are_stripped_as_in_the_interactions(tmp_path: Path) -> None:
    items = "id,c\n x ,1\n\u00a0y,2\n,3\n[PAD],4\n"
    _, made, _ = prepared(tmp_path, f"u,i,t\na,x,{T}\na,y,{T}\n", items=items)
    assert made.coverage["metadata"] == 2
    assert made.reasons == {
        "item ID is blank": 1, "item ID is [PAD], which RecBole reserves for padding": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        (["100.0", "7.0", "", "-3.0"], ["100", "7", "-3"]),
        (["100", "7.0", "NaN"], ["100", "7", "NaN"]),
        (["100.0", " 7.0 "], ["100", "7"]),
        (["100.0", "7.5"], ["100.0", "7.5"]),  # versions, say
        (["100.0", "x"], ["100.0", "x"]),
        (["007.0", "1.0"], ["007.0", "1.0"]),
        (["1.00", "2.0"], ["1.00", "2.0"]),
    ],
)
def test_ids_that_pandas_wrote_as_floats(tmp_path: Path, ids: list[str], read: list[str]) -> None:
    text = "\n".join(["u,i,t", *(f"a,{each},{T + n}" for n, each in enumerate(ids)), ""])
    found, made, _ = prepared(tmp_path, text)
    assert [row.split("\t")[1] for row in found] == read
    dotted = [line for line in made.remarks if "whole numbers with .0 appended" in line]
    assert len(dotted) == (read[0] == "100")


def test_the_first_block_tells_whether_ids_are_whole_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_qbert.datasets.sources.BLOCK", 64)  # many batches
    rows = [f"a,{n}.0,{T + n}" for n in range(100)]
    found, _, _ = prepared(tmp_path, "\n".join(["u,i,t", f"a,first,{T - 1}", *rows]))
    assert [row.split("\t")[1] for row in found] == ["first", *(f"{n}.0" for n in range(100))]
    found, _, _ = prepared(tmp_path, "\n".join(["u,i,t", *rows]))
    assert [row.split("\t")[1] for row in found] == [str(n) for n in range(100)]


def test_only_whole_numbers_lose_their_fraction_in_later_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_qbert.datasets.sources.BLOCK", 64)
    whole = {f"{n}.0": str(n) for n in range(20)}
    others = ["v2.0", "1.10.0", "007.0", "-.0", "x 3.0", "1e5.0", "-0.5.0"]
    ids = [*whole, *others, "77.0", " 78.0 "]
    found, made, _ = prepared(
        tmp_path, "\n".join(["u,i,t", *(f"a,{each},{T + n}" for n, each in enumerate(ids))])
    )
    assert [row.split("\t")[1] for row in found] == [*whole.values(), *others, "77", "78"]
    assert remark(made, "whole numbers with .0 appended").startswith("22 ")


def test_ids_of_two_tables_that_do_not_agree(tmp_path: Path) -> None:
    events = "\n".join(["u,i,t", *(f"a,B{n},{T}" for n in range(4))])
    _, made, sidecar = prepared(tmp_path, events, items="id,c\nb0,1\nb1,2\nB2,3\nb3,4\nb9,5\n")
    said = remark(made, "Warning")
    assert "only 1 of 4 items with interactions are in i.csv" in said
    assert "IDs such as 'B0', 'B1', i.csv has 'b0', 'b1'" in said
    assert remark(made, "4 items of i.csv without interactions")
    assert remark(made, "3 items have interactions but no row in i.csv: 'B0', 'B1'")
    assert sidecar["rows_without_interactions"] == 4 and sidecar["items_without_a_row"] == 3
    _, made, _ = prepared(tmp_path, events, items="id,c\nB0,1\nB1,2\nB3,4\n")
    assert not [line for line in made.remarks if line.startswith("Warning")]
    _, made, _ = prepared(tmp_path, events, items="id,c\nB0,1\nB1,2\nB2,4\nB3,4\n")
    assert not [line for line in made.remarks if "i.csv" in line]


def test_missing_ids_of_float_columns_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"u": ["a", "b", "c"], "i": [1.0, float("nan"), None]}), path)
    domain = DatasetPaths("d", tmp_path / "d")
    made = prepare_table(domain, open_source(path), Columns("u", "i"))
    assert domain.file("inter").read_text().splitlines()[1:] == ["a\t1\t1"]
    assert made.reasons == {"item ID is blank": 2}


def test_quotes_in_titles_arrive_as_in_the_source(tmp_path: Path) -> None:
    titles = ['The "Best" Drum', '"Best" Drum', '"Best Drum"', '8"', '"', '""', '5" x 6"', "5''"]
    items = io.StringIO()
    writer = csv.writer(items)
    writer.writerows([["id", "title"], *([f"x{n}", title] for n, title in enumerate(titles))])
    text = "\n".join(["u,i,t", *(f"a,x{n},{T + n}" for n in range(len(titles)))])
    prepared(tmp_path, text, items=items.getvalue())
    path = tmp_path / "d" / "d.item"
    assert read_columns(path, ["title"])["title"].tolist() == titles
    by_recbole = pd.read_csv(path, delimiter="\t", engine="python", dtype=str)
    assert by_recbole["title:token_seq"].tolist() == titles
    domain = DatasetPaths("m", tmp_path / "m")
    merge([DatasetPaths("d", tmp_path / "d")], domain)
    assert read_columns(domain.file("item"), ["title"])["title"].tolist() == titles


def test_the_run_reads_every_row_that_is_written(tmp_path: Path) -> None:
    """Users and items called NA and the like."""
    words = ["NA", "null", "nan", "None", "x", "y"]
    rows = [f"{user},{item},{T + n}" for user in words for n, item in enumerate(words)]
    _, made, _ = prepared(tmp_path, "\n".join(["u,i,t", *rows]))
    settings = {"data_path": str(tmp_path), "use_gpu": False, "checkpoint_dir": str(tmp_path)}
    dataset = load_splits(build_config("BigramChain", "d", settings=settings)).dataset
    assert set(dataset.field2id_token["user_id"][1:]) == set(words)
    assert set(dataset.field2id_token["item_id"][1:]) == set(words)
    assert dataset.n_interactions == made.final.interactions == len(rows)


def test_a_column_that_is_not_read_rejects_no_row(tmp_path: Path) -> None:
    """Latin-1 in a comment; the same in columns that are read is told with its name."""
    rows = [f"a,x,{T},caf\u00e9,1", f"a,y\u00e9,{T + 1},ok,2", f"a\u00e9,z\u00e9,{T + 2},ok,3",
            f"b,y,{T + 3},ok,4"]  # fmt: skip
    path = tmp_path / "e.csv"
    path.write_bytes("\n".join(["u,i,t,note,rank", *rows, ""]).encode("latin-1"))
    (tmp_path / "i.csv").write_bytes("id,title,note\nx,T,\u00e9\ny,\u00e9,n\n".encode("latin-1"))
    domain = DatasetPaths("d", tmp_path / "d")
    items = open_source(tmp_path / "i.csv"), ItemColumns("id", (("title", "token_seq"),))
    prepare_table(domain, open_source(path), Columns("u", "i", "t"), items)
    assert domain.file("inter").read_text().splitlines()[1:] == [f"a\tx\t{T}", f"b\ty\t{T + 3}"]
    assert domain.file("item").read_text().splitlines()[1:] == ["x\tT", "y\t"]
    assert sorted(domain.file("rejected").read_text().splitlines()) == [
        "e.csv:3\tcolumn 'i' is not valid UTF-8 (--encoding)",
        "e.csv:4\tcolumn 'u' is not valid UTF-8 (--encoding)",
        "i.csv:3\tcolumn 'title' is not valid UTF-8 (--encoding)",
    ]
    source = open_source(path, encoding="latin-1")
    made = prepare_table(domain, source, Columns("u", "i", "t"), overwrite=True)
    assert made.final.interactions == 4 and not made.reasons


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x1c", "\x0c"])
def test_a_line_end_of_unicode_ends_no_line_of_json(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "e.jsonl"
    records = [{"note": f"one{mark}two", "u": "a", "i": n, "t": T + n} for n in range(3)]
    path.write_text("\n".join(json.dumps(each, ensure_ascii=False) for each in records))
    assert open_source(path).columns() == ["note", "u", "i", "t"]
    domain = DatasetPaths("d", tmp_path / "d")
    prepare_table(domain, open_source(path), Columns("u", "i", "t"))
    assert domain.file("inter").read_text().splitlines()[1:] == [
        f"a\t{n}\t{T + n}" for n in range(3)
    ]  # fmt: skip


def test_texts_have_64_bit_offsets(tmp_path: Path) -> None:
    """Arrow's plain strings hold at most 2 GiB in all; taking rows of more raises an error."""
    (tmp_path / "raw").touch()
    schema = pa.schema([("item", pa.string()), ("title", pa.string())])
    table = pa.table({"item": ["i1", "i0"], "title": ["one", "zero"]}, schema)
    stage = parse_file(
        tmp_path / "stage", schema, Source([tmp_path / "raw"], lambda path, rejects: iter([table]))
    )
    tokens = pa.array(["i0", "i1"], pa.string())
    inter = Interactions(pa.array(["u"]), tokens, np.zeros(2, int), np.arange(2), np.arange(2.0))
    columns, _ = item_columns(inter, read_records(stage, tokens), {"title": "title:token_seq"})
    (title,) = [column for name, column in columns.items() if name.startswith("title")]
    assert title.type == pa.large_string() and title.to_pylist() == ["zero", "one"]


# Times --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([T, T + 1, T * 1000], "1 of 3 .* to 52671.*; 1 of them .* in milliseconds, not seconds"),
        ([T * 1000] * 3, "3 of 3 .*: --time_unit=ms"),
        ([T * 1_000_000_000] * 3, "3 of 3 .*: --time_unit=ns"),
        ([-1, 0, T], r"2 of 3 .*1990 to \d{4} \(range: 1969-12-31 to 2020.*; correct them"),
        ([10**30, T], "1 of 2 .*to 1e.30 s"),
        ([631_152_000, T], None),  # 1990 begins
    ],
)
def test_times_that_can_hardly_be_meant(tmp_path: Path, times: list[int], said: str | None) -> None:
    text = "\n".join(["u,i,t", *(f"a,i{n},{each}" for n, each in enumerate(times))])
    _, made, sidecar = prepared(tmp_path, text)
    found = [line for line in made.remarks if line.startswith("Warning")]
    assert bool(found) == bool(sidecar["odd_times"]) == (said is not None)
    if said:
        assert len(pd.Series(found).str.extract(f"({said})").dropna()) == 1, found


def test_times_of_the_next_year_are_meant_and_those_after_it_not() -> None:
    year = datetime.now(timezone.utc).year
    ends = [datetime(year + n, 1, 1, tzinfo=timezone.utc).timestamp() for n in (2, 3)]
    assert odd_times(np.array([ends[0] - 1]), "s", "") is None
    odd = odd_times(np.array([ends[1] - 1, T]), "date", "--time_unit")
    assert odd is not None and odd[0]["outside"] == 1 and odd[0]["years"] == (1990, year + 1)
    assert "correct them" in odd[1]


def test_the_order_of_rows_is_no_odd_time(tmp_path: Path) -> None:
    _, made, _ = prepared(tmp_path, "u,i\na,x\na,y\na,z\n", "u", "i")
    assert not made.remarks


@pytest.mark.parametrize(
    ("unit", "value", "reason"),
    [
        ("date", str(T), "time is not an ISO 8601 date; it looks like seconds: --time_unit=s"),
        (
            "date",
            f"{T}000",
            "time is not an ISO 8601 date; it looks like milliseconds: --time_unit=ms",
        ),
        ("date", "1.6e9", "time is not an ISO 8601 date; it looks like seconds: --time_unit=s"),
        (
            "date",
            "01.03.2023",
            "time is not an ISO 8601 date; write the year first, such as 2023-03-31",
        ),
        (
            "date",
            "3/1/2023 12:00",
            "time is not an ISO 8601 date; write the year first, such as 2023-03-31",
        ),
        ("date", "soon", "time is not an ISO 8601 date"),
        ("date", "12", "time is not an ISO 8601 date"),
        ("date", "", "no time"),
        ("s", "2023-03-01", "time is not a finite number; it looks like a date: --time_unit=date"),
        ("ms", "soon", "time is not a finite number"),
        ("s", "inf", "time is not a finite number"),
        ("s", " ", "no time"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_times_that_are_none_say_what_they_look_like(
    tmp_path: Path, unit: str, value: str, reason: str, kind: str
) -> None:
    path = tmp_path / f"e.{kind}"
    frame = pd.DataFrame({"u": ["a"], "i": ["x"], "t": [value]})
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    domain = DatasetPaths("d", tmp_path / "deep" / "d")
    if kind == "jsonl" and unit != "date":
        pytest.skip("read as numbers; test_prepare_sources has their faults")
    with pytest.raises(InputError) as error:
        prepare_table(domain, open_source(path), Columns("u", "i", "t", unit))
    assert f"({reason}: 1)" in str(error.value)
    assert not (tmp_path / "deep").exists()  # nothing is left behind


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize(("zone", "flag"), [(None, "s"), ("UTC", "date"), ("Europe/Berlin", "s")])
def test_times_of_arrow(tmp_path: Path, unit: str, zone: str | None, flag: str) -> None:
    steps = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    whole = [T * steps + 1, -1, 123 * steps]
    path = tmp_path / "x.parquet"
    column = pa.array([*whole, None], pa.timestamp(unit, zone))
    pq.write_table(pa.table({"u": list("abcd"), "i": list("wxyz"), "t": column}), path)
    domain = DatasetPaths("d", tmp_path / "d")
    made = prepare_table(domain, open_source(path), Columns("u", "i", "t", flag))
    found = [float(row.split("\t")[2]) for row in domain.file("inter").read_text().splitlines()[1:]]
    assert found == [float(Fraction(each, steps)) for each in whole]
    assert made.reasons == {"no time": 1}


def test_dates_of_arrow(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    for kind in (pa.date32(), pa.date64()):
        column = pa.array([date(2020, 9, 13), date(1969, 12, 31)], kind)
        pq.write_table(pa.table({"u": ["a", "b"], "i": ["x", "y"], "t": column}), path)
        domain = DatasetPaths("d", tmp_path / "d")
        prepare_table(domain, open_source(path), Columns("u", "i", "t"), overwrite=True)
        rows = domain.file("inter").read_text().splitlines()[1:]
        assert [row.split("\t")[2] for row in rows] == ["1599955200", "-86400"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_whole_nanoseconds_are_not_rounded_before_they_are_divided(
    tmp_path: Path, kind: str
) -> None:
    whole = [T * 10**9 + 123_456_789, T * 10**9 + 999_999_999]
    path = tmp_path / f"e.{kind}"
    frame = pd.DataFrame({"u": ["a", "b"], "i": ["x", "y"], "t": whole})
    if kind == "parquet":
        frame.to_parquet(path)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    domain = DatasetPaths("d", tmp_path / "d")
    prepare_table(domain, open_source(path), Columns("u", "i", "t", "ns"))
    found = [float(row.split("\t")[2]) for row in domain.file("inter").read_text().splitlines()[1:]]
    assert found == [T + 0.123456789, T + 0.999999999]


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1), st.sampled_from([1, 1000, 10**6, 10**9]))
def test_divided_beside_fractions(values: list[int], by: int) -> None:
    for value, found in zip(values, divided(pa.array(values), by).to_pylist(), strict=True):
        assert (
            abs(Fraction(found) - Fraction(value, by)) <= Fraction(np.spacing(abs(found))) / 2 * 3
        )


# Repeats and ties ---------------------------------------------------------------------------------


def test_identical_rows_are_counted_and_may_go(tmp_path: Path) -> None:
    rows = [f"a,x,{T}", f"a,x,{T}", f"a,y,{T}", f"a,x,{T}", f"b,x,{T}", f"a,x,{T + 1}"]
    text = "\n".join(["u,i,t", *rows])
    found, made, sidecar = prepared(tmp_path, text)
    assert len(found) == 6 and sidecar["identical_rows"] == 2
    assert remark(made, "2 rows are identical to another one in user, item, rating and time")
    found, made, sidecar = prepared(tmp_path, text, duplicates="identical")
    assert sorted(found) == sorted({row.replace(",", "\t") for row in rows})
    assert sidecar["identical_rows"] == 0 and sidecar["repeats_left_out"] == 2
    assert remark(made, "2 repeated rows were removed")
    # Without times the order of the rows is none of what makes them identical.
    found, made, sidecar = prepared(tmp_path, "u,i\na,x\nb,x\na,x\na,y\n", "u", "i")
    assert sidecar["identical_rows"] == 1
    found, _, _ = prepared(tmp_path, "u,i\na,x\nb,x\na,x\na,y\n", "u", "i", duplicates="identical")
    assert found == ["a\tx\t2", "a\ty\t5", "b\tx\t3"]


ROWS = st.lists(st.tuples(*(st.integers(0, 3) for _ in range(4))), max_size=30)


@settings(deadline=None)
@given(rows=ROWS, timed=st.booleans())
def test_identical_rows_beside_a_dictionary(rows: list[tuple[int, ...]], timed: bool) -> None:
    users, items, times, ratings = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    kept = without_repeats(users, items, times, ratings, Rules(0, "identical", "file", timed))
    first: dict[tuple[int, ...], int] = {}
    for place, (user, item, when, rating) in enumerate(rows):
        first.setdefault((user, item, rating, when if timed else 0), place)
    assert kept.tolist() == sorted(first.values())


def tied_rows(n_users: int, n_items: int) -> list[str]:
    """Users who have items of one day, in falling order of their tokens."""
    return [f"u{u},i{n_items - i:03},{T}" for u in range(n_users) for i in range(n_items)]


def orders(rows: Sequence[str]) -> dict[str, list[str]]:
    """Items of each user, in the order of the rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        user, item, *_ = row.split("\t")
        found.setdefault(user, []).append(item)
    return found


def test_the_order_of_ties(tmp_path: Path) -> None:
    rows = tied_rows(6, 30)
    text = "\n".join(["u,i,t", *rows])
    plain, made, sidecar = prepared(tmp_path, text)
    falling = [f"i{n:03}" for n in range(30, 0, -1)]
    assert set(map(tuple, orders(plain).values())) == {tuple(falling)}  # the file's by default
    assert "6 of 6 test targets (100.0%)" in remark(made, "--ties=file")
    assert sidecar["tied_test_targets"] == sidecar["test_targets"] == 6
    by_token, _, _ = prepared(tmp_path, text, ties="token")
    assert set(map(tuple, orders(by_token).values())) == {tuple(reversed(falling))}
    shuffled, _, _ = prepared(tmp_path, text, ties="shuffled")
    back, _, _ = prepared(tmp_path, "\n".join(["u,i,t", *reversed(rows)]), ties="shuffled")
    assert shuffled == back  # whatever the order of the lines
    sequences = list(orders(shuffled).values())
    assert len(set(map(tuple, sequences))) == 6  # another one for each user
    rising = np.mean([a < b for each in sequences for a, b in zip(each, each[1:], strict=False)])
    assert 0.35 < rising < 0.65  # 174 steps; neither order shows
    assert all(sorted(each) == sorted(falling) for each in sequences)
    with pytest.raises(InputError, match="ties: 'fle' is none of .*did you mean 'file'"):
        prepared(tmp_path, text, ties="fle")


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8))
def test_held_out_and_ties_beside_recbole(sequences: list[list[int]]) -> None:
    """RecBole splits the targets of a user that have a history: all but the first."""
    from recbole.data.dataset import Dataset

    users, times = [], []
    for user, each in enumerate(sequences):
        users += [user] * len(each)
        times += sorted(each)
    places = np.flatnonzero(np.diff(users, prepend=-1) == 0)
    grouped = [places[np.array(users)[places] == user] for user in range(len(sequences))]
    rows = Dataset._split_index_by_leave_one_out(
        None, [each.tolist() for each in grouped if len(each)], 2
    )
    train, valid, test = held_out(np.array(users))
    assert np.flatnonzero(valid).tolist() == rows[1] and np.flatnonzero(test).tolist() == rows[2]
    firsts = {int(each[0]) - 1 for each in grouped if len(each)}  # histories of the first targets
    assert set(np.flatnonzero(train).tolist()) == set(rows[0]) | firsts
    tied = sum(times[row] == times[row - 1] for row in rows[2])
    assert tied_tests(np.array(users), np.array(times)) == (tied, len(rows[2]))


# Files --------------------------------------------------------------------------------------------


def arguments_for(folder: Path, *more: str) -> list[str]:
    """The arguments of `table.py` for an `e.csv`, which is written."""
    (folder / "e.csv").write_text(f"u,i,t\na,x,{T}\na,y,{T + 1}\n")
    where = ["--dataset=d", f"--data_path={folder / 'ds'}", f"--inter_file={folder / 'e.csv'}"]
    return [*where, "--user=u", "--item=i", *more]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--time=when"], "no column 'when'; it has u, i, t"),
        (["--item_file={}/i.csv"], "no column 'i', which --item names (--item_id names another); "
                                   "it has id, title"),
        (["--time=t", "--time_unit=date"], "it looks like seconds: --time_unit=s"),
        (["--time=t", "--core=5"], "none of 2 interactions is left"),
        (["--ties=fle"], "did you mean 'file'"),
    ],
)  # fmt: skip
def test_failed_calls_say_one_line_and_leave_nothing(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "i.csv").write_text("id,title\nx,T\n")
    more = (each.format(tmp_path) for each in arguments)
    done = run_script("table.py", *arguments_for(tmp_path, *more))
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr
    assert not (tmp_path / "ds").exists()


def test_a_failed_call_leaves_what_was_there(tmp_path: Path) -> None:
    prepared(tmp_path, f"u,i,t\na,x,{T}\n")
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    with pytest.raises(InputError, match="none of 1 interaction is left"):
        prepared(tmp_path, f"u,i,t\na,x,{T}\n", core=3)
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()} == before


@pytest.mark.slow
def test_two_preparations_of_one_data_set_at_once(tmp_path: Path) -> None:
    domain = DatasetPaths("d", tmp_path / "ds" / "d")
    with open_cache(domain, False) as parts:
        assert parts.is_dir()
        done = run_script("table.py", *arguments_for(tmp_path, "--time=t"))
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "another process uses this folder" in done.stderr and str(os.getpid()) in done.stderr
        assert parts.is_dir()
    assert not parts.exists()
    command = [sys.executable, str(SCRIPTS / "table.py")]
    command += arguments_for(tmp_path, "--time=t", "--overwrite")
    calls = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    said = [call.communicate()[1].decode() for call in calls]
    for call, line in zip(calls, said, strict=True):
        assert call.returncode == 0 or (call.returncode == 2 and "uses this folder" in line), line
    assert 0 in [call.returncode for call in calls]
    rows = domain.file("inter").read_text().splitlines()[1:]
    assert rows == [f"a\tx\t{T}", f"a\ty\t{T + 1}"]
    assert sorted(path.name for path in domain.folder.iterdir()) == ["d.inter", "d.inter.json"]
