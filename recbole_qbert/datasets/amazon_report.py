"""Implementation of `dataset_scripts/amazon.py`, with its printed report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.amazon import Options, find_files, prepare_amazon
from recbole_qbert.datasets.finish import report
from recbole_qbert.datasets.published import Published, amazon_categories


def prepare_and_report(options: SimpleNamespace) -> None:
    """Find the files, prepare the data set, and print its counts beside published ones.

    Raises:
        InputError: a flag or a file is invalid.
    """
    name = options.dataset or options.category
    if not name or not (options.category or options.reviews):
        raise InputError("give --category, or --dataset and --reviews")
    reviews, meta = map(Path, options.reviews or []), map(Path, options.metadata or [])
    files = [list(reviews), list(meta)]
    if options.category and not (files[0] and files[1]):
        found = find_files(Path(options.folder), options.category, options.release)
        files = [given or other for given, other in zip(files, found, strict=True)]
    domain = DatasetPaths(name, Path(options.data_path) / name)
    console = Console(highlight=False)
    for path in (*files[0], *files[1]):
        console.print(f"Reads {path}", soft_wrap=True)
    settings = Options(
        core=options.core,
        require=tuple(options.require),
        pictures=Path(options.pictures) if options.pictures else None,
        duplicates=options.duplicates,
        ties=options.ties,
        longest=options.longest,
    )
    made = prepare_amazon(
        domain, options.release, files[0], files[1], settings,
        overwrite=options.overwrite, progress=console.is_terminal,
    )  # fmt: skip
    others = published(options.category, options.release, options.core)
    report(domain, made, console, **others)


def published(category: str | None, release: int, core: int) -> dict[str, Published]:
    """Return published counts of the same release and core, of all ratings (`raw`) and of the
    filtered data set (`final`)."""
    if category is None:
        return {}
    counts = amazon_categories()[category].counts
    found = {}
    if release == 2014 and "recbole" in counts:
        found["raw"] = Published(counts["recbole"], "RecBole's list of data sets")
    if release == 2018 and core == 5 and "paper" in counts:
        found["final"] = Published(counts["paper"], "the paper's Table 1")
    return found
