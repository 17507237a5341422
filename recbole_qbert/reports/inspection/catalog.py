"""The items of a semantic-ID file, sorted by their codes, with titles and categories.

Items that share a prefix are adjacent in this order, so that each group of the tree is a range of
rows. Shapes: N items, K levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recbole_qbert.common.errors import InputError, did_you_mean, error_context, one_of, preview
from recbole_qbert.common.files import read_json, sidecar_path
from recbole_qbert.common.output import counted
from recbole_qbert.data.codec import IntArray, SemanticIDCodec, level_letters, quote
from recbole_qbert.data.items import ITEM_FIELD, read_item_fields
from recbole_qbert.data.semid import read_semantic_ids

CATEGORY_PARTS = ("auto", "first", "whole")


class ItemGroup(NamedTuple):
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
    """The items and their data, row by row."""

    name: str  # of the semantic-ID file, without folders
    items: tuple[str, ...] = field(repr=False)  # raw item tokens, N
    codes: IntArray = field(repr=False)  # int64 [N, K], sorted by the first level, then the second
    codebook_sizes: tuple[int, ...]  # number of codes of each level, K
    titles: tuple[str, ...] | None = field(default=None, repr=False)  # N, "" for no title
    categories: tuple[str, ...] | None = field(default=None, repr=False)  # N, "" for no category
    category_label: str = ""  # the field, and whether only its first word is used
    source: dict[str, Any] | None = field(default=None, repr=False)  # of the sidecar, if any

    @property
    def n_items(self) -> int:
        """Number of items, N."""
        return len(self.items)

    @property
    def n_levels(self) -> int:
        """Number of levels, K."""
        return len(self.codebook_sizes)

    @property
    def depth_names(self) -> list[str]:
        """Short names of the K prefix lengths: 'a', 'a..b', 'a..c'."""
        return ["a", *(f"a..{level_letters(level)}" for level in range(1, self.n_levels))]

    @cached_property
    def without_content(self) -> frozenset[str]:
        """Items that had no content when the codes were made."""
        return frozenset(map(str, (self.source or {}).get("without_content") or ()))

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

    @property
    def root(self) -> ItemGroup:
        """The group of all items."""
        return ItemGroup(0, 0, self.n_items)

    def prefix(self, group: ItemGroup) -> str:
        """Prefix that the items of a group share, such as 'a_12 b_7'; 'all items' at depth 0."""
        return self.codes_text(group.start, 0, group.depth) if group.depth else "all items"

    def bounds(self, depth: int) -> IntArray:
        """First rows of the G groups that share `depth` codes, followed by N: int64 `[G + 1]`."""
        shared = self.codes[:, :depth]
        new = (shared[1:] != shared[:-1]).any(axis=1)
        return np.concatenate([[0], np.flatnonzero(new) + 1, [self.n_items]]).astype(np.int64)

    def subgroups(self, group: ItemGroup) -> list[ItemGroup]:
        """Subgroups that share one more code, ordered by their codes."""
        codes = self.codes[group.start : group.end, group.depth]
        inner = (np.flatnonzero(codes[1:] != codes[:-1]) + 1 + group.start).tolist()
        pairs = zip([group.start, *inner], [*inner, group.end], strict=True)
        return [ItemGroup(group.depth + 1, *pair) for pair in pairs]

    def find(self, prefix: str) -> ItemGroup:
        """Find the group of a prefix such as 'a_12 b_7'.

        Raises:
            InputError: a token is malformed, levels are out of order, or no item has the prefix.
        """
        codec = SemanticIDCodec(self.codebook_sizes)
        tokens = prefix.replace("><", "> <").split()
        where = f"prefix {quote(prefix)}"
        if not tokens:
            raise InputError(f"{where}: no codes; give the first codes of an item, such as 'a_12'")
        group = self.root
        for depth, token in enumerate(tokens):
            with error_context(where):
                level, code = codec.decode_token(token)
            if level != depth:
                raise InputError(
                    f"{where}: found {quote(token)}, expected a code of level "
                    f"{level_letters(depth)}; give all levels in order from a, such as 'a_12 b_7'"
                )
            column = self.codes[group.start : group.end, depth]
            start, end = np.searchsorted(column, [code, code + 1]).tolist()
            if start == end:
                used = [f"{level_letters(depth)}_{code}" for code in np.unique(column)]
                raise InputError(
                    f"{where}: {self.name} has no item with this prefix; the next code of the "
                    f"{counted(group.size, 'item')} with {quote(self.prefix(group))} is one of "
                    f"{preview(used)}"
                )
            group = ItemGroup(depth + 1, group.start + start, group.start + end)
        return group

    def rows_of(self, items: Sequence[str]) -> list[int]:
        """Find the rows of items by raw token.

        Raises:
            InputError: the file does not contain an item.
        """
        rows = pd.Index(self.items, dtype=object).get_indexer(pd.Index(items, dtype=object))
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
    one_of("category_part", category_part, CATEGORY_PARTS)
    table = read_semantic_ids(semid_path)
    order = np.lexsort(table.codes.T[::-1])
    codes = table.codes[order]
    codes.setflags(write=False)
    items = tuple(table.items[row] for row in order.tolist())
    fields = [name for name in (title_field, category_field) if name]
    titles, categories, label = None, None, ""
    if fields:
        if item_path is None:
            raise InputError(f"field '{fields[0]}': no item file; give item_path too")
        frame = read_item_fields(item_path, fields)
        rows = positions(frame[ITEM_FIELD].tolist(), items, str(item_path), str(semid_path))
        frame = frame.reset_index(drop=True).reindex(rows).fillna("")
        for name in fields:
            if not frame[name].str.strip().any():
                raise InputError(f"{item_path}: {name}: empty for all items; give another field")
        titles = tuple(frame[title_field].map(printable)) if title_field else None
        if category_field:
            with open(item_path, encoding="utf-8-sig") as handle:
                cells = handle.readline().rstrip("\n").split("\t")
            kind = dict(cell.split(":", 1) for cell in cells)[category_field]
            first = category_part == "first" or category_part == "auto" and kind.endswith("_seq")
            texts = frame[category_field].map(printable)
            categories = tuple(texts.str.split(" ").str[0] if first else texts)
            label = f"first word of {category_field}" if first else category_field
    sidecar = sidecar_path(semid_path)  # was checked by `read_semantic_ids`
    source = read_json(sidecar).get("source") if sidecar.exists() else None
    if sidecar.exists() and not isinstance(source, dict):
        source = {}
    return Catalog(
        Path(semid_path).name, items, codes, table.codebook_sizes, titles, categories, label,
        source,
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
        InputError: `known` contains none of the asked items.
    """
    index = pd.Index(list(known), dtype=object)
    rows = index.get_indexer(pd.Index(list(asked), dtype=object)).astype(np.int64)
    if (rows < 0).all():
        example = quote(known[0]) if len(known) else "no items"
        raise InputError(
            f"{named}: has no item of {semid} (which has {quote(asked[0])}; this file has "
            f"{example}); give the file of the same data set"
        )
    return rows


def printable(text: str) -> str:
    """Convert to one line without control characters, which terminals and HTML cannot show."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def spread(rows: range | list[int], n: int) -> list[int]:
    """Select at most n rows, evenly spaced, so that they do not all come from one subgroup."""
    if len(rows) <= n:
        return list(rows)
    return [rows[(2 * place + 1) * len(rows) // (2 * n)] for place in range(n)]


def largest_groups(groups: list[ItemGroup], n: int) -> list[ItemGroup]:
    """The n largest groups, largest first; groups of equal size are ordered by their codes."""
    return sorted(groups, key=lambda group: (-group.size, group.start))[:n]
