"""The report as one HTML page with tabs; without JavaScript, all sections are shown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from recbole_qbert.reports import webpage
from recbole_qbert.reports.plotly_charts import charts_html
from recbole_qbert.reports.sections import ReportSection

_SHORT = 400  # longest origin, in characters, that is not folded

_STYLE = """
nav.tabs { position: sticky; top: 0; z-index: 5; margin: 14px 0 0; padding: 8px 0;
  background: var(--tint); }
nav.tabs a[aria-selected="true"] { background: var(--accent); border-color: var(--accent);
  color: white; }
a:focus-visible, button:focus-visible, .scroll:focus-visible { outline: 3px solid #e0a33c;
  outline-offset: 2px; }
h2:not(:first-child) { margin-top: 34px; }
.from, summary { font-size: 13px; overflow-wrap: anywhere; }
.from code span { display: inline-block; }
.warn { margin: 12px 0; padding: 10px 14px; background: #fdf3e1; border-left: 3px solid #c9821a;
  border-radius: 4px; }
.warn ul { margin: 4px 0 0; padding-left: 20px; }
.charts { display: grid; gap: 8px 24px; margin: 14px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.charts.single { grid-template-columns: minmax(0, 1fr); }
.charts figure { margin: 0; min-width: 0; }
.charts .figure { min-height: 0; }
.charts .map .figure { height: min(600px, 92vw); }
figcaption { font-weight: 600; }
.legend { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 6px; }
.legend button { display: flex; align-items: center; gap: 6px; padding: 3px 10px;
  border: 1px solid var(--line); border-radius: 14px; background: white; color: var(--ink);
  font: inherit; font-size: 13px; cursor: pointer; text-align: left; overflow-wrap: anywhere; }
.legend button[aria-pressed="false"] { color: var(--soft); text-decoration: line-through; }
.legend button[aria-pressed="false"] i { opacity: 0.25; }
.legend i { flex: none; width: 12px; height: 12px; border-radius: 3px; }
th.part { padding-top: 12px; color: var(--accent); }
td u { text-underline-offset: 3px; }
.items { margin: 0 0 12px; padding-left: 26px; font-size: 14px; }
.items li { margin: 4px 0; }
.items li > div { display: flex; gap: 8px; align-items: flex-start; }
.items li span { overflow-wrap: anywhere; display: -webkit-box; -webkit-line-clamp: 3;
  -webkit-box-orient: vertical; overflow: hidden; }
.items .hit { background: #e5f3ea; border-radius: 4px; }
.mark { flex: none; padding: 0 8px; background: #20693f; color: white; border-radius: 10px;
  font-size: 12px; }
@media (max-width: 600px) {
  header, main, footer { padding-left: 10px; padding-right: 10px; }
  section { padding: 16px 12px; }
  nav.tabs { position: static; }
}
"""

# The script sets the roles of tabs: without JavaScript, they are links to sections on the page.
_SCRIPT = """
(function () {
  const bar = document.querySelector("nav.tabs"), tabs = Array.from(bar.children);
  const panels = tabs.map(tab => document.getElementById(tab.hash.slice(1)));
  function show(place, focus) {
    tabs.forEach((tab, other) => {
      tab.setAttribute("aria-selected", String(other === place));
      tab.tabIndex = other === place ? 0 : -1;
      panels[other].hidden = other !== place;
    });
    panels[place].querySelectorAll(".js-plotly-plot").forEach(plot => Plotly.Plots.resize(plot));
    if (focus) tabs[place].focus();
  }
  bar.setAttribute("role", "tablist");
  tabs.forEach((tab, place) => {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panels[place].id);
    panels[place].setAttribute("role", "tabpanel");
    panels[place].setAttribute("aria-labelledby", tab.id);
    tab.addEventListener("click", event => {
      event.preventDefault();
      history.replaceState(null, "", tab.hash);
      show(place, false);
    });
    tab.addEventListener("keydown", event => {
      const last = tabs.length - 1;
      const next = { ArrowRight: place === last ? 0 : place + 1, Home: 0, End: last,
                     ArrowLeft: place === 0 ? last : place - 1 }[event.key];
      if (next !== undefined) { event.preventDefault(); show(next, true); }
    });
  });
  show(Math.max(0, tabs.findIndex(tab => tab.hash === location.hash)), false);
  document.querySelectorAll(".legend button").forEach(button => {
    button.addEventListener("click", () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      button.closest(".charts").querySelectorAll(".js-plotly-plot").forEach(plot => {
        const same = plot.data.map((trace, place) => place)
          .filter(place => plot.data[place].meta === button.dataset.name);
        if (same.length) Plotly.restyle(plot, { visible: on }, same);
      });
    });
  });
})();
"""


def render(title: str, counts: str, command: str, sections: Sequence[ReportSection]) -> str:
    """Render the page as HTML.

    Args:
        title: title of the page.
        counts: text on the number of runs, benchmarks and sweeps.
        command: command that makes the page again.
        sections: one section per tab; keys of charts must be unique.
    """
    links = "".join(
        f'<a href="#{one.key}" id="tab-{one.key}">{escape(one.title)}</a>' for one in sections
    )
    line = _origin(counts, command)
    header = f'<h1>{escape(title)}</h1>{line}<nav class="tabs" aria-label="sections">{links}</nav>'
    main = "\n".join(map(_panel, sections)) + f"\n<script>{_SCRIPT}</script>"
    return webpage.page(title, header, main, _STYLE)


def _panel(section: ReportSection) -> str:
    blocks = "\n".join(
        block if isinstance(block, str) else charts_html(block) for block in section.blocks
    )
    return (
        f'<section id="{section.key}">{_origin(f"Made from {section.source}", section.again)}\n'
        f"{blocks}\n</section>"
    )


def _origin(text: str, command: str) -> str:
    """Render the source of a page or section and the command that makes it again.

    Lines of the command break only between arguments. Long texts are folded.
    """
    words = " ".join(f"<span>{escape(word)}</span>" for word in command.split())
    line = f'<p class="from">{escape(text)}. Again: <code>{words}</code></p>'
    if len(text) + len(command) <= _SHORT:
        return line
    summary = "What this was made from, and how to make it again"
    return f"<details><summary>{summary}</summary>{line}</details>"
