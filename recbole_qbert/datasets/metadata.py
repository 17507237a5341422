"""Reader of Amazon's item metadata of any release, one record per line, into six cleaned fields.

The releases use different names, which never occur together, so one reader handles all of them:
`brand` or `store`; `category` or `categories`, flat or nested; a picture in `imageURLHighRes`,
`imageURL`, `imUrl` or `images`. Lines of 2014 are Python literals, not JSON.
"""

from __future__ import annotations

import ast
import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_qbert.datasets.interactions import usable_ids
from recbole_qbert.datasets.sources import Rejects, Unfit, line_blocks, parse_json, records
from recbole_qbert.datasets.text import as_word, clean_column, encodable

FIELDS = {
    "title": "title:token_seq",
    "brand": "brand:token",
    "categories": "categories:token_seq",
    "description": "description:token_seq",
    "price": "price:float",
    "image_url": "image_url:token",
}
SCHEMA = pa.schema([("item", pa.string()), *((name, pa.string()) for name in FIELDS)])
_PRICE = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
_URL = re.compile(r"https?://[^\s\"<>]+")
_PRICE_LENGTH = 40  # characters; longer fields contain a style sheet of the web page


def parse_metadata(
    path: Path, key: str, longest: int | None, rejects: Rejects, progress: bool
) -> Iterator[pa.Table]:
    """Parse the records of a file into cleaned rows of `SCHEMA`; an item may have several.

    `key` is the field of the item's token. Cleaned titles and descriptions of `longest` characters
    or more become empty; None for no limit.
    """

    def row(line: bytes) -> dict[str, str | None]:
        record = _record(line.decode("utf-8", "replace"))
        token = record.get(key)
        item = encodable(token) if isinstance(token, str) else None
        return dict(zip(SCHEMA.names, (item, *record_fields(record)), strict=True))

    for block in line_blocks(path, progress):
        found = records(path, block, row, rejects)
        numbers = np.array([number for number, _ in found], dtype=np.int64)
        rows = pa.Table.from_pylist([fields for _, fields in found], SCHEMA)
        table = {name: rows[name].combine_chunks() for name in SCHEMA.names}
        table["item"], fine = usable_ids(path, numbers, table["item"], key, rejects)
        # Some titles are a script of the web page; the data's authors call them unformatted.
        script = np.asarray(pc.match_substring(table["title"], "getTime")) & fine
        for number in numbers[script].tolist():
            rejects.add(path, number, "the title is a script of the web page")
        for name in ("title", "brand", "description"):
            table[name] = clean_column(table[name])
        if longest is not None:
            for name in ("title", "description"):
                long = pc.greater_equal(pc.utf8_length(table[name]), longest)
                table[name] = pc.if_else(long, "", table[name])
        yield pa.table(table).filter(pa.array(fine & ~script))


def _record(text: str) -> dict[str, Any]:
    """Parse a line as JSON or, as in 2014, as a Python literal."""
    try:
        return parse_json(text)
    except (ValueError, RecursionError):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            record = ast.literal_eval(text.strip())
            if isinstance(record, dict):
                return record
    raise Unfit("not an object")


def record_fields(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Extract title, brand, categories, description, price and picture URL, "" if missing."""
    categories = record.get("category") or record.get("categories")
    words = dict.fromkeys(word for name in _strings(categories) if (word := as_word(name)))
    return (
        _text(record.get("title")),
        _text(record.get("brand") or record.get("store")),
        " ".join(words),
        _text(record.get("description")),
        _price(record.get("price")),
        _picture(record),
    )


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in nested lists, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _strings(part)


def _text(value: Any) -> str:
    return encodable(" ".join(_strings(value)))


def _price(value: Any) -> str:
    """Convert `$1,299.00`, `12.99` or `$8 - $24` (the lower) to a decimal; "" for anything else."""
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an integer too large for a float
            number = float(value)
    else:
        text = _text(value)
        found = _PRICE.search(text) if len(text) <= _PRICE_LENGTH else None
        if found:
            number = float(found[0].replace(",", ""))
    return f"{number:.2f}" if math.isfinite(number) and number >= 0 else ""


def _picture(record: Mapping[str, Any]) -> str:
    """Return the URL of the first picture, in its best resolution."""
    for name in ("imageURLHighRes", "imageURL", "imUrl", "images", "image"):
        for url in _urls(record.get(name)):
            if _URL.fullmatch(url):
                return encodable(url)
    return ""


def _urls(value: Any) -> Iterator[str]:
    if isinstance(value, dict):  # 2023, possibly with one list per resolution
        columns = [list(_strings(value.get(size))) for size in ("hi_res", "large", "thumb")]
        for place in range(max(map(len, columns))):
            yield from (column[place] for column in columns if place < len(column))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _urls(part)
    elif isinstance(value, str):
        yield value.strip()
