"""Tables and sentences of the report as plain texts, for both the console and the page."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_qbert.common.errors import preview
from recbole_qbert.reports.inspection.catalog import Catalog, printable
from recbole_qbert.reports.inspection.facts import Facts
from recbole_qbert.reports.inspection.neighbors import Neighbor, NeighborExample
from recbole_qbert.reports.inspection.purity import GroupPurity
from recbole_qbert.reports.inspection.usage import bucket_labels

NO_TITLES = (
    "No titles, so items go by their tokens: give an .item file and the field that names an item "
    "(--item_file=X.item --title_field=title)."
)
NO_SIDECAR = (
    "No sidecar beside the file: how many tuples collided before reallocation is not known. "
    "The files that this package makes have one."
)
NO_EMBEDDINGS = (
    "No embeddings, so neighbors are by code only: give the vectors that the IDs were made from "
    "(--embeddings=text=X.text.npz,image=X.image.npz)."
)
NO_CATEGORIES = (
    "No categories: give an .item file and a field of categories "
    "(--item_file=X.item --category_field=class)."
)
NO_IMAGES = "No pictures: give a folder of <item_id>.jpg files (--images=folder)."
NONE = "-"


@dataclass(frozen=True)
class Table:
    """A table with notes; its first `n_words` columns contain words, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    n_words: int = 1


def headline(facts: Facts) -> str:
    """One line with the counts of the file."""
    catalog = facts.catalog
    sizes = " x ".join(map(str, catalog.codebook_sizes))
    return f"{catalog.n_items:,} items, {catalog.n_levels} levels, codebooks {sizes}"


def coverage_lines(facts: Facts) -> list[str]:
    """Lines on the numbers of items with titles, categories and embeddings, or a hint on titles."""
    catalog, lines = facts.catalog, []
    counted = [("a title", catalog.titles), ("a category", catalog.categories)]
    for what, texts in counted:
        if texts is not None:
            lines.append(_of(sum(map(bool, texts)), catalog, what))
    for found in facts.agreements:
        lines.append(_of(found.n_items, catalog, f"an embedding '{found.name}'"))
    if catalog.without_content:
        names = preview([printable(item) for item in sorted(catalog.without_content)])
        lines.append(
            f"{len(catalog.without_content):,} items have no content; their codes are those of "
            f"the mean vector: {names}"
        )
    return lines if catalog.titles is not None else [NO_TITLES, *lines]


def usage_table(facts: Facts) -> Table:
    """Table of the usage of each level, with notes on collisions from the sidecar."""
    rows = tuple(
        (
            row.level,
            f"{row.codebook_size:,}",
            f"{row.used:,}",
            f"{row.used / row.codebook_size:.1%}",
            f"{row.perplexity:.1f}",
            row.largest_token,
            f"{row.largest:,}",
        )
        for row in facts.usage
    )
    columns = ("level", "codes", "used", "share used", "perplexity", "commonest", "its items")
    return Table("Usage of each level", columns, rows, _build_notes(facts))


def groups_table(facts: Facts) -> Table:
    """Table of the groups that share a prefix, one row per depth."""
    rows = tuple(
        (
            shared_levels(facts, row.depth),
            f"{row.n_groups:,}",
            f"{row.n_single:,}",
            f"{row.n_single / facts.catalog.n_items:.1%}",
            f"{row.mean_others:,.2f}",
            f"{row.largest:,}",
        )
        for row in facts.depths
    )
    columns = ("items that share", "groups", "items alone", "share alone", "others", "largest")
    note = "'others': how many other items share an item's prefix, on average."
    return Table("Groups by shared prefix", columns, rows, (note,))


def sizes_table(facts: Facts) -> Table:
    """Table of the number of groups by size, one column per depth."""
    labels = bucket_labels(max(len(row.histogram) for row in facts.depths))
    rows = tuple(
        (label, *(_at(row.histogram, place) for row in facts.depths))
        for place, label in enumerate(labels)
    )
    columns = ("items in the group", *depth_names(facts))
    return Table("Number of groups by their size", columns, rows)


def depth_names(facts: Facts) -> list[str]:
    """Short names of the K prefix lengths: 'a', 'a..b', 'a..c'."""
    return ["a"] + [f"a..{row.level}" for row in facts.usage[1:]]


def shared_levels(facts: Facts, depth: int) -> str:
    """Letters of the first levels, such as 'a b c'."""
    return " ".join(row.level for row in facts.usage[:depth])


def agreement_table(facts: Facts) -> Table | None:
    """Table of the agreement of embeddings and codes; None without embeddings."""
    if not facts.agreements:
        return None
    rows = []
    for found in facts.agreements:
        for depth, pair in enumerate(zip(found.shared, found.shared_chance, strict=True), 1):
            shared, chance = pair
            what = "share " + shared_levels(facts, depth)
            if chance:  # zero for whole tuples, which are unique
                rows.append((found.name, what, *_beside_chance(shared, chance)))
        what = f"are among the {found.n_nearest} nearest by code"
        rows.append((found.name, what, *_beside_chance(found.overlap, found.overlap_chance)))
    notes = [
        f"Of each item's {found.n_nearest} nearest by cosine of '{found.name}'; mean over "
        f"{found.n_asked:,} of {found.n_items:,} items."
        for found in facts.agreements
    ]
    columns = ("embedding", "nearest that", "share", "by chance", "times chance")
    return Table("Nearest by embedding and by code", columns, tuple(rows), tuple(notes), 2)


def purity_table(facts: Facts) -> Table | None:
    """Table of purity and mutual information; None without categories."""
    found = facts.purity
    if found is None:
        return None
    rows = tuple(_purity_row(row) for row in (*found.prefixes, *found.levels))
    columns = (
        "items that share", "groups", "items", "alone",
        "purity", "by chance", "way to 1", "NMI", "by chance", "way to 1",
    )  # fmt: skip
    notes = (
        f"Categories: {found.label}; {found.n_categories:,} of them on {found.n_items:,} items, "
        f"{found.n_without:,} items have none. The commonest, '{found.largest}', has "
        f"{found.largest_share:.1%}.",
        "'alone': items left out of a row because nobody shares their group. 'by chance': mean "
        "over shuffled categories. 'way to 1': how far from chance (0%) to perfect (100%).",
    )
    return Table("Purity of the groups against categories", columns, rows, notes)


def groups_title(facts: Facts) -> str:
    """Heading of the shown groups."""
    if facts.selected:
        return f"The items that share {facts.catalog.prefix(facts.selected)}"
    n = len(facts.groups)
    many = f"{n} largest groups" if n > 1 else "largest group"
    return f"The {many} of items that share one code"


def example_title(catalog: Catalog, row: int) -> str:
    """Title, token and codes of an item."""
    token = "" if not catalog.titles else f" [{catalog.items[row]}]"
    return f"{catalog.title(row)}{token}  {catalog.codes_text(row)}"


def sharing_text(facts: Facts, found: NeighborExample) -> str:
    """Text on the numbers of other items that share the prefixes of an example item."""
    parts = [
        f"{level}: {n:,}" for level, n in zip(depth_names(facts), found.n_sharing, strict=True) if n
    ]
    return (
        f"others that share {', '.join(parts)}" if parts else "no other item shares its first code"
    )


def neighbor_text(catalog: Catalog, near: Neighbor) -> str:
    """One line on a nearest item: cosine if by embedding, number of shared leading codes, title."""
    cosine = "" if near.cosine is None else f"{near.cosine:.2f}  "
    return f"{cosine}{near.shared}/{catalog.n_levels}  {catalog.title(near.row)}"


def _at(histogram: tuple[int, ...], place: int) -> str:
    count = histogram[place] if place < len(histogram) else 0
    return f"{count:,}" if count else NONE


def _of(count: int, catalog: Catalog, what: str) -> str:
    verb = "has" if count == 1 else "have"
    return f"{count:,} of {catalog.n_items:,} items {verb} {what}"


def _build_notes(facts: Facts) -> tuple[str, ...]:
    build, n = facts.build, facts.catalog.n_items
    unique = "No two items share the whole tuple."
    if build is None:
        return (unique, NO_SIDECAR)
    notes = [unique]
    if build.collisions is not None:
        share = f"{build.collisions / n:.1%}"
        notes.append(f"Before that was made so, {build.collisions:,} items ({share}) collided.")
    if build.moved is not None:
        notes.append(f"Items given another code: {build.moved:,} ({build.moved / n:.1%}).")
    if build.moved_per_level is not None and len(build.moved_per_level) == len(facts.usage):
        levels = zip(facts.usage, build.moved_per_level, strict=True)
        notes.append("By level: " + ", ".join(f"{row.level} {count:,}" for row, count in levels))
    if build.extra_level is not None:
        notes.append(f"Level {build.extra_level} was appended to tell equal tuples apart.")
    if len(notes) == 1:
        notes.append("The sidecar says nothing of collisions.")
    return tuple(notes)


def _beside_chance(value: float, chance: float) -> tuple[str, str, str]:
    return f"{value:.2%}", f"{chance:.2%}", f"{value / chance:,.1f}"


def _purity_row(row: GroupPurity) -> tuple[str, ...]:
    counts = (row.name, f"{row.n_groups:,}", f"{row.n_items:,}", f"{row.n_single:,}")
    return (*counts, *_scored(row.purity, row.purity_chance), *_scored(row.nmi, row.nmi_chance))


def _scored(value: float | None, chance: float | None) -> tuple[str, str, str]:
    if value is None or chance is None:
        return NONE, NONE, NONE
    way = NONE if chance >= 1 else f"{(value - chance) / (1 - chance):.0%}"
    return f"{value:.3f}", f"{chance:.3f}", way
