"""`inspect`: reports on a semantic-ID file, on the console and as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from recbole_qbert.common.errors import InputError
from recbole_qbert.reports.console import print_sections
from recbole_qbert.reports.inspection.facts import Facts, gather_facts
from recbole_qbert.reports.inspection.pictures import Pictures
from recbole_qbert.reports.inspection.sections import (
    console_sections,
    page_sections,
    summary_lines,
)
from recbole_qbert.reports.page import render, write_page


def inspect(
    semid_path: str | Path,
    *,
    item_path: str | Path | None = None,
    title_field: str | None = None,
    category_field: str | None = None,
    category_part: str = "auto",
    embeddings: Mapping[str, str | Path] | None = None,
    images: str | Path | None = None,
    html_path: str | Path | None = None,
    prefix: str | None = None,
    example_items: Sequence[str] = (),
    n_examples: int = 5,
    console: Console,
) -> Facts:
    """Report on the codes of a semantic-ID file: usage, tree, nearest items and purity.

    Args:
        semid_path: the `.semid` file; numbers of collisions are read from its sidecar.
        item_path: RecBole `.item` file for titles and categories.
        title_field: field of titles.
        category_field: field of categories.
        category_part: 'first' word of that field, 'whole' field, or 'auto': by the field's type.
        embeddings: name -> `.npz` embedding table, for nearest items.
        images: folder of `<item_id>.<ext>`, for the page.
        html_path: path of the page; None: no page is written.
        prefix: prefix such as 'a_12 b_7' whose items are shown; None: the largest groups are shown.
        example_items: item tokens whose nearest items are shown; empty: items evenly spaced over
            the codes.
        n_examples: number of groups shown, and of example items if `example_items` is empty.
        console: console to print the report on.

    Raises:
        InputError: an input cannot be used. Nothing is printed or written in this case.
    """
    inputs = [semid_path, *(embeddings or {}).values(), *([item_path] if item_path else [])]
    if html_path is not None and Path(html_path).resolve() in [Path(p).resolve() for p in inputs]:
        raise InputError(f"{html_path}: html_path is an input file; give another file")
    facts = gather_facts(
        semid_path,
        item_path=item_path,
        title_field=title_field,
        category_field=category_field,
        category_part=category_part,
        embeddings=embeddings,
        prefix=prefix,
        example_items=example_items,
        n_examples=n_examples,
    )
    pictures = None if images is None else Pictures(images, facts.catalog)
    name, lines = facts.catalog.name, summary_lines(facts)
    console.print(Text(name, "bold"))
    for line in lines:
        console.print(Text(line))
    print_sections(console_sections(facts), console)
    if html_path is not None:
        sections = page_sections(facts, pictures is not None)
        text = render(f"{name}: semantic IDs", lines, sections, pictures.uri if pictures else None)
        size = write_page(html_path, text)
        console.print(Text(f"\nPage written to {html_path} ({size / 1e6:.1f} MB)"))
    if pictures is not None:
        console.print(Text(pictures.summary(html_path is not None)))
    return facts
