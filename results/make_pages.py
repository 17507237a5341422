"""Fill the marked tables of README.md and results/*.md from the tables that `benchmark` wrote.

    recbole-qbert benchmark table2 --output=results/tables/table2    # trains missing runs alone
    python results/make_pages.py

A marked table stands between a line with its source and a line `<!-- end -->`:

    <!-- sheet: table2: Scientific: runs -->
    <!-- means: table2: Scientific: valid unseen_ndcg@10, hit@10, unseen_hit@10 -->
    <!-- grid: ndcg@10: Instruments: rivals_instruments, instruments; Games: rivals_games, games -->

`sheet` copies a table of `results/tables/table2/table.md` by its title, with its notes. `means`
takes means and deviations of these metrics from `table.csv`; they are those of test without
`valid`. `grid` has a column for each data set, with the metric's means in both rankings; a model's
figures come from the first of the named tables that has it. With a last part such as
`; rows: SASRec | FDSA` it has these rows alone. A test checks that the pages are up to date.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package beside this file, not one that is installed

from recbole_qbert.evaluation.ranking import UNSEEN  # noqa: E402
from recbole_qbert.evaluation.results import NONE, RANKINGS, metric_title, short  # noqa: E402
from recbole_qbert.experiments.benchmark.outputs import MEAN, to_markdown  # noqa: E402
from recbole_qbert.experiments.benchmark.scores import MeanStd  # noqa: E402
from recbole_qbert.experiments.benchmark.tables import (  # noqa: E402
    BenchmarkTable,
    TableCell,
    mark_column,
)

TABLES = ROOT / "results" / "tables"
MARKED = re.compile(r"^<!-- (sheet|means|grid): (\S+): (.+?) -->\n.*?^<!-- end -->$", re.M | re.S)
Place = tuple[str, str, str]  # split, ranking and metric, as in table.csv


def pages() -> Iterable[Path]:
    """Return the files that may have marked tables."""
    return [ROOT / "README.md", *sorted((ROOT / "results").glob("*.md"))]


def filled(text: str) -> str:
    """Return a page's text with its marked tables written anew."""

    def table(found: re.Match[str]) -> str:
        kind, name, what = found.groups()
        if kind == "sheet":
            lines = sheet(name, what)
        else:
            lines = grid(name, what) if kind == "grid" else means(name, *what.split(": ", 1))
        return f"<!-- {kind}: {name}: {what} -->\n\n{lines.strip()}\n\n<!-- end -->"

    return MARKED.sub(table, text)


def sheet(name: str, title: str) -> str:
    """Return a table of `table.md`, without its heading, by the title or its beginning."""
    parts = re.split(r"^## ", (TABLES / name / "table.md").read_text("utf-8"), flags=re.M)[1:]
    found = [part for part in parts if part.startswith(title)]
    if len(found) != 1:
        titles = "; ".join(part.partition("\n")[0] for part in parts)
        raise SystemExit(f"{name}: {len(found)} tables begin with {title!r}; there are: {titles}")
    return found[0].partition("\n")[2]


def means(name: str, dataset: str, metrics: str) -> str:
    """Return a table of means and deviations of one data set, a column for each metric."""
    found, seeds = rows_of(name, dataset)
    places = [place_of(metric) for metric in metrics.split(", ")]
    columns = [mark_column([row[place] for row in found.values()]) for place in places]
    lines = [
        [TableCell(model), TableCell(str(seeds.get(model, NONE))), *cells]
        for model, *cells in zip(found, *columns, strict=True)
    ]
    head = ("model", "seeds", *map(title_of, places))
    return to_markdown(BenchmarkTable("", head, [("", lines)])).partition("\n")[2]


def grid(metric: str, what: str) -> str:
    """Return a table of one metric, a column for each data set: all items / seen excluded."""
    columns: dict[str, dict[str, tuple[float, ...]]] = {}
    what, _, rows = what.partition("; rows: ")
    for part in what.split("; "):
        dataset, _, names = part.partition(": ")
        found = columns.setdefault(dataset, {})
        for name in names.split(", "):
            for model, values in rows_of(name, dataset)[0].items():
                places = (place_of(UNSEEN * unseen + metric) for unseen in (False, True))
                found.setdefault(model, tuple(values[place].mean for place in places))
    known = dict.fromkeys(model for found in columns.values() for model in found)
    models = rows.split(" | ") if rows else list(known)
    best = {
        dataset: [
            max(column) for column in zip(*(found[m] for m in models if m in found), strict=True)
        ]
        for dataset, found in columns.items()
    }
    lines = [
        "| model |" + "".join(f" {dataset} |" for dataset in columns),
        "|---|" + "---:|" * len(columns),
    ]
    for model in models:
        cells = [bold(found.get(model), best[dataset]) for dataset, found in columns.items()]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bold(means: Sequence[float] | None, best: Sequence[float]) -> str:
    """Format as `.1143 / **.1201**`, with the best of a column bold; a dash for None."""
    if means is None:
        return NONE
    pairs = zip(means, best, strict=True)
    return " / ".join(f"**{short(mean)}**" if mean == top else short(mean) for mean, top in pairs)


@cache
def rows_of(name: str, dataset: str) -> tuple[dict[str, dict[Place, MeanStd]], dict[str, int]]:
    """Read `table.csv`: the means of each row, and its number of seeds."""
    rows: dict[str, dict[Place, MeanStd]] = {}
    seeds: dict[str, set[str]] = {}
    with open(TABLES / name / "table.csv", encoding="utf-8", newline="") as handle:
        for line in csv.DictReader(handle):
            if line["dataset"] != dataset:
                continue
            if line["seed"] != MEAN:
                seeds.setdefault(line["model"], set()).add(line["seed"])
                continue
            deviation = float(line["deviation"]) if line["deviation"] else None
            place = (line["split"], line["ranking"], line["metric"])
            values = rows.setdefault(line["model"], {})
            values[place] = MeanStd(float(line["value"]), deviation, ())
    return rows, {model: len(each) for model, each in seeds.items()}


def place_of(metric: str) -> Place:
    """Return where a metric such as `valid unseen_ndcg@10` stands in `table.csv`."""
    split, _, key = metric.rpartition(" ")
    return (
        split or "test",
        dict(RANKINGS)[UNSEEN * key.startswith(UNSEEN)],
        key.removeprefix(UNSEEN),
    )


def title_of(place: Place) -> str:
    """Return the title of a column."""
    split, ranking, metric = place
    title = f"{metric_title(metric)}, {ranking}"
    return title if split == "test" else f"{split} {title}"


if __name__ == "__main__":
    for page in pages():
        old = page.read_text("utf-8")
        new = filled(old)
        if new != old:
            page.write_text(new, "utf-8")
            print(f"written: {page.relative_to(ROOT)}")
