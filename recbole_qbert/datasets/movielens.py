"""Conversion of GroupLens's MovieLens archives (100K, 1M, 10M, 20M and later) to atomic files.

The columns are those of RecBole's own ml-100k. The files of movies and users are small, so they are
read line by line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.items import read_item_table
from recbole_qbert.datasets.arrow_cache import open_cache, parse_file
from recbole_qbert.datasets.delimited import delimited
from recbole_qbert.datasets.finish import Prepared, finish
from recbole_qbert.datasets.interactions import (
    SCHEMA,
    Counts,
    Interactions,
    as_numbers,
    selected,
    usable,
    usable_ids,
)
from recbole_qbert.datasets.items import picture_files, read_records
from recbole_qbert.datasets.kcore import Rules
from recbole_qbert.datasets.published import Published
from recbole_qbert.datasets.sources import Rejects, opened
from recbole_qbert.datasets.text import clean_column
from recbole_qbert.datasets.writer import Fields

CELLS = {
    "movie_title": "movie_title:token_seq",
    "release_year": "release_year:token",
    "class": "class:token_seq",
    "description": "description:token_seq",
    "poster": "poster:token",
}
USER_CELLS = ("age:token", "gender:token", "occupation:token", "zip_code:token")
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
_NO_GENRE = "(no genres listed)"
_TITLE = re.compile(r"(.*?)\s*\((\d{4})\)\s*(?:\(V\)\s*)?")  # (V): made for video
# Counts of all ratings in RecBole's list of data sets. ml-1m is left out, because RecBole uses its
# largest ID as the number of items.
PUBLISHED = {
    "ml-100k": Counts(943, 1_682, 100_000),
    "ml-10m": Counts(69_878, 10_681, 10_000_054),
    "ml-20m": Counts(138_493, 27_278, 20_000_263),
}
Row = Sequence[str]


class Layout(NamedTuple):
    """File layout of a release.

    Attributes:
        ratings, movies, users: file names; `users` is None if there is no such file.
        delimiter: delimiter of the fields; `::` in 1M and 10M.
        header: whether the first row has the names of the columns.
        encoding: encoding of the movies.
    """

    ratings: str
    movies: str
    users: str | None
    delimiter: str
    header: bool
    encoding: str


LAYOUTS = (
    Layout("u.data", "u.item", "u.user", "|", False, "latin-1"),
    Layout("ratings.dat", "movies.dat", "users.dat", "::", False, "latin-1"),
    Layout("ratings.csv", "movies.csv", None, ",", True, "utf-8"),
)


class Extras(NamedTuple):
    """Additional texts and pictures, joined by movie ID.

    Attributes:
        descriptions: tab-separated table with the columns `item_id` and `description`.
        posters: folder of files such as `<item_id>.jpg`, or a tab-separated table with the columns
            `item_id` and `poster` (paths).
    """

    descriptions: Path | None = None
    posters: Path | None = None


def find_layout(folder: Path) -> Layout:
    """Detect the layout of a folder by its file of ratings.

    Raises:
        InputError: no layout matches, or the file of movies is missing.
    """
    for layout in LAYOUTS:
        if (folder / layout.ratings).is_file():
            if not (folder / layout.movies).is_file():
                raise InputError(
                    f"{folder / layout.movies}: no such file; unpack the whole archive"
                )
            return layout
    raise InputError(
        f"{folder}: none of {', '.join(layout.ratings for layout in LAYOUTS)} is there; give the "
        "folder of an unpacked MovieLens archive"
    )


def prepare_movielens(
    domain: DatasetPaths,
    folder: Path,
    extras: Extras = Extras(),  # noqa: B008  immutable
    *,
    core: int = 0,
    duplicates: str = "all",
    ties: str = "shuffled",
    overwrite: bool = False,
    progress: bool = False,
) -> Prepared:
    """Write `<name>.inter`, `.item`, if there are users `.user`, and the sidecar.

    By default, a user's ratings with equal times are shuffled, because later releases are ordered
    by movie.

    Args:
        domain: the data set to write.
        folder: folder of an unpacked archive.
        extras: additional texts and pictures.
        core, duplicates, ties: see `kcore.Rules`.
        overwrite: whether to replace existing atomic files.
        progress: whether to show a progress bar.

    Raises:
        InputError: a file or an option is invalid.
    """
    rules = Rules(core, duplicates, ties)
    rules.check()
    layout = find_layout(folder)
    joined = {
        "description": _column(extras.descriptions, "description"),
        "poster": _posters(extras.posters),
    }
    schema = pa.schema([("item", pa.string()), *((name, pa.string()) for name in CELLS)])
    others = [path for path in extras if path is not None and path.is_file()]
    with open_cache(domain, overwrite) as parts:
        read = parse_file(
            parts / "ratings", SCHEMA, [folder / layout.ratings],
            lambda path, rejects: _ratings(layout, path, rejects, progress), {},
        )  # fmt: skip
        described = parse_file(
            parts / "movies", schema, [folder / layout.movies, *others],
            lambda path, rejects: _movies(layout, path, joined, rejects),
            {"posters": joined["poster"]},
        )  # fmt: skip
        raw, inter = selected(read, rules)
        records = read_records(described, schema, inter.item_tokens)
        users = None
        if layout.users and (folder / layout.users).is_file():
            users = _users(layout, folder / layout.users, inter)
        return finish(
            domain, [read, described], raw, inter, made_by="movielens", options={},
            items=records, cells=CELLS, rules=rules, users=users,
        )  # fmt: skip


def published(name: str) -> Published | None:
    """Return RecBole's counts of a data set, or None."""
    counts = PUBLISHED.get(name.lower())
    return Published(counts, "RecBole's list of data sets") if counts else None


def _ratings(layout: Layout, path: Path, rejects: Rejects, progress: bool) -> Iterator[pa.Table]:
    if layout.header:
        names, delimiter = None, ","
        columns = {"user": "userId", "item": "movieId", "rating": "rating", "time": "timestamp"}
    else:
        # `::` is read as two delimiters `:` with an empty column between them.
        names = ["user", "item", "rating", "time"]
        delimiter = "\t"
        if layout.delimiter == "::":
            names, delimiter = ["user", "_1", "item", "_2", "rating", "_3", "time"], ":"
        columns = {name: name for name in names if "_" not in name}
    for numbers, table in delimited(
        path, rejects, names, delimiter=delimiter, quoted=False, progress=progress
    ):
        if not set(columns.values()) <= set(table.schema.names):
            raise InputError(f"{path}: row 1: {preview(list(columns.values()))} are due")
        parts = {name: table[column].combine_chunks() for name, column in columns.items()}
        given = {name: parts[name] for name in ("rating", "time")}
        parts |= {name: as_numbers(column) for name, column in given.items()}
        yield usable(path, (numbers, pa.table(parts)), rejects, given)


def _movies(
    layout: Layout, path: Path, joined: dict[str, dict[str, str]], rejects: Rejects
) -> Iterator[pa.Table]:
    """Parse the file of movies. Other sources of the stage are only hashed, and yield nothing."""
    if path.name != layout.movies:
        return
    numbers, rows = [], []
    for number, row in _table_rows(path, rejects) if layout.header else _rows(path, layout):
        if len(row) < 3:
            rejects.add(path, number, f"{len(row)} fields where there should be 3", str(row))
            continue
        numbers.append(number)
        title, year = _title(row[1])
        extra = [values.get(row[0], "") for values in joined.values()]
        rows.append((row[0], title, year, _genres(row, layout), *extra))
    if not rows:
        raise InputError(f"{path}: no row is a movie; unpack the archive again")
    columns = dict(zip(("item", *CELLS), zip(*rows, strict=True), strict=True))
    table = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    for name in ("movie_title", "description"):
        table[name] = clean_column(table[name])
    table["item"], fine = usable_ids(path, np.array(numbers), table["item"], "item", rejects)
    yield pa.table(table).filter(pa.array(fine))


def _rows(path: Path, layout: Layout) -> Iterator[tuple[int, Row]]:
    """Return rows and line numbers of a small file without a header.

    The movies of 10M are UTF-8, those of 1M Latin-1.
    """
    with opened(path) as stream:
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode(layout.encoding, "replace")
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    return iter(enumerate((line.split(layout.delimiter) for line in lines), 1))


def _table_rows(path: Path, rejects: Rejects) -> Iterator[tuple[int, Row]]:
    """Yield rows and line numbers of a small table with a header."""
    for numbers, table in delimited(path, rejects):
        columns = [column.to_pylist() for column in table.columns]
        yield from zip(numbers.tolist(), zip(*columns, strict=True), strict=True)


def _title(text: str) -> tuple[str, str]:
    """Split `Toy Story (1995)` into title and year."""
    found = _TITLE.fullmatch(text)
    return (found[1], found[2]) if found else (text, "")


def _genres(row: Row, layout: Layout) -> str:
    """Join the genres to words; in 100K they are flags at the end of the row."""
    if layout.ratings == "u.data":
        names = [
            name for name, flag in zip(GENRES, row[-len(GENRES) :], strict=False) if flag == "1"
        ]
    else:
        names = row[2].split("|")
    return " ".join(name.replace(" ", "_") for name in names if name != _NO_GENRE)


def _users(layout: Layout, path: Path, inter: Interactions) -> Fields:
    """Build the columns of the `.user` file, with one row for each user with interactions."""
    # 100K: id, age, gender, occupation, zip code; 1M: id, gender, age, occupation, zip code.
    places = (1, 2, 3, 4) if layout.ratings == "u.data" else (2, 1, 3, 4)
    known = {row[0]: row for _, row in _rows(path, layout) if len(row) == 5}
    tokens = inter.user_tokens.take(pa.array(np.unique(inter.users)))
    columns = {"user_id:token": tokens}
    for cell, place in zip(USER_CELLS, places, strict=True):
        values = [known[token][place] if token in known else "" for token in tokens.to_pylist()]
        columns[cell] = clean_column(pa.array(values, pa.string()))
    return columns


def _posters(source: Path | None) -> dict[str, str]:
    """Return the poster of each movie, from the file names of a folder or from a table."""
    if source is not None and source.is_dir():
        return picture_files(source)
    return _column(source, "poster")


def _column(path: Path | None, column: str) -> dict[str, str]:
    """Read a column of a tab-separated table, by `item_id`."""
    if path is None:
        return {}
    frame = read_item_table(path, [column])
    return dict(zip(frame["item_id"], frame[column], strict=True))
