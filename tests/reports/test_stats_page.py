"""The page and the console text of data set statistics."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from page_parser import Page
from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.stats import gather_stats
from recbole_qbert.reports.dataset_statistics import print_stats, write_page


@pytest.mark.parametrize(
    ("unit", "first", "last"),
    [
        (1, "1997-09-20 03:05:10 UTC", "1998-04-22 23:10:38 UTC"),
        (1000, "1997-09-20 03:05:10 UTC", "1998-04-22 23:10:38 UTC"),
        (0.001, "874,725", "893,287"),  # of no unit: as they are
    ],
)
def test_times_are_dates_where_they_can_be(
    tmp_path: Path, unit: float, first: str, last: str
) -> None:
    """The first and last time of ml-100k, by `date -u -d @874724710`; JSON keeps the numbers."""
    domain = DatasetPaths("d", tmp_path / "d")
    domain.folder.mkdir()
    times = [874724710 * unit, 893286638 * unit]
    rows = [f"u\t{item}\t{time!r}" for item, time in zip("ab", times, strict=True)]
    header = "user_id:token\titem_id:token\ttimestamp:float"
    domain.file("inter").write_text("\n".join([header, *rows, ""]))
    facts = gather_stats(domain)
    stream = io.StringIO()
    print_stats(facts, Console(file=stream, width=100))
    assert f"first: {first}\nlast: {last}\n" in stream.getvalue()
    assert [facts["times"]["first"], facts["times"]["last"]] == times


ROWS = ["u\ta\t1", "u\tb\t2", "u\t<b>\t2", "v\ta\t3"]


@pytest.mark.parametrize("has_items", [True, False])
def test_page_and_console_show_all_statistics(tmp_path: Path, has_items: bool) -> None:
    domain = DatasetPaths("d", tmp_path / "d")
    domain.folder.mkdir()
    header = "user_id:token\titem_id:token\ttimestamp:float"
    domain.file("inter").write_text("\n".join([header, *ROWS, ""]))
    if has_items:
        domain.file("item").write_text("item_id:token\t<t>:token\na\tA\nz\tZ\n")
    facts = gather_stats(domain)
    console = Console(file=io.StringIO(), width=110)
    print_stats(facts, console)
    write_page(tmp_path / "s.html", facts)
    page = Page(tmp_path / "s.html")
    figures = ["stats-lengths", "stats-popularity", *["stats-coverage"] * has_items]
    assert [key for key in page.ids if key.startswith("stats-")] == figures
    shown = [
        "users: 2", "items: 3", "sparsity: 33.3333%", "share of the top 1%: 50.0%",
        "user and item: 0", "rows with the time of the user's previous row: 1",
        "test targets with the time of the previous item: 1 (100.0%)", "test: 1", "cold items: 1",
        "first cold items: <b>",
        *(["rows without interactions: 1", "33.3%"] if has_items else ["there is no information"]),
    ]  # fmt: skip
    for text in (page.text, console.file.getvalue()):  # type: ignore[attr-defined]
        assert [one for one in shown if one not in text] == []
    with pytest.raises(InputError, match="cannot write"):
        write_page(tmp_path / "s.html" / "x.html", facts)
