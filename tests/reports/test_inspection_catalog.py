"""Order, prefixes and the item file of a catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_items import Toy

from recbole_qbert.common.errors import InputError
from recbole_qbert.reports.inspection.catalog import ItemGroup, open_catalog, printable


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """The eight items' files."""
    return Toy(tmp_path).write()


def test_rows_follow_the_codes_whatever_the_file(toy: Toy) -> None:
    toy.write([5, 2, 7, 0, 6, 1, 4, 3])
    catalog = open_catalog(toy.semid, toy.item, "title", "kind", "whole")
    assert catalog.items == tuple(f"i{row}" for row in range(8))
    assert catalog.titles == tuple(f"Thing number {row}" for row in range(8))
    assert catalog.categories is not None
    assert catalog.categories[:4] == ("x z", "x z", "x z", "y z")


def test_groups_and_subgroups(toy: Toy) -> None:
    catalog = open_catalog(toy.semid)
    spans = [(group.start, group.end) for group in catalog.subgroups(catalog.root)]
    assert spans == [(0, 4), (4, 6), (6, 7), (7, 8)]
    assert catalog.subgroups(ItemGroup(1, 0, 4)) == [ItemGroup(2, 0, 2), ItemGroup(2, 2, 4)]
    assert catalog.prefix(ItemGroup(2, 4, 6)) == "a_1 b_0"
    assert catalog.prefix(ItemGroup(0, 0, 8)) == "all items"
    assert catalog.codes_text(5, 1) == "b_0 c_2"


@pytest.mark.parametrize(
    ("prefix", "rows"),
    [("a_0", (0, 4)), ("a_0 b_1", (2, 4)), (" a_1  b_0 c_2", (5, 6)), ("<a_2><b_3>", (6, 7))],
)
def test_find(toy: Toy, prefix: str, rows: tuple[int, int]) -> None:
    group = open_catalog(toy.semid).find(prefix)
    assert (group.start, group.end) == rows


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("", "prefix '': no codes; give the first codes"),
        ("a_9", "level a has codes 0 to 3"),
        ("12", "is no level token|is not a level token"),
        ("b_1", "found 'b_1', expected a code of level a; give all levels in order"),
        ("a_0 c_1", "found 'c_1', expected a code of level b"),
        (
            "a_0 b_2",
            "toy.semid has no item with this prefix; .* 4 items with 'a_0' is one of b_0, b_1",
        ),
        ("a_0 b_0 c_0 d_0", "the IDs have only 3 levels"),
    ],
)
def test_prefixes_that_cannot_be(toy: Toy, prefix: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_catalog(toy.semid).find(prefix)
    assert "\n" not in str(caught.value)


def test_category_part_follows_the_type_of_the_field(toy: Toy) -> None:
    by_first = open_catalog(toy.semid, toy.item, None, "kind")
    assert by_first.categories == ("x", "x", "x", "y", "y", "y", "x", "")
    assert by_first.category_label == "first word of kind"
    text = toy.item.read_text(encoding="utf-8").replace("kind:token_seq", "kind:token")
    toy.item.write_text(text, encoding="utf-8")
    whole = open_catalog(toy.semid, toy.item, None, "kind")
    assert whole.categories is not None
    assert (whole.categories[0], whole.category_label) == ("x z", "kind")
    assert open_catalog(toy.semid, toy.item, None, "kind", "first").categories == (
        by_first.categories
    )


def test_items_without_a_row_have_no_title(toy: Toy) -> None:
    toy.item.write_text("item_id:token\ttitle:token\ni1\tOne\nother\tElse\n", encoding="utf-8")
    catalog = open_catalog(toy.semid, toy.item, "title")
    assert catalog.titles == ("", "One", "", "", "", "", "", "")
    assert [catalog.title(row) for row in (0, 1)] == ["i0", "One"]


def test_printable() -> None:
    assert printable("a\x1b[31mred\x00\u202ered  b") == "a [31mred red b"
    assert printable("Amélie ♥ 東京") == "Amélie ♥ 東京"


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (None, {"title_field": "titel"}, "no column 'titel'; .* did you mean 'title'"),
        (None, {"category_field": "kind", "category_part": "frist"}, "did you mean 'first'"),
        ("i1\tA\ni1\tB", {"title_field": "title"}, "i1.*twice|i1.*second"),
        ("x\tA", {"title_field": "title"}, "has no item of .*toy.semid .* this file has 'x'"),
        ("i1\t ", {"title_field": "title"}, "title: empty for all items; give another field"),
    ],
)
def test_item_files_that_cannot_be_used(
    toy: Toy, content: str | None, settings: dict[str, str], message: str
) -> None:
    if content is not None:
        toy.item.write_text(f"item_id:token\ttitle:token\n{content}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        open_catalog(toy.semid, toy.item, **settings)


def test_a_field_needs_a_file(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="field 'title': no item file"):
        open_catalog(toy.semid, title_field="title")
    with pytest.raises(InputError, match="no such file"):
        open_catalog(toy.semid, tmp_path / "none.item", "title")


def test_rows_of_unknown_items(toy: Toy) -> None:
    catalog = open_catalog(toy.semid)
    assert catalog.rows_of(["i3", "i0"]) == [3, 0]
    assert catalog.rows_of([]) == []
    with pytest.raises(InputError, match="no item 'i33'; did you mean 'i3'"):
        catalog.rows_of(["i33"])
