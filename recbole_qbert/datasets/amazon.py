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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.common.errors import InputError, one_of, preview
from recbole_qbert.common.yaml_files import load_yaml, shipped
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.datasets.arrow_cache import Source
from recbole_qbert.datasets.delimited import delimited
from recbole_qbert.datasets.interactions import SCHEMA, Counts, usable
from recbole_qbert.datasets.items import RECORD, filled, picture_files
from recbole_qbert.datasets.kcore import Rules
from recbole_qbert.datasets.metadata import FIELDS, parse_metadata
from recbole_qbert.datasets.prepare import Prepared, Published, prepare
from recbole_qbert.datasets.sources import Rejects, json_lines

TEXT, IMAGE = "text", "image"
REQUIREMENTS = (RECORD, TEXT, IMAGE)


class Release(NamedTuple):
    """Keys of a review's fields in a release."""

    user: str
    item: str
    rating: str
    time: str
    csv_names: tuple[str, ...] | None  # of the ratings-only file; None if it has a header
    unit: str  # of `time`


RELEASES = {
    2014: Release("reviewerID", "asin", "overall", "unixReviewTime",
                  ("reviewerID", "asin", "overall", "unixReviewTime"), "s"),
    2018: Release("reviewerID", "asin", "overall", "unixReviewTime",
                  ("asin", "reviewerID", "overall", "unixReviewTime"), "s"),
    2023: Release("user_id", "parent_asin", "rating", "timestamp", None, "ms"),
}  # fmt: skip


class Category(NamedTuple):
    """Amazon category: its name in file names, and published counts by source."""

    file: str
    counts: Mapping[str, Counts]


def amazon_categories() -> dict[str, Category]:
    """Return all known categories by short name."""
    content = load_yaml(shipped("amazon.yaml"))["categories"]
    return {
        name: Category(entry["file"], {key: Counts(*entry[key]) for key in entry if key != "file"})
        for name, entry in content.items()
    }


@dataclass(frozen=True)
class Options:
    """Filters of the preparation; see `kcore.Rules` for `core`, `duplicates` and `ties`.

    Attributes:
        require: required content of an item: `metadata` (any record), `text` (a title or a
            description), `image`.
        pictures: folder of files such as `<item_id>.jpg`, which are the items' images; None: the
            picture URLs are.
        longest: titles and descriptions of this many characters or more become empty (MQL4GRec:
            2000); None for no limit.
    """

    core: int = 5
    require: tuple[str, ...] = ()
    pictures: Path | None = None
    duplicates: str = "first"
    ties: str = "shuffled"
    longest: int | None = None


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


def find_interactions(folder: Path, category: str, release: int) -> list[Path]:
    """Find a category's one interaction file by its name.

    A ratings-only file is preferred to reviews, because it is faster to read.

    Raises:
        InputError: there is none.
    """
    stem = amazon_categories()[category].file
    patterns = load_yaml(shipped("amazon.yaml"))["files"][release]["interactions"]
    names = [pattern.format(stem) for pattern in patterns]
    found = [path for name in names for path in _variants(folder, name)]
    if not found:
        raise InputError(
            f"{folder}: has none of {', '.join(names)}, plain or .gz, for {category} of {release}; "
            "correct --folder or --release, or name the files (--reviews)"
        )
    return found[:1]


def find_metadata(folder: Path, category: str, release: int) -> list[Path]:
    """Find a category's one metadata file by its name; [] if there is none."""
    pattern = load_yaml(shipped("amazon.yaml"))["files"][release]["metadata"]
    return _variants(folder, pattern.format(amazon_categories()[category].file))[:1]


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

    Args:
        release: 2014, 2018 or 2023.
        reviews: files of reviews (JSON lines) or ratings (`.csv`), plain or compressed.
        meta: files of metadata.

    Raises:
        InputError: a file or an option is invalid, or no interaction is left.
    """
    for name in options.require:
        one_of("require", name, REQUIREMENTS)
    if options.longest is not None and options.longest < 1:
        raise InputError(f"longest is {options.longest}; give 1 or more, or leave it out")
    pictures = None
    if options.pictures is not None:
        pictures = pa.array(list(picture_files(options.pictures)), pa.string())
    if release not in RELEASES:
        raise InputError(f"release {release} is none of {preview([str(r) for r in RELEASES])}")
    if options.require and not meta:
        raise InputError("require: there is no metadata file to check; give --metadata")
    for path in (*reviews, *meta):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    names, longest = RELEASES[release], options.longest

    def meets(tokens: pa.Array, fields: Mapping[str, pa.Array]) -> np.ndarray:
        fine = np.ones(len(tokens), dtype=bool)
        if TEXT in options.require:
            fine &= np.asarray(pc.or_(filled(fields["title"]), filled(fields["description"])))
        if IMAGE in options.require and pictures is not None:
            fine &= np.asarray(pc.is_in(tokens, pictures))
        elif IMAGE in options.require:
            fine &= np.asarray(filled(fields["image_url"]))
        return fine

    described = Source(
        meta,
        lambda path, rejects: parse_metadata(path, names.item, longest, rejects, progress),
        {"key": names.item, "longest": longest},
    )
    return prepare(
        domain,
        Source(
            reviews,
            lambda path, rejects: _parse_reviews(names, path, rejects, progress),
            {"release": release},
        ),
        Rules(options.core, options.duplicates, options.ties),
        "amazon",
        items=described if meta else None,
        cells=FIELDS,
        meets=meets if options.require else None,
        options={
            "release": release,
            "require": list(options.require),
            "pictures": pictures is not None,
            "longest": longest,
        },
        unit=names.unit,
        overwrite=overwrite,
    )


def _parse_reviews(
    rules: Release, path: Path, rejects: Rejects, progress: bool
) -> Iterator[pa.Table]:
    names = {rules.user: "user", rules.item: "item", rules.rating: "rating", rules.time: "time"}
    if ".csv" in path.suffixes:
        source = delimited(path, rejects, rules.csv_names, quoted=False, progress=progress)
    else:
        schema = [(key, SCHEMA.field(name).type) for key, name in names.items()]
        source = json_lines(path, pa.schema(schema), rejects, progress)
    for numbers, table in source:
        if not set(names) <= set(table.schema.names):
            raise InputError(
                f"{path}: line 1: the columns are {preview(table.schema.names)} instead of "
                f"{preview(list(names))}; correct --release or the file"
            )
        table = table.select(list(names)).rename_columns(list(names.values()))
        yield usable(path, (numbers, table), rejects, rules.unit)
