"""The end of every preparation: files, sidecar, and what is printed."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from recbole_qbert.data.domain import Domain
from recbole_qbert.errors import InputError
from recbole_qbert.preparation.interactions import Counts, Interactions
from recbole_qbert.preparation.items import Records, item_columns
from recbole_qbert.preparation.published import Published, comparison, counts_table
from recbole_qbert.preparation.spool import Stage
from recbole_qbert.preparation.writer import Fields, write_dataset

_SHOWN = 5  # rejected lines of a stage


class Prepared(NamedTuple):
    """What was made.

    Attributes:
        raw: of all usable lines.
        final: of what was written.
        coverage: number of items with a record, and with each of its fields; empty without any.
        repeated: records that a fuller one of their item was preferred to.
        reasons: rejected lines by reason.
        rejected: the first of them, as in the report.
    """

    raw: Counts
    final: Counts
    coverage: dict[str, int]
    repeated: int
    reasons: dict[str, int]
    rejected: list[str]


def finish(
    domain: Domain,
    stages: Sequence[Stage],
    raw: Counts,
    inter: Interactions,
    *,
    made_by: str,
    options: Mapping[str, Any],
    items: Records | None,
    cells: Mapping[str, str],
    with_rating: bool = True,
    users: Fields | None = None,
) -> Prepared:
    """Write the data set, then remove `<name>.parts/`.

    Args:
        stages: what was read; their rejected lines become `<name>.rejected`.
        inter: as it is to be written.
        options: JSON values for the sidecar.
        items: records of all of `inter`'s item tokens; None writes no `.item` file.
        cells: header cells of their fields.
        users: the `.user` file's columns.

    Raises:
        InputError: no interactions are left.
    """
    if not len(inter.users):
        asked = ", ".join(f"{key}={value}" for key, value in options.items() if value)
        raise InputError(
            f"{domain.name}: nothing is left of {raw.interactions:,} interactions with {asked}; "
            "ask for less"
        )
    columns, coverage, repeated = None, dict[str, int](), 0
    if items is not None:
        columns, coverage = item_columns(inter, items, cells)
        repeated = items.repeated
    reasons = dict(sum((Counter(stage.reasons) for stage in stages), Counter[str]()))
    facts = {
        "made_by": made_by,
        "options": dict(options),
        "sources": [source for stage in stages for source in stage.sources],
        "rejected": reasons,
        "raw": raw._asdict(),
        "counts": inter.counts._asdict(),
        "coverage": coverage,
        "repeated_records": repeated,
    }
    first = [line for stage in stages for line in itertools.islice(stage.rejected(), _SHOWN)]
    lines = (line for stage in stages for line in stage.rejected())
    write_dataset(domain, inter, columns, lines, facts, with_rating=with_rating, users=users)
    shutil.rmtree(domain.file("parts"))
    return Prepared(raw, inter.counts, coverage, repeated, reasons, first)


def report(domain: Domain, made: Prepared, console: Console, **others: Published) -> None:
    """Counts, coverage, comparison, rejected lines.

    Args:
        others: published counts to compare `raw` and `final` with.
    """
    ours = {"raw": made.raw, "final": made.final}
    names = {"raw": "all usable lines", "final": f"written to {domain.folder}"}
    console.print(counts_table({names[key]: (ours[key], others.get(key)) for key in ours}))
    for key, found in others.items():
        console.print(comparison(ours[key], found), soft_wrap=True)
    if made.coverage:
        shares = [f"{name} {n / made.final.items:.1%}" for name, n in made.coverage.items()]
        console.print(f"Items with {', '.join(shares)}", soft_wrap=True)
    if made.repeated:
        console.print(f"{made.repeated:,} records of items that have a fuller one passed over")
    if made.reasons:
        total = sum(made.reasons.values())
        where = domain.file("rejected")
        console.print(f"{total:,} lines could not be used; all are in {where}:", soft_wrap=True)
        for reason, n in made.reasons.items():
            console.print(f"  {n:,}: {reason}", soft_wrap=True)
        for line in made.rejected:
            console.print(f"  {line.rstrip()}", markup=False, soft_wrap=True)


def listed(reasons: Mapping[str, int]) -> str:
    """Reasons with their numbers, in a line."""
    return "; ".join(f"{reason}: {n:,}" for reason, n in reasons.items()) or "it is empty"
