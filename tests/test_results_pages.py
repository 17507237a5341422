"""The tables of README.md and results/, which results/make_pages.py fills."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from command_lines import REPOSITORY

CSV = """\
dataset,model,seed,split,ranking,metric,value,deviation
A,One,1,test,all items,hit@10,0.1,
A,One,2,test,all items,hit@10,0.3,
A,One,mean,test,all items,hit@10,0.2,0.1414
A,Two,1,test,all items,hit@10,0.25,
A,Two,mean,test,all items,hit@10,0.25,
B,One,mean,test,all items,hit@10,0.9,
A,One,mean,test,seen excluded,hit@10,0.4,0.02
A,Two,mean,test,seen excluded,hit@10,0.5,
A,One,mean,valid,seen excluded,hit@10,0.6,0.01
A,Two,mean,valid,seen excluded,hit@10,0.7,
"""
MARKDOWN = """\
## A: test

| model | HR@10 |
|---|---:|
| One | .2000 |

- a note

## A: runs

| model | s |
|---|---:|
| One | 12 |
"""
MEANS = """\
<!-- means: t: A: hit@10, unseen_hit@10, valid unseen_hit@10 -->

| model | seeds | HR@10, all items | HR@10, seen excluded | valid HR@10, seen excluded |
|---|---:|---:|---:|---:|
| One | 2 | <u>.2000 ± .1414</u> | <u>.4000 ± .0200</u> | <u>.6000 ± .0100</u> |
| Two | 1 | **.2500** | **.5000** | **.7000** |

<!-- end -->"""


@pytest.fixture
def script(tmp_path: Path) -> dict[str, Any]:
    """The script, with the tables of a benchmark `t` in place of the recorded ones."""
    found = runpy.run_path(str(REPOSITORY / "results" / "make_pages.py"))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "table.csv").write_text(CSV)
    (tmp_path / "t" / "table.md").write_text(MARKDOWN)
    found["filled"].__globals__["TABLES"] = tmp_path
    return found


def test_means_of_a_data_set(script: dict[str, Any]) -> None:
    head = MEANS.partition("\n")[0]
    page = f"# Page\n\n{head}\nold\n<!-- end -->\n\nText.\n"
    assert script["filled"](page) == f"# Page\n\n{MEANS}\n\nText.\n"
    assert script["filled"](f"{MEANS}\n") == f"{MEANS}\n"


def test_a_grid_of_data_sets(script: dict[str, Any]) -> None:
    """The first table that has a model gives its figures; `u` repeats One with others."""
    tables = script["filled"].__globals__["TABLES"]
    (tables / "u").mkdir()
    (tables / "u" / "table.csv").write_text("""\
dataset,model,seed,split,ranking,metric,value,deviation
A,One,mean,test,all items,hit@10,0.9,
A,One,mean,test,seen excluded,hit@10,0.9,
A,Three,mean,test,all items,hit@10,0.2,
A,Three,mean,test,seen excluded,hit@10,0.4,
B,One,mean,test,all items,hit@10,0.6,
B,One,mean,test,seen excluded,hit@10,0.7,
B,Three,mean,test,all items,hit@10,0.1,
B,Three,mean,test,seen excluded,hit@10,0.8,
""")
    head = "<!-- grid: hit@10: A: t, u; B: u -->"
    table = """\
| model | A | B |
|---|---:|---:|
| One | .2000 / .4000 | **.6000** / .7000 |
| Two | **.2500** / **.5000** | – |
| Three | .2000 / .4000 | .1000 / **.8000** |"""
    assert script["filled"](f"{head}\n<!-- end -->\n") == f"{head}\n\n{table}\n\n<!-- end -->\n"
    rows = script["filled"](f"{head[:-4]}; rows: Three | One -->\n<!-- end -->\n").splitlines()
    assert [line.split(" |")[0] for line in rows[4:6]] == ["| Three", "| One"]


def test_a_sheet_with_its_notes(script: dict[str, Any]) -> None:
    page = script["filled"]("<!-- sheet: t: A: test -->\n<!-- end -->\n<!-- end -->\n")
    table = "| model | HR@10 |\n|---|---:|\n| One | .2000 |\n\n- a note"
    assert page == f"<!-- sheet: t: A: test -->\n\n{table}\n\n<!-- end -->\n<!-- end -->\n"


@pytest.mark.parametrize("title", ["A", "B: test"])
def test_a_sheet_that_is_not_one_is_refused(script: dict[str, Any], title: str) -> None:
    with pytest.raises(SystemExit, match="there are: A: test; A: runs"):
        script["filled"](f"<!-- sheet: t: {title} -->\n<!-- end -->\n")


def test_the_pages_are_up_to_date() -> None:
    script = runpy.run_path(str(REPOSITORY / "results" / "make_pages.py"))
    for page in script["pages"]():
        text = page.read_text("utf-8")
        assert script["filled"](text) == text, f"{page.name}: run python results/make_pages.py"
