"""`report`: makes an HTML page, and optionally plots for papers, from results folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from recbole_qbert.common.errors import InputError, did_you_mean, preview
from recbole_qbert.common.progress import Progress
from recbole_qbert.data.domain import DatasetPaths, default_folder, find_domain
from recbole_qbert.evaluation.ranking import UNSEEN
from recbole_qbert.reports import webpage
from recbole_qbert.reports.charts import Palette
from recbole_qbert.reports.comparisons import ComparisonData, compare_all
from recbole_qbert.reports.discovery import Found, find_results
from recbole_qbert.reports.ids import ids_section
from recbole_qbert.reports.inspection.facts import Facts, gather_facts
from recbole_qbert.reports.inspection.pictures import Pictures
from recbole_qbert.reports.item_map import METHODS, TSNE_METHOD, space_section
from recbole_qbert.reports.learning import learning_section
from recbole_qbert.reports.page import render
from recbole_qbert.reports.sections import ReportSection
from recbole_qbert.reports.sweeps import sweeps_section
from recbole_qbert.reports.tables import tables_section
from recbole_qbert.reports.users import best_bundle, users_section


@dataclass(frozen=True)
class ReportRequest:
    """Arguments of `report`.

    Attributes:
        folders: results folders, searched recursively.
        output: path of the page, `.html`.
        plots: folder for PNG and SVG files; None: no plots.
        metric: metric of the charts, shown for both rankings.
        dataset: data set whose items and users are shown; None: the data set of all runs, if they
            have only one.
        data_path: folder that holds the data set's folder; None: the `data_path` of its runs, or
            `dataset`.
        semantic_id_file: replaces `<dataset>.semid`.
        tokenizer: folder of the tokenizer; None: the data set's own.
        title_field, category_field, category_part, images: see `inspect`.
        projection: method of the item map, one of `METHODS`.
        n_users: number of example users.
    """

    folders: tuple[Path, ...]
    output: Path
    plots: Path | None = None
    metric: str = "ndcg@10"
    dataset: str | None = None
    data_path: Path | None = None
    semantic_id_file: Path | None = None
    tokenizer: Path | None = None
    title_field: str | None = None
    category_field: str | None = None
    category_part: str = "auto"
    images: Path | None = None
    projection: str = TSNE_METHOD
    n_users: int = 5


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
    sections = _unique(_sections(request, found, comparisons, metric, domain, console))
    title = f"Results: {', '.join(found.datasets) or found.name(found.sweeps[0])}"
    numbers = {"run": found.runs, "benchmark": found.benchmarks, "sweep": found.sweeps}
    words = [f"{len(each)} {word}{'s' * (len(each) != 1)}" for word, each in numbers.items()]
    counts = f"Made from {', '.join(words)}"
    folders = " ".join(found.name(folder) for folder in found.folders)
    command = f"recbole-qbert report {folders}{_flags(request)}"
    text = render(title, counts, command, sections)
    if request.plots is not None:
        from recbole_qbert.reports.matplotlib_charts import (
            write_plots,  # Matplotlib is slow to import
        )

        charts = [chart for section in sections for chart in section.charts]
        paths = write_plots(request.plots, charts)
        _say(console, f"{len(paths)} plots written to {request.plots}")
    size = webpage.write_page(request.output, text)
    names = ", ".join(section.title for section in sections)
    _say(console, f"Page written to {request.output} ({size / 1e6:.1f} MB): {names}")
    return sections


def _say(console: Console, line: str) -> None:
    console.print(Text(line), soft_wrap=True)


def _check(request: ReportRequest) -> None:
    if request.output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--output={request.output}: name a file that ends with .html")
    if request.plots is not None and request.plots.exists() and not request.plots.is_dir():
        raise InputError(f"--plots={request.plots}: is a file; name a folder")
    if request.projection not in METHODS:
        hint = did_you_mean(request.projection, METHODS)
        raise InputError(f"--projection={request.projection}: write {' or '.join(METHODS)}{hint}")
    if request.n_users < 1:
        raise InputError(f"--n_users={request.n_users}: it must be at least 1")


def _metric(asked: str, comparisons: Sequence[ComparisonData]) -> str:
    """Normalize a metric name: `NDCG@10` and `unseen_ndcg@10` become `ndcg@10`.

    Charts always show both rankings.
    """
    metric = asked.lower().removeprefix(UNSEEN).replace("hr@", "hit@")
    known = {name for one in comparisons for row in one.scores.rows for name in row.metrics}
    if known and metric not in known:
        names = sorted(known)
        raise InputError(
            f"--metric={asked}: the runs have {preview(names)}{did_you_mean(metric, names)}"
        )
    return metric


def _domain(request: ReportRequest, found: Found) -> DatasetPaths | None:
    """Find the data set whose items and users are shown; None if unknown or without a folder.

    Raises:
        InputError: the requested data set does not exist.
    """
    if request.dataset is not None:
        runs = [run.result for run in found.runs if run.result.dataset == request.dataset]
    else:
        if len(found.datasets) != 1:
            return None
        runs = [run.result for run in found.runs]
    name = request.dataset or found.datasets[0]
    if request.data_path is not None:
        return find_domain(name, request.data_path)
    places = [Path(run.config["keys"]["data_path"]) for run in runs if "data_path" in
              run.config["keys"]]  # fmt: skip
    for place in (*reversed(places), Path("dataset")):
        if (place / name).is_dir():
            return DatasetPaths(name, place / name)
    return find_domain(name, "dataset") if request.dataset else None


def _sections(
    request: ReportRequest,
    found: Found,
    comparisons: Sequence[ComparisonData],
    metric: str,
    domain: DatasetPaths | None,
    console: Console,
) -> list[ReportSection]:
    """Make all sections for which there are data, in their order."""
    palette = Palette()
    steps: dict[str, Callable[[], list[ReportSection | None]]] = {
        "tables": lambda: [tables_section(comparisons, metric, palette)],
        "learning curves": lambda: [learning_section(comparisons, metric, palette)],
        "sweeps": lambda: [sweeps_section(found, comparisons, metric, palette)],
        "items and users": lambda: _of_data_set(request, found, domain) if domain else [],
    }
    sections: list[ReportSection | None] = []
    bar = Progress(steps.items(), desc="report", unit="part")
    for name, step in bar:
        bar.set_postfix_str(name)
        sections += step()
    return [section for section in sections if section is not None]


def _of_data_set(
    request: ReportRequest, found: Found, domain: DatasetPaths
) -> list[ReportSection | None]:
    """Make the sections of a data set: item vectors, semantic IDs and example users."""
    facts = _facts(request, domain)
    pictures, sections = None, []
    if facts is not None:
        if request.images is not None:
            pictures = Pictures(request.images, facts.catalog)
        default = default_folder(domain.folder.parent, [domain.name])
        tokenizer = request.tokenizer or default
        sections = [
            space_section(facts.catalog, domain, tokenizer, request.projection),
            ids_section(facts, pictures, domain.name),
        ]
    run = best_bundle(found, domain.name)
    if run is None:
        return sections

    def thumbnail(item: str) -> str:
        return "" if pictures is None else webpage.thumbnail(pictures.uri(item))

    file = next(each.file for each in found.runs if each.result is run)
    users = users_section(
        run, found.name(file), domain, request.title_field, request.n_users, thumbnail
    )
    return [*sections, users]


def _facts(request: ReportRequest, domain: DatasetPaths) -> Facts | None:
    """Gather the facts of `inspect` on the data set's semantic IDs; None if it has none."""
    semid = request.semantic_id_file or domain.file("semid")
    if not semid.is_file():
        if request.semantic_id_file or request.images or request.category_field:
            raise InputError(
                f"{semid}: no such file; `recbole-qbert tokenize --dataset={domain.name}` makes it"
            )
        return None
    item = domain.file("item")
    return gather_facts(
        semid,
        item_path=item if item.is_file() else None,
        title_field=request.title_field,
        category_field=request.category_field,
        category_part=request.category_part,
        embeddings=domain.embedding_tables(),
    )


def _unique(sections: Sequence[ReportSection]) -> list[ReportSection]:
    """Append numbers to repeated chart keys: charts of different folders may have the same key."""
    seen: dict[str, int] = {}
    renamed = []
    for section in sections:
        blocks = []
        for block in section.blocks:
            if not isinstance(block, str):
                charts = []
                for chart in block:
                    seen[chart.key] = count = seen.get(chart.key, 0) + 1
                    key = chart.key if count == 1 else f"{chart.key}-{count}"
                    charts.append(replace(chart, key=key))
                block = tuple(charts)
            blocks.append(block)
        renamed.append(replace(section, blocks=tuple(blocks)))
    return renamed


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
