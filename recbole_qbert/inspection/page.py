"""Frame, style sheet and script of the report page."""

from __future__ import annotations

# The policy keeps the page from fetching anything, whatever a title holds.
FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: semantic IDs</title>
<style>{style}</style>
<script>{plotly}</script>
</head>
<body>
<header><h1>{title}</h1><p class="headline">{headline}</p>{coverage}<nav>{links}</nav></header>
<main>
{sections}
</main>
<footer>recbole-qbert {version}</footer>
</body>
</html>
"""

STYLE = """
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

# Draws the clicked box, those right below it, and those above it for the bar to go back by.
TREE_SCRIPT = """
(function () {
  const tree = TREE_DATA, chart = document.getElementById("tree-figure");
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
      "marker.colors": pick("colours"), level: String(place),
    });
    return false;
  });
})();
"""
