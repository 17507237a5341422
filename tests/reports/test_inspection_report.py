"""The report as a reader meets it: console lines, and one page that is safe and whole."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_parser import Page
from PIL import Image
from rich.console import Console
from toy_items import Toy

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids, write_semantic_ids
from recbole_qbert.reports.inspection import treemap
from recbole_qbert.reports.inspection.facts import gather_facts
from recbole_qbert.reports.inspection.pictures import HEIGHT
from recbole_qbert.reports.inspection.report import inspect
from recbole_qbert.reports.plotly_charts import to_plotly

EVIL = "<script>alert(1)</script>&amp;[bold]x[/bold]"


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """The eight items' files."""
    return Toy(tmp_path).write()


def _report(semid: Path, **settings: Any) -> str:
    console = Console(file=io.StringIO(), width=110)
    inspect(semid, console=console, **settings)
    return console.file.getvalue()  # type: ignore[attr-defined]


def _everything(toy: Toy) -> dict[str, Any]:
    return {
        "item_path": toy.item,
        "title_field": "title",
        "category_field": "kind",
        "embeddings": {"circle": toy.vectors},
    }


def _pictures(folder: Path) -> Path:
    folder.mkdir()
    Image.new("RGB", (300, 600), "red").save(folder / "i0.jpg")
    Image.new("RGBA", (500, 100), (0, 0, 255, 0)).save(folder / "i4.png")
    (folder / "i1.jpg").write_bytes(b"no picture")
    (folder / "i2.jpg").write_bytes((folder / "i0.jpg").read_bytes()[:200])
    (folder / "i3.txt").write_text("not looked at", encoding="utf-8")
    return folder


def test_items_without_content_are_marked(toy: Toy) -> None:
    table = read_semantic_ids(toy.semid)
    write_semantic_ids(toy.semid, table, {"method": "tokenize", "without_content": ["i4", "i6"]})
    text = _report(toy.semid, example_items=["i4", "i5"], **_everything(toy))
    said = "2 items have no content vector: i4, i6"
    assert said in " ".join(text.split())
    assert "Thing number 4 (no content) [i4]" in text
    assert "Thing number 5 [i5]" in text
    page = toy.folder / "page.html"
    _report(toy.semid, html_path=page, **_everything(toy))
    assert "Thing number 4 (no content)" in page.read_text(encoding="utf-8")


def test_console_says_the_numbers(toy: Toy) -> None:
    text = _report(toy.semid, **_everything(toy), n_examples=2)
    lines = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "8 items, 3 levels, codebooks 4 x 4 x 4" in lines
    assert "a 4 4 100.0% 3.4 a_0 4" in lines
    assert "a b 5 2 25.0% 0.75 2" in lines  # groups, alone, share alone, others, largest
    assert "3-4 1 - -" in lines  # one group of four items shares a
    assert "Before reallocation, 3 items (37.5%) repeated another item's codes." in lines
    assert "Moved, by level: a 0, b 0, c 2" in lines
    assert "├── c_0 Thing number 0" in lines
    assert any(line.startswith("a 2 6 1 0.833") for line in lines)
    assert "other items that share a: 3, a..b: 1" in lines
    assert max(map(len, text.splitlines())) <= 110


def test_console_without_anything_says_what_to_give(toy: Toy) -> None:
    Path(f"{toy.semid}.json").unlink()
    text = " ".join(_report(toy.semid).split())
    for hint in ("--title_field=title", "No sidecar", "--embeddings=text=", "--category_field="):
        assert hint in text


def test_console_shows_markup_and_control_characters_as_text(toy: Toy) -> None:
    toy.titles = ["[red]Title[/red] \x1b[31m"] * 8
    text = _report(toy.write().semid, **_everything(toy))
    assert "[red]Title[/red] [31m" in text
    assert "\x1b" not in text


def test_prefix_shows_its_items_only(toy: Toy) -> None:
    text = _report(toy.semid, prefix="a_0 b_1", item_path=toy.item, title_field="title")
    tree = text[text.index("Items that share a_0 b_1") : text.index("No embeddings")]
    assert "c_0  Thing number 2" in tree
    assert "c_1  Thing number 3" in tree
    assert "number 0" not in tree


def test_example_items(toy: Toy) -> None:
    text = _report(toy.semid, example_items=["i5"], item_path=toy.item, title_field="title")
    examples = text[text.index("Example items") :]
    assert "Thing number 5 [i5]  a_1 b_0 c_2" in examples
    assert "2/3  Thing number 4" in examples
    assert examples.count(" [i") == 1


def test_deep_ids_fit_the_console(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (400, 8))
    codes[:, 0] //= 100
    items = tuple(f"item{row}" for row in range(400))
    write_semantic_ids(tmp_path / "d.semid", SemanticIDTable(items, codes, (256,) * 8), {})
    text = _report(tmp_path / "d.semid")
    assert max(map(len, text.splitlines())) <= 110
    tables = text[: text.index("largest group")]
    assert "…" not in tables


@pytest.mark.parametrize("codes", [[[3]], [[0], [1], [2]], [[1, 0, 2]]])
def test_smallest_files(tmp_path: Path, codes: list[list[int]]) -> None:
    items = tuple("xyz"[: len(codes)])
    table = SemanticIDTable(items, np.array(codes), (4,) * len(codes[0]))
    write_semantic_ids(tmp_path / "s.semid", table, {})
    (tmp_path / "s.item").write_text("item_id:token\tkind:token\nx\tk\n", encoding="utf-8")
    settings = {"item_path": tmp_path / "s.item", "category_field": "kind", "n_examples": 1}
    text = _report(tmp_path / "s.semid", html_path=tmp_path / "s.html", **settings)
    assert "The largest group of items that share one code" in text
    assert "no other item shares its first code" in text


def test_page_is_self_contained(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    images = _pictures(tmp_path / "images")
    text = _report(toy.semid, **_everything(toy), images=images, html_path=path)
    page, data = Page(path), path.read_text(encoding="utf-8")
    assert data.count("plotly.js v") == 1
    sections = {"usage", "tree", "groups", "nearest", "purity"}
    tabs = {f"tab-{key}" for key in sections}
    figures = {f"{name}-figure" for name in ("usage", "sizes", "tree", "agreement", "purity")}
    assert sections | tabs | figures == set(page.ids)
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in page.addresses)
    assert str(tmp_path) not in data
    # Readable are i0 and i4; each is drawn at most 64 pixels high, transparent parts white.
    uris = sorted({address for address in page.addresses if address.startswith("data:")})
    drawn = [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in uris]
    assert sorted(picture.size for picture in drawn) == [(32, HEIGHT), (128, 26)]
    assert {picture.getpixel((1, 1)) for picture in drawn} >= {(255, 255, 255)}
    summary = "Pictures: 4 of 8 items have a file; the page shows 2; 2 cannot be read"
    assert summary in text.replace("\n", " ")
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "report.html"]


def test_page_escapes_whatever_the_data_hold(toy: Toy, tmp_path: Path) -> None:
    _report(toy.semid, **_everything(toy), html_path=tmp_path / "plain.html")
    toy.titles = [EVIL] * 8
    toy.write()
    text = toy.item.read_text(encoding="utf-8").replace("x z", '"><img/src=y>')
    toy.item.write_text(text, encoding="utf-8")
    settings = _everything(toy) | {"embeddings": {"</script><b>": toy.vectors}}
    _report(toy.semid, **settings, html_path=tmp_path / "evil.html")
    plain, evil = Page(tmp_path / "plain.html"), Page(tmp_path / "evil.html")
    assert evil.tags == plain.tags
    assert "<script>alert" not in (tmp_path / "evil.html").read_text("utf-8")
    assert EVIL in evil.texts  # shown as it is written
    assert "by </script><b>" in evil.texts


def test_page_has_the_same_bytes_in_any_row_order(toy: Toy, tmp_path: Path) -> None:
    images = _pictures(tmp_path / "images")
    pages = []
    for order in (range(8), range(8), [3, 7, 0, 5, 1, 6, 2, 4]):
        toy.write(order)
        path = tmp_path / "page.html"
        _report(toy.semid, **_everything(toy), images=images, html_path=path)
        pages.append(path.read_bytes())
    assert pages[0] == pages[1] == pages[2]


def test_page_without_anything_says_what_to_give(toy: Toy, tmp_path: Path) -> None:
    Path(f"{toy.semid}.json").unlink()
    _report(toy.semid, html_path=tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    shown = " ".join(page.texts)
    for hint in ("No titles", "No sidecar", "No embeddings", "No categories", "No pictures"):
        assert hint in shown
    assert "img" not in page.tags


@pytest.mark.parametrize("prefix", [None, "a_0", "a_0 b_1 c_0"])
def test_tree_boxes_hold_their_children(toy: Toy, prefix: str | None) -> None:
    chart, n_left_out = treemap.tree_chart(gather_facts(toy.semid, prefix=prefix))
    assert n_left_out == 0
    assert chart.boxes[0].parent == -1
    for place, box in enumerate(chart.boxes):
        inside = [one.value for one in chart.boxes if one.parent == place]
        assert not inside or sum(inside) == box.value
    # All items; 4 groups of a, 4 of a b in those of more than one item, 6 items below.
    assert len(chart.boxes) == {None: 1 + 4 + 3 + 6, "a_0": 1 + 2 + 4}.get(prefix, 1)
    (drawn,) = to_plotly(chart).data
    assert list(drawn.values) == [box.value for box in chart.boxes]
    assert drawn.parents[0] == "" and set(drawn.parents[1:]) <= set(drawn.ids)
    assert drawn.maxdepth == 2  # a click opens a box


def test_tree_is_cut_to_its_largest_boxes(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(treemap, "MAX_BOXES", 4)
    monkeypatch.setattr(treemap, "MAX_CHILDREN", 3)
    chart, n_left_out = treemap.tree_chart(gather_facts(toy.semid))
    assert [box.label for box in chart.boxes] == ["all items", "a_0  (4)", "a_1  (2)", "a_2\ni6"]
    assert n_left_out == 1 + 3  # a_3, and the groups below a_0 and a_1


def test_titles_and_categories_in_the_tree(toy: Toy) -> None:
    toy.titles[6] = "<b>" + "x" * 100
    facts = gather_facts(
        toy.write().semid, item_path=toy.item, title_field="title", category_field="kind"
    )
    chart, _ = treemap.tree_chart(facts)
    boxes = {box.label: box for box in chart.boxes}
    assert "a_2\n<b>" + "x" * 64 + "..." in boxes
    assert boxes["a_1  (2)"].text == "a_1  2 items\ny  100%\nThing number 4\nThing number 5"
    assert (boxes["a_0  (4)"].color, boxes["a_1  (2)"].color) == (0.75, 1.0)
    (drawn,) = to_plotly(chart).data
    assert "a_2<br>&lt;b&gt;" + "x" * 64 + "..." in drawn.labels
    assert drawn.marker.colors[0] == round(4 / 7, 3) and drawn.marker.showscale


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_examples": 0}, "n_examples is 0; it must be at least 1"),
        ({"images": "nowhere"}, "nowhere: cannot be read"),
        ({"prefix": "a_0 b_3"}, "toy.semid has no item with this prefix"),
        ({"example_items": ["i9"]}, "no item 'i9'"),
        ({"embeddings": {"x": "none.npz"}}, "none.npz: no such file"),
    ],
)
def test_refusals_write_nothing(
    toy: Toy, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    console = Console(file=io.StringIO(), width=110)
    with pytest.raises(InputError, match=message) as caught:
        inspect(toy.semid, html_path=tmp_path / "page.html", console=console, **settings)
    assert "\n" not in str(caught.value)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert not (tmp_path / "page.html").exists()


def test_inputs_are_not_overwritten(toy: Toy) -> None:
    with pytest.raises(InputError, match="html_path is an input file"):
        _report(toy.semid, html_path=toy.folder / "." / "toy.semid")


def test_images_of_other_items(toy: Toy, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match="no picture of an item of toy.semid, such as i0.jpg"):
        _report(toy.semid, images=tmp_path / "images")


@pytest.mark.slow
def test_a_large_catalog_takes_seconds(tmp_path: Path) -> None:
    n, draw = 14_000, np.random.default_rng(0)
    codes = np.stack(np.unravel_index(draw.choice(256**3, n, replace=False), (256,) * 3), axis=1)
    items = tuple(f"B{row:09}" for row in range(n))
    write_semantic_ids(tmp_path / "n.semid", SemanticIDTable(items, codes, (256,) * 3), {})
    rows = [f"{item}\t{'Some game of fifty letters or so, an edition ' + item}" for item in items]
    lines = ["item_id:token\ttitle:token_seq", *rows, ""]
    (tmp_path / "n.item").write_text("\n".join(lines), encoding="utf-8")
    vectors = draw.normal(size=(n, 512)).astype(np.float32)
    np.savez(tmp_path / "n.npz", items=np.array(items), vectors=vectors)
    started, path = time.monotonic(), tmp_path / "n.html"
    _report(
        tmp_path / "n.semid", item_path=tmp_path / "n.item", title_field="title",
        embeddings={"text": tmp_path / "n.npz"}, html_path=path,
    )  # fmt: skip
    assert time.monotonic() - started < 40
    assert path.stat().st_size < 10e6
