"""What `dataset_scripts/amazon.py` does with its flags, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from recbole_qbert.data.domain import Domain
from recbole_qbert.errors import InputError
from recbole_qbert.preparation.amazon import Options, Prepared, find_files, prepare_amazon
from recbole_qbert.preparation.interactions import Counts
from recbole_qbert.preparation.published import amazon_categories, comparison, counts_table

PAPER, RECBOLE = "the paper's Table 1", "RecBole's list of data sets"


def prepare_and_report(options: argparse.Namespace) -> None:
    """Find the files, prepare, print counts beside the published ones.

    Raises:
        InputError: a flag or file cannot be used.
    """
    name = options.dataset or options.category
    if not name or not (options.category or options.reviews):
        raise InputError("give --category, or --dataset and --reviews")
    reviews, meta = map(Path, options.reviews or []), map(Path, options.metadata or [])
    files = [list(reviews), list(meta)]
    if options.category and not (files[0] and files[1]):
        found = find_files(Path(options.folder), options.category, options.release)
        files = [given or other for given, other in zip(files, found, strict=True)]
    domain = Domain(name, Path(options.data_path) / name)
    console = Console(highlight=False)
    for path in (*files[0], *files[1]):
        console.print(f"Reads {path}", soft_wrap=True)
    settings = Options(
        core=options.core,
        require=tuple(options.require),
        pictures=Path(options.pictures) if options.pictures else None,
        duplicates=options.duplicates,
        longest=options.longest,
    )
    made = prepare_amazon(
        domain, options.release, files[0], files[1], settings,
        overwrite=options.overwrite, progress=console.is_terminal,
    )  # fmt: skip
    report(domain, made, published(options.category, options.release, options.core), console)


def published(category: str | None, release: int, core: int) -> dict[str, Counts]:
    """Counts to compare with: of all ratings ("raw"), of what is written ("final").

    They are shown only where they are of the same release and core.
    """
    if category is None:
        return {}
    counts = amazon_categories()[category].counts
    found = {}
    if release == 2014 and "recbole" in counts:
        found["raw"] = counts["recbole"]
    if release == 2018 and core == 5 and "paper" in counts:
        found["final"] = counts["paper"]
    return found


def report(domain: Domain, made: Prepared, others: dict[str, Counts], console: Console) -> None:
    """Counts, coverage, comparison, rejected lines."""
    rows = {
        "all usable lines": (made.raw, others.get("raw")),
        f"written to {domain.name}": (made.final, others.get("final")),
    }
    console.print(counts_table(rows))
    for key, ours, whose in (("raw", made.raw, RECBOLE), ("final", made.final, PAPER)):
        if key in others:
            console.print(comparison(ours, others[key], whose), soft_wrap=True)
    if made.coverage:
        shares = [f"{name} {n / made.final.items:.1%}" for name, n in made.coverage.items()]
        console.print(f"Items with {', '.join(shares)}", soft_wrap=True)
    if made.repeated:
        console.print(f"{made.repeated:,} records of items that have a fuller one passed over")
    if made.reasons:
        total = sum(made.reasons.values())
        console.print(f"{total:,} lines could not be used; all are in {domain.file('rejected')}:",
                      soft_wrap=True)  # fmt: skip
        for reason, n in made.reasons.items():
            console.print(f"  {n:,}: {reason}", soft_wrap=True)
        for line in made.rejected:
            console.print(f"  {line.rstrip()}", markup=False, soft_wrap=True)
