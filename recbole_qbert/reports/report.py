"""`report`: makes an HTML page, and optionally plots for papers, from results folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from recbole_qbert.common.errors import InputError, did_you_mean, preview
from recbole_qbert.common.output import counted
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.domain import DatasetPaths, default_folder, find_domain
from recbole_qbert.evaluation.ranking import UNSEEN, metric_key
from recbole_qbert.reports.charts import Palette
from recbole_qbert.reports.comparisons import ComparisonData, compare_all
from recbole_qbert.reports.discovery import Found, find_results
from recbole_qbert.reports.inspection.facts import Facts, gather_facts
from recbole_qbert.reports.inspection.pictures import Pictures
from recbole_qbert.reports.inspection.sections import page_sections, summary_lines
from recbole_qbert.reports.item_map import METHODS, TSNE_METHOD, space_section
from recbole_qbert.reports.learning import learning_section
from recbole_qbert.reports.page import Block, ReportSection, render, write_page
from recbole_qbert.reports.sweeps import sweeps_section
from recbole_qbert.reports.tables import tables_section
from recbole_qbert.reports.users import UnusableBundle, best_bundle, users_section


@dataclass(frozen=True)
class ReportRequest:
    """Arguments of `report`; see `inspect` for those on titles, categories and images."""

    folders: tuple[Path, ...]  # results folders, searched recursively
    output: Path  # the page, `.html`
    plots: Path | None = None  # folder for PNG and SVG files; None: no plots
    metric: str = "ndcg@10"  # of the charts, shown for both rankings
    # Data set whose items and users are shown; None: that of all runs, if they have only one.
    dataset: str | None = None
    # Folder of the data set's folder; None: the `data_path` of its runs, or `dataset`.
    data_path: Path | None = None
    semantic_id_file: Path | None = None  # replaces `<dataset>.semid`
    tokenizer: Path | None = None  # folder of the tokenizer; None: the data set's own
    title_field: str | None = None
    category_field: str | None = None
    category_part: str = "auto"
    images: Path | None = None
    projection: str = TSNE_METHOD  # method of the item map, one of `METHODS`
    n_users: int = 5  # number of example users


def report(request: ReportRequest, console: Console) -> list[ReportSection]:
    """Write the page and, if requested, the plots.

    Returns:
        The sections of the page.

    Raises:
        InputError: an input or setting cannot be used, or an output file cannot be written.
    """
    _check(request)
    found = find_results(request.folders)
    comparisons = compare_all(found)
    metric = _metric(request.metric, comparisons)
    domain = _domain(request, found)
    facts = _facts(request, domain) if domain else None
    pictures = Pictures(request.images, facts.catalog) if facts and request.images else None
    palette = Palette()
    steps: dict[str, Callable[[], list[ReportSection | None]]] = {
        "tables": lambda: [tables_section(comparisons, metric, palette)],
        "learning curves": lambda: [learning_section(comparisons, metric, palette)],
        "sweeps": lambda: [sweeps_section(found, comparisons, metric, palette)],
        "items and users": lambda: _data_sections(request, found, domain, facts, console),
    }
    sections: list[ReportSection] = []
    bar = Progress(steps.items(), desc="report", unit="part")
    for name, step in bar:
        bar.set_postfix_str(name)
        sections += [section for section in step() if section is not None]
    _number_keys(sections)
    numbers = {"run": found.runs, "benchmark": found.benchmarks, "sweep": found.sweeps}
    words = [counted(len(each), word) for word, each in numbers.items()]
    folders = " ".join(found.name(folder) for folder in found.folders)
    text = render(
        f"Results: {', '.join(found.datasets) or found.name(found.sweeps[0])}",
        [],
        sections,
        pictures.uri if pictures else None,
        ", ".join(words),
        f"recbole-qbert report {folders}{_flags(request)}",
    )
    if request.plots is not None:
        from recbole_qbert.reports.matplotlib_charts import write_plots  # slow to import

        charts = [chart for section in sections for chart in section.charts]
        paths = write_plots(request.plots, charts)
        _print(console, f"{counted(len(paths), 'plot')} written to {request.plots}")
    size = write_page(request.output, text)
    names = ", ".join(section.title for section in sections)
    _print(console, f"Page written to {request.output} ({size / 1e6:.1f} MB): {names}")
    return sections


def _print(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)


def _check(request: ReportRequest) -> None:
    if request.output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output={request.output}: the file name must end with .html")
    if request.plots is not None and request.plots.exists() and not request.plots.is_dir():
        raise InputError(f"--plots={request.plots}: not a folder; give a folder")
    if request.projection not in METHODS:
        hint = did_you_mean(request.projection, METHODS)
        raise InputError(f"--projection={request.projection}: must be {' or '.join(METHODS)}{hint}")
    if request.n_users < 1:
        raise InputError(f"--n_users={request.n_users}: must be at least 1")


def _metric(asked: str, comparisons: Sequence[ComparisonData]) -> str:
    """Normalize a metric name: `NDCG@10` and `unseen_ndcg@10` become `ndcg@10`.

    Charts always show both rankings.
    """
    metric = metric_key(asked).removeprefix(UNSEEN)
    known = {name for one in comparisons for row in one.scores.rows for name in row.metrics}
    if known and metric not in known:
        names = sorted(known)
        hint = did_you_mean(metric, names)
        raise InputError(f"--metric={asked}: the runs have the metrics {preview(names)}{hint}")
    return metric


def _domain(request: ReportRequest, found: Found) -> DatasetPaths | None:
    """Find the data set whose items and users are shown; None if unknown or without a folder.

    Raises:
        InputError: the requested data set does not exist, or a flag needs one to be requested.
    """
    if request.dataset is None and len(found.datasets) != 1:
        names = ("data_path", "title_field", "category_field", "images", "semantic_id_file")
        given = [name for name in (*names, "tokenizer") if getattr(request, name)]
        if found.datasets and given:
            several = preview(sorted(found.datasets))
            raise InputError(
                f"--{given[0]}: there are several data sets ({several}); give --dataset"
            )
        return None
    name = request.dataset or found.datasets[0]
    if request.data_path is not None:
        return find_domain(name, request.data_path)
    keys = [run.result.config["keys"] for run in found.runs if run.result.dataset == name]
    places = [Path(each["data_path"]) for each in keys if "data_path" in each]
    for place in (*reversed(places), Path("dataset")):
        if (place / name).is_dir():
            return DatasetPaths(name, place / name)
    return find_domain(name, "dataset") if request.dataset else None


def _data_sections(
    request: ReportRequest,
    found: Found,
    domain: DatasetPaths | None,
    facts: Facts | None,
    console: Console,
) -> list[ReportSection | None]:
    """Make the sections of a data set: item vectors, semantic IDs and example users."""
    sections: list[ReportSection | None] = []
    if domain is None:
        return sections
    if facts is not None:
        default = default_folder(domain.folder.parent, [domain.name])
        tokenizer = request.tokenizer or default
        blocks = [Block("paragraphs", summary_lines(facts))]
        for section in page_sections(facts, request.images is not None):
            blocks += [Block("heading", section.title), *section.blocks]
        command = (
            f"recbole-qbert tokenize --dataset={domain.name}; this section alone: recbole-qbert "
            f"ids inspect --dataset={domain.name} --html=ids.html"
        )
        sections = [
            space_section(facts.catalog, domain, tokenizer, request.projection),
            ReportSection("ids", "Semantic IDs", tuple(blocks), facts.catalog.name, command),
        ]
    best = best_bundle(found, domain.name)
    if best is not None:
        file = next(each.file for each in found.runs if each.result is best.run)
        name = found.name(file)
        try:
            sections.append(users_section(best, name, domain, request.title_field, request.n_users))
        except UnusableBundle as error:  # the other sections do not depend on the bundle
            _print(console, f"Warning: no example users: {error}")
    return sections


def _facts(request: ReportRequest, domain: DatasetPaths) -> Facts | None:
    """Gather the facts of `inspect` on the data set's semantic IDs; None if it has none."""
    semid, item = request.semantic_id_file or domain.file("semid"), domain.file("item")
    if not semid.is_file():
        if request.semantic_id_file or request.images or request.category_field:
            command = f"recbole-qbert tokenize --dataset={domain.name}"
            raise InputError(f"{semid}: no such file; make it with `{command}`")
        return None
    return gather_facts(
        semid,
        item_path=item if item.is_file() else None,
        title_field=request.title_field,
        category_field=request.category_field,
        category_part=request.category_part,
        embeddings=domain.embedding_tables(),
    )


def _number_keys(sections: Sequence[ReportSection]) -> None:
    """Append numbers to repeated chart keys: charts of different folders may have the same key."""
    seen: Counter[str] = Counter()
    groups = [one.content for section in sections for one in section.blocks if one.kind == "charts"]
    for charts in groups:
        for place, chart in enumerate(charts):
            seen[chart.key] += 1
            if seen[chart.key] > 1:
                charts[place] = replace(chart, key=f"{chart.key}-{seen[chart.key]}")


def _flags(request: ReportRequest) -> str:
    """Non-default flags of a request. Absolute paths are reduced to names, to keep them private."""
    given = ""
    for each in fields(ReportRequest):
        value = getattr(request, each.name)
        if each.name in ("folders", "output", "plots") or value == each.default:
            continue
        if isinstance(value, Path) and value.is_absolute():
            value = value.name
        given += f" --{each.name}={value}"
    return given
