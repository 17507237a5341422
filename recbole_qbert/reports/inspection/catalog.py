"""The items of a semantic-ID file, sorted by their codes, with titles and categories.

Items that share a prefix are adjacent in this order, so that each group of the tree is a range of
rows. Shapes: N items, K levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError, did_you_mean, error_context, preview
from recbole_qbert.common.files import read_json, sidecar_path
from recbole_qbert.data.atomic import read_columns
from recbole_qbert.data.codec import IntArray, SemanticIDCodec, level_letters, quote
from recbole_qbert.data.semid import SemanticIDTable, read_semantic_ids

ITEM_FIELD = "item_id"
CATEGORY_PARTS = ("auto", "first", "whole")


@dataclass(frozen=True)
class ItemGroup:
    """The items that share their first `depth` codes: rows `start` to `end - 1` of a catalog."""

    depth: int
    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of items in the group."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Catalog:
    """The items and their data, row by row.

    Attributes:
        name: name of the semantic-ID file, without folders.
        items: raw item tokens, N.
        codes: codes, int64 `[N, K]`, sorted by the first level, then the second, and so on.
        codebook_sizes: number of codes of each level, K.
        titles: titles, N, "" for items without one; None if no title field is given.
        categories: categories, N, "" for items without one; None if no category field is given.
        category_label: description of the categories: the field, and whether only its first word
            is used.
        without_content: items that had no content when the codes were made.
    """

    name: str
    items: tuple[str, ...] = field(repr=False)
    codes: IntArray = field(repr=False)
    codebook_sizes: tuple[int, ...]
    titles: tuple[str, ...] | None = field(default=None, repr=False)
    categories: tuple[str, ...] | None = field(default=None, repr=False)
    category_label: str = ""
    without_content: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def n_items(self) -> int:
        """Number of items, N."""
        return len(self.items)

    @property
    def n_levels(self) -> int:
        """Number of levels, K."""
        return len(self.codebook_sizes)

    def title(self, row: int) -> str:
        """Title of an item, or its token if it has no title, as one printable line.

        The suffix "(no content)" marks items that had no content when the codes were made.
        """
        name = (self.titles[row] if self.titles else "") or printable(self.items[row])
        return f"{name} (no content)" if self.items[row] in self.without_content else name

    def codes_text(self, row: int, first: int = 0, last: int | None = None) -> str:
        """Codes of an item in levels `first` to `last - 1`, such as 'b_7 c_3'."""
        pairs = enumerate(self.codes[row, first:last].tolist(), first)
        return " ".join(f"{level_letters(level)}_{code}" for level, code in pairs)

    def prefix(self, group: ItemGroup) -> str:
        """Prefix that the items of a group share, such as 'a_12 b_7'; 'all items' at depth 0."""
        return self.codes_text(group.start, 0, group.depth) if group.depth else "all items"

    def bounds(self, depth: int) -> IntArray:
        """First rows of the G groups that share `depth` codes, followed by N: int64 `[G + 1]`."""
        shared = self.codes[:, :depth]
        new = (shared[1:] != shared[:-1]).any(axis=1)
        return np.concatenate([[0], np.flatnonzero(new) + 1, [self.n_items]]).astype(np.int64)

    def groups(self, depth: int) -> list[ItemGroup]:
        """All groups that share `depth` codes, ordered by their codes."""
        bounds = self.bounds(depth).tolist()
        return [ItemGroup(depth, *pair) for pair in zip(bounds, bounds[1:], strict=False)]

    def subgroups(self, group: ItemGroup) -> list[ItemGroup]:
        """Subgroups that share one more code, ordered by their codes."""
        codes = self.codes[group.start : group.end, group.depth]
        inner = (np.flatnonzero(codes[1:] != codes[:-1]) + 1 + group.start).tolist()
        starts, ends = [group.start, *inner], [*inner, group.end]
        return [ItemGroup(group.depth + 1, *pair) for pair in zip(starts, ends, strict=True)]

    def find(self, prefix: str) -> ItemGroup:
        """Find the group of a prefix such as 'a_12 b_7'.

        Raises:
            InputError: a token is malformed, levels are out of order, or no item has the prefix.
        """
        codec = SemanticIDCodec(self.codebook_sizes)
        tokens = prefix.replace("><", "> <").split()
        if not tokens:
            raise InputError("prefix: it is empty; give the first codes of some items, like 'a_12'")
        group = ItemGroup(0, 0, self.n_items)
        for depth, token in enumerate(tokens):
            with error_context(f"prefix {quote(prefix)}"):
                level, code = codec.decode_token(token)
            if level != depth:
                raise InputError(
                    f"prefix {quote(prefix)}: {quote(token)} stands at level "
                    f"{level_letters(depth)}; give the levels in order from a, like 'a_12 b_7'"
                )
            column = self.codes[group.start : group.end, depth]
            start, end = np.searchsorted(column, [code, code + 1]).tolist()
            if start == end:
                used = [f"{level_letters(depth)}_{code}" for code in np.unique(column)]
                raise InputError(
                    f"prefix {quote(prefix)}: no item of {self.name} has it; "
                    f"{group.size} items share {quote(self.prefix(group))}, "
                    f"and below it there is {preview(used)}"
                )
            group = ItemGroup(depth + 1, group.start + start, group.start + end)
        return group

    def rows_of(self, items: Sequence[str]) -> list[int]:
        """Find the rows of items by raw token.

        Raises:
            InputError: the file does not contain an item.
        """
        rows = pd.Index(list(self.items), dtype=object).get_indexer(
            pd.Index(list(items), dtype=object)
        )
        for item, row in zip(items, rows, strict=True):
            if row < 0:
                hint = did_you_mean(item, self.items)
                raise InputError(f"{self.name}: no item {quote(item)}{hint}")
        return [int(row) for row in rows]


def open_catalog(
    semid_path: str | Path,
    item_path: str | Path | None = None,
    title_field: str | None = None,
    category_field: str | None = None,
    category_part: str = "auto",
) -> Catalog:
    """Read a semantic-ID file and, if fields are given, titles and categories from an `.item` file.

    Args:
        semid_path: the `.semid` file.
        item_path: RecBole `.item` file with an `item_id` column.
        title_field: field of titles.
        category_field: field of categories.
        category_part: 'first' uses the first word of the field, 'whole' the whole field; 'auto'
            uses the first word of a `_seq` field and other fields as a whole.

    Raises:
        InputError: a file or field cannot be used, a field is given without an item file, a field
            is empty for all items, or the item file has no item of the semantic-ID file.
    """
    table = read_semantic_ids(semid_path)
    order = np.lexsort(table.codes.T[::-1])
    items = tuple(table.items[row] for row in order.tolist())
    titles, categories, label = None, None, ""
    if item_path is None:
        if title_field or category_field:
            raise InputError(
                f"the field '{title_field or category_field}' is named, but no item file; "
                "give item_path too"
            )
    else:
        fields = [name for name in (title_field, category_field) if name]
        frame = _item_frame(item_path, fields, items, str(semid_path))
        for name in fields:
            if not frame[name].str.strip().any():
                raise InputError(f"{item_path}: {name}: empty for all items; name another field")
        titles = tuple(map(printable, frame[title_field])) if title_field else None
        if category_field:
            part = _category_part(item_path, category_field, category_part)
            cells = map(printable, frame[category_field])
            categories = tuple(c.split(" ")[0] for c in cells) if part == "first" else tuple(cells)
            label = f"first word of {category_field}" if part == "first" else category_field
    return Catalog(
        Path(semid_path).name, items, _codes(table, order), table.codebook_sizes,
        titles, categories, label, _without_content(semid_path),
    )  # fmt: skip


def positions(known: Sequence[str], asked: Sequence[str], named: str, semid: str) -> IntArray:
    """Find the positions of items in a list.

    Args:
        known: items of a file, without duplicates.
        asked: items to find.
        named: name of the file, for error messages.
        semid: name of the semantic-ID file that the asked items are from, for error messages.

    Returns:
        Positions, int64 `[len(asked)]`; -1 for items that `known` does not contain.

    Raises:
        InputError: `known` has duplicates, or contains none of the asked items.
    """
    index = pd.Index(list(known), dtype=object)
    twice = index.duplicated()
    if twice.any():
        raise InputError(
            f"{named}: item {quote(index[int(twice.argmax())])} occurs a second time; "
            "keep one row an item"
        )
    rows = index.get_indexer(pd.Index(list(asked), dtype=object)).astype(np.int64)
    if (rows < 0).all():
        example = quote(known[0]) if len(known) else "no item at all"
        raise InputError(
            f"{named}: no item of {semid} is there ({semid} has {quote(asked[0])}, this file "
            f"{example}); give the file of the same data set"
        )
    return rows


def printable(text: str) -> str:
    """Convert to one line without control characters, which terminals and HTML cannot show."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def _without_content(semid_path: str | Path) -> frozenset[str]:
    """Items that the sidecar lists as having no content. The sidecar was checked on reading."""
    path = sidecar_path(semid_path)
    source = read_json(path).get("source") if path.exists() else None
    listed = source.get("without_content") if isinstance(source, Mapping) else None
    return frozenset(map(str, listed)) if isinstance(listed, list) else frozenset()


def _codes(table: SemanticIDTable, order: np.ndarray) -> IntArray:
    codes = table.codes[order]
    codes.setflags(write=False)
    return codes


def _item_frame(
    item_path: str | Path, fields: Sequence[str], items: Sequence[str], semid: str
) -> pd.DataFrame:
    """Read fields of the given items, row by row; "" for items that are not in the file."""
    frame = read_columns(item_path, list(dict.fromkeys([ITEM_FIELD, *fields])))
    rows = positions(frame[ITEM_FIELD].tolist(), items, str(item_path), semid)
    return frame.reset_index(drop=True).reindex(rows).fillna("")


def _category_part(item_path: str | Path, field: str, part: str) -> str:
    """Resolve 'auto' to 'first' or 'whole' by the type of the field."""
    if part not in CATEGORY_PARTS:
        raise InputError(
            f"category_part is {quote(part)}; give one of {preview(CATEGORY_PARTS)}"
            f"{did_you_mean(part, CATEGORY_PARTS)}"
        )
    if part != "auto":
        return part
    with open(item_path, encoding="utf-8-sig") as handle:
        cells = handle.readline().rstrip("\n").split("\t")
    kinds = dict(cell.split(":", 1) for cell in cells)
    return "first" if kinds[field].endswith("_seq") else "whole"
