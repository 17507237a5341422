"""Conversion of Amazon reviews and metadata (2014, 2018, 2023) to atomic files.

The default steps are those of the paper's data (MQL4GRec's pipeline):

1. Remove items that lack required metadata.
2. Keep the earliest of a user's reviews of the same item.
3. Repeatedly remove users and items with fewer than five interactions (5-core).

A user's reviews with the same timestamp are shuffled. There are many of them in 2014 and 2018,
which have only days. The files are ordered by item, so file order would reveal the next item.

Deviations: MQL4GRec orders ties by Python's sets, differently in each run. It also requires that a
picture was downloaded, whereas this module, without a folder of pictures, requires a URL.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, did_you_mean, preview
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets import metadata
from recbole_qbert.datasets.arrow_cache import ParsedFile, open_cache, parse_file
from recbole_qbert.datasets.delimited import delimited
from recbole_qbert.datasets.finish import Prepared, finish, listed
from recbole_qbert.datasets.interactions import (
    SCHEMA,
    Counts,
    Interactions,
    as_numbers,
    candidates,
    collect,
    filtered,
    hashed,
    selected,
    token_hashes,
    usable,
)
from recbole_qbert.datasets.items import (
    RECORD,
    Records,
    filled,
    picture_files,
    read_records,
)
from recbole_qbert.datasets.kcore import Rules
from recbole_qbert.datasets.published import amazon_category, amazon_files
from recbole_qbert.datasets.sources import Rejects, json_lines
from recbole_qbert.datasets.times import SECONDS

TEXT, IMAGE = "text", "image"
REQUIREMENTS = (RECORD, TEXT, IMAGE)


class Release(NamedTuple):
    """Names of a review's fields in a release.

    Attributes:
        user, item, rating, time: keys of the JSON objects.
        csv_names: columns of the ratings-only file; None if it has a header with the keys above.
        unit: unit of `time`.
    """

    user: str
    item: str
    rating: str
    time: str
    csv_names: tuple[str, ...] | None
    unit: str


RELEASES = {
    2014: Release("reviewerID", "asin", "overall", "unixReviewTime",
                  ("reviewerID", "asin", "overall", "unixReviewTime"), "s"),
    2018: Release("reviewerID", "asin", "overall", "unixReviewTime",
                  ("asin", "reviewerID", "overall", "unixReviewTime"), "s"),
    2023: Release("user_id", "parent_asin", "rating", "timestamp", None, "ms"),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Filters of the preparation.

    Attributes:
        core, duplicates, ties: see `kcore.Rules`.
        require: required content of an item: `metadata` (any record), `text` (a title or a
            description), `image`.
        pictures: folder of files such as `<item_id>.jpg`; an item has an image if it has a file
            there. None: an item has an image if it has a picture URL.
        longest: titles and descriptions of this many characters or more become empty (MQL4GRec:
            2000); None for no limit.
    """

    core: int = 5
    require: tuple[str, ...] = ()
    pictures: Path | None = None
    duplicates: str = "first"
    ties: str = "shuffled"
    longest: int | None = None

    @property
    def rules(self) -> Rules:
        """Filter rules and order of the interactions."""
        return Rules(self.core, self.duplicates, self.ties)

    def check(self) -> None:
        """Check all options.

        Raises:
            InputError: a value is invalid, or the folder of pictures cannot be read.
        """
        self.rules.check()
        for name in self.require:
            if name not in REQUIREMENTS:
                raise InputError(
                    f"require: '{name}' is none of {preview(REQUIREMENTS)}"
                    f"{did_you_mean(name, REQUIREMENTS)}"
                )
        if self.longest is not None and self.longest < 1:
            raise InputError(f"longest is {self.longest}; give 1 or more, or leave it out")
        if self.pictures is not None:
            picture_files(self.pictures)


def find_files(folder: Path, category: str, release: int) -> tuple[list[Path], list[Path]]:
    """Find a category's files by their names in the release.

    A ratings-only file is preferred to reviews: it holds the same interactions and is faster to
    read.

    Returns:
        The interaction file, and the metadata file if there is one.

    Raises:
        InputError: there is no file of interactions.
    """
    stem = amazon_category(category).file
    patterns = amazon_files(release)
    names = [pattern.format(stem) for pattern in patterns["interactions"]]
    found = [path for name in names for path in _variants(folder, name)]
    if not found:
        raise InputError(
            f"{folder}: none of {', '.join(names)} is there, plain or .gz, for {category} of "
            f"{release}; correct --folder or --release, or name the files (--reviews, --metadata)"
        )
    return found[:1], _variants(folder, patterns["metadata"].format(stem))[:1]


def _variants(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]


def prepare_amazon(
    domain: DatasetPaths,
    release: int,
    reviews: Sequence[Path],
    meta: Sequence[Path],
    options: Options,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> Prepared:
    """Write `<name>.inter`, with metadata also `<name>.item`, a sidecar and the rejected lines.

    Parsed files are cached in `<name>.parts/`, so that the next run after a kill does not parse
    them again. The folder is removed at the end.

    Args:
        domain: the data set to write.
        release: 2014, 2018 or 2023.
        reviews: files of reviews (JSON lines) or ratings (`.csv`), plain or compressed.
        meta: files of metadata.
        options: filters.
        overwrite: whether to replace existing atomic files.
        progress: whether to show a progress bar.

    Raises:
        InputError: a file or an option is invalid, or no interaction is left.
    """
    options.check()
    if release not in RELEASES:
        raise InputError(f"release {release} is none of {preview([str(r) for r in RELEASES])}")
    if options.require and not meta:
        raise InputError("require: there is no metadata file to know it from; give --metadata")
    for path in (*reviews, *meta):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    names = RELEASES[release]
    with open_cache(domain, overwrite) as parts:
        read = parse_file(
            parts / "reviews", SCHEMA, reviews,
            functools.partial(_parse_reviews, names, progress), {"release": release},
        )  # fmt: skip
        if not read.n_rows:
            raise InputError(
                f"{preview([path.name for path in reviews])}: no line is a review of {release} "
                f"({listed(read.reasons)}); correct --release or the files"
            )
        stages, described = [read], None
        if meta:
            described = parse_file(
                parts / "metadata", metadata.SCHEMA, meta,
                functools.partial(_parse_metadata, names.item, options.longest, progress),
                {"key": names.item, "longest": options.longest},
            )  # fmt: skip
            stages.append(described)
        raw, inter, items = _select(read, described, options)
        choice = {
            "release": release,
            "require": list(options.require),
            "pictures": options.pictures is not None,
            "longest": options.longest,
        }
        return finish(
            domain, stages, raw, inter, made_by="amazon", options=choice,
            items=items, cells=metadata.FIELDS, rules=options.rules, unit=names.unit,
        )  # fmt: skip


def _parse_reviews(
    rules: Release, progress: bool, path: Path, rejects: Rejects
) -> Iterator[pa.Table]:
    names = {rules.user: "user", rules.item: "item", rules.rating: "rating", rules.time: "time"}
    if _is_csv(path):
        source = delimited(path, rejects, rules.csv_names, quoted=False, progress=progress)
    else:
        schema = [(key, SCHEMA.field(name).type) for key, name in names.items()]
        source = json_lines(path, pa.schema(schema), rejects, progress)
    for numbers, table in source:
        if not set(names) <= set(table.schema.names):
            raise InputError(
                f"{path}: row 1: columns {preview(table.schema.names)} where "
                f"{preview(list(names))} are due; correct --release or the file"
            )
        columns = {name: table[key].combine_chunks() for key, name in names.items()}
        given = {name: columns[name] for name in ("rating", "time")}
        columns |= {name: as_numbers(column) for name, column in given.items()}
        columns["time"] = pc.divide(columns["time"], float(SECONDS[rules.unit]))
        yield usable(path, (numbers, pa.table(columns)), rejects, given, rules.unit)


def _is_csv(path: Path) -> bool:
    return ".csv" in path.suffixes


def _parse_metadata(
    key: str, longest: int | None, progress: bool, path: Path, rejects: Rejects
) -> Iterator[pa.Table]:
    return metadata.parse_metadata(path, key, longest, rejects, progress)


def _select(
    read: ParsedFile, described: ParsedFile | None, options: Options
) -> tuple[Counts, Interactions, Records | None]:
    """Return the counts of all rows, the selected interactions, and the metadata of their items."""
    if described is None:
        return *selected(read, options.rules), None
    hashes = hashed(read)
    raw = hashes.counts
    shown = None
    if options.pictures is not None:
        shown = pa.array(list(picture_files(options.pictures)), pa.string())
    allowed = None
    if options.require:
        # A superset, because the preferred one of an item's records is not known yet.
        parts = [
            token_hashes(
                batch["item"].filter(pa.array(_meets(options, batch["item"], batch, shown)))
            )
            for batch in described.batches()
        ]
        allowed = np.concatenate([np.empty(0, np.uint64), *parts])
    keep = candidates(hashes, options.core, allowed)
    del hashes
    inter = collect(read, keep)
    items = read_records(described, metadata.SCHEMA, inter.item_tokens)
    meets = _meets(options, inter.item_tokens, items.fields, shown)
    if RECORD in options.require:
        meets &= items.found
    return raw, filtered(inter, options.rules, meets), items


def _meets(options: Options, tokens: pa.Array, fields: Any, shown: pa.Array | None) -> np.ndarray:
    """Return which items meet the requirements, bool [n] for n tokens."""
    fine = np.ones(len(tokens), dtype=bool)
    if TEXT in options.require:
        fine &= metadata.with_text(fields)
    if IMAGE in options.require and shown is not None:
        fine &= np.asarray(pc.is_in(tokens, shown))
    elif IMAGE in options.require:
        fine &= np.asarray(filled(fields["image_url"]))
    return fine
