"""The report on semantic IDs as one HTML page."""

from __future__ import annotations

from html import escape

from recbole_qbert.reports import webpage
from recbole_qbert.reports.inspection import figures, treemap
from recbole_qbert.reports.inspection import tables as sheets
from recbole_qbert.reports.inspection.facts import Facts
from recbole_qbert.reports.inspection.neighbors import Neighbor, NeighborExample
from recbole_qbert.reports.inspection.pictures import Pictures
from recbole_qbert.reports.inspection.tree import Branch, Limits, branch

SECTIONS = {
    "usage": "Usage",
    "tree": "Tree of IDs",
    "groups": "Groups",
    "nearest": "Nearest items",
    "purity": "Purity",
}


def render_page(facts: Facts, pictures: Pictures | None) -> str:
    """Render the page as HTML."""
    bodies = section_bodies(facts, pictures)
    main = "\n".join(
        f'<section id="{key}"><h2>{title}</h2>\n{bodies[key]}\n</section>'
        for key, title in SECTIONS.items()
    )
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title in SECTIONS.items())
    header = f"<h1>{escape(facts.catalog.name)}</h1>{summary(facts)}<nav>{links}</nav>"
    return webpage.page(f"{facts.catalog.name}: semantic IDs", header, main)


def summary(facts: Facts) -> str:
    """Render counts of the file, and of items with titles, categories and embeddings."""
    headline = escape(sheets.headline(facts))
    coverage = webpage.paragraphs(sheets.coverage_lines(facts))
    return f'<p class="headline">{headline}</p>{coverage}'


def section_bodies(facts: Facts, pictures: Pictures | None) -> dict[str, str]:
    """Render the body of each section in `SECTIONS`, without headings."""
    return {
        "usage": _usage(facts),
        "tree": _tree(facts),
        "groups": _groups(facts, pictures),
        "nearest": _nearest(facts, pictures),
        "purity": _purity(facts),
    }


def _usage(facts: Facts) -> str:
    return (
        webpage.figure(figures.usage_figure(facts), "usage-figure")
        + _table(sheets.usage_table(facts))
        + _table(sheets.groups_table(facts))
        + webpage.figure(figures.sizes_figure(facts), "sizes-figure")
        + _table(sheets.sizes_table(facts))
    )


def _tree(facts: Facts) -> str:
    data, n_left_out = treemap.tree_data(facts)
    lines = [
        "A box is a group of items that share their first codes; its area is the number of items. "
        "Click a box to open it, the bar above to go back; hover for titles."
    ]
    if n_left_out:
        lines.append(
            f"{n_left_out:,} of the smallest boxes are left out, so that some boxes are not full. "
            "Name a prefix to see all below it."
        )
    figure = treemap.tree_figure(data, facts.catalog.categories is not None)
    chart = webpage.figure(figure, treemap.FIGURE)
    return webpage.paragraphs(lines) + chart + treemap.tree_script(data)


def _groups(facts: Facts, pictures: Pictures | None) -> str:
    catalog, selected = facts.catalog, facts.selected
    if selected:
        limits = Limits(children=20, rows=24, depth=min(catalog.n_levels, selected.depth + 2))
    else:
        limits = Limits(children=4, rows=6, depth=2)
    line = (
        f"{sheets.groups_title(facts)}. From a group that is too large to show, items are drawn "
        "evenly."
    )
    shown = [branch(catalog, group, limits) for group in facts.groups]
    body = "".join(_branch(facts, one, pictures, 0) for one in shown)
    return webpage.paragraphs([line]) + _picture_notes(pictures) + body


def _nearest(facts: Facts, pictures: Pictures | None) -> str:
    sheet = sheets.agreement_table(facts)
    if sheet is None:
        agreement = webpage.missing(sheets.NO_EMBEDDINGS)
    else:
        agreement = webpage.figure(figures.agreement_figure(facts), "agreement-figure") + _table(
            sheet
        )
    examples = "".join(_example(facts, example, pictures) for example in facts.examples)
    note = (
        "By code: the number of shared leading codes. By embedding: the cosine, and the number of "
        "shared leading codes."
    )
    return f"{agreement}<h3>Examples</h3>{webpage.paragraphs([note])}{examples}"


def _purity(facts: Facts) -> str:
    sheet = sheets.purity_table(facts)
    if sheet is None:
        return webpage.missing(sheets.NO_CATEGORIES)
    return webpage.figure(figures.purity_figure(facts), "purity-figure") + _table(sheet)


def _branch(facts: Facts, shown: Branch, pictures: Pictures | None, parent_depth: int) -> str:
    group = shown.group
    codes = facts.catalog.codes_text(group.start, parent_depth, group.depth)
    count = f"{group.size:,} item{'' if group.size == 1 else 's'}"
    children = "".join(_branch(facts, one, pictures, group.depth) for one in shown.children)
    cards = "".join(_card(facts, row, pictures, group.depth) for row in shown.rows)
    more = f'<p class="more">... {shown.n_hidden:,} more</p>' if shown.n_hidden else ""
    return (
        f'<div class="group"><h4><code>{escape(codes)}</code> {count}</h4>'
        f'{children}<div class="cards">{cards}</div>{more}</div>'
    )


def _card(facts: Facts, row: int, pictures: Pictures | None, depth: int) -> str:
    """Render an item with its codes below the group."""
    return (
        f'<div class="card">{_picture(facts, row, pictures)}'
        f"<span>{escape(facts.catalog.title(row))}</span>"
        f"<code>{escape(facts.catalog.codes_text(row, depth))}</code></div>"
    )


def _example(facts: Facts, example: NeighborExample, pictures: Pictures | None) -> str:
    catalog = facts.catalog
    columns = {"by code": _neighbors(facts, example.by_code, pictures)}
    for name, nearest in example.by_embedding.items():
        columns[f"by {name}"] = _neighbors(facts, nearest, pictures)
    lists = "".join(f"<div><h5>{escape(name)}</h5>{body}</div>" for name, body in columns.items())
    return (
        f'<div class="example"><div class="asked">{_picture(facts, example.row, pictures)}'
        f"<div><h4>{escape(catalog.title(example.row))}</h4>"
        f"<code>{escape(catalog.codes_text(example.row))}</code>"
        f"<p>{escape(sheets.sharing_text(facts, example))}</p></div></div>"
        f'<div class="columns">{lists}</div></div>'
    )


def _neighbors(
    facts: Facts, nearest: tuple[Neighbor, ...] | None, pictures: Pictures | None
) -> str:
    if nearest is None:
        return '<p class="more">it has no embedding</p>'
    if not nearest:
        return '<p class="more">none shares its first code</p>'
    return "".join(
        f'<div class="near">{_picture(facts, near.row, pictures)}<div>'
        f"<span>{escape(facts.catalog.title(near.row))}</span>"
        f"<code>{escape(_nearness(facts, near))}</code></div></div>"
        for near in nearest
    )


def _nearness(facts: Facts, near: Neighbor) -> str:
    cosine = "" if near.cosine is None else f"cosine {near.cosine:.2f}, "
    return f"{cosine}{near.shared} of {facts.catalog.n_levels} codes"


def _picture(facts: Facts, row: int, pictures: Pictures | None) -> str:
    """Render an item's picture, or an empty frame; empty if no picture folder is given."""
    if pictures is None:
        return ""
    return webpage.thumbnail(pictures.uri(facts.catalog.items[row]))


def _picture_notes(pictures: Pictures | None) -> str:
    return webpage.missing(sheets.NO_IMAGES) if pictures is None else ""


def _table(sheet: sheets.Table) -> str:
    head = webpage.cells("th", sheet.columns, sheet.n_words)
    rows = (f"<tr>{webpage.cells('td', row, sheet.n_words)}</tr>" for row in sheet.rows)
    return webpage.table(sheet.title, head, "".join(rows), sheet.notes)
