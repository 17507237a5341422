"""The report as one HTML page that needs no other file and no network.

Whatever comes from the data is escaped where it enters the page. Equal inputs give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from recbole_qbert._version import __version__
from recbole_qbert.errors import InputError
from recbole_qbert.files import atomic_write
from recbole_qbert.inspection import figures, sheets, treemap
from recbole_qbert.inspection.facts import Facts
from recbole_qbert.inspection.neighbours import Example, Neighbour
from recbole_qbert.inspection.page import FRAME, STYLE, TREE_SCRIPT
from recbole_qbert.inspection.pictures import Pictures
from recbole_qbert.inspection.tree import Branch, Limits, branch

_SECTIONS = {
    "usage": "Usage",
    "tree": "Tree of IDs",
    "groups": "Groups",
    "nearest": "Nearest items",
    "purity": "Purity",
}


def write_page(path: str | Path, facts: Facts, pictures: Pictures | None) -> int:
    """Write the page, whole or not at all; returns its size in bytes.

    Raises:
        InputError: the file cannot be written.
    """
    data = render_page(facts, pictures).encode("utf-8")
    try:
        with atomic_write(path, "wb") as handle:
            handle.write(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); correct the path") from None
    return len(data)


def render_page(facts: Facts, pictures: Pictures | None) -> str:
    """The page as text."""
    bodies = {
        "usage": _usage(facts),
        "tree": _tree(facts),
        "groups": _groups(facts, pictures),
        "nearest": _nearest(facts, pictures),
        "purity": _purity(facts),
    }
    sections = "\n".join(
        f'<section id="{key}"><h2>{title}</h2>\n{bodies[key]}\n</section>'
        for key, title in _SECTIONS.items()
    )
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title in _SECTIONS.items())
    return FRAME.format(
        title=escape(facts.catalogue.name),
        style=STYLE,
        plotly=get_plotlyjs(),
        headline=escape(sheets.headline(facts)),
        coverage=_paragraphs(sheets.coverage_lines(facts)),
        links=links,
        sections=sections,
        version=escape(__version__),
    )


def _usage(facts: Facts) -> str:
    return (
        _figure(figures.usage_figure(facts), "usage-figure")
        + _table(sheets.usage_sheet(facts))
        + _table(sheets.groups_sheet(facts))
        + _figure(figures.sizes_figure(facts), "sizes-figure")
        + _table(sheets.sizes_sheet(facts))
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
    figure = treemap.tree_figure(data, facts.catalogue.categories is not None)
    lists = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = f"<script>{TREE_SCRIPT.replace('TREE_DATA', lists)}</script>"
    return _paragraphs(lines) + _figure(figure, "tree-figure") + script


def _groups(facts: Facts, pictures: Pictures | None) -> str:
    catalogue, selected = facts.catalogue, facts.selected
    if selected:
        limits = Limits(children=20, rows=24, depth=min(catalogue.n_levels, selected.depth + 2))
    else:
        limits = Limits(children=4, rows=6, depth=2)
    line = (
        f"{sheets.groups_title(facts)}. From a group that is too large to show, items are drawn "
        "evenly."
    )
    shown = [branch(catalogue, group, limits) for group in facts.groups]
    body = "".join(_branch(facts, one, pictures, 0) for one in shown)
    return _paragraphs([line]) + _picture_notes(pictures) + body


def _nearest(facts: Facts, pictures: Pictures | None) -> str:
    sheet = sheets.agreement_sheet(facts)
    if sheet is None:
        agreement = _missing(sheets.NO_EMBEDDINGS)
    else:
        agreement = _figure(figures.agreement_figure(facts), "agreement-figure") + _table(sheet)
    examples = "".join(_example(facts, example, pictures) for example in facts.examples)
    note = (
        "By code: the number of shared leading codes. By embedding: the cosine, and the number of "
        "shared leading codes."
    )
    return f"{agreement}<h3>Examples</h3>{_paragraphs([note])}{examples}"


def _purity(facts: Facts) -> str:
    sheet = sheets.purity_sheet(facts)
    if sheet is None:
        return _missing(sheets.NO_CATEGORIES)
    return _figure(figures.purity_figure(facts), "purity-figure") + _table(sheet)


def _branch(facts: Facts, shown: Branch, pictures: Pictures | None, parent_depth: int) -> str:
    group = shown.group
    codes = facts.catalogue.codes_text(group.start, parent_depth, group.depth)
    count = f"{group.size:,} item{'' if group.size == 1 else 's'}"
    children = "".join(_branch(facts, one, pictures, group.depth) for one in shown.children)
    cards = "".join(_card(facts, row, pictures, group.depth) for row in shown.rows)
    more = f'<p class="more">... {shown.n_hidden:,} more</p>' if shown.n_hidden else ""
    return (
        f'<div class="group"><h4><code>{escape(codes)}</code> {count}</h4>'
        f'{children}<div class="cards">{cards}</div>{more}</div>'
    )


def _card(facts: Facts, row: int, pictures: Pictures | None, depth: int) -> str:
    """An item with the codes below its group."""
    return (
        f'<div class="card">{_picture(facts, row, pictures)}'
        f"<span>{escape(facts.catalogue.title(row))}</span>"
        f"<code>{escape(facts.catalogue.codes_text(row, depth))}</code></div>"
    )


def _example(facts: Facts, example: Example, pictures: Pictures | None) -> str:
    catalogue = facts.catalogue
    columns = {"by code": _neighbours(facts, example.by_code, pictures)}
    for name, nearest in example.by_embedding.items():
        columns[f"by {name}"] = _neighbours(facts, nearest, pictures)
    lists = "".join(f"<div><h5>{escape(name)}</h5>{body}</div>" for name, body in columns.items())
    return (
        f'<div class="example"><div class="asked">{_picture(facts, example.row, pictures)}'
        f"<div><h4>{escape(catalogue.title(example.row))}</h4>"
        f"<code>{escape(catalogue.codes_text(example.row))}</code>"
        f"<p>{escape(sheets.sharing_text(facts, example))}</p></div></div>"
        f'<div class="columns">{lists}</div></div>'
    )


def _neighbours(
    facts: Facts, nearest: tuple[Neighbour, ...] | None, pictures: Pictures | None
) -> str:
    if nearest is None:
        return '<p class="more">it has no embedding</p>'
    if not nearest:
        return '<p class="more">none shares its first code</p>'
    return "".join(
        f'<div class="near">{_picture(facts, near.row, pictures)}<div>'
        f"<span>{escape(facts.catalogue.title(near.row))}</span>"
        f"<code>{escape(_nearness(facts, near))}</code></div></div>"
        for near in nearest
    )


def _nearness(facts: Facts, near: Neighbour) -> str:
    cosine = "" if near.cosine is None else f"cosine {near.cosine:.2f}, "
    return f"{cosine}{near.shared} of {facts.catalogue.n_levels} codes"


def _picture(facts: Facts, row: int, pictures: Pictures | None) -> str:
    """The item's picture, an empty frame where it has none, nothing where no folder was given."""
    if pictures is None:
        return ""
    uri = pictures.uri(facts.catalogue.items[row])
    return '<i class="blank"></i>' if uri is None else f'<img src="{uri}" alt="">'


def _picture_notes(pictures: Pictures | None) -> str:
    return _missing(sheets.NO_IMAGES) if pictures is None else ""


def _table(sheet: sheets.Sheet) -> str:
    head = _cells("th", sheet.columns, sheet.n_words)
    rows = "".join(f"<tr>{_cells('td', row, sheet.n_words)}</tr>" for row in sheet.rows)
    return (
        f'<h3>{escape(sheet.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{_paragraphs(sheet.notes)}"
    )


def _cells(tag: str, texts: tuple[str, ...], n_words: int) -> str:
    kinds = [' class="word"' if place < n_words else "" for place in range(len(texts))]
    pairs = zip(kinds, texts, strict=True)
    return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in pairs)


def _figure(figure: go.Figure, name: str) -> str:
    """A chart; Plotly itself stands in the page's head, once."""
    config = {"displayModeBar": False, "responsive": True}
    chart = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return f'<div class="figure">{chart}</div>'


def _paragraphs(lines: Iterable[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _missing(hint: str) -> str:
    return f'<p class="missing">{escape(hint)}</p>'
