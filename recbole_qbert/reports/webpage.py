"""Self-contained HTML pages with Plotly charts and tables, which need no network.

All texts from the data are escaped when they are inserted into the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from recbole_qbert._version import __version__
from recbole_qbert.common.errors import InputError
from recbole_qbert.common.files import atomic_write

COLORS = ("#3b6fb6", "#e08a3c", "#4a9b6e", "#b0589a", "#8a7a5c", "#5fb3c4", "#c4524a", "#777777")
PALE = "#c9ced6"

# The policy prevents network access, even if a title contains HTML.
_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body>
<header>{header}</header>
<main>
{main}
</main>
<footer>recbole-qbert {version}</footer>
</body>
</html>
"""

_STYLE = """
:root { --ink: #1f2933; --soft: #5d6b7a; --line: #e1e6ec; --tint: #f6f8fa; --accent: #2f6690; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
body { margin: 0; color: var(--ink); background: var(--tint); line-height: 1.5;
  font: 15px system-ui, -apple-system, "Segoe UI", sans-serif; }
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 32px; }
header p { margin: 0; color: var(--soft); }
header p.headline { font-size: 17px; color: var(--ink); }
h1 { margin: 0; font-size: 28px; }
h2 { margin: 0 0 12px; font-size: 21px; }
h3 { margin: 24px 0 8px; font-size: 16px; }
h4, h5 { margin: 0 0 6px; font-size: 15px; }
h5 { font-size: 13px; color: var(--soft); }
nav { margin: 18px 0; display: flex; flex-wrap: wrap; gap: 8px; }
nav a { padding: 5px 12px; border: 1px solid var(--line); border-radius: 16px;
  background: white; color: var(--accent); text-decoration: none; }
nav a:hover { border-color: var(--accent); }
section { margin: 0 0 24px; padding: 22px 24px; background: white;
  border: 1px solid var(--line); border-radius: 10px; }
section p { margin: 4px 0; color: var(--soft); }
p.missing { padding: 10px 14px; background: #fdf7e7; border-left: 3px solid #d9a93a;
  border-radius: 4px; }
p.more { font-size: 13px; }
.figure { margin: 6px 0; min-height: 340px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; white-space: nowrap; }
th.word, td.word { text-align: left; }
tr > .word:first-child { position: sticky; left: 0;
  min-width: min(11em, 30vw); max-width: min(26em, 40vw);
  background: white; white-space: normal; overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
td { border-bottom: 1px solid var(--line); }
code { color: var(--accent); font: 12px ui-monospace, Menlo, Consolas, monospace; }
h4 code { font-size: 14px; font-weight: 600; }
.group { margin: 12px 0; padding: 10px 0 2px 14px; border-left: 3px solid var(--line); }
section > .group { border-left-color: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; }
.card { display: flex; flex-direction: column; gap: 2px; padding: 8px; font-size: 13px;
  background: var(--tint); border-radius: 6px; }
.card span, .near span { display: -webkit-box; -webkit-line-clamp: 3; -webkit-box-orient: vertical;
  overflow: hidden; overflow-wrap: anywhere; }
img { display: block; height: 64px; width: auto; align-self: flex-start; border-radius: 3px; }
i.blank { display: block; flex: none; width: 44px; height: 64px; border-radius: 3px;
  border: 1px dashed #c3ccd6; }
.example { margin: 14px 0; padding: 14px; border: 1px solid var(--line); border-radius: 8px; }
.asked { display: flex; gap: 12px; margin-bottom: 12px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 18px; }
.near { display: flex; gap: 8px; margin: 6px 0; font-size: 13px; }
.near div { display: flex; flex-direction: column; min-width: 0; }
footer { padding-bottom: 30px; color: var(--soft); font-size: 13px; }
"""


def page(title: str, header: str, main: str, style: str = "") -> str:
    """Render a page; equal inputs give equal bytes.

    Args:
        title: title of the window, as plain text.
        header: HTML of the header.
        main: HTML of the main part.
        style: CSS rules, appended to the common ones.
    """
    return _FRAME.format(
        title=escape(title),
        style=_STYLE + style,
        plotly=get_plotlyjs(),
        header=header,
        main=main,
        version=escape(__version__),
    )


def write_page(path: str | Path, text: str) -> int:
    """Write a page atomically; return its size in bytes.

    Raises:
        InputError: the file cannot be written.
    """
    data = text.encode("utf-8")
    try:
        with atomic_write(path, "wb") as handle:
            handle.write(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: cannot be written ({reason}); correct the path") from None
    return len(data)


def chart_text(text: str) -> str:
    """Escape a text for Plotly, which interprets some HTML, and formulas between dollar signs."""
    return escape(text, quote=False).replace("$", "&#36;")


def figure(chart: go.Figure, name: str) -> str:
    """Render a chart without Plotly's script, which the head of the page contains.

    Args:
        chart: the Plotly figure.
        name: id of its HTML element; unique in the page.
    """
    config = {"displayModeBar": False, "responsive": True}
    body = chart.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return f'<div class="figure">{body}</div>'


def styled(figure: go.Figure, y_title: str, percent: bool = False) -> go.Figure:
    """Apply the page's style to a figure; `percent` formats the y axis as percentages."""
    figure.update_layout(
        template="none",
        height=340,
        barmode="group",
        bargap=0.25,
        margin={"l": 70, "r": 20, "t": 30, "b": 60},
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    figure.update_yaxes(title=y_title, gridcolor="#e6e9ee", zerolinecolor="#b8bfc9")
    if percent:
        figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure


def table(title: str, head: str, body: str, notes: Iterable[str] = ()) -> str:
    """Render a table in a box with its own scroll bar, which the keyboard can control too.

    Args:
        title: title above the table, as plain text.
        head: HTML of the `<th>` cells.
        body: HTML of the `<tr>` rows.
        notes: notes below the table, as plain texts.
    """
    return (
        f'<h3>{escape(title)}</h3><div class="scroll" role="region" tabindex="0" '
        f'aria-label="{escape(title)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{paragraphs(notes)}"
    )


def cells(tag: str, texts: Sequence[str], n_words: int) -> str:
    """Render the cells of one row; the first `n_words` contain words, the others numbers."""
    kinds = [' class="word"' if place < n_words else "" for place in range(len(texts))]
    pairs = zip(kinds, texts, strict=True)
    return "".join(f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in pairs)


def paragraphs(lines: Iterable[str]) -> str:
    """Render a paragraph per text."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def missing(hint: str) -> str:
    """Render a hint about missing data."""
    return f'<p class="missing">{escape(hint)}</p>'


def thumbnail(uri: str | None) -> str:
    """Render a picture from its data URI, or an empty frame."""
    return '<i class="blank"></i>' if uri is None else f'<img src="{uri}" alt="">'
