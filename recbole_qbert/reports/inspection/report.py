"""A report on a semantic-ID file: on the console, and as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from recbole_qbert.common.errors import InputError
from recbole_qbert.reports.inspection.facts import Facts, gather_facts
from recbole_qbert.reports.inspection.pictures import Pictures
from recbole_qbert.reports.inspection.text import print_report


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
    """Report on the codes of a semantic-ID file: usage, tree, neighbors, purity.

    Args:
        semid_path: the `.semid` file; its sidecar tells of collisions.
        item_path: RecBole `.item` file for titles and categories.
        title_field: its field that names an item.
        category_field: its field of categories.
        category_part: 'first' word of that field, 'whole' field, or 'auto': by the field's type.
        embeddings: names -> `.npz` embedding tables, for nearest items.
        images: folder of `<item_id>.<ext>`, for the page.
        html_path: page to write.
        prefix: shows the items below this prefix, such as 'a_12 b_7', not the largest groups.
        example_items: item tokens whose nearest are shown; chosen evenly over the codes if empty.
        n_examples: how many groups, and example items if none is given, are shown.
        console: takes the report as text.

    Raises:
        InputError: an input cannot be used; nothing is printed or written then.
    """
    inputs = [semid_path, *(embeddings or {}).values(), *([item_path] if item_path else [])]
    if html_path is not None and Path(html_path).resolve() in [Path(p).resolve() for p in inputs]:
        raise InputError(f"{html_path}: html_path is one of the inputs; name another file")
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
    print_report(facts, console)
    if html_path is not None:
        from recbole_qbert.reports.inspection.html import (
            render_page,  # Plotly takes a second to import
        )
        from recbole_qbert.reports.webpage import write_page

        size = write_page(html_path, render_page(facts, pictures))
        console.print(Text(f"\nPage written to {html_path} ({size / 1e6:.1f} MB)"))
    if pictures is not None:
        console.print(Text(pictures.summary(html_path is not None)))
    return facts
