"""Conversion of GroupLens's MovieLens archives (100K, 1M, 10M, 20M and later) to atomic files.

The columns are those of RecBole's own ml-100k. The files of movies and users are small, so they are
read line by line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recbole_qbert.common.errors import InputError, preview
from recbole_qbert.data.domain import DatasetPaths
from recbole_qbert.data.items import read_item_table
from recbole_qbert.datasets.arrow_cache import Source
from recbole_qbert.datasets.delimited import delimited
from recbole_qbert.datasets.interactions import Counts, usable, usable_ids
from recbole_qbert.datasets.items import picture_files
from recbole_qbert.datasets.kcore import Rules
from recbole_qbert.datasets.prepare import Prepared, Published, prepare
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
    """File names and layout of a release."""

    ratings: str
    movies: str
    users: str | None
    delimiter: str  # of movies and users
    header: bool  # whether the first row has the names of the columns
    rating_names: tuple[str, ...] = ("user", "item", "rating", "time")
    user_fields: tuple[int, ...] = (1, 2, 3, 4)  # positions of age, gender, occupation, zip code


LAYOUTS = (
    Layout("u.data", "u.item", "u.user", "|", False),
    Layout("ratings.dat", "movies.dat", "users.dat", "::", False,
           user_fields=(2, 1, 3, 4)),
    Layout("ratings.csv", "movies.csv", None, ",", True,
           rating_names=("userId", "movieId", "rating", "timestamp")),
)  # fmt: skip


class Extras(NamedTuple):
    """Additional texts and pictures, joined by movie ID."""

    descriptions: Path | None = None  # tab-separated table with `item_id` and `description`
    posters: Path | None = None  # folder of <item_id>.jpg, or table with `item_id` and `poster`


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
        f"{folder}: has none of {', '.join(layout.ratings for layout in LAYOUTS)}; give the folder "
        "of an unpacked MovieLens archive"
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
        folder: folder of an unpacked archive.
        extras: additional texts and pictures.
        core, duplicates, ties: see `kcore.Rules`.

    Raises:
        InputError: a file or an option is invalid.
    """
    layout = find_layout(folder)
    if extras.posters is not None and extras.posters.is_dir():
        posters = picture_files(extras.posters)
    else:
        posters = _column(extras.posters, "poster")
    joined = (_column(extras.descriptions, "description"), posters)
    tables = [path for path in extras if path is not None and path.is_file()]
    users = folder / layout.users if layout.users else None
    movies = folder / layout.movies
    return prepare(
        domain,
        Source(
            [folder / layout.ratings],
            lambda path, rejects: _ratings(layout, path, rejects, progress),
        ),
        Rules(core, duplicates, ties),
        "movielens",
        items=Source(
            [movies, *tables],
            # The other sources are only hashed.
            lambda path, rejects: (
                _movies(layout, path, joined, rejects) if path == movies else iter(())
            ),
            {"posters": posters},
        ),
        cells=CELLS,
        users=(lambda tokens: _users(layout, users, tokens)) if users and users.is_file() else None,
        overwrite=overwrite,
    )


def published(name: str) -> Published | None:
    """Return RecBole's counts of a data set, or None."""
    counts = PUBLISHED.get(name.lower())
    return Published(counts, "RecBole's list of data sets") if counts else None


def _ratings(layout: Layout, path: Path, rejects: Rejects, progress: bool) -> Iterator[pa.Table]:
    names, delimiter = layout.rating_names, "\t"
    columns: tuple[str, ...] | None = names
    if layout.header:
        columns, delimiter = None, ","
    elif layout.delimiter == "::":
        # `::` is read as two delimiters `:` with an empty column between them.
        columns, delimiter = ("user", "_1", "item", "_2", "rating", "_3", "time"), ":"
    for numbers, table in delimited(
        path, rejects, columns, delimiter=delimiter, quoted=False, progress=progress
    ):
        if not set(names) <= set(table.schema.names):
            raise InputError(f"{path}: line 1: the columns {preview(names)} are required")
        table = table.select(list(names)).rename_columns(["user", "item", "rating", "time"])
        yield usable(path, (numbers, table), rejects)


def _movies(
    layout: Layout, path: Path, joined: tuple[Mapping[str, str], ...], rejects: Rejects
) -> Iterator[pa.Table]:
    """Parse the file of movies."""
    numbers, rows = [], []
    for number, row in _table_rows(path, rejects) if layout.header else _rows(path, layout):
        if len(row) < 3:
            rejects.add(path, number, f"{len(row)} fields instead of 3", str(row))
            continue
        numbers.append(number)
        found = _TITLE.fullmatch(row[1])
        title, year = (found[1], found[2]) if found else (row[1], "")
        extra = [values.get(row[0], "") for values in joined]
        rows.append((row[0], title, year, _genres(row, layout), *extra))
    if not rows:
        raise InputError(f"{path}: no line is a movie; unpack the archive again")
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
        text = data.decode("latin-1")
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    return iter(enumerate((line.split(layout.delimiter) for line in lines), 1))


def _table_rows(path: Path, rejects: Rejects) -> Iterator[tuple[int, Row]]:
    """Yield rows and line numbers of a small table with a header."""
    for numbers, table in delimited(path, rejects):
        columns = [column.to_pylist() for column in table.columns]
        yield from zip(numbers.tolist(), zip(*columns, strict=True), strict=True)


def _genres(row: Row, layout: Layout) -> str:
    """Join the genres to words; in 100K they are flags at the end of the row."""
    if layout.ratings == "u.data":
        names = [
            name for name, flag in zip(GENRES, row[-len(GENRES) :], strict=False) if flag == "1"
        ]
    else:
        names = row[2].split("|")
    return " ".join(name.replace(" ", "_") for name in names if name != _NO_GENRE)


def _users(layout: Layout, path: Path, tokens: pa.Array) -> Fields:
    """Build the columns of the `.user` file, with one row for each token."""
    known = {row[0]: row for _, row in _rows(path, layout) if len(row) == 5}
    columns = {"user_id:token": tokens}
    for cell, place in zip(USER_CELLS, layout.user_fields, strict=True):
        values = [known[token][place] if token in known else "" for token in tokens.to_pylist()]
        columns[cell] = clean_column(pa.array(values, pa.string()))
    return columns


def _column(path: Path | None, column: str) -> dict[str, str]:
    """Read a column of a tab-separated table, by `item_id`."""
    if path is None:
        return {}
    frame = read_item_table(path, [column])
    return dict(zip(frame["item_id"], frame[column], strict=True))
