"""The items of a semantic-ID file in the order of their codes, with titles and categories.

In this order the items that share a prefix stand side by side, so that a group of the tree is a
range of rows. Shapes: N items, K levels.
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
        """How many items share the prefix."""
        return self.end - self.start


@dataclass(frozen=True, eq=False)
class Catalog:
    """What is known of the items, row for row.

    Attributes:
        name: the semantic-ID file without its folders.
        items: raw item tokens, N of them.
        codes: int64 `[N, K]`, sorted by the first level, then the second, and so on.
        codebook_sizes: K numbers.
        titles: N texts, "" where an item has none; None where no titles were asked for.
        categories: N texts, "" where an item has none; None where none were asked for.
        category_label: names the categories: the field, and which part of it.
        without_content: items that nothing was known of when the codes were made.
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
        """N."""
        return len(self.items)

    @property
    def n_levels(self) -> int:
        """K."""
        return len(self.codebook_sizes)

    def title(self, row: int) -> str:
        """The title of an item, or its token where it has none; one printable line.

        One that was coded without any content says so.
        """
        name = (self.titles[row] if self.titles else "") or printable(self.items[row])
        return f"{name} (no content)" if self.items[row] in self.without_content else name

    def codes_text(self, row: int, first: int = 0, last: int | None = None) -> str:
        """The codes of levels `first` to `last - 1` of an item, such as 'b_7 c_3'."""
        pairs = enumerate(self.codes[row, first:last].tolist(), first)
        return " ".join(f"{level_letters(level)}_{code}" for level, code in pairs)

    def prefix(self, group: ItemGroup) -> str:
        """What the items of a group share, such as 'a_12 b_7'; 'all items' at depth 0."""
        return self.codes_text(group.start, 0, group.depth) if group.depth else "all items"

    def bounds(self, depth: int) -> IntArray:
        """First rows of the G groups that share `depth` codes, and N: int64 `[G + 1]`."""
        shared = self.codes[:, :depth]
        new = (shared[1:] != shared[:-1]).any(axis=1)
        return np.concatenate([[0], np.flatnonzero(new) + 1, [self.n_items]]).astype(np.int64)

    def groups(self, depth: int) -> list[ItemGroup]:
        """All groups that share `depth` codes, in the order of their codes."""
        bounds = self.bounds(depth).tolist()
        return [ItemGroup(depth, *pair) for pair in zip(bounds, bounds[1:], strict=False)]

    def subgroups(self, group: ItemGroup) -> list[ItemGroup]:
        """The groups one level below, in the order of their codes."""
        codes = self.codes[group.start : group.end, group.depth]
        inner = (np.flatnonzero(codes[1:] != codes[:-1]) + 1 + group.start).tolist()
        starts, ends = [group.start, *inner], [*inner, group.end]
        return [ItemGroup(group.depth + 1, *pair) for pair in zip(starts, ends, strict=True)]

    def find(self, prefix: str) -> ItemGroup:
        """The group of a prefix such as 'a_12 b_7'.

        Raises:
            InputError: a malformed token, levels out of order, or a prefix that no item has.
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
        """Rows of items that a user named.

        Raises:
            InputError: an item that the file lacks.
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
    """Read a semantic-ID file and, where given, titles and categories from an `.item` file.

    Args:
        semid_path: the `.semid` file.
        item_path: RecBole `.item` file with an `item_id` column.
        title_field: the field that names an item.
        category_field: a field of categories.
        category_part: 'first' takes the first word of the field, 'whole' all of it; 'auto' the
            first word of a `_seq` field and the whole of any other.

    Raises:
        InputError: a file or field cannot be used, a field without an item file or without any
            text, or an item file that shares no item with the semantic IDs.
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
    """Where each asked item stands among the known ones, int64 `[len(asked)]`, -1 where nowhere.

    Raises:
        InputError: `known` has an item twice, or none of the asked ones.
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
    """One line without control characters: neither a terminal nor HTML can show them."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(text.split())


def _without_content(semid_path: str | Path) -> frozenset[str]:
    """The items that the sidecar, which the reader of the file has checked, lists as such."""
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
    """The fields of the asked items, row for row; "" where an item has no row."""
    frame = read_columns(item_path, list(dict.fromkeys([ITEM_FIELD, *fields])))
    rows = positions(frame[ITEM_FIELD].tolist(), items, str(item_path), semid)
    return frame.reset_index(drop=True).reindex(rows).fillna("")


def _category_part(item_path: str | Path, field: str, part: str) -> str:
    """'first' or 'whole'; the type of the field decides where the user does not."""
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
