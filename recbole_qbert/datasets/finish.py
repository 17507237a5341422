"""Final step of each preparation: the files, the sidecar and the printed report."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from recbole_qbert.common.errors import InputError
from recbole_qbert.data.codec import quote
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.arrow_cache import ParsedFile
from recbole_qbert.datasets.interactions import Counts, Interactions
from recbole_qbert.datasets.items import Records, item_columns
from recbole_qbert.datasets.kcore import Rules, distinct_rows, tied_tests
from recbole_qbert.datasets.published import Published, comparison, counts_table
from recbole_qbert.datasets.times import odd_times, said_of_times
from recbole_qbert.datasets.writer import Fields, write_dataset

_SHOWN = 5  # rejected lines printed per stage


class Prepared(NamedTuple):
    """Result of a preparation.

    Attributes:
        raw: counts of all usable lines.
        final: counts of the written data set.
        coverage: number of items with a record, and with each field; empty without records.
        repeated: number of records that were dropped in favor of a fuller one of their item.
        reasons: numbers of rejected lines by reason.
        rejected: the first rejected lines.
        remarks: further lines for the user.
    """

    raw: Counts
    final: Counts
    coverage: dict[str, int]
    repeated: int
    reasons: dict[str, int]
    rejected: list[str]
    remarks: list[str]


def finish(
    domain: DatasetPaths,
    stages: Sequence[ParsedFile],
    raw: Counts,
    inter: Interactions,
    *,
    made_by: str,
    options: Mapping[str, Any],
    items: Records | None,
    cells: Mapping[str, str],
    rules: Rules,
    unit: str = "s",
    unit_flag: str = "",
    with_rating: bool = True,
    users: Fields | None = None,
) -> Prepared:
    """Write the data set with its sidecar, and collect the facts for the report.

    Args:
        domain: the data set to write.
        stages: the parsed files; their rejected lines are written to `<name>.rejected`.
        raw: counts of all usable lines.
        inter: the interactions to write, in their final order.
        made_by: name of the importer, for the sidecar.
        options: JSON values for the sidecar, in addition to the rules.
        items: records of all item tokens of `inter`; None to write no `.item` file.
        cells: header cells of the records' fields.
        rules: the rules that produced `inter`.
        unit: unit of the times in the source.
        unit_flag: the option that sets the unit, or "" if there is none.
        with_rating: whether to write the ratings.
        users: columns of the `.user` file; None to write none.

    Raises:
        InputError: no interaction is left.
    """
    options = {"core": rules.core, "duplicates": rules.duplicates, "ties": rules.ties, **options}
    if not len(inter.users):
        asked = ", ".join(f"{key}={value}" for key, value in options.items() if value)
        raise InputError(
            f"{domain.name}: nothing is left of {raw.interactions:,} interactions with {asked}; "
            "ask for less"
        )
    columns, coverage, repeated = None, dict[str, int](), 0
    notes = dict(sum((Counter(stage.notes) for stage in stages), Counter[str]()))
    facts, remarks = _order_facts(inter, rules, unit, unit_flag)
    if items is not None:
        columns, coverage = item_columns(inter, items, cells)
        repeated = items.repeated
        more, added = _catalog_facts(columns["item_id:token"], inter, items, stages[-1])
        facts, remarks = facts | more, remarks + added
    remarks = [f"{n:,} {what}" for what, n in notes.items()] + remarks
    reasons = dict(sum((Counter(stage.reasons) for stage in stages), Counter[str]()))
    facts |= {
        "notes": notes,
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
    return Prepared(raw, inter.counts, coverage, repeated, reasons, first, remarks)


def _order_facts(
    inter: Interactions, rules: Rules, unit: str, unit_flag: str
) -> tuple[dict[str, Any], list[str]]:
    """Collect odd times, ties and duplicates of the written rows, for the sidecar and as lines."""
    n = len(inter.users)
    columns = (inter.users, inter.items, inter.times, inter.ratings)
    identical = n - len(distinct_rows(*columns, rules.timed))
    tied, tests = tied_tests(inter.users, inter.times)
    odd = odd_times(inter.times, unit) if rules.timed else None
    facts = {
        "repeats_left_out": inter.repeats,
        "identical_rows": identical,
        "test_targets": tests,
        "tied_test_targets": tied,
        "odd_times": odd._asdict() if odd else None,
    }
    remarks = []
    if odd:
        remarks.append(f"Warning: {said_of_times(odd, n, unit, unit_flag)}")
    if inter.repeats:
        remarks.append(
            f"{inter.repeats:,} rows left out as repeats (--duplicates={rules.duplicates})"
        )
    if identical:
        same = "user, item, rating and time" if rules.timed else "user, item and rating"
        remarks.append(
            f"{identical:,} rows are identical to another one in {same}; --duplicates=identical "
            "keeps one of each"
        )
    if tied:
        remarks.append(
            f"{tied:,} of {tests:,} test targets ({tied / tests:.1%}) have the time of the item "
            f"before them: which came first is not known (--ties={rules.ties})"
        )
    return facts, remarks


def _catalog_facts(
    written: pa.Array, inter: Interactions, items: Records, stage: ParsedFile
) -> tuple[dict[str, Any], list[str]]:
    """Compare the items of the item table with those written, for the sidecar and as lines."""
    file = stage.sources[0]["file"]
    lacking = written.filter(pc.invert(pc.is_in(written, inter.item_tokens.filter(items.found))))
    described = len(written) - len(lacking)
    unused = items.described - described
    facts = {"rows_without_interactions": unused, "items_without_a_row": len(lacking)}
    remarks = []
    if unused:
        remarks.append(f"{unused:,} items of {file} have no interactions and are not written")
    if len(lacking):
        shown = ", ".join(map(quote, lacking[:2].to_pylist()))
        remarks.append(f"{len(lacking):,} items have interactions but no row in {file}: {shown}")
    if described < len(written) / 2 and items.strange:
        other = ", ".join(map(quote, items.strange))
        remarks.append(
            f"Warning: of {len(written):,} items with interactions only {described:,} are in "
            f"{file}. Ids such as {shown} in the interactions, {other} there: write them alike, "
            "or name the right columns"
        )
    return facts, remarks


def report(domain: DatasetPaths, made: Prepared, console: Console, **others: Published) -> None:
    """Print counts, comparisons, coverage, remarks and rejected lines.

    Args:
        domain: the written data set.
        made: result of `finish`.
        console: console for the output.
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
    for remark in made.remarks:
        console.print(remark, markup=False, soft_wrap=True)
    if made.repeated:
        console.print(f"{made.repeated:,} records of items that have a fuller one passed over")
    if made.reasons:
        total = sum(made.reasons.values())
        where = domain.file("rejected")
        console.print(f"{total:,} lines could not be used; all are in {where}:", soft_wrap=True)
        for reason, n in made.reasons.items():
            console.print(f"  {n:,}: {reason}", markup=False, soft_wrap=True)
        for line in made.rejected:
            console.print(f"  {line.rstrip()}", markup=False, soft_wrap=True)


def listed(reasons: Mapping[str, int]) -> str:
    """Format reasons with their numbers as one line."""
    return "; ".join(f"{reason}: {n:,}" for reason, n in reasons.items()) or "it is empty"
