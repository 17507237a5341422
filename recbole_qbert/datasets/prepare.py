"""Common steps of all importers of raw files: parse, filter, join item records, write, report.

An importer describes its files by one or two `Source`s and calls `prepare`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.common.output import counted
from recbole_qbert.data.codec import quote
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.arrow_cache import ParsedFile, Source, open_cache, parse_file
from recbole_qbert.datasets.interactions import (
    SCHEMA,
    Counts,
    Interactions,
    candidates,
    collect,
    filtered,
    hashed,
    n_distinct,
    token_hashes,
)
from recbole_qbert.datasets.items import Records, item_columns, read_records
from recbole_qbert.datasets.kcore import Rules, distinct_rows, tied_tests
from recbole_qbert.datasets.times import odd_times
from recbole_qbert.datasets.writer import Fields, write_dataset
from recbole_qbert.evaluation.printing import fitting

MIN_VALID = 0.1  # share of valid lines up to which the options are assumed to be wrong
_SHOWN = 5  # rejected lines printed per stage
# Which items are accepted, bool [n], by their tokens [n] and fields (strings [n] by name).
Meets = Callable[[pa.Array, Mapping[str, pa.Array]], np.ndarray]


class Prepared(NamedTuple):
    """Result of a preparation."""

    raw: Counts  # all usable lines
    final: Counts  # the written data set
    coverage: dict[str, int]  # number of items with a record, and with each field
    repeated: int  # number of records that were dropped in favor of a fuller one of their item
    reasons: dict[str, int]  # number of rejected lines by reason
    rejected: list[str]  # the first rejected lines
    remarks: list[str]  # further lines for the user


class Published(NamedTuple):
    """Published counts and their source."""

    counts: Counts
    source: str


def prepare(
    domain: DatasetPaths,
    interactions: Source,
    rules: Rules,
    made_by: str,
    *,
    items: Source | None = None,
    cells: Mapping[str, str] | None = None,
    meets: Meets | None = None,
    users: Callable[[pa.Array], Fields] | None = None,
    options: Mapping[str, Any] | None = None,
    unit: str = "s",
    unit_flag: str = "",
    with_rating: bool = True,
    overwrite: bool = False,
) -> Prepared:
    """Write `<name>.inter`, with `items` also `<name>.item`, a sidecar and the rejected lines.

    Parsed files are cached in `<name>.parts/`, so that the next run after a kill does not parse
    them again. The folder is removed at the end.

    Args:
        interactions: its parser yields tables of `SCHEMA`, see `usable`.
        rules: rules that select and order the interactions.
        made_by: name of the importer, for the sidecar.
        items: its parser yields strings in the columns `item` and the keys of `cells`; an item may
            have several records, of which the fullest is used.
        cells: header cell of each field of `items`, such as `title:token_seq`.
        meets: requirement for items; items without a record do not meet it. None for no
            requirement.
        users: returns the columns of the `.user` file for the written user tokens; None to write
            none.
        options: JSON values for the sidecar, in addition to the rules.
        unit: unit of the times in the source.
        unit_flag: the option that sets the unit, or "" if there is none.
        with_rating: whether to write the ratings.

    Raises:
        InputError: a file is invalid, the atomic files exist, or no interaction is left.
    """
    rules.check()
    cells = cells or {}
    options = {"core": rules.core, "duplicates": rules.duplicates, "ties": rules.ties,
               **(options or {})}  # fmt: skip
    with open_cache(domain, overwrite) as parts:
        read = parse_file(parts / "interactions", SCHEMA, interactions)
        n_lines = read.n_rows + sum(read.reasons.values())
        if read.n_rows <= MIN_VALID * n_lines:
            names = preview([path.name for path in interactions.paths])
            reasons = "; ".join(f"{reason}: {n:,}" for reason, n in read.reasons.items())
            valid = (
                f"only {read.n_rows:,} of {n_lines:,} lines are" if read.n_rows else "no line is"
            )
            form = "valid interactions" if read.n_rows else "a valid interaction"
            raise InputError(
                f"{names}: {valid} {form} ({reasons or 'the file is empty'}); correct the file, or "
                "the options that describe it"
            )
        stages = [read]
        if items is not None:
            schema = pa.schema([(name, pa.string()) for name in ("item", *cells)])
            stages.append(parse_file(parts / "items", schema, items))
        raw, inter, records = _select(stages, rules, meets)
        if not len(inter.users):
            asked = ", ".join(f"{key}={value}" for key, value in options.items() if value)
            raise InputError(
                f"{domain.name}: none of {counted(raw.interactions, 'interaction')} is left with "
                f"{asked}; relax these options"
            )
        columns, coverage, repeated = None, dict[str, int](), 0
        facts, remarks = _order_facts(inter, rules, unit, unit_flag)
        if records is not None:
            columns, coverage = item_columns(inter, records, cells)
            repeated = records.repeated
            more, added = _catalog_facts(columns["item_id:token"], inter, records, stages[-1])
            facts, remarks = facts | more, remarks + added
        notes = dict(sum((Counter(stage.notes) for stage in stages), Counter[str]()))
        reasons_of_all = dict(sum((Counter(stage.reasons) for stage in stages), Counter[str]()))
        facts |= {
            "notes": notes,
            "made_by": made_by,
            "options": options,
            "sources": [source for stage in stages for source in stage.sources],
            "rejected": reasons_of_all,
            "raw": raw._asdict(),
            "counts": inter.counts._asdict(),
            "coverage": coverage,
            "repeated_records": repeated,
        }
        first = [line for stage in stages for line in itertools.islice(stage.rejected(), _SHOWN)]
        removed = write_dataset(
            domain,
            inter if with_rating else replace(inter, ratings=None),
            facts,
            items=columns,
            users=users(inter.user_tokens.take(pa.array(np.unique(inter.users))))
            if users
            else None,
            rejected=(line for stage in stages for line in stage.rejected()),
        )
        remarks = [f"{n:,} {what}" for what, n in notes.items()] + remarks + removed
        return Prepared(raw, inter.counts, coverage, repeated, reasons_of_all, first, remarks)


def _select(
    stages: Sequence[ParsedFile], rules: Rules, meets: Meets | None
) -> tuple[Counts, Interactions, Records | None]:
    """Return the counts of all rows, the selected interactions, and the records of their items."""
    users, items = hashed(stages[0])
    raw = Counts(n_distinct(users), n_distinct(items), len(users))
    allowed = None
    if meets is not None:
        # A superset, because the preferred one of an item's records is not known yet.
        hashes = [
            token_hashes(batch["item"].filter(pa.array(meets(batch["item"], batch))))
            for batch in stages[1].batches()
        ]
        allowed = np.concatenate([np.empty(0, np.uint64), *hashes])
    keep = candidates(users, items, rules.core, allowed)
    del users, items
    inter = collect(stages[0], keep)
    records = read_records(stages[1], inter.item_tokens) if len(stages) > 1 else None
    accepted = None
    if meets is not None and records is not None:
        accepted = meets(inter.item_tokens, records.fields) & records.found
    return raw, filtered(inter, rules, accepted), records


def _order_facts(
    inter: Interactions, rules: Rules, unit: str, unit_flag: str
) -> tuple[dict[str, Any], list[str]]:
    """Collect odd times, ties and duplicates of the written rows, for the sidecar and as lines."""
    assert inter.ratings is not None
    n = len(inter.users)
    columns = (inter.users, inter.items, inter.times, inter.ratings)
    identical = n - len(distinct_rows(*columns, rules.timed))
    tied, tests = tied_tests(inter.users, inter.times)
    odd = odd_times(inter.times, unit, unit_flag) if rules.timed else None
    facts = {
        "repeats_left_out": inter.repeats,
        "identical_rows": identical,
        "test_targets": tests,
        "tied_test_targets": tied,
        "odd_times": odd[0] if odd else None,
    }
    remarks = [f"Warning: {odd[1]}"] if odd else []
    if inter.repeats:
        remarks.append(
            f"{counted(inter.repeats, 'repeated row was', 'repeated rows were')} removed "
            f"(--duplicates={rules.duplicates})"
        )
    if identical:
        same = "user, item, rating and time" if rules.timed else "user, item and rating"
        remarks.append(
            f"{counted(identical, 'row is', 'rows are')} identical to another one in {same}; "
            "--duplicates=identical keeps one of each"
        )
    if tied:
        remarks.append(
            f"{tied:,} of {counted(tests, 'test target')} ({tied / tests:.1%}) "
            "have the same time as the item before them, so their order is unknown "
            f"(--ties={rules.ties})"
        )
    return facts, remarks


def _catalog_facts(
    written: pa.Array, inter: Interactions, items: Records, stage: ParsedFile
) -> tuple[dict[str, Any], list[str]]:
    """Compare the items of the item table with those written, for the sidecar and as lines."""
    file = stage.sources[0]["file"]
    missing = written.filter(pc.invert(pc.is_in(written, inter.item_tokens.filter(items.found))))
    described = len(written) - len(missing)
    unused = items.described - described
    facts = {"rows_without_interactions": unused, "items_without_a_row": len(missing)}
    remarks = []
    shown = ", ".join(map(quote, missing[:2].to_pylist()))
    if unused:
        remarks.append(f"{counted(unused, 'item')} of {file} without interactions, not written")
    if len(missing):
        remarks.append(
            f"{counted(len(missing), 'item has', 'items have')} interactions but no row in "
            f"{file}: {shown}"
        )
    if described < len(written) / 2 and items.unknown:
        other = ", ".join(map(quote, items.unknown))
        remarks.append(
            f"Warning: only {described:,} of {len(written):,} items with interactions are in "
            f"{file}. The interactions have IDs such as {shown}, {file} has {other}: use the same "
            "IDs in both files, or name the right columns"
        )
    return facts, remarks


def report(domain: DatasetPaths, made: Prepared, console: Console, **others: Published) -> None:
    """Print counts, comparisons, coverage, remarks and rejected lines.

    Args:
        domain: the written data set.
        made: result of `prepare`.
        console: console for the output.
        others: published counts to compare `raw` and `final` with.
    """
    ours = {"raw": made.raw, "final": made.final}
    names = {"raw": "all usable lines", "final": f"written to {domain.folder}"}
    rows = {names[key]: (ours[key], others.get(key)) for key in ours}
    for table in fitting(partial(_counts_table, rows), Counts._fields, console):
        console.print(table, crop=False)
    lines = [comparison(ours[key], found) for key, found in others.items()]
    if made.coverage:
        shares = [f"{name} {n / made.final.items:.1%}" for name, n in made.coverage.items()]
        lines.append(f"Coverage of items: {', '.join(shares)}")
    lines += made.remarks
    if made.repeated:
        lines.append(
            f"{counted(made.repeated, 'record was', 'records were')} dropped in favor of fuller "
            "ones of an item"
        )
    if made.reasons:
        total = sum(made.reasons.values())
        lines.append(
            f"{counted(total, 'line was', 'lines were')} rejected; see {domain.file('rejected')}:"
        )
        lines += [f"  {n:,}: {reason}" for reason, n in made.reasons.items()]
        lines += [f"  {line.rstrip()}" for line in made.rejected]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _counts_table(
    rows: Mapping[str, tuple[Counts, Published | None]], fields: Sequence[str]
) -> Table:
    """Build a table of counts, with their differences from the published ones in brackets."""
    table = Table()
    table.add_column("", overflow="fold")
    for field in fields:
        table.add_column(field, justify="right", no_wrap=True)
    for name, (ours, theirs) in rows.items():
        known = {} if theirs is None else theirs.counts._asdict()
        cells = [f"{getattr(ours, field):,}" for field in fields]
        if known:
            pairs = zip(cells, fields, strict=True)
            cells = [f"{cell} ({getattr(ours, f) - known[f]:+,})" for cell, f in pairs]
        table.add_row(name, *cells)
        if known:
            table.add_row("  published", *(f"{known[field]:,}" for field in fields), style="dim")
    return table


def comparison(ours: Counts, theirs: Published) -> str:
    """Format the comparison of counts with published ones as one line."""
    if ours == theirs.counts:
        return f"The counts equal those of {theirs.source}."
    parts = [
        f"{field} {mine - other:+,} ({(mine - other) / other:+.1%})"
        for field, mine, other in zip(Counts._fields, ours, theirs.counts, strict=True)
        if mine != other
    ]
    return f"The counts differ from {theirs.source}: {', '.join(parts)}."
