"""The page's treemap: boxes for the groups that share one, two and three codes.

Browsers need seconds to draw ten thousand boxes, so the chart contains only one group and its
children. All other groups are stored as plain lists in a script, which draws a group on click.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import plotly.graph_objects as go

from recbole_qbert.reports.inspection.catalog import Catalog, ItemGroup
from recbole_qbert.reports.inspection.facts import Facts
from recbole_qbert.reports.inspection.tree import largest_groups, spread
from recbole_qbert.reports.webpage import chart_text, styled

MAX_BOXES = 20_000  # in total; about 3 MB of the page
MAX_CHILDREN = 1_000  # per box
_DEPTH = 3
_HOVER_TITLES = 6
_HOVER_WIDTH = 70
_ROOT_COLOR = "#c9ced6"
_TINTS = ("#cfe0f0", "#f5ddc4", "#d2e8d8", "#ecd6e5", "#e6e0d2", "#d3ecf0", "#f3d5d2", "#dcdcea")
_SCALE = [[0.0, "#f1ede6"], [0.5, "#9dc3d4"], [1.0, "#2f6690"]]
FIGURE = "tree-figure"
# Draws the clicked box, its children, and its ancestors, which the path bar needs.
_SCRIPT = """
(function () {
  const tree = TREE_DATA, chart = document.getElementById("TREE_FIGURE");
  const below = tree.parents.map(() => []);
  tree.parents.forEach((parent, place) => { if (parent >= 0) below[parent].push(place); });
  chart.on("plotly_treemapclick", event => {
    const place = Number(event.nextLevel);
    if (event.nextLevel === undefined || !below[place].length) return false;
    const shown = below[place].slice();
    for (let above = place; above >= 0; above = tree.parents[above]) shown.unshift(above);
    const pick = name => [shown.map(one => tree[name][one])];
    Plotly.restyle(chart, {
      ids: [shown.map(String)],
      parents: [shown.map(one => one ? String(tree.parents[one]) : "")],
      labels: pick("labels"), values: pick("values"), hovertext: pick("hovertext"),
      "marker.colors": pick("colors"), level: String(place),
    });
    return false;
  });
})();
"""


def tree_data(facts: Facts) -> tuple[dict[str, list[Any]], int]:
    """Make the data of the treemap.

    Returns:
        Lists of equal length with the root as first entry: `parents` (positions in the lists, -1
        for the root), `labels`, `values` (numbers of items), `hovertext` and `colors` (shares of
        the most common category, or colors if there are no categories); and the number of groups
        that were left out.
    """
    catalog = facts.catalog
    root = facts.selected or ItemGroup(0, 0, catalog.n_items)
    boxes, n_left_out = _boxes(catalog, root)
    places = {box: place for place, (box, _) in enumerate(boxes)}
    common = [_commonest(catalog, box) for box, _ in boxes]
    data: dict[str, list[Any]] = {
        "parents": [-1 if parent is None else places[parent] for _, parent in boxes],
        "labels": [_label(catalog, box, parent) for box, parent in boxes],
        "values": [box.size for box, _ in boxes],
        "hovertext": [
            _hover(catalog, box, share) for (box, _), share in zip(boxes, common, strict=True)
        ],
    }
    if catalog.categories is None:
        # The tint depends on the first code below the root, to distinguish adjacent boxes.
        firsts = [catalog.codes[box.start, root.depth] for box, _ in boxes[1:]]
        data["colors"] = [_ROOT_COLOR, *(_TINTS[code % len(_TINTS)] for code in firsts)]
    else:
        data["colors"] = [round(share[1], 3) if share else 0.0 for share in common]
    return data, n_left_out


def tree_figure(data: dict[str, list[Any]], by_category: bool) -> go.Figure:
    """Treemap of the root and its children; `by_category`: whether `colors` are shares."""
    shown = [place for place, parent in enumerate(data["parents"]) if parent < 1]
    treemap = go.Treemap(
        ids=[str(place) for place in shown],
        parents=[str(data["parents"][place]) if place else "" for place in shown],
        labels=[data["labels"][place] for place in shown],
        values=[data["values"][place] for place in shown],
        hovertext=[data["hovertext"][place] for place in shown],
        hoverinfo="text",
        branchvalues="total",
        maxdepth=2,
        tiling={"packing": "squarify", "pad": 2},
        pathbar={"thickness": 24},
        marker={
            "colors": [data["colors"][place] for place in shown],
            "line": {"width": 1, "color": "white"},
            "pad": {"t": 22, "l": 3, "r": 3, "b": 3},
        },
    )
    if by_category:
        # The color bar is below the boxes; at their side, it would be too wide for a phone.
        bar = {
            "title": {"text": "share of the commonest category", "side": "bottom"},
            "orientation": "h", "y": -0.02, "yanchor": "top", "tickformat": ".0%",
            "thickness": 12,
        }  # fmt: skip
        treemap.marker.update(colorscale=_SCALE, cmin=0, cmax=1, showscale=True, colorbar=bar)
    return styled(go.Figure(treemap), "").update_layout(
        height=620,
        margin={"l": 4, "r": 4, "t": 30, "b": 60},
        uniformtext={"minsize": 9, "mode": "hide"},
    )


def tree_script(data: dict[str, list[Any]]) -> str:
    """Script that draws a box on click; it must follow the figure in the page."""
    lists = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    script = _SCRIPT.replace("TREE_FIGURE", FIGURE).replace("TREE_DATA", lists)
    return f"<script>{script}</script>"


def _boxes(
    catalog: Catalog, root: ItemGroup
) -> tuple[list[tuple[ItemGroup, ItemGroup | None]], int]:
    """Pairs of a shown group and its parent, the root first; and the number of groups left out."""
    boxes: list[tuple[ItemGroup, ItemGroup | None]] = [(root, None)]
    parents, n_left_out = [root], 0
    for _ in range(min(_DEPTH, catalog.n_levels - root.depth)):
        above: dict[ItemGroup, ItemGroup] = {}
        for parent in parents:
            if parent.size > 1:
                below = catalog.subgroups(parent)
                above |= dict.fromkeys(largest_groups(below, MAX_CHILDREN), parent)
                n_left_out += max(0, len(below) - MAX_CHILDREN)
        parents = largest_groups(list(above), MAX_BOXES - len(boxes))
        n_left_out += len(above) - len(parents)
        boxes += [(child, above[child]) for child in parents]
    return boxes, n_left_out


def _label(catalog: Catalog, box: ItemGroup, parent: ItemGroup | None) -> str:
    if parent is None:
        return catalog.prefix(box)
    codes = catalog.codes_text(box.start, parent.depth, box.depth)
    if box.size > 1:
        return f"{codes}  ({box.size:,})"
    return f"{codes}<br>{_short(catalog.title(box.start))}"


def _hover(catalog: Catalog, box: ItemGroup, common: tuple[str, float] | None) -> str:
    lines = [f"<b>{catalog.prefix(box)}</b>"]
    if box.size > 1:
        lines[0] += f"  {box.size:,} items"
    if common:
        share = f"  {common[1]:.0%}" if box.size > 1 else ""
        lines.append(f"<i>{_short(common[0])}</i>{share}")
    rows = spread(range(box.start, box.end), _HOVER_TITLES)
    lines += [_short(catalog.title(row)) for row in rows]
    if box.size > len(rows):
        lines.append(f"... {box.size - len(rows):,} more")
    return "<br>".join(lines)


def _commonest(catalog: Catalog, box: ItemGroup) -> tuple[str, float] | None:
    """Most common category of a group, and its share of the items with a category."""
    names = [name for name in (catalog.categories or ())[box.start : box.end] if name]
    if not names:
        return None
    # Ties go to the first in the alphabet.
    name, count = min(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))
    return name, count / len(names)


def _short(text: str) -> str:
    """Truncate and escape a text."""
    cut = text if len(text) <= _HOVER_WIDTH else text[: _HOVER_WIDTH - 3] + "..."
    return chart_text(cut)
